//! The flash chips against those that UEFI firmware for virtual machines is written for: QEMU's, asked by its test protocol.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ostler_machine::{Blob, Firmware, FirmwareChip, Variables};
use vm_memory::VolatileMemory;

use crate::bench::Bench;
use crate::firmware::with;

const PEER: &str = "/usr/bin/qemu-system-x86_64";
const CODE: usize = 256 << 10;
const STORE: usize = 64 << 10;
const CODE_BASE: u64 = (1 << 32) - CODE as u64;
const STORE_BASE: u64 = CODE_BASE - STORE as u64;

/// QEMU with the same chips at the same places. Its CPU stands still.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(code: &Path, store: &Path) -> Self {
        let drive = |unit: u8, file: &Path, more: &str| {
            let file = file.display();
            format!("if=pflash,format=raw,unit={unit},file={file}{more}")
        };
        let mut child = Command::new(PEER)
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg",
                "-S",
                "-m",
                "64",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args([
                "-drive",
                &drive(0, code, ",readonly=on"),
                "-drive",
                &drive(1, store, ""),
            ])
            .args(["-qtest", "stdio", "-qtest-log", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        // Interrupts are told in between.
        while !line.starts_with("OK") {
            line.clear();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "{command}: QEMU ended"
            );
            assert!(!line.starts_with("FAIL"), "{command}: {line}");
        }
        line
    }

    fn read(&mut self, gpa: u64, width: usize) -> u64 {
        let answer = self.ask(&format!("read{} {gpa:#x}", letter(width)));
        let value = answer.trim().trim_start_matches("OK 0x");
        u64::from_str_radix(value, 16).unwrap()
    }

    fn write(&mut self, gpa: u64, value: u8) {
        self.ask(&format!("writeb {gpa:#x} {value:#x}"));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn letter(width: usize) -> char {
    match width {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

/// Reads as a CPU does.
fn read(bench: &Bench, gpa: u64, width: usize) -> u64 {
    let mut data = [0; 8];
    let slots = bench.vm.slots.lock().unwrap();
    let slot = slots
        .iter()
        .find(|slot| (slot.gpa..slot.gpa + slot.len).contains(&gpa));
    match slot {
        Some(slot) => {
            let at = (slot.offset + gpa - slot.gpa) as usize;
            let memory = slot.mapping.as_volatile_slice();
            vm_memory::Bytes::read_slice(&memory, &mut data[..width], at).unwrap();
        }
        None => {
            drop(slots);
            bench.machine.memory().read(gpa, &mut data[..width]);
        }
    }
    u64::from_le_bytes(data)
}

/// Numbers that are the same in each run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Writes of one command, as (offset, value).
fn command(numbers: &mut Numbers) -> Vec<(u64, u8)> {
    let at = numbers.next(3 * 4096);
    let value = numbers.next(256) as u8;
    match numbers.next(9) {
        0 => vec![(at, 0x10), (at, value)],
        1 => vec![(at, 0x40), (at, value)],
        2 => vec![(at, 0x20), (at, 0xd0)],
        3 => vec![(at, 0x20), (at, value)],
        4 => {
            // To the end and in one block, because QEMU's versions differ in what becomes of others. So its bytes are no commands, should
            // the chip not take it for what it is.
            let (start, count) = (at & !0xff, 1 + numbers.next(15));
            let bytes = (0..count).map(|n| (start + n, value.wrapping_mul(n as u8) & 0xf));
            let head = [(start, 0xe8), (start, count as u8 - 1)].into_iter();
            head.chain(bytes).chain([(start, 0xd0)]).collect()
        }
        5 => vec![(at, 0x60), (at, [0xd0, 0x01, 0xff, value][(value % 4) as usize])],
        6 => vec![(at, [0x50, 0x70, 0x90, 0x98][(value % 4) as usize])],
        // Not one that has more to come.
        7 if !matches!(value, 0x10 | 0x20 | 0x40 | 0x60 | 0xe8) => vec![(at, value)],
        _ => vec![(at, 0xff)],
    }
}

#[test]
fn flash_answers_as_the_chip_that_firmware_is_written_for() {
    let name = "flash_answers_as_the_chip_that_firmware_is_written_for";
    if !Path::new(PEER).exists() {
        eprintln!("SKIPPED {name}: there is no {PEER}; ./test installs it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (code, store) = (folder.path().join("code"), folder.path().join("store"));
    let contents = |len: usize| -> Vec<u8> { (0..len).map(|at| (at ^ at >> 8) as u8).collect() };
    std::fs::write(&code, contents(CODE)).unwrap();
    std::fs::write(&store, contents(STORE)).unwrap();
    let mut peer = Peer::start(&code, &store);
    let bench = with(Firmware {
        code: Blob::Bytes(contents(CODE)),
        chip: FirmwareChip::Flash(Variables {
            contents: Blob::Bytes(contents(STORE)),
            file: None,
        }),
        smm: false,
        physical_bits: 40,
        boot_order: Vec::new(),
        boot_menu: None,
        debug: None,
    });
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut last = Vec::new();
    for step in 0..1500 {
        let base = if step % 5 == 0 { CODE_BASE } else { STORE_BASE };
        for (offset, value) in command(&mut numbers) {
            last.push((base + offset, value));
            peer.write(base + offset, value);
            bench.machine.memory().write(base + offset, &[value]);
            // Reads between the writes of a command are part of it.
            for width in [1, 2, 4, 8] {
                let at = match numbers.next(3) {
                    0 => (base + offset) & !7,
                    1 => base + numbers.next(0x60),
                    _ => base + numbers.next(3 * 4096),
                };
                let (ours, theirs) = (read(&bench, at, width), peer.read(at, width));
                let recent = &last[last.len().saturating_sub(30)..];
                assert_eq!(
                    ours, theirs,
                    "step {step}: {width} bytes at {at:#x} after {recent:x?}"
                );
            }
        }
    }
    for base in [CODE_BASE, STORE_BASE] {
        peer.write(base, 0xff);
        bench.machine.memory().write(base, &[0xff]);
        for at in (base..base + STORE as u64).step_by(8) {
            assert_eq!(read(&bench, at, 8), peer.read(at, 8), "{at:#x}");
        }
    }
}
