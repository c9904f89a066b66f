//! Streams of volumes' bytes, both ways.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::hostile::{REMOTE, call, receive};
use crate::setup::{Host, field, wait_until};
use crate::volumes::{MIB, noise, sha256, taken};

const UPLOAD: u32 = 208;
const DOWNLOAD: u32 = 209;
const LOOKUP_BY_NAME: u32 = 95;
const POOL_BY_NAME: u32 = 84;
/// Types of packets and how they stand.
const STREAM: u32 = 3;
const HOLE: u32 = 6;
const OK: u32 = 0;
const ERROR: u32 = 1;
const CONTINUE: u32 = 2;

/// A file of 64 MiB with some data in the middle and at the end.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(&[7; 100_000], 20 * MIB + 4096).unwrap();
    file.write_all_at(b"the end", 64 * MIB - 7).unwrap();
}

#[test]
fn bytes_go_in_and_come_out() {
    let host = Host::start();
    let (local, back) = (host.path("local"), host.path("back"));
    // Not a whole number of packets, pages or sectors.
    let bytes = noise(&local, (5 << 20) + 12_345);
    host.virsh("vol-create-as default v 8M --allocation 0");
    host.virsh(&format!("vol-upload v {} default", local.display()));
    host.virsh(&format!("vol-download v {} default", back.display()));
    let got = fs::read(&back).unwrap();
    assert_eq!(got.len() as u64, 8 * MIB);
    assert!(got[..bytes.len()] == bytes && got[bytes.len()..].iter().all(|byte| *byte == 0));
    // A part of it.
    host.virsh(&format!(
        "vol-download v {} default --offset 1001 --length 70000",
        back.display()
    ));
    assert!(fs::read(&back).unwrap() == bytes[1001..71_001], "a part differs");
    host.virsh(&format!(
        "vol-download v {} default --offset 8388600",
        back.display()
    ));
    assert_eq!(fs::read(&back).unwrap(), [0; 8]);
    let part = host.path("part");
    fs::write(&part, "a part").unwrap();
    host.virsh(&format!(
        "vol-upload v {} default --offset 3 --length 6",
        part.display()
    ));
    let mut begin = [0; 12];
    File::open(host.volume("v"))
        .unwrap()
        .read_exact_at(&mut begin, 0)
        .unwrap();
    assert_eq!(
        (&begin[..3], &begin[3..9], &begin[9..]),
        (&bytes[..3], &b"a part"[..], &bytes[9..12])
    );
    // More than the volume has makes it larger, as with libvirt; more than was announced does not come.
    host.virsh("vol-create-as default small 1k");
    host.virsh(&format!("vol-upload small {} default", local.display()));
    assert_eq!(sha256(&host.volume("small")), sha256(&local));
    let said = host.refused(&format!(
        "vol-upload small {} default --length 100",
        local.display()
    ));
    assert!(
        said.contains("more data than the length that was announced"),
        "{said}"
    );
    assert_eq!(sha256(&host.volume("small")), sha256(&local));
    let said = host.refused(&format!(
        "vol-download v {} default --offset 8388609",
        back.display()
    ));
    assert!(said.contains("the volume ends at 8388608 bytes"), "{said}");
}

#[test]
fn holes_stay_holes() {
    let host = Host::start();
    let (local, back) = (host.path("local"), host.path("back"));
    sparse(&local);
    host.virsh("vol-create-as default v 64M");
    let path = host.volume("v");
    noise(&path, 64 << 20);
    assert!(taken(&path) >= 64 * MIB);
    host.virsh(&format!("vol-upload v {} default --sparse", local.display()));
    assert_eq!(sha256(&path), sha256(&local));
    assert!(taken(&path) < 2 * MIB, "{}", taken(&path));
    host.virsh(&format!("vol-download v {} default --sparse", back.display()));
    assert_eq!(sha256(&back), sha256(&local));
    assert!(taken(&back) < 2 * MIB, "{}", taken(&back));
    // With a hole at the end, and only a part.
    host.virsh("vol-resize v 66M default");
    host.virsh(&format!(
        "vol-download v {} default --sparse --offset 20971520",
        back.display()
    ));
    assert_eq!(back.metadata().unwrap().len(), 46 * MIB);
    let mut middle = [0; 3];
    File::open(&back)
        .unwrap()
        .read_exact_at(&mut middle, 4095)
        .unwrap();
    assert_eq!(middle, [0, 7, 7]);
    assert!(taken(&back) < 2 * MIB);
    host.virsh(&format!(
        "vol-upload v {} default --sparse --offset 2",
        local.display()
    ));
    let mut moved = [0; 7];
    File::open(&path)
        .unwrap()
        .read_exact_at(&mut moved, 64 * MIB - 5)
        .unwrap();
    assert_eq!(&moved, b"the end");
}

