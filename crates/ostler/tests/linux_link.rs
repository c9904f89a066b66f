//! A real Linux guest whose cable is taken out and put in again, and that is asked to announce itself.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, SocketType};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use support::Guest;

const LIMIT: Duration = Duration::from_secs(180);
const NAME: &str = "a_link_goes_down_and_up_and_the_guest_announces_itself";
const GUEST: [u8; 4] = [10, 99, 0, 2];

/// The guest tells each change of its card's carrier.
const SCRIPT: &str = "dmesg -n 1
ip address add 10.99.0.2/24 dev eth0; ip link set eth0 up
carrier() { while [ \"$(cat /sys/class/net/eth0/carrier)\" != $1 ]; do usleep 50000; done; echo carrier $1; }
carrier 1; carrier 0; carrier 1
read line </dev/console
";

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// True if one of a few pings is answered.
fn answers() -> bool {
    let ping = Command::new("ping")
        .args(["-c", "5", "-i", "0.2", "-W", "5", "10.99.0.2"])
        .output()
        .unwrap();
    ping.status.success()
}

/// A socket that hears every ARP frame of this namespace.
fn listen_to_arp() -> OwnedFd {
    const ETH_P_ARP: u16 = 0x0806;
    let protocol = NonZeroU32::new(ETH_P_ARP.to_be().into()).map(Protocol::from_raw);
    let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, protocol).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT)).unwrap();
    socket
}

/// Waits for an ARP frame of the guest that says and asks for its own address.
fn wait_for_announcement(socket: &OwnedFd) {
    const MAC_BYTES: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let mut frame = [0; 2048];
    loop {
        let len = rustix::io::read(socket, &mut frame).expect("an announcement");
        // Behind the Ethernet header: kinds and lengths (8), sender's MAC (6) and address (4), the target's.
        if len >= 42 && frame[22..28] == MAC_BYTES && frame[28..32] == GUEST && frame[38..42] == GUEST {
            return;
        }
    }
}

/// Sends one QMP command to the socket at `path`.
fn execute(path: &Path, command: &str, arguments: Value) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answers = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let mut last = Value::Null;
    for call in [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": command, "arguments": arguments }),
    ] {
        writeln!(stream, "{call}").unwrap();
        let is_answer = |text: &Value| text.get("return").is_some() || text.get("error").is_some();
        last = answers.find(is_answer).unwrap();
    }
    last
}

#[test]
fn a_link_goes_down_and_up_and_the_guest_announces_itself() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {NAME}: needs root and /dev/net/tun for a tap in a network namespace");
        return;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    ip("tuntap add dev tap0 mode tap");
    ip("address add 10.99.0.1/24 dev tap0");
    ip("link set tap0 up");
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let mut guest = Guest::new(1)
        .args(["--net", "tap=tap0,mac=52:54:00:12:34:56", "--control"])
        .args([&control])
        .script(SCRIPT)
        .spawn();
    guest.expect("carrier 1", LIMIT);
    assert!(answers(), "no answer over a link that is up");

    let set_link = |up: bool| execute(&control, "set_link", json!({ "name": "net0", "up": up }));
    assert_eq!(set_link(false), json!({ "return": {} }));
    guest.expect("carrier 0", LIMIT);
    assert!(!answers(), "an answer over a link that is down");
    assert_eq!(set_link(true), json!({ "return": {} }));
    guest.expect("carrier 0\ncarrier 1", LIMIT);
    assert!(answers(), "no answer over a link that came up again");

    let listener = listen_to_arp();
    let announced = execute(&control, "announce-self", json!({ "interfaces": ["net0"] }));
    assert_eq!(announced, json!({ "return": {} }));
    wait_for_announcement(&listener);
    let nowhere = execute(&control, "set_link", json!({ "name": "net7", "up": true }));
    assert_eq!(nowhere["error"]["class"], "DeviceNotFound");
    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
}
