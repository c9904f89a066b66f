//! Linux guests mount folders of the host by virtio-fs, served by Debian's virtiofsd.

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::process::listens;
use support::qmp::Qmp;
use support::{Guest, busybox, guest_folder};

const LIMIT: Duration = Duration::from_secs(300);
/// What the host's file and the guest's have.
const HOST_BYTES: usize = 6 << 20;

fn virtiofsd(test: &str) -> Option<PathBuf> {
    let found = ostler_launch::porter::find_virtiofsd();
    if found.is_none() {
        eprintln!("SKIPPED {test}: no virtiofsd on this machine");
    } else if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: virtiofsd of Debian 12 needs root");
        return None;
    }
    found
}

/// A guest with the drivers, which runs `script`.
fn guest(script: &str) -> Guest {
    let versions = guest_folder().join("root/lib/modules");
    let version = fs::read_dir(&versions).unwrap().next().unwrap().unwrap().path();
    let module = |name: &str| fs::read(version.join(format!("kernel/fs/fuse/{name}.ko"))).unwrap();
    let (fuse, virtiofs) = (module("fuse"), module("virtiofs"));
    let script = format!("insmod /fuse.ko\ninsmod /virtiofs.ko\nmkdir -p /share\n{script}");
    let files: [(&str, &[u8]); 2] = [("fuse.ko", &fuse), ("virtiofs.ko", &virtiofs)];
    Guest::new(2)
        .args(["--accel", "soft"])
        .script_with(&script, &files)
}

/// The hash that `sha256sum` tells, by the same busybox that the guest has.
fn hash(path: &Path) -> String {
    let output = Command::new(busybox())
        .arg("sha256sum")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// Bytes that repeat nowhere near.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state ^ state >> 29).to_le_bytes()
    });
    words.take(len).collect()
}

/// Processes whose command line has this word.
fn processes_with(word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        words.any(|other| other == word.as_bytes()).then_some(pid)
    });
    entries.collect()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_and_the_host_share_files_both_ways() {
    if virtiofsd("a_guest_and_the_host_share_files_both_ways").is_none() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let at = |name: &str| shared.path().join(name);
    fs::write(at("from-host"), pattern(HOST_BYTES)).unwrap();
    fs::create_dir_all(at("deep/er")).unwrap();
    fs::write(at("deep/er/word"), "stable\n").unwrap();
    symlink("deep/er/word", at("link")).unwrap();
    fs::write(at("secret"), "").unwrap();
    fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::copy(busybox(), at("busybox")).unwrap();
    let script = "\
        mount -t virtiofs src /share && echo mounted\n\
        echo host $(sha256sum </share/from-host | cut -d' ' -f1)\n\
        echo link $(readlink /share/link) $(cat /share/link)\n\
        echo mode $(stat -c '%a %u' /share/secret)\n\
        dd if=/dev/urandom of=/share/from-guest bs=1M count=5 2>/dev/null\n\
        echo guest $(sha256sum </share/from-guest | cut -d' ' -f1)\n\
        mkdir /share/made && ln -s ../from-guest /share/made/link\n\
        chmod 751 /share/made && chown 1234:2345 /share/made\n\
        echo more >>/share/deep/er/word\n\
        mv /share/secret /share/made/renamed\n\
        for i in 1 2 3; do echo 3 >/proc/sys/vm/drop_caches; /share/busybox sha256sum /share/from-host >/dev/null && echo ran $i; done\n\
        mkdir /tmp/other; mount -t virtiofs nosuch /tmp/other || echo no other\n\
        i=0; while [ $i -lt 200 ]; do echo $i >/share/made/f$i; i=$((i+1)); done\n\
        echo listed $(ls /share/made | wc -l)\n\
        rm /share/made/f*\n\
        umount /share && echo unmounted\n";
    let option = format!("tag=src,dir={}", shared.path().display());
    let outcome = guest(script).args(["--fs", &option]).run(LIMIT);
    outcome.assert_clean();
    for line in [
        "mounted\n".to_owned(),
        format!("host {}\n", hash(&at("from-host"))),
        "link deep/er/word stable\n".to_owned(),
        "mode 604 0\n".to_owned(),
        format!("guest {}\n", hash(&at("from-guest"))),
        "ran 3\n".to_owned(),
        "no other\n".to_owned(),
        "listed 202\n".to_owned(),
        "unmounted\n".to_owned(),
    ] {
        let console = outcome.console.replace('\r', "");
        assert!(console.contains(&line), "{line}: {console}");
    }
    assert_eq!(fs::metadata(at("from-guest")).unwrap().len(), 5 << 20);
    let made = fs::metadata(at("made")).unwrap();
    assert_eq!(
        (made.mode() & 0o7777, made.uid(), made.gid()),
        (0o751, 1234, 2345)
    );
    assert_eq!(
        fs::read_link(at("made/link")).unwrap(),
        Path::new("../from-guest")
    );
    assert_eq!(fs::read_to_string(at("deep/er/word")).unwrap(), "stable\nmore\n");
    assert!(at("made/renamed").exists() && !at("secret").exists());
    assert_eq!(fs::read_dir(at("made")).unwrap().count(), 2);
    // The virtiofsd went with the guest.
    let source = format!("source={}", shared.path().canonicalize().unwrap().display());
    wait_until("virtiofsd ends", || processes_with(&source).is_empty());
}

