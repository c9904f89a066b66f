//! Folders of the host and sockets to it: `<filesystem>` and `<vsock>`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::console::Console;
use crate::setup::{Host, LIMIT, Listener, linux, wait_until};
use crate::support::guest_folder;

/// Bytes of the disk before the second driver.
const SECOND: usize = 1 << 20;

/// A disk with the drivers that the initramfs lacks, and a command of the guest that loads them.
fn drivers(host: &Host) -> (String, String) {
    let versions = guest_folder().join("root/lib/modules");
    let version = fs::read_dir(versions).unwrap().next().unwrap().unwrap().path();
    let module = |name: &str| fs::read(version.join(format!("kernel/fs/fuse/{name}.ko"))).unwrap();
    let (fuse, virtiofs) = (module("fuse"), module("virtiofs"));
    let mut bytes = fuse.clone();
    bytes.resize(SECOND, 0);
    bytes.extend(&virtiofs);
    bytes.resize(2 * SECOND, 0);
    let disk = host.path("drivers.img");
    fs::write(&disk, bytes).unwrap();
    let load = format!(
        "head -c {} /dev/vda >/a.ko; dd if=/dev/vda bs=1M skip=1 2>/dev/null | head -c {} >/b.ko; insmod /a.ko && insmod /b.ko && echo loaded",
        fuse.len(),
        virtiofs.len()
    );
    let xml = format!(
        "<disk type='file'><source file='{}'/><target dev='vda' bus='virtio'/></disk>",
        disk.display()
    );
    (xml, load)
}

