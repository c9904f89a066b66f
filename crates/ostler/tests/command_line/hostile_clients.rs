//! Clients of the control socket that no one wants: none of them stops the guest, the others, or grows its process.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::control::Client;
use crate::process::guest_process;
use crate::tiny::{Kernel, LIMIT, Running, Tiny, wait_until};

/// What a guest's process may grow by, in KiB: buffers of all clients and what allocators keep.
const GROWTH: u64 = 64 << 10;

fn guest() -> (Running, PathBuf) {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    (guest, control)
}

/// Resident memory of the guest's process in KiB, and its open descriptors.
fn held(guest: &Running) -> (u64, usize) {
    let process = guest_process(guest.child.id());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    (memory, descriptors)
}

/// Writes until everything is written, or the other end has had enough; reads what comes back meanwhile.
fn pour(stream: &mut UnixStream, mut bytes: &[u8]) -> bool {
    let mut answers = [0; 4096];
    stream.set_nonblocking(true).unwrap();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => match stream.read(&mut answers) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return false,
            },
            Err(_) => return false,
        }
    }
    stream.set_nonblocking(false).unwrap();
    true
}

fn end(guest: Running, control: &Path) {
    let mut client = Client::connect(control);
    assert_eq!(client.execute("query-status")["status"], "running");
    client.say(r#"{"execute":"quit"}"#);
    assert_eq!(client.event("SHUTDOWN")["data"]["guest"], false);
    assert_eq!(guest.wait().status.code(), Some(0));
}

#[test]
fn endless_texts_and_random_bytes_grow_nothing() {
    let (guest, control) = guest();
    let (before, _) = held(&guest);
    let mut client = Client::connect(&control);
    let megabyte = vec![b'x'; 1 << 20];
    for opening in ["{\"execute\":\"", "{\"a\":", "", "\""] {
        let mut stream = UnixStream::connect(&control).unwrap();
        assert!(pour(&mut stream, opening.as_bytes()));
        for _ in 0..32 {
            assert!(pour(&mut stream, &megabyte), "a text is skipped, not hung up on");
        }
    }
    let deep = "[".repeat(1 << 20);
    let mut stream = UnixStream::connect(&control).unwrap();
    assert!(pour(&mut stream, deep.as_bytes()) && pour(&mut stream, b"\n"));
    // A generator with a fixed seed (xorshift): the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..64 {
        let mut stream = UnixStream::connect(&control).unwrap();
        let alphabet = b"{}[]\"\\:,\n \t0e-xtrue";
        let bytes: Vec<u8> = (0..16 << 10)
            .map(|_| match round % 2 {
                0 => random() as u8,
                _ => alphabet[random() as usize % alphabet.len()],
            })
            .collect();
        pour(&mut stream, b"{\"execute\":\"qmp_capabilities\"}\n");
        pour(&mut stream, &bytes);
    }
    assert_eq!(client.execute("query-status")["status"], "running");
    let (after, _) = held(&guest);
    assert!(after < before + GROWTH, "from {before} to {after} KiB");
    drop(client);
    end(guest, &control);
}

#[test]
fn half_open_clients_are_answered_and_make_room() {
    let (guest, control) = guest();
    // Whoever shuts his side is still answered.
    let mut half = UnixStream::connect(&control).unwrap();
    half.set_read_timeout(Some(LIMIT)).unwrap();
    half.write_all(
        b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\"}{\"execute\":\"cont\",\"id\":\"last\"}",
    )
    .unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    half.read_to_string(&mut heard).unwrap();
    let last: Value = serde_json::from_str(heard.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({ "return": {}, "id": "last" }), "{heard}");

    let mut silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&control).unwrap()).collect();
    for stream in &mut silent {
        // Whoever is one too many is hung up on.
        let _ = stream.write_all(b"{\"execute\":");
    }
    drop(silent);
    wait_until("room for a client", || {
        let mut stream = UnixStream::connect(&control).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.read(&mut [0; 16]).is_ok_and(|count| count > 0)
    });
    end(guest, &control);
}

#[test]
fn a_thousand_commands_in_one_piece_are_answered_in_order() {
    let (guest, control) = guest();
    let mut client = Client::connect(&control);
    let texts: String = (0..1000)
        .map(|id| {
            json!({ "execute": if id % 3 == 0 { "cont" } else { "query-status" }, "id": id }).to_string()
        })
        .collect();
    client.say(&texts);
    for id in 0..1000 {
        let answer = client.hear();
        assert_eq!(answer["id"], id, "{answer}");
    }
    drop(client);
    end(guest, &control);
}

#[test]
fn descriptors_that_no_command_takes_are_bounded_and_go_with_their_client() {
    let (guest, control) = guest();
    let (_, before) = held(&guest);
    let stream = UnixStream::connect(&control).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let list = [null.as_fd(); 20];
    for _ in 0..50 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&list)));
        sendmsg(&stream, &[IoSlice::new(b" ")], &mut ancillary, SendFlags::empty()).unwrap();
    }
    // A command behind them shows that they were all looked at.
    let mut client = Client::over(stream);
    client.execute("query-status");
    let (_, meanwhile) = held(&guest);
    assert!(
        meanwhile > before && meanwhile <= before + 66,
        "{before} and {meanwhile} descriptors"
    );
    drop(client);
    wait_until("the client's descriptors are closed", || held(&guest).1 <= before);
    end(guest, &control);
}