#[test]
fn a_share_whose_virtiofsd_is_killed_gives_errors_and_is_mounted_again() {
    if virtiofsd("a_share_whose_virtiofsd_is_killed_gives_errors_and_is_mounted_again").is_none() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("word"), "here\n").unwrap();
    let script = "\
        mount -t virtiofs src /share; cat /share/word\n\
        echo waiting; read word\n\
        echo 3 >/proc/sys/vm/drop_caches\n\
        cat /share/word; ls /share; mkdir /share/new || echo refused\n\
        umount /share\n\
        echo 'is it here'; read word\n\
        mount -t virtiofs src /share; echo again $(cat /share/word)\n\
        umount /share; read word; echo guest done\n";
    let option = format!("tag=src,dir={}", shared.path().display());
    let mut guest = guest(script).args(["--fs", &option]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.spawn();
    guest.expect("waiting", LIMIT);
    let source = format!("source={}", shared.path().canonicalize().unwrap().display());
    let killed = processes_with(&source);
    assert!(!killed.is_empty(), "a virtiofsd serves the guest");
    for pid in &killed {
        // One of them may end with the other.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
    wait_until("the virtiofsd is dead", || processes_with(&source).is_empty());
    guest.type_in("go\n");
    guest.expect("not connected", LIMIT);
    guest.expect("refused", LIMIT);
    // The guest's process is well.
    let mut qmp = Qmp::connect(&control);
    assert_eq!(qmp.execute("query-status", json!({}))["running"], true);
    guest.expect("is it here", LIMIT);
    guest.type_in("go\n");
    guest.expect("again here", LIMIT);
    let anew = processes_with(&source);
    assert!(
        !anew.is_empty() && anew.iter().all(|pid| !killed.contains(pid)),
        "{anew:?}"
    );
    guest.type_in("end\n");
    guest.expect("guest done", LIMIT);
    guest.wait(LIMIT).assert_clean();
}

/// A virtiofsd that somebody else started. It ends with its first connection.
struct Foreign(Child);

impl Foreign {
    fn start(program: &Path, folder: &Path, socket: &Path) -> Self {
        let child = Command::new(program)
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", &format!("source={}", folder.display())])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let foreign = Self(child);
        wait_until("the virtiofsd listens", || listens(socket));
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_virtiofsd_that_runs_serves_a_guest_through_its_reboot() {
    let Some(program) = virtiofsd("a_virtiofsd_that_runs_serves_a_guest_through_its_reboot") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let socket = folder.path().join("socket");
    let mut foreign = Foreign::start(&program, &shared, &socket);
    let script = "\
        mount -t virtiofs src /share\n\
        if [ -e /share/first ]; then echo second; touch /share/second; umount /share; poweroff -f; fi\n\
        touch /share/first; reboot -f\n";
    let option = format!("tag=src,socket={}", socket.display());
    let outcome = guest(script).args(["--fs", &option]).reboots().run(LIMIT);
    outcome.assert_clean();
    assert!(outcome.console.contains("second"), "{}", outcome.console);
    assert!(shared.join("first").exists() && shared.join("second").exists());
    // Its connection is closed with the guest.
    wait_until("the virtiofsd ends", || foreign.0.try_wait().unwrap().is_some());
}

#[test]
fn a_read_only_share_is_read_and_stays_as_it_was() {
    if virtiofsd("a_read_only_share_is_read_and_stays_as_it_was").is_none() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let at = |name: &str| shared.path().join(name);
    fs::write(at("word"), "here\n").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("word", at("link")).unwrap();
    let before = fs::metadata(at("word")).unwrap();
    // As root, who may do anything, and with what is in each file system's power.
    let script = "\
        mount -t virtiofs src /share && echo mounted\n\
        echo read $(cat /share/link) $(ls /share | wc -l)\n\
        no() { if \"$@\" 2>/tmp/why; then echo \"DID $*\"; else grep -q 'Read-only file system' /tmp/why && echo refused; fi; }\n\
        no touch /share/new\n\
        no mkdir /share/new\n\
        no ln -s a /share/new\n\
        no ln /share/word /share/new\n\
        no mkfifo /share/new\n\
        no mv /share/word /share/new\n\
        no rm /share/word\n\
        no rmdir /share/folder\n\
        no chmod 777 /share/word\n\
        no chown 5 /share/word\n\
        no truncate -s 0 /share/word\n\
        no sh -c 'echo more >>/share/word'\n\
        no sh -c 'echo other >/share/word'\n\
        no dd if=/dev/zero of=/share/word bs=1 count=1 conv=notrunc\n\
        echo read again $(cat /share/word)\n\
        umount /share && echo unmounted\n";
    let option = format!("tag=src,readonly=on,dir={}", shared.path().display());
    let outcome = guest(script).args(["--fs", &option]).run(LIMIT);
    outcome.assert_clean();
    let said = &outcome.console;
    for line in ["mounted", "read here 3", "read again here", "unmounted"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("DID "), "{said}");
    assert_eq!(said.matches("refused").count(), 14, "{said}");
    let after = fs::metadata(at("word")).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.nlink(), after.mtime_nsec()),
        (before.mode(), before.uid(), before.nlink(), before.mtime_nsec())
    );
    assert_eq!(fs::read_to_string(at("word")).unwrap(), "here\n");
    assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 3);
}

