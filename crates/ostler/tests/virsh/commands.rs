//! The short commands: `ostler create`, `ps`, `start`, `stop`, `console`, `logs`, `rm`, `inspect`, at the daemon that virsh uses.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::setup::{Host, linux, wait_until};
use crate::support::{OSTLER, guest_folder};

/// `ostler` with a subcommand and its arguments in words, at the daemon of `host`.
fn ostler(host: &Host, arguments: &str) -> Command {
    let mut words = arguments.split_whitespace();
    let mut command = Command::new(OSTLER);
    command
        .arg(words.next().unwrap())
        .arg("--socket")
        .arg(host.path("sock"))
        .args(words)
        .stdin(Stdio::null());
    command
}

fn printed(host: &Host, arguments: &str) -> String {
    let output = ostler(host, arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ostler {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(host: &Host, arguments: &str) -> Value {
    serde_json::from_str(&printed(host, arguments)).unwrap()
}

fn refused(host: &Host, arguments: &str) -> String {
    let output = ostler(host, arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && errors.lines().count() == 1,
        "ostler {arguments}: {errors}"
    );
    errors
}

#[test]
fn guests_are_listed_started_watched_stopped_and_forgotten() {
    let host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    host.virsh(&format!("define {}", host.xml("b.xml", &linux("beta", ""))));
    let uuid = host.virsh("domuuid alpha").trim().to_owned();

    assert_eq!(printed(&host, "ps").lines().count(), 1, "only the heading");
    assert_eq!(json(&host, "ps --json"), serde_json::json!([]));
    let all = json(&host, "ps --all --json");
    assert_eq!(
        (&all[0]["name"], &all[1]["name"]),
        (&"alpha".into(), &"beta".into())
    );
    assert_eq!(
        (&all[0]["state"], &all[0]["uuid"], &all[0]["id"]),
        (&"off".into(), &uuid.into(), &Value::Null)
    );

    assert_eq!(printed(&host, "start alpha"), "alpha started\n");
    assert_eq!(host.virsh("domstate alpha").trim(), "running");
    let row = printed(&host, "ps");
    let words: Vec<_> = row.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, ["alpha", "1", "running", "2", "256", "MiB"]);
    assert!(refused(&host, "start alpha").contains("already running"));
    assert!(refused(&host, "rm alpha").contains("runs; stop it first"));
    assert!(refused(&host, "start nobody").contains("no domain with matching name 'nobody'"));

    let inspected = json(&host, "inspect alpha --json");
    assert_eq!(
        (&inspected["cpus"], &inspected["memory-kib"]),
        (&2.into(), &(256 << 10).into())
    );
    assert_eq!(
        (&inspected["autostart"], &inspected["persistent"]),
        (&false.into(), &true.into())
    );
    assert!(inspected["xml"].as_str().unwrap().contains("<name>alpha</name>"));
    assert!(printed(&host, "inspect beta").contains("state        off\n"));

    // The guest's own words, once it has said them.
    wait_until("the guest is up", || {
        let output = ostler(&host, "logs alpha").output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("OSTLER-GUEST-UP")
    });
    let said = json(&host, "logs alpha --json");
    assert!(said["console"].as_str().unwrap().contains("OSTLER-GUEST-UP"));

    // A pipe does for a terminal.
    let mut console = ostler(&host, "console alpha")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = console.stdin.take().unwrap();
    let mut output = console.stdout.take().unwrap();
    input.write_all(b"\necho type''d\n").unwrap();
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains("typed") {
        let count = output.read(&mut chunk).unwrap();
        assert!(count > 0, "the console ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..count]);
    }
    assert!(refused(&host, "console alpha").contains("Active console session exists"));
    input.write_all(b"x\x1d").unwrap();
    assert!(console.wait().unwrap().success());

    // The handler of the power button is there by now.
    assert_eq!(
        json(&host, "stop alpha --json"),
        serde_json::json!([{ "name": "alpha", "done": "stopped" }])
    );
    assert_eq!(
        host.virsh("domstate alpha --reason").trim(),
        "shut off (shutdown)"
    );
    assert!(refused(&host, "stop alpha").contains("not running"));

    printed(&host, "start alpha beta");
    assert_eq!(printed(&host, "stop --force beta"), "beta stopped\n");
    assert_eq!(host.virsh("domstate beta").trim(), "shut off");
    assert_eq!(
        printed(&host, "rm --force alpha beta"),
        "alpha removed\nbeta removed\n"
    );
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

#[test]
fn a_guest_is_made_in_a_few_words() {
    let host = Host::start();
    let (kernel, initrd) = (guest_folder().join("vmlinuz"), guest_folder().join("initrd.img"));
    let words = format!(
        "create web --kernel {} --initrd {} --append console=ttyS0 --memory 256M --cpus 2 --start",
        kernel.display(),
        initrd.display()
    );
    assert_eq!(printed(&host, &words), "web created and started\n");
    wait_until("the guest is up", || {
        let output = ostler(&host, "logs web").output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("OSTLER-GUEST-UP")
    });
    let xml = host.virsh("dumpxml web");
    for part in [
        "<source network='default'",
        "<rng model='virtio'>",
        "<vcpu placement='static'>2</vcpu>",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    assert!(refused(&host, &words).contains("there is a guest \"web\" already"));
    assert_eq!(printed(&host, "rm --force web"), "web removed\n");

    // Disks and drives, in the order of booting; what it cannot be is refused, and nothing is defined.
    let image = |name: &str| {
        let path = host.path(name);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        path.display().to_string()
    };
    let (disk, iso) = (image("a<b.img"), image("cd.iso"));
    let made = json(
        &host,
        &format!(
            "create disks --disk {disk} --cdrom {iso} --net user --net bridge=br7 --firmware uefi --json"
        ),
    );
    assert_eq!(
        (&made["name"], &made["started"]),
        (&"disks".into(), &false.into())
    );
    assert_eq!(made["uuid"].as_str().unwrap(), host.virsh("domuuid disks").trim());
    let xml = host.virsh("dumpxml disks");
    for part in [
        "a&lt;b.img",
        "<target dev='vda' bus='virtio'/>",
        "<target dev='sda' bus='sata'/>",
        "<interface type='user'>",
        "<source bridge='br7'/>",
        "firmware='efi'",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let (cdrom, hd) = (
        xml.find("<boot dev='cdrom'/>").unwrap(),
        xml.find("<boot dev='hd'/>").unwrap(),
    );
    assert!(cdrom < hd);
    for (words, says) in [
        ("create bad", "a --kernel, a --disk or a --cdrom"),
        (
            "create bad --disk /nothing/there",
            "cannot find \"/nothing/there\"",
        ),
        (&format!("create bad --disk {disk} --memory 1K"), "memory"),
        (&format!("create bad --disk {disk} --cpus 0"), "CPU"),
        (&format!("create a/b --disk {disk}"), "'/'"),
    ] {
        let said = refused(&host, words);
        assert!(said.contains(says), "{words}: {said}");
    }
    assert_eq!(host.virsh("list --all --name").trim(), "disks");
}

#[test]
fn who_may_only_look_may_list() {
    let host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    let mut list = Command::new(OSTLER);
    list.args(["ps", "--all", "--json", "--socket"])
        .arg(host.path("sock-ro"));
    let output = list.output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("alpha"),
        "{output:?}"
    );
    let mut start = Command::new(OSTLER);
    start
        .args(["start", "alpha", "--socket"])
        .arg(host.path("sock-ro"));
    let said = String::from_utf8(start.output().unwrap().stderr).unwrap();
    assert_eq!(
        said,
        "ostler: operation forbidden: read only access prevents DOMAIN_CREATE\n"
    );
    let mut nowhere = Command::new(OSTLER);
    nowhere.args(["ps", "--socket"]).arg(host.path("nothing"));
    let said = String::from_utf8(nowhere.output().unwrap().stderr).unwrap();
    assert!(
        said.contains("is \"ostler daemon\" running?") && said.lines().count() == 1,
        "{said}"
    );
}
