//! What goes to a guest's process as it is, and the agent that nobody speaks to.

use serde_json::Value;

use crate::console::Console;
use crate::setup::{Host, linux};

#[test]
fn commands_go_to_the_guests_control_socket() {
    let host = Host::start();
    host.virsh(&format!("create {}", host.xml("a.xml", &linux("alpha", ""))));
    let answer = |command: &str| -> Value {
        serde_json::from_str(&host.virsh(&format!("qemu-monitor-command alpha {command}"))).unwrap()
    };
    let status = answer(r#"{"execute":"query-status","id":7}"#);
    assert_eq!(status["return"]["status"], "running");
    assert!(status["id"].as_str().unwrap().starts_with("libvirt-"), "{status}");
    assert_eq!(answer(r#"{"execute":"stop"}"#)["return"], serde_json::json!({}));
    host.wait_for_state("alpha", "paused");
    let said = host.virsh("qemu-monitor-command alpha --hmp info status");
    assert!(said.contains("VM status: paused"), "{said}");
    host.virsh("qemu-monitor-command alpha --hmp cont");
    host.wait_for_state("alpha", "running");
    // What the guest's process refuses is an answer, too.
    let refused = answer(r#"{"execute":"no-such-command"}"#);
    assert_eq!(refused["error"]["class"], "CommandNotFound");
    let said = host.refused("-r qemu-monitor-command alpha --hmp quit");
    assert!(said.contains("read only") || said.contains("read-only"), "{said}");
    assert_eq!(host.virsh("domstate alpha").trim(), "running");

    // An interrupt that cannot be masked, which Linux tells of where nothing explains it.
    let mut console = Console::open(&host, "alpha");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert!(!console.text().contains("NMI received"));
    host.virsh("inject-nmi alpha");
    console.expect("NMI received for unknown reason");
    host.virsh("destroy alpha");
}

#[test]
fn a_guests_agent_is_not_asked() {
    let host = Host::start();
    let agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    host.virsh(&format!(
        "create {} --paused",
        host.xml("a.xml", &linux("alpha", ""))
    ));
    host.virsh(&format!(
        "create {} --paused",
        host.xml("b.xml", &linux("beta", agent))
    ));
    host.virsh(&format!("define {}", host.xml("c.xml", &linux("off", ""))));
    for (command, more) in [
        ("domtime", ""),
        ("domtime", "--now"),
        ("domfsinfo", ""),
        ("domfsfreeze", ""),
        ("domfsthaw", ""),
        ("domfstrim", ""),
        ("guestinfo", ""),
        ("set-user-password", "root secret"),
        ("domhostname", "--source agent"),
        ("qemu-agent-command", r#"{"execute":"guest-ping"}"#),
    ] {
        for (guest, says) in [
            (
                "alpha",
                "argument unsupported: QEMU guest agent is not configured",
            ),
            (
                "beta",
                "Guest agent is not responding: QEMU guest agent is not connected",
            ),
            ("off", "domain is not running"),
        ] {
            let said = host.refused(&format!("{command} {guest} {more}"));
            assert!(said.contains(says), "{command} {guest}: {said}");
        }
    }
    let said = host.refused("send-process-signal alpha 1 term");
    assert!(said.contains("not supported by the connection driver"), "{said}");
    host.virsh("destroy alpha");
    host.virsh("destroy beta");
}
