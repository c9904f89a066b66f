//! What follows when a guest powers off, resets or crashes, as it is changed while the guest is there.

use crate::console::Console;
use crate::setup::{Host, linux, wait_until};

#[test]
fn what_follows_an_end_is_changed_while_the_guest_runs() {
    let mut host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    host.virsh("start alpha");
    host.virsh("set-lifecycle-action alpha poweroff restart --live");
    let (live, kept) = (
        host.virsh("dumpxml alpha"),
        host.virsh("dumpxml alpha --inactive"),
    );
    assert!(live.contains("<on_poweroff>restart</on_poweroff>"), "{live}");
    assert!(kept.contains("<on_poweroff>destroy</on_poweroff>"), "{kept}");

    // The daemon that comes next does what this one was told.
    host.kill_and_restart();
    let id = host.virsh("domid alpha");
    let mut console = Console::open(&host, "alpha");
    console.expect("# ");
    console.type_in("poweroff -f\n");
    console.wait();
    wait_until("the guest can be talked to again", || {
        let answer = host.command("domcontrol alpha").output().unwrap();
        answer.status.success() && answer.stdout.starts_with(b"ok")
    });
    let mut console = Console::open(&host, "alpha");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(host.virsh("domid alpha"), id);

    // A reset is its process's own matter.
    host.virsh("set-lifecycle-action alpha reboot destroy --live --config");
    console.type_in("reboot -f\n");
    console.wait();
    host.wait_for_state("alpha", "shut off");
    let kept = host.virsh("dumpxml alpha");
    assert!(kept.contains("<on_reboot>destroy</on_reboot>"), "{kept}");
    assert!(kept.contains("<on_poweroff>destroy</on_poweroff>"), "{kept}");
}

#[test]
fn what_follows_an_end_is_kept_in_the_definition() {
    let mut host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    host.virsh("set-lifecycle-action alpha crash coredump-restart --config");
    host.virsh("set-lifecycle-action alpha reboot preserve");
    host.kill_and_restart();
    let kept = host.virsh("dumpxml alpha");
    assert!(kept.contains("<on_crash>coredump-restart</on_crash>"), "{kept}");
    assert!(kept.contains("<on_reboot>preserve</on_reboot>"), "{kept}");

    let said = host.refused("set-lifecycle-action alpha poweroff coredump-destroy --config");
    assert!(said.contains("coredump-destroy"), "{said}");
    let said = host.refused("set-lifecycle-action alpha reboot destroy --live");
    assert!(said.contains("domain is not running"), "{said}");
    assert_eq!(host.virsh("dumpxml alpha"), kept);

    // A guest that runs has no more ends than a guest can be started with.
    host.virsh(&format!(
        "create {} --paused",
        host.xml("b.xml", &linux("beta", ""))
    ));
    let said = host.refused("set-lifecycle-action beta crash preserve --live");
    assert!(said.contains("'destroy' or 'restart'"), "{said}");
    assert!(
        host.virsh("dumpxml beta")
            .contains("<on_crash>destroy</on_crash>")
    );
    host.virsh("destroy beta");
}
