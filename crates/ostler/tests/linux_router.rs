//! Real Linux guests at a switch with a router: addresses, names, the outside, ports of the host. Servers are the test's own.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::lan::dhcp;
use support::switch::Switch;
use support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(600);
/// Bytes that a guest downloads.
const DOWNLOAD: usize = 8 << 20;

/// Waits until the guest's kernel has made an address of the router's prefix and found that nobody else has it.
const SLAAC: &str = "tries=0; until ip -6 address show dev eth0 scope global | grep inet6 | grep -qv tentative; do\n\
    tries=$((tries + 1)); [ $tries -lt 600 ] || break; usleep 200000; done\n\
    echo BEGIN six; ip -6 -o address show dev eth0; ip -6 route; echo END six; echo six up\n";

fn guest(switch: &Switch, name: &str, vlan: u16, script: &str) -> Running {
    let script = format!("{}{script}", dhcp(name));
    let control = switch.path("control");
    let last = name.len();
    let net = format!(
        "switch={},vlan={vlan},mac=52:54:00:97:00:0{last}",
        control.display()
    );
    Guest::new(1)
        .args(["--accel", "soft", "--net", &net, "--name", name])
        .script(&script)
        .spawn()
}

/// Bytes that differ everywhere.
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
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    said[..64].to_owned()
}

/// Serves `bytes` over HTTP to one client.
fn serve(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(&bytes).unwrap();
    });
    port
}

/// A port of the host that is free for now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// What comes back of `sent` from a server behind a port of the host, tried until it listens.
fn echoed(port: u16, sent: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut back = vec![0; sent.len()];
        if stream.write_all(sent).is_ok() && stream.read_exact(&mut back).is_ok() {
            return back;
        }
        assert!(Instant::now() < deadline, "no echo from the guest");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Two guests share a router; a third one is behind another, which leads nowhere.
#[test]
fn guests_share_a_router() {
    let file = noise(DOWNLOAD);
    let hash = sha256(&file);
    let port = serve(file);
    let forwarded = free_port();
    // The guests' cards end with the lengths of their names.
    let switch = Switch::start(&format!(
        "[[port]]\nname = \"router\"\nvlan = 10\n[port.router]\naddress = \"10.97.0.1/24\"\naddress6 = \"fd00:97::1/64\"\n\
         ranges = [\"10.97.0.100-10.97.0.110\"]\ndomain = \"lan\"\ndns = \"own\"\n\
         forward = [\"tcp:{forwarded}:10.97.0.50:7\"]\n\
         [[port.router.host]]\nmac = \"52:54:00:97:00:06\"\naddress = \"10.97.0.50\"\n\
         [[port.router.name]]\naddress = \"10.97.0.100\"\nnames = [\"printer\"]\n\
         [[port]]\nname = \"alone\"\nvlan = 20\n[port.router]\naddress = \"10.98.0.1/24\"\n\
         ranges = [\"10.98.0.5-10.98.0.9\"]\nrestrict = true\n"
    ));
    switch.until_up("router", true);
    let mut first = guest(&switch, "first", 10, &format!("{SLAAC}read line </dev/console\n"));
    first.expect("six up", LIMIT);
    let mut second = guest(
        &switch,
        "second",
        10,
        &format!(
            "{SLAAC}nc -ll -p 7 -e cat &\n\
             echo BEGIN ping6; ping -6 -c 3 -W 20 first.lan; ping -6 -c 1 -W 20 gateway; echo END ping6\n\
             echo BEGIN ping; ping -4 -c 3 -W 20 first; ping -c 1 -W 20 10.97.0.1; echo END ping\n\
             echo BEGIN names; nslookup first.lan; nslookup printer; nslookup gateway; echo END names\n\
             echo BEGIN hash; wget -q -O - http://10.97.0.1:{port}/file | sha256sum; echo END hash\n\
             echo listening; read line </dev/console\n"
        ),
    );
    let isolated = guest(
        &switch,
        "isolate",
        20,
        "echo BEGIN outside; nc -w 20 10.98.0.1 22 </dev/null; echo status $?\n\
         nslookup www.test.invalid; nslookup isolate; echo END outside\n",
    );
    second.expect("listening", LIMIT);
    let sent = noise(100_000);
    assert!(echoed(forwarded, &sent) == sent, "other bytes came back");
    let leases = switch.net(&["leases", "lan"]);
    let lease = |name: &str| {
        let leases = leases.as_array().unwrap();
        let found = leases.iter().find(|lease| lease["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {leases:#?}")).clone()
    };
    assert_eq!(lease("first")["address"], "10.97.0.100");
    assert_eq!(lease("first")["reserved"], false);
    assert_eq!(lease("second")["address"], "10.97.0.50");
    assert_eq!(lease("second")["mac"], "52:54:00:97:00:06");
    assert_eq!(lease("second")["reserved"], true);
    assert_eq!(lease("second")["port"], "router");
    let routers = &switch.net(&["show", "lan", "--seconds", "0"])["routers"];
    assert_eq!(
        (&routers[0]["leases"], &routers[0]["address"]),
        (&2.into(), &"10.97.0.1/24".into()),
        "{routers:#}"
    );

    let isolated = isolated.wait(LIMIT);
    for guest in [&mut first, &mut second] {
        guest.type_in("\n");
    }
    let (first, second) = (first.wait(LIMIT), second.wait(LIMIT));
    for outcome in [&first, &second, &isolated] {
        outcome.assert_clean();
    }
    for (outcome, address) in [(&first, "10.97.0.100/24"), (&second, "10.97.0.50/24")] {
        let section = outcome.section("address");
        for part in [
            &format!("inet {address}"),
            "default via 10.97.0.1",
            "search lan",
            "nameserver 10.97.0.1",
        ] {
            assert!(section.contains(part), "{part}: {section}");
        }
    }
    let ping = second.section("ping");
    assert!(
        ping.contains("PING first (10.97.0.100)")
            && ping.contains("3 packets transmitted, 3 packets received"),
        "{ping}"
    );
    assert!(
        ping.contains("1 packets transmitted, 1 packets received"),
        "{ping}"
    );
    for (outcome, last) in [(&first, 5), (&second, 6)] {
        let six = outcome.section("six");
        for part in [
            format!("inet6 fd00:97::5054:ff:fe97:{last}/64"),
            "default via fe80::5055:aff:fe61:1 dev eth0".to_owned(),
        ] {
            assert!(six.contains(&part), "{part}: {six}");
        }
    }
    let ping = second.section("ping6");
    for part in [
        "(fd00:97::5054:ff:fe97:5)",
        "3 packets transmitted, 3 packets received",
        "(fd00:97::1)",
        "1 packets transmitted, 1 packets received",
    ] {
        assert!(ping.contains(part), "{part}: {ping}");
    }
    let names = second.section("names");
    assert_eq!(names.matches("10.97.0.100\n").count(), 2, "{names}");
    assert!(
        second.section("hash").starts_with(&hash),
        "{}",
        second.section("hash")
    );
    let address = isolated.section("address");
    assert!(
        address.contains("inet 10.98.0.5/24") && !address.contains("default via"),
        "{address}"
    );
    let outside = isolated.section("outside");
    for part in ["status 1", "REFUSED", "10.98.0.5"] {
        assert!(outside.contains(part), "{part}: {outside}");
    }
}
