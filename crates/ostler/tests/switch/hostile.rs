//! Peers and clients that do not keep to the rules. Others do not suffer.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ostler_netio::FrameRings;
use ostler_switchd::client::Client;
use ostler_switchd::config::PortSpec;

use crate::support::switch::{Switch, broadcast};

const TWO: &str =
    "[[port]]\nname = \"a\"\nlisten = \"FOLDER/a\"\n[[port]]\nname = \"b\"\nlisten = \"FOLDER/b\"\n";

fn attach(switch: &Switch, name: &str) -> (UnixStream, std::os::fd::OwnedFd) {
    let spec = PortSpec {
        name: name.into(),
        ..PortSpec::default()
    };
    let attached = Client::connect(&switch.path("control"))
        .unwrap()
        .attach(&spec)
        .unwrap();
    (attached.connection.into(), attached.memory)
}

/// Two peers still reach each other.
fn assert_works(switch: &Switch) {
    let [mut a, mut b] = ["a", "b"].map(|name| switch.peer(name));
    a.send(&broadcast(1, None, "fine"));
    assert_eq!(b.receive(), broadcast(1, None, "fine"));
    drop((a, b));
    switch.until_up("a", false);
    switch.until_up("b", false);
}

#[test]
fn a_ring_of_ours_passes_frames_and_goes_with_its_guest() {
    let switch = Switch::start(TWO);
    let mut a = switch.peer("a");
    let (mut connection, memory) = attach(&switch, "guest/net0");
    switch.until_up("guest/net0", true);
    let mut rings = FrameRings::join(memory.as_fd()).unwrap();
    for round in 0..100 {
        let text = format!("frame {round}");
        assert!(rings.push(&[&broadcast(9, None, &text)]).unwrap());
        if rings.must_wake() {
            connection.write_all(&[0]).unwrap();
        }
        assert_eq!(a.receive(), broadcast(9, None, &text));
        a.send(&broadcast(1, None, &text));
        let mut frame = Vec::new();
        while rings.pop(&mut frame).unwrap().is_none() {
            if !rings.sleep() {
                connection.read_exact(&mut [0]).unwrap();
            }
        }
        assert_eq!(frame, broadcast(1, None, &text));
    }
    // A namesake gets a name of its own.
    let other = attach(&switch, "guest/net0");
    switch.until_up("guest/net0.2", true);
    drop((connection, other));
    switch.until("gone", |switch| {
        switch.port("guest/net0").is_none() && switch.port("guest/net0.2").is_none()
    });
}

#[test]
fn a_guest_that_writes_nonsense_loses_its_port() {
    let switch = Switch::start(TWO);
    for (at, value) in [
        (1024, 7u32),
        (1024, 1 << 20),
        (1024, 64),
        (1024, !7),
        (64, 9 << 20),
    ] {
        let (mut connection, memory) = attach(&switch, "bad");
        switch.until_up("bad", true);
        let file = std::fs::File::from(memory);
        std::os::unix::fs::FileExt::write_at(&file, &value.to_ne_bytes(), at).unwrap();
        let _ = connection.write_all(&[0; 100]);
        // What it does not take in shows when the switch sends.
        let [mut a, b] = ["a", "b"].map(|name| switch.peer(name));
        a.send(&broadcast(1, None, "for all"));
        drop((a, b));
        switch.until("refused", |switch| switch.port("bad").is_none());
        switch.until_up("a", false);
        switch.until_up("b", false);
        assert_works(&switch);
    }
}

#[test]
fn streams_and_clients_of_noise() {
    let switch = Switch::start(TWO);
    for noise in [&[0xff; 5000][..], &[0; 5000], b"{\"execute\":\"show\"}\n"] {
        let mut stream = UnixStream::connect(switch.path("a")).unwrap();
        let _ = stream.write_all(noise);
        drop(stream);
        switch.until_up("a", false);
        let mut client = UnixStream::connect(switch.path("control")).unwrap();
        let _ = client.write_all(noise);
        let _ = client.write_all(b"\n");
        drop(client);
    }
    // A line without end is not kept, a client that never reads is not waited for.
    let mut endless = UnixStream::connect(switch.path("control")).unwrap();
    let sent = (0..1000).try_for_each(|_| endless.write_all(&[b'x'; 4096]));
    assert!(sent.is_err(), "it is hung up on");
    let mut deaf = UnixStream::connect(switch.path("control")).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let line = b"{\"execute\":\"ports\"}\n".repeat(200);
    while deaf.write(&line).is_ok() {}
    assert_works(&switch);
    // A frame that is announced and never comes, and a reader that takes nothing, hold up nobody.
    let mut slow = switch.peer("a");
    slow.0.write_all(&[0, 0, 4, 0, 1]).unwrap();
    let mut b = switch.peer("b");
    (0..2000).for_each(|number| b.send(&broadcast(2, None, &format!("{number:1400}"))));
    switch.until("full", |switch| {
        switch.port("a").unwrap()["counters"]["egress-dropped"]["queue-full"].as_u64() > Some(0)
    });
    drop((slow, b));
    switch.until_up("a", false);
    switch.until_up("b", false);
    assert_works(&switch);
}
