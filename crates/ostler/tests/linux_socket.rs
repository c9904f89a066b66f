//! Two real Linux guests whose network cards are connected by a stream socket each, with the test as the cable between them.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(240);
/// Sent by one guest to the other, and back.
const EXCHANGED: u64 = 16 << 20;
/// The largest frame that Ethernet carries with its usual MTU; there are no offloads on the wire.
const LARGEST_FRAME: usize = 14 + 1500;

/// What went through the cable in one direction.
#[derive(Debug, Default)]
struct Passed {
    frames: u64,
    bytes: u64,
    largest: usize,
}

/// Carries frames from one guest to the other until either is gone.
fn carry(mut from: UnixStream, mut to: UnixStream) -> Passed {
    let mut passed = Passed::default();
    loop {
        let mut message = vec![0; 4];
        if from.read_exact(&mut message).is_err() {
            return passed;
        }
        let len = u32::from_be_bytes(message[..].try_into().unwrap()) as usize;
        assert!((14..1 << 16).contains(&len), "a frame of {len} bytes");
        message.resize(4 + len, 0);
        if from.read_exact(&mut message[4..]).is_err() || to.write_all(&message).is_err() {
            return passed;
        }
        passed.frames += 1;
        passed.bytes += len as u64;
        passed.largest = passed.largest.max(len);
    }
}

/// A guest with this last number in its address, at the socket at `path`, that says when its network is up and then does
/// `script`.
fn guest(number: u8, path: &Path, script: &str) -> Running {
    let script = format!(
        "dmesg -n 5\n\
         ip address add 10.98.0.{number}/24 dev eth0; ip link set eth0 up\n\
         {script}\n\
         echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors\n"
    );
    let net = format!("socket={},mac=52:54:00:98:00:0{number}", path.display());
    Guest::new(1).args(["--net", &net]).script(&script).spawn()
}

#[test]
fn two_guests_ping_each_other_and_talk_by_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cable");
    let listener = UnixListener::bind(&path).unwrap();
    let mut server = guest(
        1,
        &path,
        "nc -ll -p 7 -e cat &\n\
         echo network up\n\
         read line </dev/console\n\
         echo BEGIN ping; ping -c 3 -W 20 10.98.0.2; echo END ping\n\
         echo server done; read line </dev/console",
    );
    let (first, _) = listener.accept().unwrap();
    let mut client = guest(
        2,
        &path,
        &format!(
            "echo network up\n\
             read line </dev/console\n\
             echo BEGIN ping; ping -c 3 -W 20 10.98.0.1; ping -c 3 -W 20 -s 65000 10.98.0.1; echo END ping\n\
             mount -t tmpfs tmpfs /tmp; head -c {EXCHANGED} /dev/urandom >/tmp/sent\n\
             nc 10.98.0.1 7 </tmp/sent | head -c {EXCHANGED} >/tmp/received\n\
             wc -c </tmp/received\n\
             cmp /tmp/sent /tmp/received && echo came back whole\n\
             echo client done; read line </dev/console"
        ),
    );
    let (second, _) = listener.accept().unwrap();
    let carriers = [(&first, &second), (&second, &first)].map(|(from, to)| {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || carry(from, to))
    });
    server.expect("network up", LIMIT);
    client.expect("network up", LIMIT);
    client.type_in("\n");
    client.expect("client done", LIMIT);
    server.type_in("\n");
    server.expect("server done", LIMIT);
    for guest in [&mut server, &mut client] {
        guest.type_in("\n");
    }
    let (server, client) = (server.wait(LIMIT), client.wait(LIMIT));
    for outcome in [&server, &client] {
        outcome.assert_clean();
        assert_eq!(outcome.section("errors"), "0\n");
    }
    let whole = format!("{EXCHANGED}\ncame back whole\n");
    assert!(client.console.contains(&whole), "{}", client.console);
    let pings = client.section("ping") + &server.section("ping");
    let answered = pings.matches("3 packets transmitted, 3 packets received").count();
    assert_eq!(answered, 3, "{pings}");
    for carrier in carriers {
        let passed = carrier.join().unwrap();
        assert!(passed.bytes >= EXCHANGED, "{passed:?}");
        // It is full, and no segment is larger than the wire.
        assert_eq!(passed.largest, LARGEST_FRAME, "{passed:?}");
    }
}
