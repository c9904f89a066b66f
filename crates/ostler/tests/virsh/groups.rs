//! What the host gives guests by control groups; the kernel's files are the witness. Groups are below a parent of each test's own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::setup::{Host, field, linux, wait_until};
use crate::support::qmp::Qmp;

/// The tree of version 1 that has a controller, or that of version 2; whether it is version 2.
fn tree(controller: &str, controller2: &str) -> Option<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut second = None;
    for line in mounts.lines() {
        let (place, source) = line.split_once(" - ")?;
        let mount = PathBuf::from(place.split(' ').nth(4)?);
        let mut source = source.split(' ');
        match source.next()? {
            "cgroup" if source.next_back()?.split(',').any(|name| name == controller) => {
                return Some((mount, false));
            }
            "cgroup2" => {
                let has = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                if has.split_whitespace().any(|name| name == controller2) {
                    second = Some((mount, true));
                }
            }
            _ => {}
        }
    }
    second
}

/// The parent of a test's groups, removed at the end.
struct Parent {
    name: String,
    cpu: PathBuf,
    memory: PathBuf,
    is_second: bool,
}

impl Parent {
    /// None where the host has no groups that we may make.
    fn new(test: &str) -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIPPED {test}: {why}");
            None
        };
        let (Some((cpu, is_second)), Some((memory, other))) = (tree("cpu", "cpu"), tree("memory", "memory"))
        else {
            return skip("the host has no control groups for CPUs and memory");
        };
        if is_second != other {
            return skip("the host's control groups are of both versions");
        }
        let name = format!("ostler-test-{}", std::process::id());
        if let Err(error) = fs::create_dir(cpu.join(&name)) {
            return skip(&format!("no control group can be made: {error}"));
        }
        Some(Self {
            cpu: cpu.join(&name),
            memory: memory.join(&name),
            name,
            is_second,
        })
    }

    fn host(&self) -> Host {
        Host::start_configured(&format!("groups = \"{}\"\n", self.name))
    }

    /// Files of a guest's group that have these names in the versions.
    fn text(&self, folder: &Path, first: &str, second: &str) -> String {
        let file = folder.join(if self.is_second { second } else { first });
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().to_owned()
    }

    fn quota(&self, folder: &Path) -> String {
        match self.is_second {
            true => self.text(folder, "", "cpu.max"),
            false => format!(
                "{} {}",
                self.text(folder, "cpu.cfs_quota_us", ""),
                self.text(folder, "cpu.cfs_period_us", "")
            ),
        }
    }

    fn is_empty(&self) -> bool {
        let groups = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter(|entry| entry.path().is_dir()).count()
        };
        groups(&self.cpu) == 0 && groups(&self.memory) == 0
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let io = tree("blkio", "io").map(|(mount, _)| mount.join(&self.name));
        for parent in [Some(self.cpu.clone()), Some(self.memory.clone()), io]
            .into_iter()
            .flatten()
        {
            // Of a test that failed the guests are gone by now, and their groups may be left.
            for guest in fs::read_dir(&parent).into_iter().flatten().flatten() {
                for inner in fs::read_dir(guest.path()).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(inner.path());
                }
                let _ = fs::remove_dir(guest.path());
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

fn control(host: &Host) -> Qmp {
    let folder = fs::read_dir(host.path("run/guests")).unwrap().next().unwrap();
    Qmp::connect(&folder.unwrap().path().join("control"))
}

const TUNE: &str = "<cputune><shares>512</shares><period>50000</period><quota>20000</quota>\
    <emulator_quota>90000</emulator_quota></cputune>\
    <memtune><hard_limit unit='MiB'>700</hard_limit><soft_limit unit='MiB'>500</soft_limit></memtune><os>";

#[test]
fn what_a_definition_asks_for_is_what_the_kernel_gives() {
    let Some(parent) = Parent::new("what_a_definition_asks_for_is_what_the_kernel_gives") else {
        return;
    };
    let mut host = parent.host();
    let limited = linux("limited", "")
        .replace("<os>", TUNE)
        .replace("<vcpu>2</vcpu>", "<vcpu current='1'>2</vcpu>");
    host.virsh(&format!("define {}", host.xml("a.xml", &limited)));
    host.virsh("start limited");
    let uuid = host.virsh("domuuid limited").trim().to_owned();
    let (cpu, memory) = (parent.cpu.join(&uuid), parent.memory.join(&uuid));
    assert_eq!(parent.text(&cpu, "cpu.shares", "cpu.weight"), "512");
    assert_eq!(parent.quota(&cpu.join("vcpu0")), "20000 50000");
    assert_eq!(parent.quota(&cpu.join("emulator")), "90000 100000");
    assert_eq!(
        parent.text(&memory, "memory.limit_in_bytes", "memory.max"),
        (700 << 20).to_string()
    );
    assert_eq!(
        parent.text(&memory, "memory.soft_limit_in_bytes", "memory.high"),
        (500 << 20).to_string()
    );

    // Every thread is in the group, that of the CPU in its own, and the guest's memory is counted there.
    let threads = |group: &str| -> Vec<String> {
        let text = parent.text(&cpu.join(group), "tasks", "cgroup.threads");
        text.lines().map(String::from).collect()
    };
    let cpus = control(&host).execute("query-cpus-fast", json!({}));
    let thread = cpus[0]["thread-id"].to_string();
    assert_eq!(threads("vcpu0"), [thread.as_str()]);
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let process = field(&status, "Tgid").to_owned();
    for entry in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = entry.unwrap().path();
        let groups = fs::read_to_string(task.join("cgroup")).unwrap_or_default();
        let in_both = groups.lines().filter(|line| line.contains(&uuid)).count();
        assert!(
            groups.is_empty() || in_both >= if parent.is_second { 1 } else { 2 },
            "{groups}"
        );
    }
    wait_until("the guest's memory is counted", || {
        let used = parent.text(&memory, "memory.usage_in_bytes", "memory.current");
        used.parse::<u64>().unwrap() > 16 << 20
    });
    // Its boot wants more CPU time than it may have.
    wait_until("the guest is held back", || {
        let stat = parent.text(&cpu.join("vcpu0"), "cpu.stat", "cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.unwrap().parse::<u64>().unwrap() > 0
    });

    // A CPU that comes has a group of its own.
    host.virsh("setvcpus limited 2 --live");
    assert_eq!(parent.quota(&cpu.join("vcpu1")), "20000 50000");
    assert_eq!(threads("vcpu1").len(), 1);

    // Changes of the guest that runs, of its definition, and of both.
    host.virsh("schedinfo limited --live --set cpu_shares=700");
    host.virsh("schedinfo limited --live --config --set vcpu_quota=30000");
    host.virsh("schedinfo limited --config --set global_quota=60000");
    assert_eq!(parent.text(&cpu, "cpu.shares", "cpu.weight"), "700");
    assert_eq!(parent.quota(&cpu.join("vcpu1")), "30000 50000");
    assert!(["-1 100000", "max 100000"].contains(&parent.quota(&cpu).as_str()));
    let shown = |options: &str, name: &str| {
        let text = host.virsh(&format!("schedinfo limited {options}"));
        field(&text, name).to_owned()
    };
    assert_eq!(
        (shown("--live", "cpu_shares"), shown("--config", "cpu_shares")),
        ("700".into(), "512".into())
    );
    assert_eq!(
        (shown("--live", "vcpu_quota"), shown("--config", "vcpu_quota")),
        ("30000".into(), "30000".into())
    );
    assert_eq!(
        (shown("--live", "global_quota"), shown("--config", "global_quota")),
        ("0".into(), "60000".into())
    );
    host.virsh("memtune limited 614400 --live");
    assert_eq!(
        parent.text(&memory, "memory.limit_in_bytes", "memory.max"),
        (600 << 20).to_string()
    );
    assert_eq!(
        field(&host.virsh("memtune limited --config"), "hard_limit"),
        "716800"
    );

    // What the kernel refuses is as it was.
    let said = host.refused("schedinfo limited --live --set vcpu_quota=5");
    assert!(said.contains("must be in range"), "{said}");
    let said = host.refused("schedinfo limited --live --set iothread_quota=5000");
    assert!(said.contains("cannot be set"), "{said}");
    assert_eq!(parent.quota(&cpu.join("vcpu0")), "30000 50000");

    // The next daemon finds the group.
    host.kill_and_restart();
    assert_eq!(parent.text(&cpu, "cpu.shares", "cpu.weight"), "700");
    host.virsh("schedinfo limited --live --set cpu_shares=300");
    assert_eq!(parent.text(&cpu, "cpu.shares", "cpu.weight"), "300");
    assert_eq!(threads("vcpu1").len(), 1);
    host.virsh("destroy limited");
    assert!(parent.is_empty());

    // What a guest's next start finds in its definition, and an end that no daemon sees.
    host.virsh("start limited");
    assert_eq!(parent.quota(&cpu), "60000 100000");
    host.kill();
    let mut qmp = control(&host);
    qmp.execute("quit", json!({}));
    drop(qmp);
    host.start_again();
    assert_eq!(host.virsh("domstate limited").trim(), "shut off");
    wait_until("the group is gone", || parent.is_empty());
}

#[test]
fn a_guest_gets_a_group_when_somebody_asks_for_one() {
    let Some(parent) = Parent::new("a_guest_gets_a_group_when_somebody_asks_for_one") else {
        return;
    };
    let host = parent.host();
    host.virsh(&format!("create {}", host.xml("a.xml", &linux("free", ""))));
    assert!(parent.is_empty());
    let uuid = host.virsh("domuuid free").trim().to_owned();
    let (cpu, memory) = (parent.cpu.join(&uuid), parent.memory.join(&uuid));
    host.virsh("schedinfo free --set emulator_quota=50000");
    assert_eq!(parent.quota(&cpu.join("emulator")), "50000 100000");
    let others = parent.text(&cpu.join("emulator"), "tasks", "cgroup.threads");
    assert!(others.lines().count() > 1, "{others}");
    for vcpu in ["vcpu0", "vcpu1"] {
        assert_eq!(
            parent
                .text(&cpu.join(vcpu), "tasks", "cgroup.threads")
                .lines()
                .count(),
            1
        );
    }
    host.virsh("memtune free --hard-limit 1048576 --soft-limit 524288");
    assert_eq!(
        parent.text(&memory, "memory.limit_in_bytes", "memory.max"),
        (1 << 30).to_string()
    );
    assert!(
        host.virsh("dumpxml free")
            .contains("<soft_limit unit='KiB'>524288</soft_limit>")
    );
    host.virsh("memtune free --soft-limit -1");
    assert!(!host.virsh("dumpxml free").contains("soft_limit"));
    assert_eq!(field(&host.virsh("memtune free"), "soft_limit"), "unlimited");
    // Disks, where the kernel weighs them.
    if let Some((io, _)) = tree("blkio", "io") {
        let group = io.join(&parent.name).join(&uuid);
        let weighed = host.command("blkiotune free --weight 300").output().unwrap();
        let files = ["blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"];
        match files
            .iter()
            .map(|file| group.join(file))
            .find(|file| file.exists())
        {
            Some(file) => {
                assert!(weighed.status.success(), "{weighed:?}");
                assert!(fs::read_to_string(file).unwrap().contains("300"));
                assert_eq!(field(&host.virsh("blkiotune free"), "weight"), "300");
            }
            None => {
                let said = String::from_utf8(weighed.stderr).unwrap();
                assert!(said.contains("does not limit that"), "{said}");
                assert_eq!(field(&host.virsh("blkiotune free"), "weight"), "0");
            }
        }
    }
    host.virsh("destroy free");
    assert!(parent.is_empty());
}
