//! Media of CD-ROM drives: `virsh change-media`, `update-device`, and guests that eject.

use std::fs;

use ostler_disk::open::{DiskOptions, open};

use crate::console::Console;
use crate::setup::{Host, Listener, linux, wait_until};

/// A guest with Debian's ordinary kernel, which knows SATA.
fn pc(name: &str, devices: &str) -> String {
    linux(name, devices)
        .replace("/vmlinuz<", "/pc/vmlinuz<")
        .replace("/initrd.img<", "/pc/initrd.img<")
}

fn medium(host: &Host, name: &str, byte: u8) -> String {
    let path = host.path(name);
    fs::write(&path, vec![byte; 1 << 20]).unwrap();
    path.to_str().unwrap().into()
}

/// What lies in the drive, as `domblklist` has it.
fn listed(host: &Host, arguments: &str) -> String {
    let list = host.virsh(&format!("domblklist {arguments}"));
    let line = list.lines().find(|line| line.trim_start().starts_with("sda"));
    line.unwrap().split_whitespace().nth(1).unwrap().into()
}

/// Whether somebody could write to the image now.
fn is_free(path: &str) -> bool {
    open(path.as_ref(), DiskOptions::default()).is_ok()
}

/// What the guest reads from the medium's beginning; nothing from an empty drive.
const HEAD: &str = "head -c 3 /dev/sr0 2>/dev/null";
const EMPTY: &str = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>";

fn tray(what: &str) -> String {
    format!("event 'tray-change' for domain 'media' disk sata0-0-0: {what}")
}

#[test]
fn media_come_and_go_while_the_guest_runs() {
    let mut host = Host::start();
    let (a, b) = (medium(&host, "a.iso", b'a'), medium(&host, "b.iso", b'b'));
    let file = host.xml("guest.xml", &pc("media", EMPTY));
    host.virsh(&format!("define {file}"));
    host.virsh("start media");
    assert_eq!(listed(&host, "media"), "-");
    assert!(host.refused("domblkinfo media sda").contains("sda"));
    assert!(host.virsh("domstats media --block").contains("block.0.name=sda"));
    let mut console = Console::open(&host, "media");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell_until("cat /sys/class/block/sr0/removable", "1");
    assert_eq!(console.shell(HEAD), "");
    let poke = || {
        host.virsh("suspend media");
        host.virsh("resume media");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);

    host.virsh(&format!("change-media media sda {a} --insert --live"));
    console.shell_until(HEAD, "aaa");
    assert_eq!(
        (listed(&host, "media"), listed(&host, "media --inactive")),
        (a.clone(), "-".into())
    );
    events.until(&tray("opened"));
    events.until(&tray("closed"));
    assert!(!is_free(&a));
    assert!(host.virsh("domblkinfo media sda").contains("1048576"));
    let said = host.refused(&format!("change-media media sda {b} --insert --live"));
    assert!(said.contains("already has media"), "{said}");

    // The daemon may die in between; the next one knows what is in the drive.
    drop(events);
    host.kill_and_restart();
    assert_eq!(listed(&host, "media"), a);
    host.virsh(&format!("change-media media sda {b} --update --live --config"));
    let mut console = Console::open(&host, "media");
    console.shell_until(HEAD, "bbb");
    assert_eq!(
        (listed(&host, "media"), listed(&host, "media --inactive")),
        (b.clone(), b.clone())
    );
    assert!(is_free(&a) && !is_free(&b));

    // What cannot be put in leaves what is there.
    let before = host.virsh("dumpxml media");
    let said = host.refused("change-media media sda /none.iso --update --live");
    assert!(said.contains("/none.iso"), "{said}");
    let writer = open(a.as_ref(), DiskOptions::default()).unwrap();
    let said = host.refused(&format!("change-media media sda {a} --update --live"));
    assert!(said.contains("in use"), "{said}");
    drop(writer);
    assert_eq!(host.virsh("dumpxml media"), before);
    assert_eq!(console.shell(HEAD), "bbb");

    // While the guest has it open it has locked the tray.
    console.shell("exec 3</dev/sr0");
    let said = host.refused("change-media media sda --eject --live");
    assert!(said.contains("locked") && said.contains("--force"), "{said}");
    assert_eq!(host.virsh("dumpxml media"), before);
    assert_eq!(console.shell(HEAD), "bbb");
    host.virsh("change-media media sda --eject --live --force");
    console.shell("exec 3<&-");
    console.shell_until(HEAD, "");
    assert_eq!(
        (listed(&host, "media"), listed(&host, "media --inactive")),
        ("-".into(), b.clone())
    );
    assert!(is_free(&b));
    host.virsh(&format!("change-media media sda {a} --live"));
    console.shell_until(HEAD, "aaa");

    // Of the definition alone, and both at once.
    host.virsh("change-media media sda --eject --config");
    assert_eq!(
        (listed(&host, "media"), listed(&host, "media --inactive")),
        (a.clone(), "-".into())
    );
    host.virsh("change-media media sda --eject --live");
    console.shell_until(HEAD, "");
    host.virsh("destroy media");
    assert_eq!(listed(&host, "media"), "-");
    host.virsh("start media");
    assert_eq!(listed(&host, "media"), "-");
    host.virsh("destroy media");
    host.virsh("undefine media");
}

#[test]
fn a_guest_ejects_by_itself() {
    let mut host = Host::start();
    let (a, b) = (medium(&host, "a.iso", b'a'), medium(&host, "b.iso", b'b'));
    let drive = |source: &str| {
        format!(
            "<disk type='file' device='cdrom'><source file='{source}'/><target dev='sda' bus='sata'/></disk>"
        )
    };
    let file = host.xml("guest.xml", &pc("media", &drive(&a)));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "media");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell_until(HEAD, "aaa");
    let poke = || {
        host.virsh("suspend media");
        host.virsh("resume media");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);
    // Linux ejects at the last close of the drive, if it is told to.
    console
        .shell("echo 1 >/proc/sys/dev/cdrom/autoeject; : </dev/sr0; echo 0 >/proc/sys/dev/cdrom/autoeject");
    events.until(&tray("opened"));
    let open_tray = "<target dev='sda' bus='sata' tray='open'/>";
    assert!(host.virsh("dumpxml media").contains(open_tray));
    assert!(!host.virsh("dumpxml media --inactive").contains("tray="));
    drop(events);
    host.kill_and_restart();
    wait_until("the tray shows as it is", || {
        host.virsh("dumpxml media").contains(open_tray)
    });
    // What comes through an open tray is in the drive afterwards.
    let device = host.xml("drive.xml", &drive(&b));
    host.virsh(&format!("update-device media {device} --live"));
    let mut console = Console::open(&host, "media");
    console.shell_until(HEAD, "bbb");
    wait_until("the tray is closed", || {
        !host.virsh("dumpxml media").contains("tray=")
    });
    assert!(is_free(&a) && !is_free(&b));
    host.virsh("destroy media");
    assert!(is_free(&b));
}