#[test]
fn a_share_is_plugged_in_and_goes() {
    let Some(program) = virtiofsd("a_share_is_plugged_in_and_goes") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("word"), "here\n").unwrap();
    let socket = folder.path().join("socket");
    let _foreign = Foreign::start(&program, &shared, &socket);
    let script = "\
        echo waiting; until mount -t virtiofs src /share 2>/dev/null; do sleep 0.1; done\n\
        cat /share/word; umount /share; echo let go; read word; echo guest done\n";
    let mut guest = guest(script);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.spawn();
    guest.expect("waiting", LIMIT);
    let (plug, guests) = ostler_virtio::vsock::plug::pair().unwrap();
    // What a porter does.
    thread::spawn(move || {
        use ostler_virtio::vsock::plug as wire;
        while let Ok((id, _)) = wire::wait_for_wish(&plug) {
            let stream = UnixStream::connect(&socket).unwrap();
            wire::answer(&plug, id, Ok(stream.as_fd())).unwrap();
        }
    });
    let mut qmp = Qmp::connect(&control);
    qmp.execute_with("getfd", json!({ "fdname": "plug" }), guests);
    let device = json!({ "driver": "vhost-user-fs-pci", "id": "s0", "tag": "src", "plugfd": "plug" });
    qmp.execute("device_add", device);
    guest.expect("here", LIMIT);
    guest.expect("let go", LIMIT);
    qmp.execute("device_del", json!({ "id": "s0" }));
    qmp.event("DEVICE_DELETED");
    guest.type_in("end\n");
    guest.expect("guest done", LIMIT);
    guest.wait(LIMIT).assert_clean();
}
