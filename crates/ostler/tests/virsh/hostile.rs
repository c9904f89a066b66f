//! Clients that mean no good, or too much of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::setup::{Host, linux};

pub const REMOTE: u32 = 0x2000_8086;
const QEMU: u32 = 0x2000_8087;
const GET_HOSTNAME: u32 = 59;

pub fn call(program: u32, procedure: u32, serial: u32, payload: &[u8]) -> Vec<u8> {
    let words = [28 + payload.len() as u32, program, 1, procedure, 0, serial, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(payload);
    bytes
}

/// The next packet: its header's words after the length, and its payload.
pub fn receive(stream: &mut UnixStream) -> (Vec<u32>, Vec<u8>) {
    let mut head = [0; 28];
    stream.read_exact(&mut head).unwrap();
    let words: Vec<u32> = head
        .chunks(4)
        .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
        .collect();
    let mut payload = vec![0; words[0] as usize - 28];
    stream.read_exact(&mut payload).unwrap();
    (words[1..].to_vec(), payload)
}

#[test]
fn a_hundred_clients_with_ten_calls_each_are_all_answered() {
    let host = Host::start();
    let mut clients: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(host.path("sock")).unwrap())
        .collect();
    for client in &mut clients {
        let calls: Vec<u8> = (0..10)
            .flat_map(|serial| call(REMOTE, GET_HOSTNAME, serial, &[]))
            .collect();
        client.write_all(&calls).unwrap();
    }
    let ping: Vec<u8> = [28u32, 0x6b65_6570, 1, 1, 2, 0, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect();
    for client in &mut clients {
        client.write_all(&ping).unwrap();
        let mut serials = Vec::new();
        let mut pongs = 0;
        for _ in 0..11 {
            let (words, payload) = receive(client);
            if words[0] == REMOTE {
                assert_eq!((words[2], words[3], words[5]), (GET_HOSTNAME, 1, 0));
                assert!(!payload.is_empty());
                serials.push(words[4]);
            } else {
                assert_eq!((words[2], words[3]), (2, 2), "a pong");
                pongs += 1;
            }
        }
        serials.sort_unstable();
        assert_eq!((serials, pongs), ((0..10).collect(), 1));
    }
}

#[test]
fn nonsense_ends_one_connection_and_nothing_else() {
    let host = Host::start();
    let file = host.xml("a.xml", &linux("alpha", ""));
    host.virsh(&format!("define {file}"));
    // Lengths and types that cannot be: hung up on.
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        27u32.to_be_bytes().repeat(7),
        u32::MAX.to_be_bytes().repeat(7),
        vec![0; 64],
    ] {
        let mut client = UnixStream::connect(host.path("sock")).unwrap();
        client.write_all(&bytes).unwrap();
        assert_eq!(client.read(&mut [0; 64]).unwrap_or(0), 0);
    }
    // Calls that cannot be: answered with an error, and the connection goes on.
    let mut client = UnixStream::connect(host.path("sock")).unwrap();
    for (program, procedure, payload, says) in [
        (REMOTE, 4711, &[][..], "procedure 4711"),
        (0x0006_8000, 1, &[], "Cannot find program"),
        (QEMU, 4711, &[], "procedure 4711"),
        (QEMU, 1, &[0xff; 4], "Unable to decode"),
        (REMOTE, 23, &[], "Unable to decode"),
        (REMOTE, 23, &[0xff; 4], "Unable to decode"),
        (REMOTE, GET_HOSTNAME, &[0; 4], "Unable to decode"),
        (REMOTE, 273, &[0, 0, 0, 1, 0xff, 0, 0, 0], "unsupported flags"),
    ] {
        client.write_all(&call(program, procedure, 9, payload)).unwrap();
        let (words, payload) = receive(&mut client);
        assert_eq!((words[3], words[4], words[5]), (1, 9, 1));
        assert!(String::from_utf8_lossy(&payload).contains(says), "{says}");
    }
    // A packet of which nothing more comes, and one that asks without listening.
    let mut silent = UnixStream::connect(host.path("sock")).unwrap();
    silent
        .write_all(&call(REMOTE, GET_HOSTNAME, 0, &[])[..20])
        .unwrap();
    let mut deaf = UnixStream::connect(host.path("sock")).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let calls: Vec<u8> = (0..1000)
        .flat_map(|serial| call(REMOTE, 7, serial, &[]))
        .collect();
    for _ in 0..100 {
        let _ = deaf.write(&calls);
    }
    assert_eq!(host.virsh("list --all --name").trim(), "alpha");
}
