//! Peers and clients that do not keep to the rules. Others do not suffer.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use ostler_netio::FrameRings;
use ostler_switchd::client::Client;
use ostler_switchd::config::PortSpec;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::switch::{Switch, broadcast};

/// More of the shortest frames than a ring has room for.
const A_RING: usize = 20_000;
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
        // What it says of what it took shows when the switch has sent a whole ring.
        let [mut a, b] = ["a", "b"].map(|name| switch.peer(name));
        for _ in 0..A_RING {
            a.send(&broadcast(1, None, "for all"));
        }
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

/// Sends bytes with descriptors.
fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap(), bytes.len());
}

/// A message of a vhost-user front end whose payload are these words.
fn message(request: u32, payload: &[u64]) -> Vec<u8> {
    let header = [request, 1, 8 * payload.len() as u32].map(u32::to_ne_bytes);
    let words: Vec<u8> = payload.iter().flat_map(|word| word.to_ne_bytes()).collect();
    [&header.concat()[..], &words].concat()
}

/// Front ends that lie about memory, close in the middle of a message, send too many descriptors, or take their memory away while the
/// switch uses it lose their connection and are told apart; frames of others pass all the while, and the next front end is served.
#[test]
fn a_vhost_user_front_end_harms_only_itself() {
    const MEMORY: u64 = 1 << 20;
    const USER: u64 = 0x7000_0000_0000;
    let switch = Switch::start(
        "[[port]]\nname = \"a\"\nlisten = \"FOLDER/a\"\n[[port]]\nname = \"b\"\nlisten = \"FOLDER/b\"\n\
         [[port]]\nname = \"guest\"\nvhost-user = \"FOLDER/guest\"\n",
    );
    let [mut a, mut b] = ["a", "b"].map(|name| switch.peer(name));
    let connect = || UnixStream::connect(switch.path("guest")).unwrap();
    let memory = || {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, MEMORY).unwrap();
        file
    };
    let table = |len: u64| message(5, &[1, 0, len, USER, 0]);
    let mut ends_with = |why: &str, socket: UnixStream| {
        switch.until(why, |switch| {
            let port = switch.port("guest").unwrap();
            port["why-down"]
                .as_str()
                .is_some_and(|reason| reason.contains(why))
        });
        a.send(&broadcast(1, None, why));
        assert_eq!(b.receive(), broadcast(1, None, why));
        drop(socket);
    };
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();

    let socket = connect();
    send_with(&socket, &message(5, &[1])[..14], &[memory().as_fd()]);
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    ends_with("in the middle of a message", socket);
    let socket = connect();
    send_with(&socket, &table(2 * MEMORY), &[memory().as_fd()]);
    ends_with("beyond the end of its file", socket);
    let socket = connect();
    send_with(&socket, &table(MEMORY), &[event.as_fd()]);
    ends_with("memory file system", socket);
    let socket = connect();
    send_with(&socket, &message(3, &[]), &[event.as_fd(); 16]);
    ends_with("more descriptors", socket);

    let socket = connect();
    let file = memory();
    send_with(&socket, &message(2, &[1 << 32]), &[]);
    send_with(&socket, &table(MEMORY), &[file.as_fd()]);
    for ring in 0..2u64 {
        let at = USER + 0x1_0000 * (ring + 1);
        send_with(&socket, &message(8, &[ring | 16 << 32]), &[]);
        send_with(
            &socket,
            &message(9, &[ring, at, at + 0x2000, at + 0x1000, 0]),
            &[],
        );
        send_with(&socket, &message(13, &[ring]), &[event.as_fd()]);
        send_with(&socket, &message(12, &[ring]), &[event.as_fd()]);
    }
    let refused = |switch: &Switch| {
        switch.port("guest").unwrap()["why-down"]
            .to_string()
            .contains("io_uring")
    };
    switch.until("started", |switch| {
        switch.port("guest").unwrap()["up"] == true || refused(switch)
    });
    if refused(&switch) {
        eprintln!("SKIPPED a_vhost_user_front_end_harms_only_itself (in part): the host refuses io_uring");
        return;
    }
    // The socket stays open: the loss is noticed by what the switch does itself.
    rustix::fs::ftruncate(&file, 0).unwrap();
    rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
    ends_with("took memory away", socket);
    let socket = connect();
    ends_with("has not started its card", socket);
    switch.until("gone", |switch| {
        let port = switch.port("guest").unwrap();
        port["why-down"] == "the front end closed the connection"
    });
}
