//! Storage pools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::hostile::{REMOTE, call, receive};
use crate::setup::{Host, Listener, field};

/// A table of virsh's without its head: the words of each line.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip(2).filter(|line| !line.trim().is_empty());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    lines.map(words).collect()
}

/// The names of pools that virsh lists.
fn names(host: &Host, filters: &str) -> Vec<String> {
    let text = host.virsh(&format!("pool-list --name {filters}"));
    text.split_whitespace().map(str::to_owned).collect()
}

/// What is in a file that only its owner may read.
fn private_text(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    text
}

#[test]
fn the_default_pool_is_active_from_the_first_start() {
    let host = Host::start();
    assert_eq!(table(&host.virsh("pool-list")), [["default", "active", "yes"]]);
    let images = host.path("images");
    let info = host.virsh("pool-info --bytes default");
    let system = rustix::fs::statvfs(&images).unwrap();
    let bytes = |name: &str| field(&info, name).parse::<u64>().unwrap();
    assert_eq!(bytes("Capacity"), system.f_blocks * system.f_frsize);
    // Others write to that file system meanwhile.
    let free = system.f_bfree * system.f_frsize;
    assert!(bytes("Available").abs_diff(free) < 4 << 30, "{info} {free}");
    assert_eq!(bytes("Allocation") + bytes("Available"), bytes("Capacity"));
    let xml = host.virsh("pool-dumpxml default");
    assert!(
        xml.contains(&format!("<path>{}</path>", images.display())),
        "{xml}"
    );
    // Who does not want it is not given it again.
    host.virsh("pool-destroy default");
    host.virsh("pool-undefine default");
    let mut host = host;
    host.kill_and_restart();
    assert_eq!(names(&host, "--all"), [""; 0]);
}

#[test]
fn a_pool_from_its_definition_to_its_end() {
    let mut host = Host::start();
    let target = host.path("srv/vms");
    host.virsh(&format!("pool-define-as vms dir --target {}", target.display()));
    let file = host.path("pools/vms.xml");
    let uuid = host.virsh("pool-uuid vms").trim().to_owned();
    assert!(private_text(&file).contains(&uuid));
    assert_eq!(host.virsh(&format!("pool-name {uuid}")).trim(), "vms");
    assert_eq!(field(&host.virsh("pool-info vms"), "State"), "inactive");
    let said = host.refused("pool-start vms");
    assert!(said.contains("cannot open the pool's folder"), "{said}");
    host.virsh("pool-build vms");
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o711);
    host.virsh("pool-start vms");
    assert!(host.refused("pool-start vms").contains("is already active"));
    host.virsh("pool-autostart vms");
    assert!(host.path("pools/autostart/vms.xml").exists());

    // A transient one beside it.
    let scratch = host.path("scratch");
    host.virsh(&format!(
        "pool-create-as scratch dir --target {} --build",
        scratch.display()
    ));
    host.virsh(&format!(
        "pool-define-as idle dir --target {}",
        host.path("idle").display()
    ));
    for (filters, expected) in [
        ("", &["default", "scratch", "vms"][..]),
        ("--all", &["default", "idle", "scratch", "vms"]),
        ("--inactive", &["idle"]),
        ("--transient", &["scratch"]),
        ("--persistent", &["default", "vms"]),
        ("--autostart", &["default", "vms"]),
        ("--no-autostart --all", &["idle", "scratch"]),
        ("--type dir", &["default", "scratch", "vms"]),
        ("--type fs,netfs --all", &[]),
    ] {
        assert_eq!(names(&host, filters), expected, "{filters}");
    }
    let same = host.refused(&format!("pool-define-as other dir --target {}", target.display()));
    assert!(same.contains("conflict with pool: 'vms'"), "{same}");

    // All of it is there when the daemon was killed, and what ran runs.
    host.kill_and_restart();
    assert_eq!(names(&host, ""), ["default", "scratch", "vms"]);
    assert_eq!(host.virsh("pool-uuid vms").trim(), uuid);
    assert_eq!(field(&host.virsh("pool-info vms"), "Autostart"), "yes");
    assert_eq!(field(&host.virsh("pool-info scratch"), "Persistent"), "no");

    for command in ["pool-undefine vms", "pool-delete vms", "pool-build vms"] {
        assert!(host.refused(command).contains("is still active"), "{command}");
    }
    host.virsh("vol-create-as vms a 4k");
    host.virsh("pool-destroy vms");
    for command in ["pool-destroy vms", "pool-refresh vms", "vol-list vms"] {
        assert!(host.refused(command).contains("is not active"), "{command}");
    }
    // A folder with something in it is not removed.
    assert!(host.refused("pool-delete vms").contains("not empty"));
    fs::remove_file(target.join("a")).unwrap();
    host.virsh("pool-delete vms");
    assert!(!target.exists());
    host.virsh("pool-undefine vms");
    assert!(!file.exists() && fs::symlink_metadata(host.path("pools/autostart/vms.xml")).is_err());
    host.virsh("pool-destroy scratch");
    assert_eq!(names(&host, "--all"), ["default", "idle"]);
    assert!(scratch.exists(), "to stop a pool takes nothing away");
    let said = host.refused("pool-info vms");
    assert!(said.contains("failed to get pool 'vms'"), "{said}");
}

