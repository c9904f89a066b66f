//! A real Linux guest on user-mode NAT, which needs no privilege. Servers are the test's own, on the host's loopback.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::lan::dhclient;
use support::{Guest, OSTLER, Running};

const LIMIT: Duration = Duration::from_secs(240);
/// Bytes that the guest downloads.
fn download() -> usize {
    let nightly = std::env::var_os("OSTLER_NIGHTLY").is_some();
    if nightly { 200 << 20 } else { 20 << 20 }
}

/// A port of the host that is free for now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Gets an address by DHCP, as Debian's own scripts would set it.
const DHCP: &str = "dmesg -n 5; ip link set lo up; ip link set eth0 up\n\
    cat >/lease <<'EOF'\n\
    #!/bin/sh\n\
    [ \"$1\" = bound ] || exit 0\n\
    ip address add $ip/$mask dev $interface\n\
    [ -z \"$router\" ] || ip route add default via $router\n\
    echo \"search $domain\" >/etc/resolv.conf\n\
    for server in $dns; do echo nameserver $server >>/etc/resolv.conf; done\n\
    EOF\n\
    chmod +x /lease; mkdir -p /etc\n\
    udhcpc -i eth0 -s /lease -q -n -t 20 >/dev/null || echo no lease\n";

/// A guest on this network that does `script` once it has an address.
fn guest(net: &str, script: &str) -> Running {
    let script = format!("{DHCP}{script}");
    Guest::new(1)
        .args(["--name", "vm", "--net", net])
        .script(&script)
        .spawn()
}

/// Serves `bytes` over HTTP to one client, on the host's loopback of IPv4.
fn serve(bytes: Vec<u8>) -> (u16, std::thread::JoinHandle<()>) {
    serve_at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), bytes)
}

fn serve_at(listener: TcpListener, bytes: Vec<u8>) -> (u16, std::thread::JoinHandle<()>) {
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        assert!(
            request.starts_with(b"GET /file "),
            "{}",
            String::from_utf8_lossy(&request)
        );
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(&bytes).unwrap();
    });
    (port, thread)
}

/// A name server that answers each question for an address of this family with `address`, and others with nothing.
fn name_server(address: IpAddr) -> u16 {
    let (kind, octets) = match address {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (28, address.octets().to_vec()),
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, client)) = socket.recv_from(&mut query) {
            let question = 12 + query[12..count].iter().position(|byte| *byte == 0).unwrap() + 1;
            let wanted = query[question..question + 4] == [0, kind, 0, 1];
            let mut answer = query[..question + 4].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(wanted), 0, 0, 0, 0]);
            if wanted {
                answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 9, 0, octets.len() as u8]);
                answer.extend(&octets);
            }
            socket.send_to(&answer, client).unwrap();
        }
    });
    port
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
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    said[..64].to_owned()
}

