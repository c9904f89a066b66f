//! Definitions: kept, changed, listed, forgotten; nothing of it needs a guest that runs.

use std::fs;

use crate::setup::{Host, field, linux};

#[test]
fn a_definition_lasts_until_it_is_undefined() {
    let mut host = Host::start();
    let file = host.xml(
        "a.xml",
        &linux(
            "alpha",
            "<disk device='disk'><source file='/none'/><target dev='vda'/></disk>",
        ),
    );
    assert!(
        host.virsh(&format!("define {file}"))
            .contains("Domain 'alpha' defined")
    );
    let uuid = host.virsh("domuuid alpha").trim().to_owned();
    assert_eq!(uuid.len(), 36);
    assert_eq!(host.virsh(&format!("domname {uuid}")).trim(), "alpha");
    let text = fs::read_to_string(host.path("definitions/alpha.xml")).unwrap();
    assert_eq!(text.trim(), host.virsh("dumpxml alpha").trim());
    assert!(text.contains(&format!("<uuid>{uuid}</uuid>")), "{text}");

    assert_eq!(host.virsh("list --name").trim(), "");
    assert_eq!(host.virsh("list --inactive --name").trim(), "alpha");
    assert!(host.virsh("list --all --title").contains("A guest & its kernel"));
    host.virsh("autostart alpha");
    assert_eq!(host.virsh("list --all --autostart --name").trim(), "alpha");
    assert_eq!(host.virsh("list --all --no-autostart --name").trim(), "");
    let info = host.virsh("dominfo alpha");
    for (name, value) in [
        ("State", "shut off"),
        ("CPU(s)", "2"),
        ("Max memory", "262144 KiB"),
        ("Autostart", "enable"),
    ] {
        assert_eq!(field(&info, name), value, "{info}");
    }
    assert!(host.virsh("domblklist alpha").contains("vda      /none"));
    assert_eq!(host.virsh("vcpucount alpha --maximum --config").trim(), "2");

    // The same guest in another form, and one that takes its name.
    let changed = host.virsh("dumpxml alpha").replace(">2</vcpu>", ">1</vcpu>");
    let changed = host.xml("b.xml", &changed);
    host.virsh(&format!("define {changed}"));
    assert_eq!(field(&host.virsh("dominfo alpha"), "CPU(s)"), "1");
    let said = host.refused(&format!("define {file}"));
    assert!(
        said.contains(&format!("domain 'alpha' already exists with uuid {uuid}")),
        "{said}"
    );
    let bad = host.xml("bad.xml", "<domain type='qemu'><name>bad</name>");
    assert!(host.refused(&format!("define {bad}")).contains("XML error"));

    host.kill_and_restart();
    assert_eq!(host.virsh("domuuid alpha").trim(), uuid);
    assert_eq!(field(&host.virsh("dominfo alpha"), "Autostart"), "enable");
    let said = host.refused("start alpha");
    assert!(said.contains("/none"), "{said}");
    assert_eq!(host.virsh("domstate alpha").trim(), "shut off");

    host.virsh("autostart alpha --disable");
    assert!(
        host.virsh("undefine alpha")
            .contains("Domain 'alpha' has been undefined")
    );
    assert_eq!(host.virsh("list --all --name").trim(), "");
    assert!(!host.path("definitions/alpha.xml").exists());
    host.kill_and_restart();
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

#[test]
fn who_may_only_look_changes_nothing() {
    let host = Host::start();
    let file = host.xml("a.xml", &linux("alpha", ""));
    host.virsh(&format!("define {file}"));
    // By the flag, and by the socket for it.
    let readonly = format!("socket={}", host.path("sock-ro").display());
    for command in [
        host.command("-r list --all --name"),
        host.command_at(&readonly, "list --all --name"),
    ] {
        let mut command = command;
        assert_eq!(
            String::from_utf8(command.output().unwrap().stdout)
                .unwrap()
                .trim(),
            "alpha"
        );
    }
    for what in [
        "start alpha",
        "undefine alpha",
        "autostart alpha",
        "destroy alpha",
    ] {
        for command in [
            host.command(&format!("-r {what}")),
            host.command_at(&readonly, what),
        ] {
            let mut command = command;
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !output.status.success() && said.contains("read only access prevents"),
                "{what}: {said}"
            );
        }
    }
    assert_eq!(host.virsh("domstate alpha").trim(), "shut off");
    assert_eq!(field(&host.virsh("dominfo alpha"), "Autostart"), "disable");
}

#[test]
fn two_daemons_do_not_share() {
    let host = Host::start();
    let second = std::process::Command::new(crate::support::OSTLER)
        .args(["daemon", "--socket"])
        .arg(host.path("sock2"))
        .arg("--definitions")
        .arg(host.path("definitions"))
        .arg("--runtime")
        .arg(host.path("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("another daemon uses"),
        "{said}"
    );
}
