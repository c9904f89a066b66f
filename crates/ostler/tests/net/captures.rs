//! Captures of ports that are interfaces of the host.

use std::path::Path;
use std::process::{Child, Command};

use super::Net;
use super::host::{OvsDaemons, enter, ip};

/// How many echo messages of IPv4 went in and out of the port, by the flags of the packets in a pcapng file.
pub fn echoes(file: &Path) -> [usize; 2] {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut counts) = (0, [0; 2]);
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4));
        if kind == 6 {
            let kept = word(at + 20);
            let frame = &bytes[at + 28..at + 28 + kept];
            // Flags are the first option (code 2): 1 is in, 2 is out.
            let options = at + 28 + kept.next_multiple_of(4);
            assert_eq!(bytes[options..options + 4], [2, 0, 4, 0]);
            // IPv4 with ICMP (RFC 791), of type 8 or 0.
            if frame[12..14] == [8, 0] && frame[23] == 1 && [0, 8].contains(&frame[34]) {
                counts[word(options + 4) - 1] += 1;
            }
        }
        at += len;
    }
    counts
}

/// What a test's frames carry, of all frames in a pcapng file, each behind the VLAN of its tag.
fn texts(file: &Path) -> Vec<(Option<u16>, String)> {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut texts) = (0, Vec::new());
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4));
        if kind == 6 {
            let frame = &bytes[at + 28..at + 28 + word(at + 20)];
            let tag =
                (frame[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([frame[14], frame[15]]) & 0xfff);
            let rest = &frame[if tag.is_some() { 16 } else { 12 }..];
            // An EtherType for experiments (IEEE 802, 9.2.4); all else is the host's own.
            if rest[..2] == [0x88, 0xb5] {
                let text: Vec<u8> = rest[2..].iter().copied().take_while(|byte| *byte != 0).collect();
                texts.push((tag, String::from_utf8(text).unwrap()));
            }
        }
        at += len;
    }
    texts
}

/// Sends a broadcast by an interface, with a tag or without.
fn send(interface: &str, tag: Option<u16>, text: &str) {
    let program = "import socket, sys\n\
        interface, tag, text = sys.argv[1:]\n\
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
        s.bind((interface, 0))\n\
        tag = b'\\x81\\0' + int(tag).to_bytes(2, 'big') if tag else b''\n\
        s.send((b'\\xff' * 6 + b'\\2\\0\\0\\0\\0\\1' + tag + b'\\x88\\xb5' + text.encode()).ljust(64, b'\\0'))";
    let tag = tag.map(|tag| tag.to_string()).unwrap_or_default();
    let sent = Command::new("python3")
        .args(["-c", program, interface, &tag, text])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{sent:?}");
}

/// Waits until a capture has its frames, and returns them.
fn ended(mut capture: Child, file: &Path) -> Vec<(Option<u16>, String)> {
    assert!(capture.wait().unwrap().success());
    texts(file)
}

/// Pairs of veths, of which the first ends are to be ports.
fn veths(names: &[&str]) {
    for name in names {
        ip(&format!("link add {name} type veth peer name {name}-peer"));
        for end in [(*name).to_owned(), format!("{name}-peer")] {
            // Nothing of the host's own: no router solicitations.
            let quiet = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            let _ = std::fs::write(quiet, "1");
            ip(&format!("link set {end} up"));
        }
    }
}

fn words(texts: &[(Option<u16>, &str)]) -> Vec<(Option<u16>, String)> {
    texts
        .iter()
        .map(|(tag, text)| (*tag, (*text).to_owned()))
        .collect()
}

/// Each capture ends with as many frames as it has to have, and what it must not have is sent before them.
#[test]
fn a_capture_of_a_vlan_at_a_bridge_of_the_kernel() {
    const NAME: &str = "a_capture_of_a_vlan_at_a_bridge_of_the_kernel";
    if !enter(NAME) {
        return;
    }
    let net = Net::new();
    veths(&["v0", "v1"]);
    // Without filtering a bridge passes tags on, and frames without one are in no VLAN.
    net.run("create br0 --kind bridge");
    for port in ["v0", "v1"] {
        net.run(&format!("port add br0 {port}"));
    }
    let (all, one) = (net.runtime.path().join("all"), net.runtime.path().join("one"));
    let of_all = net.capture(&format!("capture br0 --vlan 10 --count 2 -w {}", all.display()));
    let of_one = net.capture(&format!(
        "capture br0 v1 --vlan 10 --count 2 -w {}",
        one.display()
    ));
    send("v0-peer", None, "none");
    send("v0-peer", Some(20), "twenty");
    send("v0-peer", Some(10), "ten");
    send("v1-peer", Some(20), "twenty");
    send("v1-peer", Some(10), "back");
    let expected = words(&[(Some(10), "ten"), (Some(10), "back")]);
    assert_eq!(ended(of_all, &all), expected);
    assert_eq!(ended(of_one, &one), expected);

    let filtering = net
        .command("create br1 --kind bridge --vlan-filtering on")
        .output();
    let filtering = filtering.unwrap();
    if !filtering.status.success() {
        eprintln!("SKIPPED {NAME} (with filtering): this kernel's bridges filter no VLANs: {filtering:?}");
        return;
    }
    veths(&["v2", "v3"]);
    net.run("port add br1 v2 --vlan 10");
    net.run("port add br1 v3 --trunk 10,20 --native 20");
    let of_all = net.capture(&format!("capture br1 --vlan 10 --count 2 -w {}", all.display()));
    send("v3-peer", None, "twenty");
    send("v3-peer", Some(20), "twenty");
    send("v2-peer", None, "ten");
    send("v3-peer", Some(10), "back");
    assert_eq!(ended(of_all, &all), words(&[(None, "ten"), (Some(10), "back")]));
}

/// In the user-space data path.
#[test]
fn a_capture_of_a_vlan_at_a_bridge_of_open_vswitch() {
    let Some(daemons) = OvsDaemons::start("a_capture_of_a_vlan_at_a_bridge_of_open_vswitch") else {
        return;
    };
    let net = Net::with_ovs(daemons.run());
    veths(&["v0", "v1", "v2"]);
    net.run("create ovs0 --kind ovs --datapath netdev");
    net.run("port add ovs0 v0 --vlan 10");
    net.run("port add ovs0 v1 --trunk 10,20");
    net.run("port add ovs0 v2 --vlan 20");
    let (all, one) = (net.runtime.path().join("all"), net.runtime.path().join("one"));
    let of_all = net.capture(&format!("capture ovs0 --vlan 10 --count 2 -w {}", all.display()));
    let of_one = net.capture(&format!(
        "capture ovs0 v1 --vlan 10 --count 2 -w {}",
        one.display()
    ));
    send("v2-peer", None, "twenty");
    send("v1-peer", Some(20), "twenty");
    send("v0-peer", None, "ten");
    send("v1-peer", Some(10), "back");
    // All ports: what each received, as it came. One port: what it received and what it sent, which has its tag there.
    assert_eq!(ended(of_all, &all), words(&[(None, "ten"), (Some(10), "back")]));
    let mut of_one = ended(of_one, &one);
    of_one.sort();
    assert_eq!(of_one, words(&[(Some(10), "back"), (Some(10), "ten")]));
}