#[test]
fn what_is_no_pool_here_is_refused_by_its_name() {
    let host = Host::start();
    for (xml, says) in [
        (
            "<pool type='netfs'><name>n</name><target><path>/n</path></target></pool>",
            "netfs",
        ),
        (
            "<pool type='logical'><name>vg</name></pool>",
            "'logical' are not served",
        ),
        ("<pool type='rbd'><name>r</name></pool>", "rbd"),
        (
            "<pool type='dir'><name>a/b</name><target><path>/a</path></target></pool>",
            "cannot contain '/'",
        ),
        (
            "<pool type='dir'><name>a</name><target><path>a</path></target></pool>",
            "has to be absolute",
        ),
        ("<pool type='dir'><name>a</name>", "XML error"),
    ] {
        let file = host.xml("pool.xml", xml);
        let said = host.refused(&format!("pool-define {file}"));
        assert!(said.contains(says), "{xml}: {said}");
    }
    host.virsh("pool-destroy default");
    let said = host.refused("pool-build default --overwrite");
    assert!(
        said.contains("nothing is repaired, resized or written over"),
        "{said}"
    );
    let said = host.refused("find-storage-pool-sources-as netfs --host localhost");
    assert!(said.contains("are not looked for"), "{said}");
    let offered = host.virsh("pool-capabilities");
    assert!(offered.contains("<pool type='dir' supported='yes'>"), "{offered}");
    assert!(offered.contains("<pool type='rbd' supported='no'>"), "{offered}");
}

#[test]
fn whoever_may_only_look_changes_nothing() {
    let host = Host::start();
    let readonly = |arguments: &str| {
        let query = format!("socket={}", host.path("sock-ro").display());
        host.command_at(&query, arguments).output().unwrap()
    };
    assert!(readonly("pool-list").status.success());
    host.virsh("vol-create-as default a 4k");
    let pool = host.xml(
        "p.xml",
        "<pool type='dir'><name>p</name><target><path>/p</path></target></pool>",
    );
    let path = host.path("images/a");
    let path = path.display();
    for command in [
        format!("pool-define {pool}"),
        format!("pool-create {pool}"),
        "pool-destroy default".into(),
        "pool-refresh default".into(),
        "pool-autostart default".into(),
        "pool-undefine default".into(),
        "vol-create-as default b 4k".into(),
        format!("vol-delete {path}"),
        format!("vol-resize {path} 8k"),
        format!("vol-wipe {path}"),
        format!("vol-clone {path} c"),
        format!("vol-upload {path} {pool}"),
        format!("vol-download {path} {}", host.path("got").display()),
    ] {
        let output = readonly(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("read only access prevents"), "{command}: {said}");
    }
    assert!(readonly(&format!("vol-info {path}")).status.success());
    assert_eq!(names(&host, "--all"), ["default"]);
}

