//! The configuration file and the commands, good and bad.

use std::process::Command;

use crate::support::OSTLER;
use crate::support::switch::{Switch, broadcast};

#[test]
fn ports_come_and_go_by_commands() {
    let switch = Switch::start("");
    let path = |name: &str| switch.path(name).display().to_string();
    switch.net(&["port", "add", "lan", "a", "--listen", &path("a"), "--vlan", "5"]);
    switch.net(&[
        "port",
        "add",
        "lan",
        "b",
        "--listen",
        &path("b"),
        "--trunk",
        "1-9",
        "--native",
        "1",
    ]);
    let [mut a, mut b] = ["a", "b"].map(|name| switch.peer(name));
    a.send(&broadcast(1, None, "x"));
    assert_eq!(b.receive(), broadcast(1, Some(5), "x"));
    switch.net(&["vlan", "lan", "set", "a", "--vlan", "1"]);
    a.send(&broadcast(1, None, "y"));
    assert_eq!(b.receive(), broadcast(1, None, "y"));

    switch.net(&[
        "fdb",
        "lan",
        "add",
        "02:00:00:00:00:09",
        "--port",
        "b",
        "--vlan",
        "7",
    ]);
    let stations = switch.net(&["fdb", "lan", "--port", "b"]);
    assert_eq!(stations["stations"][0]["mac"], "02:00:00:00:00:09");
    assert_eq!(stations["stations"][0]["source"], "static");
    switch.net(&["fdb", "lan", "remove", "02:00:00:00:00:09", "--vlan", "7"]);
    switch.net(&["fdb", "lan", "flush"]);
    assert_eq!(switch.net(&["show", "lan", "--seconds", "0"])["stations"], 0);

    let counted = switch.net(&["counters", "lan", "a"])[0]["counters"].clone();
    assert_eq!(counted["received"], 2, "{counted:#}");
    assert_eq!(counted["forwarded"], 2, "{counted:#}");
    switch.net(&["port", "remove", "lan", "a"]);
    assert!(switch.port("a").is_none() && !switch.path("a").exists());
    assert!(a.try_receive().is_err(), "it is hung up on");

    switch.net(&["port", "add", "lan", "v", "--vhost-user", &path("v")]);
    let port = switch.port("v").unwrap();
    assert_eq!(
        (&port["kind"], &port["place"]),
        (&"vhost-user".into(), &path("v").into())
    );
    assert_eq!(port["why-down"], "nobody is connected");
    let front_end = std::os::unix::net::UnixStream::connect(switch.path("v")).unwrap();
    switch.until("a front end at the port", |switch| {
        switch.port("v").unwrap()["why-down"] == "the guest's driver has not started its card"
    });
    drop(front_end);
    switch.net(&["port", "remove", "lan", "v"]);
    assert!(!switch.path("v").exists());

    for (words, reason) in [
        (&["port", "remove", "lan", "a"][..], "there is no port \"a\""),
        (
            &["port", "add", "lan", "b", "--guest"],
            "another port of that name",
        ),
        (
            &["port", "add", "lan", "c", "--guest", "--tap", "t"],
            "cannot be used with",
        ),
        (
            &["port", "add", "lan", "c", "--guest", "--vlan", "4095"],
            "4095 is not in 1..=4094",
        ),
        (&["port", "add", "lan", "c d", "--guest"], "is no name"),
        (&["port", "add", "lan", "c", "--guest", "mtu=5"], "the MTU is 5"),
        (
            &[
                "fdb",
                "lan",
                "add",
                "02:00:00:00:00:09",
                "--port",
                "b",
                "--vlan",
                "70",
            ],
            "not in VLAN 70",
        ),
        (
            &["fdb", "lan", "add", "ff:ff:ff:ff:ff:ff", "--port", "b"],
            "address of a group",
        ),
    ] {
        let said = switch.try_net(words).unwrap_err();
        assert!(
            said.contains(reason) && said.lines().count() == 1,
            "{words:?}: {said}"
        );
    }
}

