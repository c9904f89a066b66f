//! Three real Linux guests at the host's own bridges, the kernel's and Open vSwitch's, which `ostler net` makes and changes in a
//! network namespace of each test's own.

#[path = "../../hostnet/tests/support/mod.rs"]
mod host;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use host::Namespace;

use support::lan::{block, megabytes, vlan_modules};
use support::switch::Switch;
use support::{Guest, OSTLER, Running};

const LIMIT: Duration = Duration::from_secs(400);

/// `ostler net` with Open vSwitch's sockets in `ovs_run`.
fn try_net(ovs_run: &Path, line: &str) -> Result<String, String> {
    let output = Command::new(OSTLER)
        .args(["net", "--runtime", "/nonexistent", "--ovs-run"])
        .arg(ovs_run)
        .args(line.split_whitespace())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

fn net(ovs_run: &Path, line: &str) -> String {
    try_net(ovs_run, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// How the third guest is connected.
enum Third {
    /// By one card on a trunk of the VLANs 10 and 20, with the modules that it needs.
    Trunk(Vec<(String, Vec<u8>)>),
    /// By a card in each of two networks.
    TwoCards,
}

impl Third {
    fn cards(&self) -> &[&str] {
        match self {
            Third::Trunk(_) => &["tap3"],
            Third::TwoCards => &["tap3", "tap4"],
        }
    }

    /// What sets its interfaces up, each with an address.
    fn set_up(&self) -> (String, [&str; 2]) {
        match self {
            Third::Trunk(modules) => {
                let loads: String = modules
                    .iter()
                    .map(|(name, _)| format!("insmod /{name}\n"))
                    .collect();
                let links = "for vlan in 10 20; do\n\
                     ip link add link eth0 name eth0.$vlan type vlan id $vlan; ip link set eth0.$vlan up\n\
                     done\n";
                (loads + links, ["eth0.10", "eth0.20"])
            }
            Third::TwoCards => ("ip link set eth1 up\n".into(), ["eth0", "eth1"]),
        }
    }
}

/// Starts a guest with a card at each of these taps, of which `options` are said.
fn start(number: u8, taps: &[&str], options: &str, files: &[(&str, &[u8])], script: &str) -> Running {
    let mut guest = Guest::new(1).args(["--accel", "soft", "--name", &format!("guest{number}")]);
    for (card, tap) in taps.iter().enumerate() {
        let mac = format!("52:54:00:96:{card:02x}:{number:02x}");
        guest = guest.args(["--net", &format!("tap={tap},mac={mac}{options}")]);
    }
    guest
        .script_with(&format!("dmesg -n 5; ip link set eth0 up\n{script}\n"), files)
        .spawn()
}

/// Two guests ping each other and exchange much by TCP. Then `separate` takes the second one, at `tap2`, out of the network of the first:
/// they do not reach each other, and a third guest that is in both networks reaches both.
fn three_guests(options: &str, third: Third, separate: impl FnOnce()) {
    let block = block();
    let mut server = start(
        1,
        &["tap1"],
        options,
        &[],
        "ip address add 10.96.0.1/24 dev eth0; echo network up\n\
         mkfifo /never; exec 9<>/never\n\
         echo BEGIN got; nc -l -p 5000 </never | md5sum; echo END got; echo received\n\
         read line </dev/console\n\
         echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors",
    );
    server.expect("BEGIN got", LIMIT);
    let mut client = start(
        2,
        &["tap2"],
        options,
        &[("block", &block)],
        &format!(
            "ip address add 10.96.0.2/24 dev eth0; mkfifo /copy\n\
             echo BEGIN same; ping -c 3 -W 60 10.96.0.1; ping -c 2 -W 60 -s 20000 10.96.0.1; echo END same\n\
             md5sum </copy >/sum &\n\
             i=0; while [ $i -lt {} ]; do echo $i; cat /block; i=$((i+1)); done | tee /copy | nc 10.96.0.1 5000\n\
             wait\n\
             echo BEGIN sent; cat /sum; echo END sent\n\
             echo sent all; read line </dev/console\n\
             echo BEGIN other; ping -c 3 -W 2 10.96.0.1; echo END other\n\
             echo pinged; read line </dev/console\n\
             echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors",
            megabytes(32)
        ),
    );
    client.expect("sent all", LIMIT * 4);
    server.expect("received", LIMIT);

    separate();
    client.type_in("\n");
    client.expect("pinged", LIMIT);

    let (set_up, [to_first, to_second]) = third.set_up();
    let files: Vec<(&str, &[u8])> = match &third {
        Third::Trunk(modules) => modules
            .iter()
            .map(|(name, bytes)| (&name[..], &bytes[..]))
            .collect(),
        Third::TwoCards => Vec::new(),
    };
    let both = start(
        3,
        third.cards(),
        options,
        &files,
        &format!(
            "{set_up}ip address add 10.96.0.3/24 dev {to_first}\n\
             ip address add 10.96.0.4/32 dev {to_second}; ip route add 10.96.0.2 dev {to_second}\n\
             echo BEGIN pings\n\
             ping -c 3 -W 60 10.96.0.1; ping -c 3 -W 60 -I {to_second} 10.96.0.2\n\
             echo END pings"
        ),
    )
    .wait(LIMIT);
    both.assert_clean();
    for guest in [&mut server, &mut client] {
        guest.type_in("\n");
    }
    let (server, client) = (server.wait(LIMIT), client.wait(LIMIT));
    for outcome in [&server, &client] {
        outcome.assert_clean();
        assert_eq!(outcome.section("errors"), "0\n");
    }
    let same = client.section("same");
    for all in [
        "3 packets transmitted, 3 packets received",
        "2 packets transmitted, 2 packets received",
    ] {
        assert!(same.contains(all), "{same}");
    }
    assert_eq!(server.section("got"), client.section("sent"));
    let other = client.section("other");
    assert!(
        other.contains("3 packets transmitted, 0 packets received"),
        "{other}"
    );
    let pings = both.section("pings");
    assert_eq!(
        pings.matches("3 packets transmitted, 3 packets received").count(),
        2,
        "{pings}"
    );
}

fn can_make_taps(test: &str) -> bool {
    let there = Path::new("/dev/net/tun").exists();
    if !there {
        eprintln!("SKIPPED {test}: needs /dev/net/tun for taps in a network namespace");
    }
    there
}

/// Where the kernel filters VLANs by VLAN, elsewhere by two bridges.
#[test]
fn three_guests_at_bridges_of_the_kernel() {
    const NAME: &str = "three_guests_at_bridges_of_the_kernel";
    if !can_make_taps(NAME) || !host::enter(NAME) {
        return;
    }
    let net = |line: &str| net("/nonexistent".as_ref(), line);
    net("create br0 --kind bridge");
    for tap in ["tap1", "tap2", "tap3"] {
        net(&format!("tap add {tap} --network br0"));
    }
    let filters = try_net("/nonexistent".as_ref(), "set br0 --vlan-filtering on");
    if let (Ok(_), Some(modules)) = (&filters, vlan_modules()) {
        net("port set br0 tap1 --vlan 10");
        net("port set br0 tap2 --vlan 10");
        net("port set br0 tap3 --trunk 10,20");
        three_guests("", Third::Trunk(modules), || {
            net("port set br0 tap2 --vlan 20");
        });
        return;
    }
    eprintln!(
        "SKIPPED {NAME}, its VLANs: this kernel's bridge has none, or the guest lacks their module: {filters:?}"
    );
    net("create br1 --kind bridge");
    net("tap add tap4 --network br1");
    three_guests("", Third::TwoCards, || {
        net("port remove br0 tap2");
        net("port add br1 tap2");
    });
}

/// In its user-space data path, where frames have to be whole.
#[test]
fn three_guests_at_open_vswitch() {
    const NAME: &str = "three_guests_at_open_vswitch";
    let Some(modules) = vlan_modules() else {
        eprintln!("SKIPPED {NAME}: needs the modules of Debian's guest kernel under target/guest");
        return;
    };
    if !can_make_taps(NAME) {
        return;
    }
    let Some(daemons) = host::OvsDaemons::start(NAME) else {
        return;
    };
    let net = |line: &str| net(daemons.run(), line);
    net("create ovs0 --kind ovs --datapath netdev");
    for (tap, vlans) in [
        ("tap1", "--vlan 10"),
        ("tap2", "--vlan 10"),
        ("tap3", "--trunk 10,20"),
    ] {
        net(&format!("tap add {tap}"));
        net(&format!("port add ovs0 {tap} {vlans}"));
    }
    three_guests(",offload=off", Third::Trunk(modules), || {
        net("port set ovs0 tap2 --vlan 20");
    });
}

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Answers every question for an address (RFC 1035) with that of the host outside.
fn answer_names(socket: &UdpSocket) {
    let mut message = [0; 512];
    while let Ok((len, client)) = socket.recv_from(&mut message) {
        let mut answer = message[..len].to_vec();
        // An answer, to the one question; a pointer to its name, an address, for a minute.
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(OUTSIDE.octets());
        socket.send_to(&answer, client).unwrap();
    }
}

/// A host outside, with a name server, and a server that says who connected to it.
fn outside() -> Namespace {
    let outside = Namespace::new();
    host::ip(&format!(
        "link add out type veth peer name eth0 netns {}",
        outside.path()
    ));
    host::ip("address add 198.51.100.1/24 dev out");
    host::ip("link set out up");
    outside.ip(&format!("address add {OUTSIDE}/24 dev eth0"));
    outside.ip("link set eth0 up");
    let (names, listener) = outside.within(|| {
        (
            UdpSocket::bind((OUTSIDE, 53)).unwrap(),
            TcpListener::bind((OUTSIDE, 7)).unwrap(),
        )
    });
    std::thread::spawn(move || answer_names(&names));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut line = [0; 3];
            client.read_exact(&mut line).unwrap();
            let from = client.peer_addr().unwrap().ip();
            client.write_all(format!("{from}\n").as_bytes()).unwrap();
        }
    });
    outside
}

