use super::tree::Tree;
use super::*;

const GUEST: Uuid = [7; 16];

/// Folders that stand in for a tree of the kernel's, whose files are made by hand.
struct Fake {
    folder: tempfile::TempDir,
    groups: Groups,
}

impl Fake {
    fn new(version: Version) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree {
            mount: folder.path().into(),
            version,
        };
        let groups = Groups {
            trees: Trees::of(&tree),
            root: Some("top".into()),
        };
        Self { folder, groups }
    }

    fn guest(&self) -> PathBuf {
        self.folder.path().join("top").join(uuid::format(&GUEST))
    }

    fn has(&self, group: &str, files: &[&str]) {
        for file in files {
            fs::create_dir_all(self.guest().join(group)).unwrap();
            fs::write(self.guest().join(group).join(file), "").unwrap();
        }
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.guest().join(file)).unwrap()
    }
}

fn limits(tune: &str) -> Limits {
    let xml = format!(
        "<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory>{tune}<os><type>hvm</type></os></domain>"
    );
    Limits::of(&Definition::read(&xml).unwrap())
}

const ALL: &str = "<cputune><shares>300</shares><period>50000</period><quota>25000</quota>\
    <emulator_quota>10000</emulator_quota><global_quota>-1</global_quota></cputune>\
    <memtune><hard_limit unit='MiB'>96</hard_limit><soft_limit unit='MiB'>80</soft_limit>\
    <swap_hard_limit unit='MiB'>100</swap_hard_limit></memtune><blkiotune><weight>200</weight></blkiotune>";

#[test]
fn limits_are_in_the_files_of_version_1() {
    let fake = Fake::new(Version::One);
    let group = fake.groups.make(&GUEST, &limits(ALL)).unwrap();
    let cfs = ["cpu.cfs_period_us", "cpu.cfs_quota_us"];
    fake.has("", &cfs);
    fake.has("emulator", &cfs);
    fake.has("vcpu0", &cfs);
    fake.has(
        "",
        &["cpu.shares", "blkio.bfq.weight", "memory.memsw.limit_in_bytes"],
    );
    fake.has("", &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"]);
    group.limit(&limits(ALL)).unwrap();
    for (file, value) in [
        ("cpu.shares", "300"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "-1"),
        ("vcpu0/cpu.cfs_period_us", "50000"),
        ("vcpu0/cpu.cfs_quota_us", "25000"),
        ("emulator/cpu.cfs_quota_us", "10000"),
        ("memory.limit_in_bytes", "100663296"),
        ("memory.soft_limit_in_bytes", "83886080"),
        ("memory.memsw.limit_in_bytes", "104857600"),
        ("blkio.bfq.weight", "200"),
    ] {
        assert_eq!(fake.text(file), value, "{file}");
    }
    // What is no longer asked for is as the kernel has it.
    group.limit(&limits("")).unwrap();
    assert_eq!(
        [
            fake.text("cpu.shares"),
            fake.text("vcpu0/cpu.cfs_quota_us"),
            fake.text("memory.limit_in_bytes")
        ],
        ["1024", "-1", "-1"]
    );
}

#[test]
fn limits_are_in_the_files_of_version_2() {
    let fake = Fake::new(Version::Two);
    let group = fake.groups.make(&GUEST, &limits(ALL)).unwrap();
    assert_eq!(fake.text("emulator/cgroup.type"), "threaded");
    fake.has("", &["cpu.max", "cpu.weight", "io.weight", "cgroup.procs"]);
    fake.has("", &["memory.max", "memory.high", "memory.swap.max"]);
    fake.has("emulator", &["cpu.max", "cgroup.procs"]);
    fake.has("vcpu1", &["cpu.max"]);
    group.limit(&limits(ALL)).unwrap();
    for (file, value) in [
        ("cpu.weight", "300"),
        ("cpu.max", "max 100000"),
        ("vcpu1/cpu.max", "25000 50000"),
        ("emulator/cpu.max", "10000 100000"),
        ("memory.max", "100663296"),
        ("memory.high", "83886080"),
        ("memory.swap.max", "4194304"),
        ("io.weight", "200"),
    ] {
        assert_eq!(fake.text(file), value, "{file}");
    }
    group.enter(4711).unwrap();
    assert_eq!(
        (fake.text("cgroup.procs"), fake.text("emulator/cgroup.procs")),
        ("4711".into(), "4711".into())
    );
}

#[test]
fn only_what_is_asked_for_has_a_group() {
    let fake = Fake::new(Version::One);
    assert!(!limits("").ask() && limits("<cputune><global_quota>1000</global_quota></cputune>").ask());
    fake.groups.make(&GUEST, &limits("")).unwrap();
    assert!(!fake.guest().exists() && fake.groups.find(&GUEST).is_none());
    fake.groups.make(&GUEST, &limits(ALL)).unwrap();
    assert_eq!(fake.groups.find(&GUEST).unwrap().places.len(), 3);
    // A kernel's files go with their folder, those of the test do not.
    fake.groups.remove(&uuid::format(&GUEST));
    assert!(!fake.guest().exists());
}

#[test]
fn what_the_host_lacks_is_named() {
    let mut fake = Fake::new(Version::One);
    let group = fake.groups.make(&GUEST, &limits(ALL)).unwrap();
    let said = group.limit(&limits(ALL)).unwrap_err().detail;
    assert!(said.contains("has no file cpu.cfs"), "{said}");
    fake.groups.trees = Trees::default();
    let said = |fake: &Fake| fake.groups.make(&GUEST, &limits(ALL)).unwrap_err();
    assert!(
        said(&fake)
            .detail
            .contains("no control groups with this controller")
    );
    assert_eq!(said(&fake).code, Code::ConfigUnsupported);
    fake.groups.root = None;
    assert!(said(&fake).detail.contains("makes no control groups"));
    let unlimited = fake.groups.make(&GUEST, &limits(""));
    assert!(unlimited.unwrap().places.is_empty());
}
