//! Tiny guests: 32-bit code, addresses to listen at, and clients that are no debuggers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::gdb::Gdb;
use crate::support::process::listens;
use crate::tiny::{Kernel, Tiny, wait_until};

/// Where a tiny kernel begins.
const ENTRY: u64 = 0x10_0020;

/// Random bytes, the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }

    /// A packet with a good checksum and nonsense in it, which does not kill the guest.
    fn packet(&mut self) -> Vec<u8> {
        let count = 8 + self.next() % 60;
        let mut body = self.bytes(count);
        body.iter_mut()
            .for_each(|byte| *byte = if b"$#}k".contains(byte) { b'm' } else { *byte });
        let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        [b"$".to_vec(), body, format!("#{sum:02x}").into_bytes()].concat()
    }
}

/// Whether a debugger's client gets an answer at `path`.
fn answers(path: &Path) -> bool {
    let Ok(mut peer) = UnixStream::connect(path) else {
        return false;
    };
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if peer.write_all(b"$qC#b4").is_err() {
        return false;
    }
    let mut answer = [0; 8];
    peer.read_exact(&mut answer).is_ok() && &answer == b"+$QC1#c5"
}

#[test]
fn clients_that_are_no_debuggers_harm_neither_guest_nor_debugger() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").echo().power_off());
    let path = tiny.path_option("--gdb", "", "gdb");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut noise = Noise(0x1234_5678_9abc_def1);
    for round in 0..30 {
        wait_until("the debugger's socket", || answers(&path));
        let mut peer = UnixStream::connect(&path).unwrap();
        for _ in 0..50 {
            let bytes = match round % 3 {
                0 => noise.bytes(200),
                _ => noise.packet(),
            };
            // A packet may make it hang up.
            if peer.write_all(&bytes).is_err() {
                break;
            }
        }
        // Some wait for the answer to a question, which stops the guest, and some do not.
        if round % 2 == 0 && peer.write_all(b"#00$?#3f").is_ok() {
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = peer.read(&mut [0; 64]);
        }
    }
    // One that sends a packet without an end, and stays.
    wait_until("the debugger's socket", || answers(&path));
    let mut endless = UnixStream::connect(&path).unwrap();
    endless.write_all(b"$m").unwrap();
    for _ in 0..100 {
        if endless.write_all(&[b'0'; 4096]).is_err() {
            break;
        }
    }
    guest
        .child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"still here q")
        .unwrap();
    guest.expect("still here q");
    assert_eq!(guest.wait().status.code(), Some(0));
}

#[test]
fn gdb_steps_through_32_bit_code_with_32_bit_registers() {
    let Some(mut gdb) = Gdb::start("gdb_steps_through_32_bit_code_with_32_bit_registers") else {
        return;
    };
    let mut tiny = Tiny::new(Kernel::new().print("x").power_off()).args(&["--gdb-wait"]);
    let path = tiny.path_option("--gdb", "", "gdb");
    let guest = tiny.spawn();
    wait_until("the debugger's socket", || listens(&path));
    let connect = format!("target remote {}", path.display());
    gdb.run(&connect);
    assert_eq!(gdb.value("$rip"), ENTRY);
    assert!(gdb.run("monitor architecture i386").contains("next connection"));
    gdb.run("disconnect");
    gdb.run(&connect);
    assert_eq!(gdb.value("$eip"), ENTRY, "it waited for us to come back");
    gdb.run("stepi");
    assert_eq!((gdb.value("$eip"), gdb.value("$esp")), (ENTRY + 5, 0x10_0000));
    let said = gdb.run("x/i $pc");
    assert!(said.contains("mov    $0x3f8,%dx"), "{said}");
    // A word behind the kernel's code: nothing is there, then what was written.
    gdb.run("set {int}0x200000 = 0x12345678");
    assert_eq!(gdb.value("*(int *)0x200000"), 0x1234_5678);
    gdb.run(&format!("break *{:#x}", ENTRY + 11));
    assert!(gdb.run("continue").contains("Breakpoint 1, "));
    assert_eq!((gdb.value("$al"), gdb.value("$dx")), (u64::from(b'x'), 0x3f8));
    gdb.run("set $al = 'y'");
    let said = gdb.run("continue");
    assert!(said.contains("exited normally"), "{said}");
    let ended = guest.wait();
    assert_eq!((ended.status.code(), &ended.output[..]), (Some(0), "y"));
}

#[test]
fn gdb_comes_by_a_port_of_the_loopback_interface() {
    let Some(mut gdb) = Gdb::start("gdb_comes_by_a_port_of_the_loopback_interface") else {
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("tcp:127.0.0.1:{port}");
    let tiny = Tiny::new(Kernel::new().halt()).args(&["--gdb", &address, "--gdb-wait"]);
    let guest = tiny.spawn();
    wait_until("the guest's port", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let said = gdb.run(&format!("target remote 127.0.0.1:{port}"));
    assert!(said.contains("Remote debugging"), "{said}");
    assert_eq!(gdb.value("$rip"), ENTRY);
    // "kill" ends the guest.
    gdb.run("kill");
    assert_eq!(guest.wait().status.code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_bad_input() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let ended = Tiny::new(Kernel::new().halt()).args(&["--gdb", &address]).run();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.errors.contains("choose another port"), "{}", ended.errors);
}
