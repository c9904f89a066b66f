//! Guests that sleep (`<pm>`, ACPI S3).

use crate::setup::{Host, Listener, linux_with};

/// Sleeps as often as it can.
const SLEEPY: &str = "while true; do echo mem >/sys/power/state || sleep 1; done\n";

fn sleepy(host: &Host, name: &str, pm: &str) -> String {
    let xml = linux_with(host, name, "", SLEEPY, &[]);
    host.xml(
        &format!("{name}.xml"),
        &xml.replace("<devices>", &format!("{pm}<devices>")),
    )
}

#[test]
fn a_guest_that_sleeps_is_pmsuspended_until_it_is_woken() {
    let mut host = Host::start();
    let pm = "<pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='no'/></pm>";
    host.virsh(&format!("define {}", sleepy(&host, "sleepy", pm)));
    let all = Listener::start(&host, "event sleepy --all --loop", || {
        host.virsh("desc sleepy --config --title poked");
    });
    host.virsh("start sleepy");
    host.wait_for_state("sleepy", "pmsuspended");
    assert!(host.virsh("domstate sleepy --reason").contains("pmsuspended"));
    assert!(host.virsh("list").contains("pmsuspended"));
    all.until("PMSuspended Memory");
    all.until("event 'pm-suspend' for domain 'sleepy'");
    for (call, says) in [
        ("suspend sleepy", "domain is pmsuspended"),
        ("resume sleepy", "domain is pmsuspended"),
        (
            "dompmsuspend sleepy --target mem",
            "QEMU guest agent is not configured",
        ),
    ] {
        let why = host.refused(call);
        assert!(why.contains(says), "{call}: {why}");
    }
    // Others can be asked of it; and it is found asleep by another daemon.
    host.virsh("domstats sleepy");
    host.virsh("dominfo sleepy");
    drop(all);
    host.kill_and_restart();
    host.wait_for_state("sleepy", "pmsuspended");

    let all = Listener::start(&host, "event sleepy --all --loop", || {
        host.virsh("desc sleepy --config --title poked");
    });
    host.virsh("dompmwakeup sleepy");
    let told = all.until("Started Event wakeup");
    assert!(!told.contains(&"PMSuspended Memory".into()), "{told:?}");
    all.until("event 'pm-wakeup' for domain 'sleepy'");
    // It sleeps again; a reset ends that too, and so does the end.
    all.until("PMSuspended Memory");
    host.virsh("reset sleepy");
    all.until("PMSuspended Memory");
    host.virsh("destroy sleepy");
    assert_eq!(host.virsh("domstate sleepy").trim(), "shut off");
}

#[test]
fn without_suspend_to_mem_a_guest_cannot_sleep() {
    let host = Host::start();
    for (name, pm) in [
        ("silent", ""),
        ("awake", "<pm><suspend-to-mem enabled='no'/></pm>"),
    ] {
        host.virsh(&format!("create {}", sleepy(&host, name, pm)));
        let why = host.refused(&format!("dompmwakeup {name}"));
        assert!(why.contains("not supported by this guest"), "{why}");
        let ask = "{\"execute\":\"query-current-machine\"}";
        let machine = host.virsh(&format!("qemu-monitor-command {name} {ask}"));
        assert!(machine.contains("\"wakeup-suspend-support\":false"), "{machine}");
        host.virsh(&format!("destroy {name}"));
    }
}
