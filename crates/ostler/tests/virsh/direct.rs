//! Cards that are macvtaps on an interface of the host, in namespaces of the test's.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;

use crate::console::Console;
use crate::guests::process_of;
use crate::setup::{Host, linux, wait_until};

/// Two pairs of veths: guests are on `low` and `other`, and behind these are `far` and `wide`.
const SET_UP: &str = "set -e; mount --make-rprivate /; mount -t sysfs sysfs /sys; ip link set lo up; \
    ip link add low type veth peer name far; ip link add other type veth peer name wide; \
    for i in low far other wide; do ip link set $i up; done; \
    ip address add 10.93.1.1/24 dev far; ip address add 10.93.2.1/24 dev far; ip address add 10.93.3.1/24 dev far; \
    ip address add 10.93.4.1/24 dev wide; ip link add link low name probe type macvtap; ip link delete probe";

/// What a command prints in this thread's namespaces.
fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Moves this thread into namespaces of its own, with a /sys that shows them.
fn enter(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: a network namespace needs root");
        return false;
    }
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: only namespaces of this thread change; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
    let set_up = Command::new("sh").args(["-c", SET_UP]).output().unwrap();
    if !set_up.status.success() {
        eprintln!("SKIPPED {test}: this kernel has no macvtaps: {set_up:?}");
        return false;
    }
    true
}

/// A card on an interface; its address and its subnet end with these numbers.
fn card(over: &str, mode: &str, guest: u8, subnet: u8) -> String {
    format!(
        "<interface type='direct'><mac address='52:54:00:93:0{subnet}:0{guest}'/><source dev='{over}' mode='{mode}'/></interface>"
    )
}

fn macvtaps() -> Vec<String> {
    let names = sh("ls /sys/class/net | grep macvtap");
    names.split_whitespace().map(str::to_owned).collect()
}

/// A guest of this number with a card in each mode in which others may be on the interface, and more cards.
fn start(host: &Host, name: &str, number: u8, more: &str) -> Console {
    let modes = [("bridge", 1), ("private", 2), ("vepa", 3)];
    let cards = modes.map(|(mode, subnet)| card("low", mode, number, subnet));
    let file = host.xml("guest.xml", &linux(name, &(cards.concat() + more)));
    host.virsh(&format!("define {file}"));
    host.virsh(&format!("start {name}"));
    let mut console = Console::open(host, name);
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    for (card, subnet) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        console.shell(&format!(
            "ip address add 10.93.{subnet}.1{number}/24 dev eth{card}; ip link set eth{card} up"
        ));
    }
    console
}

#[test]
fn cards_on_an_interface_of_the_host_in_all_four_modes() {
    if !enter("direct::cards_on_an_interface_of_the_host_in_all_four_modes") {
        return;
    }
    let mut host = Host::start();
    let below = || sh("cat /sys/class/net/other/address");
    let own = below();
    let mut one = start(&host, "one-direct", 1, &card("other", "passthrough", 1, 4));
    assert_eq!(macvtaps(), ["macvtap0", "macvtap1", "macvtap2", "macvtap3"]);
    // The interface is the guest's, and so is its address.
    assert_eq!(below(), "52:54:00:93:04:01");
    let list = host.virsh("domiflist one-direct");
    assert!(list.contains("macvtap0") && list.contains("direct"), "{list}");
    assert!(!host.virsh("dumpxml one-direct --inactive").contains("macvtap"));
    let mut two = start(&host, "two-direct", 2, "");
    assert_eq!(macvtaps().len(), 7);

    // Who is behind the interface is reached in every mode.
    for subnet in 1..=4 {
        let ping = format!("ping -c 1 -W 5 10.93.{subnet}.1 >/dev/null && echo reached");
        one.shell_until(&ping, "reached");
    }
    // Each other: directly as bridges, else not. Nothing behind the interface sends frames back.
    two.shell_until("ping -c 1 -W 5 10.93.1.11 >/dev/null && echo reached", "reached");
    for subnet in [2, 3] {
        let ping = format!("ping -c 2 -W 2 10.93.{subnet}.11 >/dev/null || echo alone");
        assert_eq!(two.shell(&ping), "alone", "{subnet}");
    }
    // Much by TCP, whose checksums and segments are left to others. nc ends when the other side has sent all, so only one of them sends.
    one.shell("mkfifo /never; exec 9<>/never; (nc -l -p 7 </never | md5sum >/got &)");
    one.shell_until("cat /proc/net/tcp* | grep -c ':0007 .* 0A '", "1");
    let sent = two.shell("dd if=/dev/urandom of=/much bs=1M count=8 2>/dev/null; md5sum </much");
    two.shell("nc 10.93.1.11 7 </much");
    one.shell_until("cat /got", &sent);

    // An interface that is one guest's is nobody else's.
    let file = host.xml("three.xml", &linux("three", &card("other", "passthrough", 3, 4)));
    let said = host.refused(&format!("create {file}"));
    assert!(
        said.contains("making the macvtap macvtap7 on other failed"),
        "{said}"
    );
    let file = host.xml("three.xml", &linux("three", &card("nothing9", "bridge", 3, 1)));
    assert!(host.refused(&format!("create {file}")).contains("nothing9"));
    assert_eq!(macvtaps().len(), 7);

    // One is plugged in, and out.
    let device = host.xml("card.xml", &card("low", "bridge", 5, 1));
    host.virsh(&format!("attach-device two-direct {device} --live"));
    two.shell_until("cat /sys/class/net/eth3/address 2>/dev/null", "52:54:00:93:01:05");
    two.shell("ip link set eth0 down; ip address add 10.93.1.15/24 dev eth3; ip link set eth3 up");
    two.shell_until("ping -c 1 -W 5 10.93.1.11 >/dev/null && echo reached", "reached");
    host.virsh(&format!("detach-device two-direct {device} --live"));
    wait_until("the macvtap is gone", || macvtaps().len() == 7);

    // They end with their guest, also where its process was killed while there was no daemon; and the interface has its address again.
    host.virsh("destroy two-direct");
    assert_eq!(macvtaps(), ["macvtap0", "macvtap1", "macvtap2", "macvtap3"]);
    let process = Pid::from_raw(process_of("one-direct") as i32).unwrap();
    host.kill();
    assert_eq!(macvtaps().len(), 4);
    kill_process(process, Signal::KILL).unwrap();
    host.start_again();
    wait_until("the macvtaps are gone", || macvtaps().is_empty());
    assert_eq!(below(), own);
    // No device was made for the moment and left.
    assert_eq!(sh("ls -a /dev | grep ostler-tap"), "");
}