/// A client that speaks the protocol itself, with pool and volume as they are on the wire.
struct Client {
    stream: UnixStream,
    volume: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl Client {
    fn of(host: &Host, volume: &str) -> Self {
        let stream = UnixStream::connect(host.path("sock")).unwrap();
        let mut client = Self {
            stream,
            volume: Vec::new(),
        };
        let pool = client.ask(POOL_BY_NAME, &string("default"));
        client.volume = client.ask(LOOKUP_BY_NAME, &[pool, string(volume)].concat());
        client
    }

    fn ask(&mut self, procedure: u32, payload: &[u8]) -> Vec<u8> {
        self.stream
            .write_all(&call(REMOTE, procedure, 1, payload))
            .unwrap();
        let (words, payload) = receive(&mut self.stream);
        assert_eq!(
            (words[3], words[5]),
            (1, OK),
            "{}",
            String::from_utf8_lossy(&payload)
        );
        payload
    }

    /// Opens a stream of all bytes.
    fn open(&mut self, procedure: u32, sparse: bool) {
        let payload = [
            self.volume.clone(),
            vec![0; 16],
            u32::from(sparse).to_be_bytes().to_vec(),
        ]
        .concat();
        self.ask(procedure, &payload);
    }

    fn send(&mut self, procedure: u32, kind: u32, status: u32, payload: &[u8]) {
        let mut packet = call(REMOTE, procedure, 1, payload);
        packet[16..20].copy_from_slice(&kind.to_be_bytes());
        packet[24..28].copy_from_slice(&status.to_be_bytes());
        self.stream.write_all(&packet).unwrap();
    }

    /// How the next packet of this call and type stands.
    fn until(&mut self, serial: u32, kind: u32) -> u32 {
        loop {
            let (words, _) = receive(&mut self.stream);
            if (words[4], words[3]) == (serial, kind) {
                return words[5];
            }
        }
    }

    /// The next packet's type, how it stands, and its payload.
    fn next(&mut self) -> (u32, u32, Vec<u8>) {
        let (words, payload) = receive(&mut self.stream);
        (words[3], words[5], payload)
    }
}

fn hole(length: i64) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[0; 4]].concat()
}

#[test]
fn a_client_that_does_not_read_costs_no_memory_and_nobody_else_time() {
    let host = Host::start();
    host.virsh("vol-create-as default v 256M --allocation 0");
    let memory = || {
        field(&host.proc("status"), "VmRSS")
            .trim_end_matches(" kB")
            .parse::<u64>()
            .unwrap()
    };
    let before = memory();
    let mut stalled: Vec<_> = (0..4).map(|_| Client::of(&host, "v")).collect();
    for client in &mut stalled {
        client.open(DOWNLOAD, false);
    }
    // As much as is sent ahead has been sent once nothing more is read from the disk.
    let read = || field(&host.proc("io"), "rchar").parse::<u64>().unwrap();
    let mut last = 0;
    wait_until("the daemon waits for its clients", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        std::mem::replace(&mut last, read()) == last
    });
    // The outbox and the socket's buffer of each.
    assert!(memory() < before + 4 * 4096, "{} after {before}", memory());
    let back = host.path("back");
    host.virsh(&format!(
        "vol-download v {} default --length 1000000",
        back.display()
    ));
    assert_eq!(back.metadata().unwrap().len(), 1_000_000);
    // One that reads after all gets everything.
    let client = &mut stalled[0];
    let mut count = 0;
    loop {
        let (kind, status, payload) = client.next();
        assert_eq!((kind, status), (STREAM, CONTINUE));
        assert!(payload.iter().all(|byte| *byte == 0) && payload.len() <= 262_120);
        if payload.is_empty() {
            break;
        }
        count += payload.len() as u64;
    }
    assert_eq!(count, 256 * MIB);
    client.send(DOWNLOAD, STREAM, OK, &[]);
    assert_eq!(client.next(), (STREAM, OK, Vec::new()));
    drop(stalled);
    host.virsh("vol-delete v default");
}