/// On a network of the kernel's with NAT a switch of ours, at a tap of the bridge, gives addresses and names.
#[test]
fn a_guest_on_a_network_with_nftables_gets_its_address_and_reaches_others() {
    const NAME: &str = "a_guest_on_a_network_with_nftables_gets_its_address_and_reaches_others";
    if !Path::new("/usr/sbin/nft").exists() {
        eprintln!("SKIPPED {NAME}: needs nft, which is in Debian's package nftables");
        return;
    }
    if !can_make_taps(NAME) || !host::enter(NAME) {
        return;
    }
    let _outside = outside();
    let net = |line: &str| net("/nonexistent".as_ref(), line);
    net("create lan --kind bridge --mode nat --address 10.96.0.1/24");
    net("tap add tap1 --network lan");
    net("tap add lan-dhcp --network lan");
    let switch = Switch::start(&format!(
        "[[port]]\nname = \"bridge\"\ntap = \"lan-dhcp\"\n\
         [[port]]\nname = \"router\"\n[port.router]\naddress = \"10.96.0.254/24\"\ngateway = \"10.96.0.1\"\n\
         ranges = [\"10.96.0.100-10.96.0.110\"]\ndomain = \"lan\"\ndns = \"{OUTSIDE}\"\n"
    ));
    switch.until_up("bridge", true);
    switch.until_up("router", true);
    let script = format!(
        "{}\
         echo BEGIN outside; ping -c 3 -W 60 www.example.org; echo hi | nc www.example.org 7; echo END outside\n\
         echo BEGIN router; echo hi | nc -w 5 10.96.0.254 22 || echo nobody; echo END router",
        support::lan::dhcp("web")
    );
    let guest = start(1, &["tap1"], "", &[], &script).wait(LIMIT);
    guest.assert_clean();
    let address = guest.section("address");
    for part in [
        "inet 10.96.0.100/24",
        "default via 10.96.0.1",
        "search lan",
        "nameserver 10.96.0.254",
    ] {
        assert!(address.contains(part), "{part}: {address}");
    }
    let outside = guest.section("outside");
    assert!(
        outside.contains("3 packets transmitted, 3 packets received"),
        "{outside}"
    );
    assert!(outside.contains("\n198.51.100.1\n"), "{outside}");
    assert!(guest.section("router").ends_with("nobody\n"));
    let leases = switch.net(&["leases", "lan"]);
    assert_eq!(leases[0]["address"], "10.96.0.100", "{leases:#}");
}
