//! A real Linux guest with its own driver for Intel's 82574L, on user-mode NAT and on a tap.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use serde_json::json;
use support::Guest;
use support::qmp::Qmp;

const LIMIT: Duration = Duration::from_secs(400);

/// Bytes that go each way.
fn exchanged() -> usize {
    let nightly = std::env::var_os("OSTLER_NIGHTLY").is_some();
    if nightly { 100 << 20 } else { 20 << 20 }
}

/// Bytes that compress badly and differ everywhere.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// What the host's own program says.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    said[..64].to_owned()
}

/// Takes everything that one client sends, and then sends it back.
fn mirror(at: Ipv4Addr) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut len = [0; 12];
        client.read_exact(&mut len).unwrap();
        let mut bytes = vec![0; std::str::from_utf8(&len).unwrap().trim().parse().unwrap()];
        client.read_exact(&mut bytes).unwrap();
        client.write_all(&bytes).unwrap();
        bytes
    });
    (port, thread)
}

/// Runs a guest with `cpus` CPUs on `net`, where the host is `gateway` and listens at `at`.
fn exchange(cpus: u32, net: &str, gateway: &str, at: Ipv4Addr, append: &str) -> support::Outcome {
    let (port, thread) = mirror(at);
    let bytes = noise(exchanged());
    let len = bytes.len();
    let address = gateway.rsplit_once('.').unwrap().0;
    let script = format!(
        "dmesg -n 5; card() {{ n=0; while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 200 ]; do n=$((n+1)); usleep 100000; done\n\
         ip address add {address}.15/24 dev eth0; ip link set eth0 up\n\
         while [ \"$(cat /sys/class/net/eth0/carrier)\" != 1 ]; do usleep 50000; done; }}\n\
         card; cd /sys/class/net/eth0\n\
         echo BEGIN card; basename $(readlink device/driver); cat speed duplex address; echo END card\n\
         echo BEGIN ping; ping -c 3 -W 20 {gateway}; echo END ping\n\
         (printf '%-12s' {len}; cat /noise) | nc -w 100 {gateway} {port} | sha256sum >/sum\n\
         echo BEGIN sum; cut -c 1-64 /sum; echo END sum\n\
         echo BEGIN errors; cat statistics/*_errors statistics/*_dropped | sort -u; echo END errors\n\
         echo BEGIN sent; cat statistics/tx_bytes; echo END sent\n\
         echo BEGIN interrupts; grep eth0 /proc/interrupts; echo END interrupts\n\
         pci=$(basename $(readlink device)); cd /sys/bus/pci/drivers/e1000e\n\
         for round in 1 2 3; do echo $pci >unbind; echo $pci >bind; card; done\n\
         echo BEGIN again; ping -c 3 -W 20 {gateway}; echo END again\n\
         carrier() {{ while [ \"$(cat /sys/class/net/eth0/carrier)\" != $1 ]; do usleep 50000; done; echo carrier $1; }}\n\
         carrier 1; carrier 0; carrier 1\n\
         echo BEGIN third; ping -c 3 -W 20 {gateway}; echo END third\n\
         echo BEGIN complaints; dmesg | grep -i e1000e | grep -v 'Falling back to' | grep -iE 'hang|fail|error|timeout|reset adapter'; echo END complaints\n"
    );
    let mut guest = Guest::pc(cpus).args(["--net", net]).append(append);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script_with(&script, &[("noise", &bytes)]).spawn();
    guest.expect("carrier 1", LIMIT);
    let mut qmp = Qmp::connect(&control);
    qmp.execute("set_link", json!({ "name": "net0", "up": false }));
    guest.expect("carrier 0", LIMIT);
    qmp.execute("set_link", json!({ "name": "net0", "up": true }));
    guest.expect_times("carrier 1", 2, LIMIT);
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("card"), "e1000e\n1000\nfull\n52:54:00:12:34:56\n");
    for section in ["ping", "again", "third"] {
        let said = outcome.section(section);
        assert!(said.contains("3 packets received"), "{said}");
    }
    assert!(thread.join().unwrap() == bytes, "what the guest sent");
    assert_eq!(outcome.section("sum").trim(), sha256(&bytes), "what came back");
    assert_eq!(outcome.section("errors"), "0\n");
    assert_eq!(outcome.section("complaints"), "");
    outcome
}

#[test]
fn tcp_is_whole_both_ways_over_user_mode_nat() {
    let net = "user,mac=52:54:00:12:34:56,model=e1000e";
    let outcome = exchange(1, net, "10.0.2.2", Ipv4Addr::LOCALHOST, "");
    let interrupts = outcome.section("interrupts");
    assert!(
        interrupts.contains("PCI-MSI") && interrupts.contains("eth0-rx-0"),
        "{interrupts}"
    );
}

#[test]
fn tcp_is_whole_both_ways_over_a_tap_with_interrupts_by_the_pin() {
    const NAME: &str = "tcp_is_whole_both_ways_over_a_tap_with_interrupts_by_the_pin";
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {NAME}: needs root and /dev/net/tun for a tap in a network namespace");
        return;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    for line in [
        "link set lo up",
        "tuntap add dev tap0 mode tap vnet_hdr",
        "address add 10.99.0.1/24 dev tap0",
        "link set tap0 up",
    ] {
        let status = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}");
    }
    let net = "tap=tap0,mac=52:54:00:12:34:56,model=e1000e";
    let outcome = exchange(2, net, "10.99.0.1", Ipv4Addr::UNSPECIFIED, "pci=nomsi");
    assert!(
        outcome.section("interrupts").contains("IO-APIC"),
        "{}",
        outcome.console
    );
}