fn virtiofsd(test: &str) -> bool {
    let there = ostler_launch::porter::find_virtiofsd().is_some();
    if !there {
        eprintln!("SKIPPED {test}: no virtiofsd on this machine");
    }
    there
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

#[test]
fn a_guest_mounts_a_folder_and_goes_on_when_the_daemon_is_killed() {
    if !virtiofsd("a_guest_mounts_a_folder_and_goes_on_when_the_daemon_is_killed") {
        return;
    }
    let mut host = Host::start();
    let folder = host.path("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("word"), "here\n").unwrap();
    let (disk, load) = drivers(&host);
    let devices = format!(
        "{disk}<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='{}'/>\
         <target dir='docs'/></filesystem>",
        folder.display()
    );
    // As libvirt's own guests have it.
    let shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><os>";
    let file = host.xml("a.xml", &linux("reader", &devices).replace("<os>", shared));
    host.virsh(&format!("define {file} --validate"));
    host.virsh("start reader");
    let live = host.virsh("dumpxml reader");
    assert!(
        live.contains("<target dir='docs'/>") && live.contains("<alias name='fs0'/>"),
        "{live}"
    );
    let mut console = Console::open(&host, "reader");
    console.expect("# ");
    assert_eq!(console.shell(&load), "loaded");
    assert_eq!(
        console.shell("mount -t virtiofs docs /mnt && cat /mnt/word"),
        "here"
    );
    console.shell("echo from the guest >/mnt/answer");
    assert_eq!(
        fs::read_to_string(folder.join("answer")).unwrap(),
        "from the guest\n"
    );
    console.leave();

    host.kill_and_restart();
    assert_eq!(host.virsh("dumpxml reader"), live);
    let mut console = Console::open(&host, "reader");
    // What it showed before comes first; virsh drops what is typed earlier.
    console.expect("from the guest");
    console.type_in("echo AL''IVE\n");
    console.expect("ALIVE\n");
    assert_eq!(console.shell("cat /mnt/word"), "here");
    // Its porter is there as before, and brings another virtiofsd.
    let source = format!("source={}", folder.canonicalize().unwrap().display());
    for pid in processes_with(&source) {
        // One of them may end with the other.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
    wait_until("the virtiofsd is dead", || processes_with(&source).is_empty());
    assert_eq!(
        console.shell("cat /mnt/answer 2>/dev/null || ls /mnt >/dev/null 2>&1 || echo gone; umount /mnt"),
        "gone"
    );
    assert_eq!(
        console.shell("mount -t virtiofs docs /mnt && cat /mnt/answer"),
        "from the guest"
    );
    console.leave();
    host.virsh("destroy reader");
    wait_until("the virtiofsd ends with the guest", || {
        processes_with(&source).is_empty()
    });

    // What cannot be shared is told, and nothing starts.
    let text = linux("none", &devices).replacen("shared'/>", "missing'/>", 1);
    let file = host.xml("b.xml", &text);
    host.virsh(&format!("define {file}"));
    let said = host.refused("start none");
    assert!(said.contains("there is no such file or folder"), "{said}");
    assert_eq!(host.virsh("domstate none").trim(), "shut off");
}

/// The kernel's modules for vsock, in the order in which they are loaded.
const VSOCK_MODULES: [&str; 3] = [
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

/// A file with the element for a folder; `more` is in it, too.
fn share(host: &Host, folder: &Path, more: &str) -> String {
    let xml = format!(
        "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='{}'/>\
         <target dir='docs'/>{more}</filesystem>",
        folder.display()
    );
    host.xml("share.xml", &xml)
}

#[test]
fn a_folder_and_a_socket_come_and_go_while_the_guest_runs() {
    if !virtiofsd("a_folder_and_a_socket_come_and_go_while_the_guest_runs") {
        return;
    }
    let mut host = Host::start();
    let folder = host.path("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("word"), "here\n").unwrap();
    let version = fs::read_dir(guest_folder().join("root/lib/modules"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    for module in VSOCK_MODULES {
        let built = version.path().join(format!("kernel/net/vmw_vsock/{module}.ko"));
        fs::copy(built, folder.join(module)).unwrap();
    }
    let source = format!("source={}", folder.canonicalize().unwrap().display());
    let (disk, load) = drivers(&host);
    let file = host.xml("a.xml", &linux("plug", &disk));
    host.virsh(&format!("define {file}"));
    host.virsh("start plug");
    let vsock = host.xml("vsock.xml", "<vsock model='virtio'><cid auto='yes'/></vsock>");
    let mut console = Console::open(&host, "plug");
    console.expect("# ");
    assert_eq!(console.shell(&load), "loaded");
    let poke = || {
        host.virsh("suspend plug");
        host.virsh("resume plug");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);

    // A folder that may only be read, in the guest alone.
    host.virsh(&format!(
        "attach-device plug {} --live",
        share(&host, &folder, "<readonly/>")
    ));
    events.until("fs0");
    console.shell_until(
        "mount -t virtiofs docs /mnt 2>/dev/null; cat /mnt/word 2>/dev/null",
        "here",
    );
    assert_eq!(
        console.shell("(echo x >/mnt/new) 2>/dev/null || echo refused"),
        "refused"
    );
    assert!(!folder.join("new").exists());
    assert!(!host.virsh("dumpxml plug --inactive").contains("<filesystem"));
    let said = host.refused(&format!(
        "attach-device plug {} --live",
        share(&host, &folder, "")
    ));
    assert!(said.contains("have the target 'docs'"), "{said}");
    // A socket, for the next start too: the guest's kernel answers at it.
    host.virsh(&format!("attach-device plug {vsock} --persistent"));
    events.until("vsock0");
    assert_eq!(cid(&host, "plug"), "<cid auto='yes' address='3'/>");
    assert_eq!(cid(&host, "plug --inactive"), "<cid auto='yes'/>");
    let said = host.refused(&format!("attach-device plug {vsock} --live"));
    assert!(said.contains("only a single vsock"), "{said}");
    let modules = VSOCK_MODULES.map(|module| format!("insmod /mnt/{module}"));
    assert_eq!(
        console.shell(&format!("{} && echo loaded", modules.join(" && "))),
        "loaded"
    );
    let entry = fs::read_dir(host.path("run/guests")).unwrap().next().unwrap();
    let door = entry.unwrap().path().join("vsock");
    let refused_by_guest = || {
        let mut stream = UnixStream::connect(&door).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"CONNECT 1234\n").unwrap();
        // Nobody listens there, which only the guest can tell.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    };
    refused_by_guest();
    let other = host.xml(
        "b.xml",
        &linux("other", "<vsock><cid auto='no' address='3'/></vsock>"),
    );
    assert!(
        host.refused(&format!("create {other}"))
            .contains("in use by another guest")
    );
    drop(events);
    let live = host.virsh("dumpxml plug");

    // Neither needs the daemon that plugged it in.
    host.kill_and_restart();
    assert_eq!(host.virsh("dumpxml plug"), live);
    refused_by_guest();
    assert!(
        host.refused(&format!("create {other}"))
            .contains("in use by another guest")
    );
    let poke = || {
        host.virsh("suspend plug");
        host.virsh("resume plug");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);
    let mut console = Console::open(&host, "plug");
    console.expect("# ");
    console.shell_until("cat /mnt/word", "here");
    // Answers of the line before may still come.
    console.shell_until(
        "umount /mnt 2>/dev/null; grep -q /mnt /proc/mounts || echo out",
        "out",
    );
    host.virsh(&format!(
        "detach-device plug {} --live",
        share(&host, &folder, "")
    ));
    events.until("fs0");
    wait_until("the share is gone", || {
        !host.virsh("dumpxml plug").contains("fs0")
    });
    wait_until("its virtiofsd is gone", || processes_with(&source).is_empty());
    host.virsh("detach-device-alias plug vsock0 --live");
    events.until("vsock0");
    wait_until("the socket is gone", || {
        !host.virsh("dumpxml plug").contains("vsock0")
    });
    assert!(!door.exists());
    assert!(host.virsh("dumpxml plug --inactive").contains("<vsock"));
    // The number is free for another, and the places for the next ones.
    host.virsh(&format!("create {other}"));
    host.virsh(&format!("attach-device plug {vsock} --live"));
    assert_eq!(cid(&host, "plug"), "<cid auto='yes' address='4'/>");
    host.virsh(&format!(
        "attach-device plug {} --live --config",
        share(&host, &folder, "")
    ));
    console.shell_until(
        "mount -t virtiofs docs /mnt 2>/dev/null; cat /mnt/word 2>/dev/null",
        "here",
    );
    assert_eq!(console.shell("echo written >/mnt/new && cat /mnt/new"), "written");
    assert_eq!(fs::read_to_string(folder.join("new")).unwrap(), "written\n");
    assert!(host.virsh("dumpxml plug --inactive").contains("<filesystem"));
    host.virsh("destroy plug");
    host.virsh("destroy other");
    wait_until("nothing of it is left", || processes_with(&source).is_empty());
}

/// The CID in a guest's document.
fn cid(host: &Host, arguments: &str) -> String {
    let xml = host.virsh(&format!("dumpxml {arguments}"));
    let line = xml.lines().find(|line| line.contains("<cid "));
    line.unwrap_or_else(|| panic!("{xml}")).trim().to_owned()
}

#[test]
fn cids_are_of_one_guest_each_and_outlast_the_daemon() {
    let mut host = Host::start();
    let define = |name: &str, cid: &str| {
        let vsock = format!("<vsock model='virtio'>{cid}</vsock>");
        let file = host.xml("v.xml", &linux(name, &vsock));
        host.virsh(&format!("define {file} --validate"));
    };
    define("first", "<cid auto='yes'/>");
    define("second", "<cid auto='no' address='3'/>");
    define("third", "<cid auto='yes'/>");
    define("fourth", "");
    for wrong in ["<cid auto='no' address='2'/>", "<cid auto='no'/>"] {
        let file = host.xml("w.xml", &linux("wrong", &format!("<vsock>{wrong}</vsock>")));
        let said = host.refused(&format!("define {file}"));
        assert!(said.contains("guest CIDs must be >= 3"), "{said}");
    }
    host.virsh("start first");
    assert_eq!(cid(&host, "first"), "<cid auto='yes' address='3'/>");
    assert_eq!(cid(&host, "first --inactive"), "<cid auto='yes'/>");
    let said = host.refused("start second");
    assert!(said.contains("guest CID 3 is in use by another guest"), "{said}");
    host.virsh("start third");
    assert_eq!(cid(&host, "third"), "<cid auto='yes' address='4'/>");

    host.kill_and_restart();
    assert_eq!(cid(&host, "first"), "<cid auto='yes' address='3'/>");
    assert_eq!(cid(&host, "third"), "<cid auto='yes' address='4'/>");
    host.virsh("start fourth");
    assert_eq!(cid(&host, "fourth"), "<cid auto='yes' address='5'/>");
    assert!(host.refused("start second").contains("in use"));
    // The guest's process lets clients in, whichever daemon there is.
    let folders = fs::read_dir(host.path("run/guests")).unwrap();
    let doors = folders.filter(|folder| {
        let door = folder.as_ref().unwrap().path().join("vsock");
        UnixStream::connect(door).is_ok()
    });
    assert_eq!(doors.count(), 3);
    host.virsh("destroy first");
    host.virsh("start second");
    assert_eq!(cid(&host, "second"), "<cid auto='no' address='3'/>");
    for guest in ["second", "third", "fourth"] {
        host.virsh(&format!("destroy {guest}"));
    }
}
