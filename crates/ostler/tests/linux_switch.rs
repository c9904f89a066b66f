//! Two real Linux guests at `ostler switch`, by the ring of frames.

mod support;

use std::time::Duration;

use support::lan::vlan_modules;
use support::switch::Switch;
use support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(400);

/// Megabytes that go from guest to guest: a gigabyte at night.
fn megabytes() -> u32 {
    support::lan::megabytes(100)
}

/// A guest with this last number in its address, in VLAN 10, that says when its network is up and then does `script`.
fn guest(switch: &Switch, number: u8, script: &str) -> Running {
    let script = format!(
        "dmesg -n 5\n\
         until_is() {{ while [ \"$(cat $2 2>/dev/null)\" != \"$1\" ]; do usleep 20000; done; }}\n\
         ip address add 10.96.0.{number}/24 dev eth0; ip link set eth0 up\n\
         echo network up\n\
         {script}\n\
         echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors\n"
    );
    let control = switch.path("control");
    let net = format!(
        "switch={},vlan=10,mac=52:54:00:96:00:0{number}",
        control.display()
    );
    Guest::new(1)
        .args(["--accel", "soft", "--net", &net, "--name"])
        .args([format!("guest{number}")])
        .script(&script)
        .spawn()
}

/// They ping each other, do not in different VLANs, and do again after the switch was restarted.
#[test]
fn two_guests_at_a_switch_that_is_restarted() {
    let mut switch = Switch::start("");
    let mut server = guest(&switch, 1, "read line </dev/console");
    let mut client = guest(
        &switch,
        2,
        "read line </dev/console\n\
         echo BEGIN same; ping -c 3 -W 20 10.96.0.1; ping -c 2 -W 20 -s 20000 10.96.0.1; echo END same; echo done 1\n\
         read line </dev/console\n\
         echo BEGIN other; ping -c 3 -W 2 10.96.0.1; echo END other; echo done 2\n\
         until_is 0 /sys/class/net/eth0/carrier; echo link lost\n\
         until_is 1 /sys/class/net/eth0/carrier; echo link back\n\
         read line </dev/console\n\
         echo BEGIN again; ping -c 3 -W 20 10.96.0.1; echo END again; echo done 3\n\
         read line </dev/console",
    );
    for (guest, port) in [(&mut server, "guest1/net0"), (&mut client, "guest2/net0")] {
        guest.expect("network up", LIMIT);
        switch.until_up(port, true);
    }
    client.type_in("\n");
    client.expect("done 1", LIMIT);
    let stations = switch.net(&["fdb", "lan", "--vlan", "10"]);
    assert_eq!(stations["stations"].as_array().unwrap().len(), 2, "{stations:#}");

    switch.net(&["vlan", "lan", "set", "guest2/net0", "--vlan", "20"]);
    client.type_in("\n");
    client.expect("done 2", LIMIT);

    switch.end();
    client.expect("link lost", LIMIT);
    switch.start_again();
    client.expect("link back", LIMIT);
    switch.until_up("guest1/net0", true);
    client.type_in("\n");
    client.expect("done 3", LIMIT);

    for guest in [&mut server, &mut client] {
        guest.type_in("\n");
    }
    let (server, client) = (server.wait(LIMIT), client.wait(LIMIT));
    for outcome in [&server, &client] {
        outcome.assert_clean();
        assert_eq!(outcome.section("errors"), "0\n");
    }
    let same = client.section("same");
    assert!(
        same.contains("3 packets transmitted, 3 packets received"),
        "{same}"
    );
    assert!(
        same.contains("2 packets transmitted, 2 packets received"),
        "{same}"
    );
    let other = client.section("other");
    assert!(
        other.contains("3 packets transmitted, 0 packets received"),
        "{other}"
    );
    let again = client.section("again");
    assert!(
        again.contains("3 packets transmitted, 3 packets received"),
        "{again}"
    );
    switch.until("both ports gone", |switch| {
        switch.net(&["port", "list", "lan"]) == serde_json::json!([])
    });
}