#[test]
fn events_of_pools() {
    let host = Host::start();
    let target = host.path("ev");
    let define = format!("pool-define-as ev dir --target {}", target.display());
    let poke = || drop(host.virsh("pool-refresh default"));
    let refreshes = Listener::start(&host, "pool-event --event refresh --loop", poke);
    let poke = || {
        host.virsh("pool-destroy default");
        host.virsh("pool-start default");
    };
    let lives = Listener::start(&host, "pool-event --event lifecycle --loop --pool default", poke);
    host.virsh("pool-destroy default");
    lives.until("event 'lifecycle' for storage pool default: Stopped");
    drop(lives);
    host.virsh("pool-start default");
    let poke = || {
        host.virsh(&define);
        host.virsh("pool-undefine ev");
    };
    let lives = Listener::start(&host, "pool-event --event lifecycle --loop", poke);
    for command in [
        define.as_str(),
        "pool-build ev",
        "pool-start ev",
        "pool-destroy ev",
        "pool-delete ev",
        "pool-undefine ev",
    ] {
        host.virsh(command);
    }
    // Whatever poking caused comes first.
    let mut heard = lives.until("event 'lifecycle' for storage pool ev: Deleted");
    heard.extend(lives.until("event 'lifecycle' for storage pool ev: Undefined"));
    let steps: Vec<&str> = heard
        .iter()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(_, step)| step)
        .collect();
    assert!(
        steps.ends_with(&["Defined", "Created", "Started", "Stopped", "Deleted", "Undefined"]),
        "{steps:?}"
    );
    host.virsh("pool-refresh default");
    refreshes.until("event 'refresh' for storage pool default");
}

/// The older pairs of calls, number and names, which virsh of today does not use.
#[test]
fn numbers_and_names_of_pools() {
    let host = Host::start();
    host.virsh(&format!(
        "pool-define-as idle dir --target {}",
        host.path("idle").display()
    ));
    let mut client = UnixStream::connect(host.path("sock")).unwrap();
    use std::io::Write;
    let mut ask = |procedure: u32, payload: &[u8]| {
        client.write_all(&call(REMOTE, procedure, 1, payload)).unwrap();
        let (words, payload) = receive(&mut client);
        assert_eq!(words[5], 0, "{procedure}: {}", String::from_utf8_lossy(&payload));
        payload
    };
    let string = |text: &str| {
        let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let list = |name: &str| [1u32.to_be_bytes().to_vec(), string(name)].concat();
    let (one, ten) = (1u32.to_be_bytes(), 10u32.to_be_bytes());
    assert_eq!(ask(71, &[]), one);
    assert_eq!(ask(72, &ten), list("default"));
    assert_eq!(ask(72, &0u32.to_be_bytes()), [0; 4]);
    assert_eq!(ask(73, &[]), one);
    assert_eq!(ask(74, &ten), list("idle"));
    // By the path of its folder, and by the UUID that comes with the name.
    let found = ask(391, &string(host.path("images").to_str().unwrap()));
    assert!(found.starts_with(&string("default")), "{found:?}");
    let uuid = &found[string("default").len()..];
    assert_eq!(ask(85, uuid), found);
    host.virsh("vol-create-as default v 4k");
    assert_eq!(ask(91, &found), one);
    assert_eq!(ask(92, &[found.as_slice(), &ten].concat()), list("v"));
}

/// A file system in a file, on a loop device of the host.
pub struct Loop(pub String);

impl Loop {
    pub fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let device = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(Self(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Still there only if the test failed.
        let _ = Command::new("umount").args(["--quiet", &self.0]).output();
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_file_system_is_mounted_while_its_pool_runs() {
    let mut host = Host::start();
    let image = host.path("fs.img");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("/sbin/mke2fs")
        .args(["-q", "-t", "ext4"])
        .arg(&image)
        .status();
    assert!(made.expect("mke2fs (package e2fsprogs) runs").success());
    let Some(device) = Loop::new(&image) else {
        println!("SKIPPED a_file_system_is_mounted_while_its_pool_runs: the host gives no loop device");
        return;
    };
    let target = host.path("mnt");
    host.virsh(&format!(
        "pool-define-as disk fs --source-dev {} --source-format ext4 --target {}",
        device.0,
        target.display()
    ));
    host.virsh("pool-build disk");
    host.virsh("pool-start disk");
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts().contains(&format!("{} {} ext4", device.0, target.display())));
    let capacity = field(&host.virsh("pool-info --bytes disk"), "Capacity")
        .parse::<u64>()
        .unwrap();
    assert!(capacity < 16 << 20, "{capacity}");
    host.virsh("vol-create-as disk v 1M");
    // Too large for it, and nothing of it stays.
    let said = host.refused("vol-create-as disk large 64M");
    assert!(said.contains("cannot make the volume 'large'"), "{said}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "lost+found and v");
    host.kill_and_restart();
    assert_eq!(field(&host.virsh("pool-info disk"), "State"), "running");
    host.virsh("pool-destroy disk");
    assert!(!mounts().contains(&device.0));
    assert!(!target.join("v").exists());
    host.virsh("pool-start disk");
    assert!(target.join("v").exists());
    host.virsh("pool-destroy disk");
}