#[test]
fn a_guest_gets_an_address_names_and_a_file() {
    let file = noise(download());
    let hash = sha256(&file);
    let (port, server) = serve(file);
    let dns = name_server(Ipv4Addr::new(10, 0, 2, 2).into());
    let mut guest = guest(
        &format!("user,dns=127.0.0.1:{dns}"),
        &format!(
            "echo BEGIN address; ip -4 -o address show dev eth0; ip route; cat /etc/resolv.conf; echo END address\n\
             echo BEGIN ping; ping -c 3 -W 20 10.0.2.2; ping -c 1 -W 20 gateway; echo END ping\n\
             echo BEGIN names; nslookup www.test.invalid; nslookup vm.ostler; echo END names\n\
             echo BEGIN hash; wget -q -O - http://files.test.invalid:{port}/file | sha256sum; echo END hash\n\
             cd /sys/class/net/eth0/statistics\n\
             echo BEGIN received; cat rx_bytes rx_packets rx_errors; echo END received\n\
             echo BEGIN refused; nc -w 20 10.0.2.2 1 </dev/null; echo status $?; echo END refused\n"
        ),
    );
    guest.expect("END refused", LIMIT);
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let address = outcome.section("address");
    for part in [
        "inet 10.0.2.15/24",
        "default via 10.0.2.2",
        "search ostler",
        "nameserver 10.0.2.3",
    ] {
        assert!(address.contains(part), "{part}: {address}");
    }
    let ping = outcome.section("ping");
    assert!(
        ping.contains("3 packets transmitted, 3 packets received"),
        "{ping}"
    );
    assert!(
        ping.contains("1 packets transmitted, 1 packets received"),
        "{ping}"
    );
    let names = outcome.section("names");
    assert!(
        names.contains("10.0.2.2\n") && names.contains("10.0.2.15\n"),
        "{names}"
    );
    assert!(
        outcome.section("hash").starts_with(&hash),
        "{}",
        outcome.section("hash")
    );
    server.join().unwrap();
    let received = outcome.section("received");
    let numbers: Vec<usize> = received.lines().map(|line| line.parse().unwrap()).collect();
    // On average more bytes than a frame of the wire holds: large segments passed whole.
    assert!(
        numbers[0] >= download() && numbers[0] > numbers[1] * 1514,
        "{numbers:?}"
    );
    assert_eq!(numbers[2], 0);
    let refused = outcome.section("refused");
    assert!(refused.contains("status 1"), "{refused}");
}

#[test]
fn the_host_reaches_a_restricted_guest_by_a_forwarded_port() {
    const EXCHANGED: usize = 4 << 20;
    let tcp = free_port();
    let mut guest = guest(
        &format!("user,restrict,forward=tcp:{tcp}:7"),
        "nc -ll -p 7 -e cat &\n\
         echo BEGIN restricted; nc -w 20 10.0.2.2 1 </dev/null; ip route; nslookup www.test.invalid; echo END restricted\n\
         echo network up; read line </dev/console\n",
    );
    guest.expect("network up", LIMIT);
    let sent = noise(EXCHANGED);
    let mut stream = echo(tcp);
    let mut writer = stream.try_clone().unwrap();
    let to_send = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent, "{} bytes came back, or wrong ones", back.len());

    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let restricted = outcome.section("restricted");
    assert!(!restricted.contains("default via"), "{restricted}");
    assert!(restricted.contains("REFUSED"), "{restricted}");
}

/// How often the only CPU of a guest has halted, and the nanoseconds that it has slept.
fn rest(control: &Path) -> [u64; 2] {
    let output = Command::new(OSTLER)
        .args(["top", "--json"])
        .arg(control)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let vcpu = &seen["vcpus"][0];
    [&vcpu["exits"]["halt"], &vcpu["time-ns"]["idle"]].map(|count| count.as_u64().unwrap_or(0))
}

/// A guest that waits for a packet sleeps; each packet wakes it, and then it sleeps again.
#[test]
fn a_halted_guest_is_woken_by_a_packet() {
    let (tcp, folder) = (free_port(), tempfile::tempdir().unwrap());
    let control = folder.path().join("control");
    let script = format!("{DHCP}nc -ll -p 7 -e cat &\necho network up; read line </dev/console\n");
    let mut guest = Guest::new(1)
        .args(["--net", &format!("user,forward=tcp:{tcp}:7"), "--control"])
        .args([control.to_str().unwrap()])
        .script(&script)
        .spawn();
    guest.expect("network up", LIMIT);
    let mut stream = echo(tcp);
    for byte in 0..5 {
        let deadline = Instant::now() + LIMIT;
        let before = rest(&control);
        // It is asleep when it has slept on for a while.
        let [halts, _] = loop {
            let now = rest(&control);
            if now[1] > before[1] {
                break now;
            }
            assert!(Instant::now() < deadline, "the guest does not sleep");
        };
        let mut back = [!byte];
        stream.write_all(&[byte]).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, [byte]);
        while rest(&control)[0] == halts {
            assert!(Instant::now() < deadline, "the guest does not sleep again");
        }
    }
    drop(stream);
    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
}