#[test]
fn a_client_that_dies_in_the_middle_harms_no_one() {
    let host = Host::start();
    host.virsh("vol-create-as default v 64M --allocation 0");
    let fifo = host.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut virsh = host.command(&format!("vol-upload v {} default", fifo.display()));
    let mut virsh = virsh.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut into = File::options().write(true).open(&fifo).unwrap();
    into.write_all(&[9; 1 << 20]).unwrap();
    let path = host.volume("v");
    let has_come = |path: &Path| {
        let mut byte = [0];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut byte, 500_000)
            .unwrap();
        byte == [9]
    };
    wait_until("the first bytes are in the volume", || has_come(&path));
    // Meanwhile others look, and do not touch it.
    host.virsh("vol-info v default");
    for command in [
        "vol-wipe v default",
        "vol-delete v default",
        "vol-resize v 65M default",
    ] {
        let said = host.refused(command);
        assert!(said.contains("is in use"), "{command}: {said}");
    }
    assert!(
        host.refused("pool-destroy default")
            .contains("asynchronous jobs running")
    );
    virsh.kill().unwrap();
    virsh.wait().unwrap();
    wait_until("the volume is free again", || {
        host.command("vol-wipe v default")
            .output()
            .unwrap()
            .status
            .success()
    });
    host.virsh("vol-delete v default");
    host.virsh("pool-destroy default");
}

#[test]
fn streams_that_say_what_cannot_be() {
    let host = Host::start();
    let fresh = |name: &str| {
        let _ = host.command(&format!("vol-delete {name} default")).output();
        host.virsh(&format!("vol-create-as default {name} 1M"));
        Client::of(&host, name)
    };
    for (sparse, kind, payload) in [
        // A hole that nobody announced, of no size, and of more than a file can have; one that is none.
        (false, HOLE, hole(4096)),
        (true, HOLE, hole(-1)),
        (true, HOLE, hole(i64::MAX)),
        (true, HOLE, vec![0; 3]),
    ] {
        let mut client = fresh("v");
        client.open(UPLOAD, sparse);
        client.send(UPLOAD, STREAM, CONTINUE, &[5; 4096]);
        client.send(UPLOAD, kind, CONTINUE, &payload);
        let (kind, status, _) = client.next();
        assert_eq!((kind, status), (STREAM, ERROR), "{payload:?}");
        // What is still on its way is dropped, and the connection goes on.
        client.send(UPLOAD, STREAM, CONTINUE, &[5; 4096]);
        client.send(UPLOAD, STREAM, ERROR, &[]);
        assert_eq!(client.next(), (STREAM, OK, Vec::new()));
        client.ask(59, &[]);
        assert_eq!(host.volume("v").metadata().unwrap().len(), MIB);
    }
    // Data on the way that goes to the client only.
    let mut client = fresh("w");
    client.open(DOWNLOAD, false);
    client.send(DOWNLOAD, STREAM, CONTINUE, b"x");
    loop {
        match client.next() {
            (STREAM, CONTINUE, _) => {}
            (kind, status, payload) => {
                assert_eq!(
                    (kind, status),
                    (STREAM, ERROR),
                    "{}",
                    String::from_utf8_lossy(&payload)
                );
                break;
            }
        }
    }
    // As many streams as a client may have, and no more before one of them ends.
    let mut client = fresh("x");
    let payload = [client.volume.clone(), vec![0; 20]].concat();
    let open = |client: &mut Client, serial: u32| {
        client
            .stream
            .write_all(&call(REMOTE, DOWNLOAD, serial, &payload))
            .unwrap();
        client.until(serial, 1)
    };
    for serial in 0..20 {
        let expected = if serial < 16 { OK } else { ERROR };
        assert_eq!(open(&mut client, serial), expected, "{serial}");
    }
    let mut abort = call(REMOTE, DOWNLOAD, 3, &[]);
    abort[16..20].copy_from_slice(&STREAM.to_be_bytes());
    abort[24..28].copy_from_slice(&ERROR.to_be_bytes());
    client.stream.write_all(&abort).unwrap();
    while client.until(3, STREAM) != OK {}
    assert_eq!(open(&mut client, 21), OK);
    assert!(host.virsh("vol-list default").contains('x'));
}
