//! Frames between peers on stream sockets.

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::support::switch::{Peer, Switch, broadcast};

const VLANS: &str = "
[[port]]
name = \"a\"
listen = \"FOLDER/a\"
vlan = 10
[[port]]
name = \"b\"
listen = \"FOLDER/b\"
vlan = 20
[[port]]
name = \"c\"
listen = \"FOLDER/c\"
vlan = 10
[[port]]
name = \"trunk\"
listen = \"FOLDER/trunk\"
trunk = \"10,20\"
";

/// Access ports reach those of their VLAN only, a trunk sees both with their tags.
#[test]
fn vlans_are_apart_and_a_trunk_sees_both() {
    let switch = Switch::start(VLANS);
    let [mut a, mut b, mut c, mut trunk] = ["a", "b", "c", "trunk"].map(|name| switch.peer(name));
    a.send(&broadcast(1, None, "from a"));
    assert_eq!(c.receive(), broadcast(1, None, "from a"));
    assert_eq!(trunk.receive(), broadcast(1, Some(10), "from a"));
    b.send(&broadcast(2, None, "from b"));
    assert_eq!(trunk.receive(), broadcast(2, Some(20), "from b"));
    trunk.send(&broadcast(3, Some(20), "to b"));
    trunk.send(&broadcast(3, Some(10), "to a and c"));
    trunk.send(&broadcast(3, Some(30), "to nobody"));
    trunk.send(&broadcast(3, Some(20), "to b again"));
    // The first that each of them gets: nothing from the other VLAN came before.
    assert_eq!(b.receive(), broadcast(3, None, "to b"));
    assert_eq!(b.receive(), broadcast(3, None, "to b again"));
    assert_eq!(a.receive(), broadcast(3, None, "to a and c"));
    assert_eq!(c.receive(), broadcast(3, None, "to a and c"));
    let stations = switch.net(&["fdb", "lan", "--vlan", "10"]);
    assert_eq!(stations["stations"].as_array().unwrap().len(), 2, "{stations:#}");
    let dropped = switch.port("trunk").unwrap()["counters"]["dropped"].clone();
    assert_eq!(dropped, serde_json::json!({ "not-a-member": 1 }));
}

/// What a station was heard on is where frames for it go, and nowhere else.
#[test]
fn a_known_station_is_reached_alone() {
    let switch = Switch::start(
        &["a", "b", "c"]
            .map(|name| format!("[[port]]\nname = \"{name}\"\nlisten = \"FOLDER/{name}\"\n"))
            .concat(),
    );
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| switch.peer(name));
    b.send(&broadcast(2, None, "here"));
    assert_eq!(a.receive(), broadcast(2, None, "here"));
    assert_eq!(c.receive(), broadcast(2, None, "here"));
    let mut unicast = broadcast(1, None, "for b");
    unicast[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    a.send(&unicast);
    assert_eq!(b.receive(), unicast);
    a.send(&broadcast(1, None, "for all"));
    assert_eq!(c.receive(), broadcast(1, None, "for all"), "not what was for b");
}

/// A port that listens takes the next peer when one is gone; one that connects finds its peer again.
#[test]
fn peers_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let switch = Switch::start(&format!(
        "[[port]]\nname = \"a\"\nlisten = \"FOLDER/a\"\n[[port]]\nname = \"out\"\nconnect = \"{}\"\n",
        path.display()
    ));
    for round in 0..2 {
        let mut a = switch.peer("a");
        let listener = UnixListener::bind(&path).unwrap();
        let mut out = Peer::new(listener.accept().unwrap().0);
        switch.until_up("out", true);
        let text = format!("round {round}");
        a.send(&broadcast(1, None, &text));
        assert_eq!(out.receive(), broadcast(1, None, &text));
        // A second peer at a port is hung up on, and the first stays.
        let mut second = Peer::new(std::os::unix::net::UnixStream::connect(switch.path("a")).unwrap());
        assert!(second.try_receive().is_err());
        out.send(&broadcast(2, None, &text));
        assert_eq!(a.receive(), broadcast(2, None, &text));
        drop((a, out, listener));
        std::fs::remove_file(&path).unwrap();
        switch.until_up("a", false);
        switch.until_up("out", false);
    }
}

/// QEMU's own framing: one of its hubs, connected to two VLANs by `-netdev stream`, is the only way between them.
#[test]
fn qemu_joins_two_vlans() {
    if Command::new("qemu-system-x86_64")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("SKIPPED qemu_joins_two_vlans: needs qemu-system-x86_64 (Debian: qemu-system-x86)");
        return;
    }
    let switch = Switch::start(&format!(
        "{VLANS}[[port]]\nname = \"q\"\nlisten = \"FOLDER/q\"\nvlan = 10\n[[port]]\nname = \"r\"\nlisten = \"FOLDER/r\"\nvlan = 20\n"
    ));
    let [mut a, mut b] = ["a", "b"].map(|name| switch.peer(name));
    let stream = |id: &str| {
        let path = switch.path(id);
        format!(
            "stream,id={id},server=off,addr.type=unix,addr.path={}",
            path.display()
        )
    };
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-M", "none", "-nodefaults", "-display", "none"])
        .args([
            "-netdev",
            &stream("q"),
            "-netdev",
            "hubport,id=h,hubid=0,netdev=q",
        ])
        .args([
            "-netdev",
            &stream("r"),
            "-netdev",
            "hubport,id=i,hubid=0,netdev=r",
        ])
        .spawn()
        .unwrap();
    switch.until_up("q", true);
    switch.until_up("r", true);
    for length in [60, 61, 1514] {
        let mut frame = broadcast(1, None, "through QEMU");
        frame.resize(length, 7);
        a.send(&frame);
        assert_eq!(b.receive(), frame);
        frame[11] = 2;
        b.send(&frame);
        assert_eq!(a.receive(), frame);
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    switch.until_up("q", false);
}
