//! The host's kernel as the peer, in a network namespace that the test makes for itself.

use std::process::Command;

use rustix::thread::UnshareFlags;
use serde_json::Value;

use crate::support::switch::{Peer, Switch};

fn enter_namespace(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {test}: needs root and /dev/net/tun for taps in a network namespace");
        return false;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    true
}

fn ip(line: &str) -> bool {
    Command::new("ip")
        .args(line.split(' '))
        .status()
        .unwrap()
        .success()
}

/// Answers what the kernel asks of 10.97.0.2: who has it, and whether it is there.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    let mut reply = frame.to_vec();
    reply[..6].copy_from_slice(&frame[6..12]);
    reply[6..12].copy_from_slice(&MAC);
    match frame[12..14] {
        // ARP (RFC 826): a request for us.
        [8, 6] if frame[21] == 1 && frame[38..42] == [10, 97, 0, 2] => {
            reply[21] = 2;
            reply[22..28].copy_from_slice(&MAC);
            reply[28..32].copy_from_slice(&frame[38..42]);
            reply[32..42].copy_from_slice(&frame[22..32]);
        }
        // ICMP echo (RFC 792): the type goes from 8 to 0, and the checksum changes by as much.
        [8, 0] if frame[23] == 1 && frame[34] == 8 => {
            reply[26..30].copy_from_slice(&frame[30..34]);
            reply[30..34].copy_from_slice(&frame[26..30]);
            reply[34] = 0;
            let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
            let sum = (sum & 0xffff) + (sum >> 16);
            reply[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
        }
        _ => return None,
    }
    Some(reply)
}

fn answer_until_closed(mut peer: Peer) {
    while let Ok(frame) = peer.try_receive() {
        if let Some(reply) = answer(&frame) {
            peer.send(&reply);
        }
    }
}

/// A tap that is made, set up, set down and removed while the switch runs.
#[test]
fn a_tap_carries_pings_and_may_come_and_go() {
    if !enter_namespace("a_tap_carries_pings_and_may_come_and_go") {
        return;
    }
    let switch = Switch::start(
        "[[port]]\nname = \"tap\"\ntap = \"tap0\"\n[[port]]\nname = \"a\"\nlisten = \"FOLDER/a\"\n",
    );
    let peer = switch.peer("a");
    let answering = std::thread::spawn(move || answer_until_closed(peer));
    assert_eq!(switch.port("tap").unwrap()["up"], false);
    for _ in 0..2 {
        assert!(
            ip("tuntap add dev tap0 mode tap")
                && ip("address add 10.97.0.1/24 dev tap0")
                && ip("link set tap0 up")
        );
        switch.until_up("tap", true);
        let ping = Command::new("ping")
            .args(["-c", "3", "-i", "0.2", "-W", "20", "10.97.0.2"])
            .output()
            .unwrap();
        let said = String::from_utf8(ping.stdout).unwrap();
        assert!(said.contains("3 received, 0% packet loss"), "{said}");
        assert!(ip("link set tap0 down"));
        switch.until_up("tap", false);
        assert!(ip("link set tap0 up"));
        switch.until_up("tap", true);
        assert!(ip("link delete tap0"));
        switch.until_up("tap", false);
    }
    drop(switch);
    answering.join().unwrap();
}

/// The states in which the kernel's bridge has its ports: forwarding, blocking ...
fn kernel_states() -> Vec<String> {
    let shown = Command::new("bridge")
        .args(["-j", "link", "show"])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let ports = shown.as_array().unwrap().iter();
    let mut states: Vec<String> = ports
        .map(|port| port["state"].as_str().unwrap_or("").to_owned())
        .collect();
    states.sort();
    states
}

/// Our RSTP and the kernel bridge's STP, joined by two links: there is one root, and of the two links one is blocked, on the side of
/// the bridge that is not root.
fn two_links(ours: u16, kernels: u16) {
    for tap in ["tap0", "tap1"] {
        assert!(ip(&format!("tuntap add dev {tap} mode tap")));
    }
    let bridge = format!(
        "link add br0 type bridge stp_state 1 forward_delay 400 hello_time 100 max_age 600 priority {kernels}"
    );
    assert!(ip(&bridge) && ip("link set tap0 master br0") && ip("link set tap1 master br0"));
    let switch = Switch::start(&format!(
        "[stp]\npriority = {ours}\nforward-delay = 4\nhello = 1\nmax-age = 6\n\
         [[port]]\nname = \"tap0\"\ntap = \"tap0\"\nedge = \"off\"\n[[port]]\nname = \"tap1\"\ntap = \"tap1\"\nedge = \"off\"\n"
    ));
    assert!(ip("link set tap0 up") && ip("link set tap1 up") && ip("link set br0 up"));
    let of_ours = |switch: &Switch| -> Vec<String> {
        let mut views: Vec<String> = ["tap0", "tap1"]
            .iter()
            .map(|name| {
                let port = switch.port(name).unwrap();
                format!(
                    "{} {}",
                    port["stp"]["role"].as_str().unwrap(),
                    port["stp"]["state"].as_str().unwrap()
                )
            })
            .collect();
        views.sort();
        views
    };
    let we_are_root = ours < kernels;
    let expected = if we_are_root {
        (["designated forwarding"; 2], ["blocking", "forwarding"])
    } else {
        (["alternate discarding", "root forwarding"], ["forwarding"; 2])
    };
    switch.until(&format!("{expected:?}"), |switch| {
        of_ours(switch) == expected.0 && kernel_states() == expected.1
    });
    let tree = &switch.net(&["show", "lan", "--seconds", "0"])["stp"];
    assert_eq!(tree["is-root"], we_are_root, "{tree:#}");
    assert!(ip("link delete br0") && ip("link delete tap0") && ip("link delete tap1"));
}

#[test]
fn the_kernels_bridge_and_ours_agree_on_one_tree() {
    if !enter_namespace("the_kernels_bridge_and_ours_agree_on_one_tree") {
        return;
    }
    two_links(4096, 32_768);
    two_links(32_768, 4096);
}
