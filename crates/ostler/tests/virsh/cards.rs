//! Network cards: NAT in user mode, bridges, taps; what went through them, and their cables.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use crate::console::Console;
use crate::setup::{Host, linux, wait_until};

/// Serves the same word to whoever asks by HTTP.
fn serve(word: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
            let _ = client.write_all(head.as_bytes());
        }
    });
    port
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_card_on_user_mode_nat_reaches_the_host_and_is_reached() {
    let mut host = Host::start();
    let (port, forwarded) = (serve("from the host"), free_port());
    let card = format!(
        "<interface type='user'><mac address='52:54:00:00:00:07'/><portForward proto='tcp'>\
         <range start='{forwarded}' to='7'/></portForward></interface>"
    );
    let file = host.xml("guest.xml", &linux("nat", &card));
    host.virsh(&format!("define {file}"));
    host.virsh("start nat");
    let list = host.virsh("domiflist nat");
    assert!(
        list.contains("user") && list.contains("virtio") && list.contains("52:54:00:00:00:07"),
        "{list}"
    );
    let mut console = Console::open(&host, "nat");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell("ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up");
    let fetch = format!("wget -q -O - http://10.0.2.2:{port}/");
    console.shell_until(&fetch, "from the host");
    let received = |host: &Host| -> u64 {
        let text = host.virsh("domifstat nat 52:54:00:00:00:07");
        let line = text.lines().find(|line| line.contains("rx_bytes")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let before = received(&host);
    assert!(before > 0);
    // The network is the guest's: it goes on without a daemon.
    host.kill_and_restart();
    let mut console = Console::open(&host, "nat");
    console.expect("# ");
    console.shell_until(&fetch, "from the host");
    assert!(received(&host) > before);
    assert!(host.virsh("domstats nat --interface").contains("net.0.rx.bytes="));
    // A port of the host leads to the guest.
    console.type_in("echo from the guest | nc -l -p 7 >/dev/null; echo serv''ed\n");
    let mut answer = Vec::new();
    wait_until("the guest answers", || {
        let Ok(mut client) = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, forwarded)) else {
            return false;
        };
        let _ = client.shutdown(std::net::Shutdown::Write);
        answer.clear();
        client.read_to_end(&mut answer).is_ok() && !answer.is_empty()
    });
    assert_eq!(answer, b"from the guest\n");
    console.expect("\nserved\n");

    // The cable: out, and in again; in the definition for the next start.
    assert!(!host.virsh("domif-getlink nat 52:54:00:00:00:07").contains("down"));
    host.virsh("domif-setlink nat 52:54:00:00:00:07 down");
    console.shell_until("cat /sys/class/net/eth0/carrier", "0");
    assert!(host.virsh("domif-getlink nat 52:54:00:00:00:07").contains("down"));
    host.virsh("domif-setlink nat 52:54:00:00:00:07 up");
    console.shell_until("cat /sys/class/net/eth0/carrier", "1");
    host.virsh("domif-setlink nat 52:54:00:00:00:07 down --config");
    assert!(
        host.virsh("domif-getlink nat 52:54:00:00:00:07 --config")
            .contains("down")
    );
    host.virsh("destroy nat");
    host.virsh("start nat");
    let mut console = Console::open(&host, "nat");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell("ip link set eth0 up");
    console.shell_until("cat /sys/class/net/eth0/carrier", "0");

    // A second one is plugged in, and works.
    let second = "<interface type='user'><mac address='52:54:00:00:00:08'/></interface>";
    let device = host.xml("card.xml", second);
    host.virsh(&format!("attach-device nat {device} --live"));
    console.shell_until("cat /sys/class/net/eth1/address 2>/dev/null", "52:54:00:00:00:08");
    console.shell("ip address add 10.0.2.15/24 dev eth1; ip link set eth1 up");
    console.shell_until(&fetch, "from the host");
    host.virsh(&format!("detach-device nat {device} --live"));
    console.shell_until("ls /sys/class/net | grep -c eth1", "0");
    wait_until("the card is gone", || {
        !host.virsh("domiflist nat").contains("52:54:00:00:00:08")
    });
    host.virsh("destroy nat");
}

#[test]
fn a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIPPED a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it: a network namespace needs root"
        );
        return;
    }
    let host = Host::start_in_namespace(
        "mount -t sysfs sysfs /sys; ip link set lo up; ip link add br9 type bridge; ip address add 10.97.0.1/24 dev br9; ip link set br9 up; \
         ip tuntap add tap9 mode tap vnet_hdr; ip link set tap9 up",
    );
    let cards = "<interface type='bridge'><mac address='52:54:00:00:00:11'/><source bridge='br9'/></interface>\
                 <interface type='ethernet'><mac address='52:54:00:00:00:12'/><target dev='tap9' managed='no'/></interface>";
    let file = host.xml("guest.xml", &linux("wired", cards));
    host.virsh(&format!("define {file}"));
    host.virsh("start wired");
    let list = host.virsh("domiflist wired");
    assert!(
        list.contains("vnet0") && list.contains("br9") && list.contains("tap9"),
        "{list}"
    );
    let ports = || host.in_namespace("ls /sys/class/net/br9/brif");
    assert_eq!(ports().trim(), "vnet0");
    assert!(!host.virsh("dumpxml wired --inactive").contains("vnet0"));
    let mut console = Console::open(&host, "wired");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell("ip address add 10.97.0.2/24 dev eth0; ip link set eth0 up");
    console.shell_until("ping -c 1 -W 5 10.97.0.1 >/dev/null && echo reached", "reached");
    let addresses = host.virsh("domifaddr wired --source arp");
    assert!(
        addresses.contains("vnet0") && addresses.contains("10.97.0.2"),
        "{addresses}"
    );
    let counted = host.virsh("domifstat wired vnet0");
    assert!(
        counted.contains("vnet0 rx_bytes ") && !counted.contains("rx_bytes 0\n"),
        "{counted}"
    );
    // Another one, while it runs.
    host.virsh("attach-interface wired bridge br9 --model virtio --mac 52:54:00:00:00:13 --live");
    console.shell_until("cat /sys/class/net/eth2/address 2>/dev/null", "52:54:00:00:00:13");
    assert_eq!(ports().split_whitespace().collect::<Vec<_>>(), ["vnet0", "vnet1"]);
    console.shell("ip link set eth0 down; ip address add 10.97.0.3/24 dev eth2; ip link set eth2 up");
    console.shell_until("ping -c 1 -W 5 10.97.0.1 >/dev/null && echo reached", "reached");
    host.virsh("detach-interface wired bridge --mac 52:54:00:00:00:13 --live");
    wait_until("the second tap is gone", || ports().trim() == "vnet0");
    // With the guest go the taps that were made for it, and only those.
    host.virsh("destroy wired");
    assert_eq!(ports().trim(), "");
    assert_eq!(
        host.in_namespace("ls /sys/class/net | grep -c '^vnet'").trim(),
        "0"
    );
    assert_eq!(
        host.in_namespace("ls /sys/class/net | grep -c '^tap9'").trim(),
        "1"
    );
    // A guest that cannot start leaves none.
    let file = host.xml("two.xml", &linux("two", &cards.replace("tap9", "nothing9")));
    assert!(host.refused(&format!("create {file}")).contains("nothing9"));
    assert_eq!(
        host.in_namespace("ls /sys/class/net | grep -c '^vnet'").trim(),
        "0"
    );
}