/// A connection to an echo server in a guest. Until it listens, it refuses connections, which ends them.
fn echo(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut first = [0];
        if stream.write_all(b"!").is_ok() && stream.read_exact(&mut first).is_ok() {
            assert_eq!(first, *b"!");
            return stream;
        }
        assert!(Instant::now() < deadline, "no echo from the guest");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the guest's kernel has made an address of the router's prefix and found that nobody else has it.
const SLAAC: &str = "tries=0; until ip -6 address show dev eth0 scope global | grep inet6 | grep -qv tentative; do\n\
    tries=$((tries + 1)); [ $tries -lt 600 ] || break; usleep 200000; done\n";

#[test]
fn a_guest_has_ipv6_by_itself() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        println!("SKIPPED a_guest_has_ipv6_by_itself: this machine has no ::1");
        return;
    };
    let file = noise(download());
    let hash = sha256(&file);
    let (port, server) = serve_at(listener, file);
    let dns = name_server("fd00:10:0:2::2".parse().unwrap());
    let forwarded = free_port();
    let mut guest = guest(
        &format!("user,mac=52:54:00:12:34:56,dns=127.0.0.1:{dns},forward=tcp:[::1]:{forwarded}:7"),
        &format!(
            "{SLAAC}\
             echo BEGIN address; ip -6 -o address show dev eth0; ip -6 route; echo END address\n\
             echo BEGIN ping; ping -6 -c 3 -W 20 fd00:10:0:2::2; ping -6 -c 1 -W 20 fd00:10:0:2::3; echo END ping\n\
             echo nameserver fd00:10:0:2::3 >/etc/resolv.conf\n\
             echo BEGIN names; nslookup -type=aaaa vm.ostler; nslookup -type=aaaa www.test.invalid; echo END names\n\
             echo BEGIN hash; wget -q -O - http://files.test.invalid:{port}/file | sha256sum; echo END hash\n\
             cd /sys/class/net/eth0/statistics\n\
             echo BEGIN received; cat rx_bytes rx_packets rx_errors; echo END received\n\
             echo BEGIN refused; nc -w 20 fd00:10:0:2::2 1 </dev/null; echo status $?; echo END refused\n\
             nc -ll -p 7 -e cat &\n\
             echo network up; read line </dev/console\n"
        ),
    );
    guest.expect("network up", LIMIT);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Until the guest's server listens, it refuses connections, which ends them.
    loop {
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, forwarded)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut back = [0; 5];
        if stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() {
            assert_eq!(&back, b"hello");
            break;
        }
        assert!(Instant::now() < deadline, "no echo from the guest");
        std::thread::sleep(Duration::from_millis(100));
    }
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let address = outcome.section("address");
    for part in [
        "inet6 fd00:10:0:2:5054:ff:fe12:3456/64",
        "default via fe80::5055:aff:fe00:202 dev eth0",
    ] {
        assert!(address.contains(part), "{part}: {address}");
    }
    let ping = outcome.section("ping");
    for part in [
        "3 packets transmitted, 3 packets received",
        "1 packets transmitted, 1 packets received",
    ] {
        assert!(ping.contains(part), "{part}: {ping}");
    }
    // Its own, which it made by itself, and one that another server knows.
    let names = outcome.section("names");
    for part in ["fd00:10:0:2:5054:ff:fe12:3456\n", "fd00:10:0:2::2\n"] {
        assert!(names.contains(part), "{part}: {names}");
    }
    let said = outcome.section("hash");
    assert!(said.starts_with(&hash), "{said}");
    server.join().unwrap();
    let received = outcome.section("received");
    let numbers: Vec<usize> = received.lines().map(|line| line.parse().unwrap()).collect();
    // Large segments passed whole.
    assert!(
        numbers[0] >= download() && numbers[0] > numbers[1] * 1514,
        "{numbers:?}"
    );
    assert_eq!(numbers[2], 0);
    let refused = outcome.section("refused");
    assert!(refused.contains("status 1"), "{refused}");
}