/// Settings of ports and of the tree, and mirrors, while the switch runs.
#[test]
fn settings_change_while_frames_pass() {
    let switch = Switch::start(
        "[stp]\n[[port]]\nname = \"a\"\nlisten = \"FOLDER/a\"\nedge = \"on\"\n[[port]]\nname = \"b\"\nlisten = \"FOLDER/b\"\nedge = \"on\"\n\
         [[port]]\nname = \"m\"\nlisten = \"FOLDER/m\"\nedge = \"on\"\n[[mirror]]\nto = \"m\"\ningress = [\"a\"]\n",
    );
    let [mut a, mut b, mut m] = ["a", "b", "m"].map(|name| switch.peer(name));
    let (one, two) = (broadcast(1, None, "one"), broadcast(2, None, "two"));
    // BPDUs pass here too.
    let next = |peer: &mut crate::support::switch::Peer| loop {
        let frame = peer.receive();
        if frame[..3] != [1, 0x80, 0xc2] {
            return frame;
        }
    };
    a.send(&one);
    assert_eq!((next(&mut b), next(&mut m)), (one.clone(), one.clone()));
    b.send(&two);
    assert_eq!(next(&mut a), two);
    switch.net(&["mirror", "add", "lan", "m", "--egress", "a"]);
    assert_eq!(
        switch.net(&["mirror", "list", "lan"]),
        serde_json::json!([{ "to": "m", "ingress": [], "egress": ["a"] }])
    );
    a.send(&one);
    b.send(&two);
    assert_eq!(next(&mut a), two);
    assert_eq!(next(&mut m), two, "the first copy since");
    switch.net(&["mirror", "remove", "lan", "m"]);
    switch.until("m forwards", |switch| {
        switch.port("m").unwrap()["forwarding"] == true
    });
    a.send(&one);
    assert_eq!(next(&mut m), one, "as to any port");

    switch.net(&[
        "port",
        "set",
        "lan",
        "a",
        "isolated=on",
        "mtu=9000",
        "multicast-router=never",
    ]);
    switch.net(&[
        "port",
        "set",
        "lan",
        "b",
        "isolated=on",
        "mac=02:00:00:00:00:02",
        "addresses=10.0.0.2,fe80::2",
    ]);
    assert_eq!(switch.port("a").unwrap()["mtu"], 9000);
    let before = switch.port("b").unwrap()["counters"]["sent"].clone();
    a.send(&broadcast(1, None, "apart"));
    assert_eq!(next(&mut m), broadcast(1, None, "apart"));
    assert_eq!(switch.port("b").unwrap()["counters"]["sent"], before);
    b.send(&broadcast(9, None, "not mine"));
    switch.until("dropped", |switch| {
        switch.port("b").unwrap()["counters"]["dropped"]["spoofed-mac"] == 1
    });
    switch.net(&[
        "port",
        "set",
        "lan",
        "b",
        "isolated=off",
        "mac=none",
        "addresses=none",
    ]);
    b.send(&broadcast(9, None, "mine again"));
    assert_eq!(next(&mut a), broadcast(9, None, "mine again"));

    switch.net(&["stp", "lan", "set", "--priority", "4096", "--hello", "1"]);
    let tree = switch.net(&["show", "lan", "--seconds", "0"])["stp"].clone();
    assert_eq!(tree["hello"], 1);
    assert!(tree["id"].as_str().unwrap().starts_with("1000."), "{tree:#}");
    for (words, reason) in [
        (&["port", "set", "lan", "a", "name=x"][..], "cannot be changed"),
        (&["port", "set", "lan", "a", "speed=9"], "unknown field `speed`"),
        (&["port", "set", "lan", "a", "mtu=5"], "the MTU is 5"),
        (
            &["port", "set", "lan", "nobody", "mtu=1500"],
            "there is no port \"nobody\"",
        ),
        (&["stp", "lan", "set", "--priority", "5"], "multiple of 4096"),
        (
            &["mirror", "add", "lan", "m", "--ingress", "nobody"],
            "there is no such port",
        ),
        (
            &["mirror", "add", "lan", "m", "--ingress", "m"],
            "cannot be mirrored to itself",
        ),
    ] {
        let said = switch.try_net(words).unwrap_err();
        assert!(
            said.contains(reason) && said.lines().count() == 1,
            "{words:?}: {said}"
        );
    }
}

#[test]
fn people_get_tables() {
    let switch = Switch::start("[stp]\n[[port]]\nname = \"a\"\nguest = true\n");
    let table = |words: &[&str]| {
        let output = Command::new(OSTLER)
            .arg("net")
            .args(switch.named(words))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(
        table(&["show", "lan", "--seconds", "0"])
            .starts_with("lan (switch), up, 1 port, 0 stations, process "),
        "{}",
        table(&["show", "lan", "--seconds", "0"])
    );
    for words in [
        &["port", "list", "lan"][..],
        &["stp", "lan"],
        &["vlan", "lan"],
        &["counters", "lan"],
    ] {
        assert!(table(words).contains("\na "), "{words:?}: {}", table(words));
    }
    assert!(table(&["fdb", "lan"]).starts_with("STATION"));
}

#[test]
fn a_bad_configuration_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lan.toml");
    for (text, line, reason) in [
        (
            "name = \"lan\"\n[[port]]\nname = \"a\"\nguest = true\nvlan = 4095\n",
            2,
            "VLAN 4095 does not exist",
        ),
        ("name = \"lan\"\nports = 1\n", 2, "unknown field `ports`"),
        ("name = ", 1, "value"),
    ] {
        std::fs::write(&file, text).unwrap();
        let run = Command::new(OSTLER)
            .args(["switch", "run", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2));
        assert!(
            said.contains(&format!("line {line}: ")) && said.contains(reason),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let gone = Command::new(OSTLER)
        .args(["net", "show", "./nobody"])
        .output()
        .unwrap();
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("no switch answers at \"./nobody\""), "{said}");
}

/// A second one does not take the first one's place; a dead one's socket is replaced.
#[test]
fn one_switch_a_socket() {
    let mut switch = Switch::start("");
    let second = Command::new(OSTLER)
        .args(["switch", "run", "--config"])
        .arg(switch.path("lan.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(
        said.contains("runs at") && second.status.code() == Some(2),
        "{said}"
    );
    switch.child.kill().unwrap();
    switch.child.wait().unwrap();
    assert!(switch.path("control").exists());
    switch.start_again();
    assert_eq!(switch.net(&["show", "lan", "--seconds", "0"])["name"], "lan");
    switch.end();
    assert!(!switch.path("control").exists());
}