/// Two guests exchange much by TCP, each with large segments and checksums left to the other; then one of them is in another VLAN, and
/// a third guest on a trunk reaches both.
#[test]
fn large_segments_pass_from_guest_to_guest_and_a_trunk_sees_both_vlans() {
    let switch = Switch::start("");
    let block = support::lan::block();
    let start = |number: u8, net: &str, files: &[(&str, &[u8])], script: &str| {
        let control = switch.path("control");
        let net = format!("switch={},{net},mac=52:54:00:96:00:0{number}", control.display());
        Guest::new(1)
            .args(["--accel", "soft", "--net", &net, "--name"])
            .args([format!("guest{number}")])
            .script_with(&format!("dmesg -n 5; ip link set eth0 up\n{script}\n"), files)
            .spawn()
    };
    let mut server = start(
        1,
        "vlan=10",
        &[],
        "ip address add 10.96.0.1/24 dev eth0; echo network up\n\
         mkfifo /never; exec 9<>/never\n\
         echo BEGIN got; nc -l -p 5000 </never | md5sum; echo END got; echo received\n\
         read line </dev/console",
    );
    server.expect("BEGIN got", LIMIT);
    let mut client = start(
        2,
        "vlan=10",
        &[("block", &block)],
        &format!(
            "ip address add 10.96.0.2/24 dev eth0; mkfifo /copy\n\
             echo network up\n\
             read line </dev/console\n\
             md5sum </copy >/sum &\n\
             read before rest </proc/uptime\n\
             i=0; while [ $i -lt {} ]; do echo $i; cat /block; i=$((i+1)); done | tee /copy | nc 10.96.0.1 5000\n\
             read after rest </proc/uptime; wait\n\
             echo BEGIN sent; cat /sum; echo END sent\n\
             echo BEGIN seconds; echo $before $after; echo END seconds\n\
             echo BEGIN packets; cat /sys/class/net/eth0/statistics/tx_packets; echo END packets\n\
             echo sent all; read line </dev/console",
            megabytes()
        ),
    );
    client.expect("network up", LIMIT);
    for port in ["guest1/net0", "guest2/net0"] {
        switch.until_up(port, true);
    }
    client.type_in("\n");
    client.expect("sent all", LIMIT * 4);
    server.expect("received", LIMIT);

    let modules = vlan_modules();
    if let Some(modules) = &modules {
        let files: Vec<(&str, &[u8])> = modules
            .iter()
            .map(|(name, bytes)| (&name[..], &bytes[..]))
            .collect();
        let loads: String = modules
            .iter()
            .map(|(name, _)| format!("insmod /{name}\n"))
            .collect();
        let mut third = start(
            3,
            "trunk=10:20",
            &files,
            &format!(
                "{loads}for vlan in 10 20; do\n\
                 ip link add link eth0 name eth0.$vlan type vlan id $vlan; ip link set eth0.$vlan up\n\
                 done\n\
                 ip address add 10.96.0.3/24 dev eth0.10\n\
                 ip address add 10.96.0.4/32 dev eth0.20; ip route add 10.96.0.2 dev eth0.20\n\
                 echo network up; read line </dev/console\n\
                 echo BEGIN pings; ping -c 3 -W 20 10.96.0.1; ping -c 3 -W 20 -I eth0.20 10.96.0.2; echo END pings\n"
            ),
        );
        third.expect("network up", LIMIT);
        switch.net(&["vlan", "lan", "set", "guest2/net0", "--vlan", "20"]);
        third.type_in("\n");
        let third = third.wait(LIMIT);
        third.assert_clean();
        let pings = third.section("pings");
        assert_eq!(
            pings.matches("3 packets transmitted, 3 packets received").count(),
            2,
            "{pings}"
        );
    } else {
        eprintln!(
            "SKIPPED a_trunk_sees_both_vlans: needs the modules of Debian's guest kernel under target/guest"
        );
    }
    for guest in [&mut server, &mut client] {
        guest.type_in("\n");
    }
    let (server, client) = (server.wait(LIMIT), client.wait(LIMIT));
    server.assert_clean();
    client.assert_clean();
    assert_eq!(server.section("got"), client.section("sent"));
    let packets: u64 = client.section("packets").trim().parse().unwrap();
    let whole = u64::from(megabytes()) << 20;
    let seconds: Vec<f64> = client
        .section("seconds")
        .split_whitespace()
        .map(|time| time.parse().unwrap())
        .collect();
    let rate = whole as f64 * 8.0 / (seconds[1] - seconds[0]) / 1e6;
    eprintln!(
        "TCP from guest to guest, generated and hashed on the way: {rate:.0} Mbit/s, {packets} packets"
    );
    assert!(
        packets < whole / 1600,
        "large segments were used: {packets} packets"
    );
}