#[test]
fn a_guest_without_ipv6_or_without_a_way_out() {
    let show =
        "echo BEGIN address; ip -6 -o address show dev eth0 scope global; ip -6 route; echo END address\n";
    // By the time that IPv4 has its address a router would have been heard: the kernel asks as soon as its own is good.
    let without = guest("user,ipv6=off", &format!("sleep 5\n{show}")).wait(LIMIT);
    without.assert_clean();
    let address = without.section("address");
    assert!(!address.contains("fd00:"), "{address}");
    let restricted = guest(
        "user,restrict",
        &format!(
            "{SLAAC}{show}echo BEGIN refused; nc -w 20 fd00:10:0:2::2 1 </dev/null; echo status $?; echo END refused\n"
        ),
    );
    let restricted = restricted.wait(LIMIT);
    restricted.assert_clean();
    let address = restricted.section("address");
    assert!(address.contains("inet6 fd00:10:0:2:"), "{address}");
    assert!(!address.contains("default"), "{address}");
    let refused = restricted.section("refused");
    assert!(refused.contains("status 1"), "{refused}");
}

/// A client that others wrote asks the DHCPv6 server for an address, gives it back, and asks for the rest alone.
#[test]
fn a_guest_gets_an_address_of_ipv6_by_dhcp() {
    let Some(mut files) = dhclient() else {
        println!(
            "SKIPPED a_guest_gets_an_address_of_ipv6_by_dhcp: needs Debian's dhclient in target/dhclient, which ./test fetches"
        );
        return;
    };
    files.push((
        "told",
        b"#!/bin/sh\necho $reason $new_ip6_address $new_dhcp6_name_servers $new_dhcp6_domain_search\n\
          case $reason in BOUND6) ip -6 address add $new_ip6_address/128 dev $interface ;; esac\n"
            .to_vec(),
    ));
    files.push(("none.conf", Vec::new()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let script = "dmesg -n 5; ip link set lo up; ip link set eth0 up; mkdir -p /etc\n\
        tries=0; until ip -6 address show dev eth0 scope link | grep inet6 | grep -qv tentative; do\n\
        tries=$((tries + 1)); [ $tries -lt 600 ] || break; usleep 200000; done\n\
        ask() { dhclient -6 -1 -v -cf /none.conf -lf /leases -pf /pid -sf /told \"$@\" eth0 2>&1; }\n\
        echo BEGIN bound; ask; ip -6 -o address show dev eth0; echo END bound\n\
        echo nameserver fd00:10:0:2::3 >/etc/resolv.conf\n\
        echo BEGIN names; nslookup -type=aaaa vm.ostler; echo END names\n\
        while ip -6 address show dev eth0 | grep -q tentative; do usleep 200000; done\n\
        echo BEGIN ping; ping -6 -c 1 -W 20 -I fd00:10:0:2::15 fd00:10:0:2::2; echo END ping\n\
        echo BEGIN released; ask -r; echo END released\n\
        rm -f /leases; echo BEGIN information; ask -S; echo END information\n";
    let outcome = Guest::new(1)
        .args(["--name", "vm", "--net", "user"])
        .script_with(script, &files)
        .spawn()
        .wait(LIMIT);
    outcome.assert_clean();
    for (section, parts) in [
        (
            "bound",
            &[
                "RCV: Advertise message",
                "RCV: Reply message",
                "BOUND6 fd00:10:0:2::15 fd00:10:0:2::3 ostler.",
                "inet6 fd00:10:0:2::15/128",
            ][..],
        ),
        ("names", &["fd00:10:0:2::15\n"]),
        ("ping", &["1 packets transmitted, 1 packets received"]),
        ("released", &["RELEASE6"]),
        (
            "information",
            &[
                "XMT: Info-Request",
                "RCV: Reply message",
                "fd00:10:0:2::3 ostler.",
            ],
        ),
    ] {
        let said = outcome.section(section);
        for part in parts {
            assert!(said.contains(part), "{part} in {section}: {said}");
        }
    }
}
