//! Unmodified Debian on the KVM back end, with disk and network card, in a host with working KVM that is made in software.

mod bridges;
mod devices;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use ostler_guest_image::{SoftwareHost, overlay};
use serde_json::Value;
use support::{OSTLER, guest_folder};

/// Everything in there runs at an emulator's speed.
const LIMIT: Duration = Duration::from_secs(600);
const DISK_SIZE: usize = 8 << 20;
/// The guest copies so much from the start of its disk to its end.
const COPIED: usize = 2 << 20;
const NAME: &str = "debian_boots_on_kvm_in_a_host_made_in_software";

/// What Debian's kernel notes in any healthy guest of this kind: no i8042 AUX port, and what an emulated host brings about on a
/// busy machine, a TSC that jumps and interrupts that take long.
const HARMLESS: &[&str] = &[
    "i8042: PNP: PS/2 appears to have AUX port disabled",
    "clocksource: timekeeping watchdog on CPU",
    "clocksource: Long readout interval, skipping watchdog check: ",
    "clocksource:                       'kvm-clock' ",
    "clocksource:                       'tsc' ",
    "hrtimer: interrupt took ",
];

#[test]
fn debian_boots_on_kvm_in_a_host_made_in_software() {
    if !SoftwareHost::is_possible() {
        eprintln!("SKIPPED {NAME}: qemu-system-x86_64 is not installed");
        return;
    }
    let folder = guest_folder();
    let mut initrd = std::fs::read(folder.join("initrd.img")).unwrap();
    initrd.extend(overlay(include_str!("inner.sh"), &[]));
    let disk = noise(DISK_SIZE);
    let sent = noise(DISK_SIZE + 12_345);
    let host = host()
        .file("guest/vmlinuz", &folder.join("vmlinuz"))
        .unwrap()
        .contents("guest/initrd.img", initrd)
        .contents("guest/disk.img", disk.clone())
        .contents("guest/sent", sent.clone())
        .contents("bin/send", b"#!/bin/sh\nexec cat /guest/sent\n".to_vec())
        .contents("bin/look", include_bytes!("look.sh").to_vec());
    let console = host.run(include_str!("outer.sh"), LIMIT).unwrap();
    println!("{console}");

    let mut after = disk.clone();
    after.copy_within(..COPIED, DISK_SIZE - COPIED);
    let sums = Sums {
        disk: sha256(&disk),
        after: sha256(&after),
        sent: sha256(&sent),
    };
    // `auto` measures and takes KVM; frames pass through the kernel's worker.
    let boot = Boot::find(&console, "vhost");
    boot.assert_works(1, &sums);
    boot.assert_log_is_clean(true);
    boot.assert_counters(1);
    assert_eq!(
        boot.lines("THREAD ").count(),
        1,
        "no thread of vhost-net: {}",
        boot.0
    );
    assert_eq!(
        boot.bytes_to_guest(),
        0,
        "frames passed through the guest's process"
    );
    // A named model without XSAVE, two CPUs, and our own worker.
    let boot = Boot::find(&console, "worker");
    boot.assert_works(2, &sums);
    boot.assert_log_is_clean(false);
    boot.assert_counters(2);
    assert_eq!(boot.lines("THREAD ").count(), 0, "{}", boot.0);
    assert!(boot.bytes_to_guest() > sent.len() as u64);

    assert_vhost_is_for_kvm_only(&console);
    assert_selftest(&console);
}

/// A host with ostler and the guest that only sleeps.
fn host() -> SoftwareHost {
    SoftwareHost::new(&guest_folder().join("root"))
        .program(OSTLER, OSTLER.as_ref())
        .unwrap()
        .contents("bin/ostler", format!("#!/bin/sh\nexec {OSTLER} \"$@\"\n").into())
        .contents("guest/tiny", tiny_kernel())
}

/// Sums of what is on the disk before and after, and of what the host sends.
struct Sums {
    disk: String,
    after: String,
    sent: String,
}

/// What one boot left on the console.
struct Boot<'a>(&'a str);

impl<'a> Boot<'a> {
    fn find(console: &'a str, name: &str) -> Self {
        let begin = format!("BOOT {name}\n");
        let start = console.find(&begin).unwrap_or_else(|| panic!("no {begin:?}"));
        let end = console[start..].find("BOOT-END\n").expect("the boot ends");
        Self(&console[start..start + end])
    }

    /// What follows `word` in the lines that begin with it.
    fn lines(&self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(word))
    }

    /// What follows `word` in the one line that begins with it.
    fn line(&self, word: &'a str) -> &'a str {
        let found: Vec<_> = self.lines(word).collect();
        let [line] = found[..] else {
            panic!("{} lines with {word:?}:\n{}", found.len(), self.0);
        };
        line
    }

    /// It ran on KVM, reached user land, ended well, and its disk and its card did what they should.
    fn assert_works(&self, cpus: u32, sums: &Sums) {
        assert!(
            self.line("ostler: ").starts_with("KVM runs the guest"),
            "{}",
            self.0
        );
        assert!(
            self.line("OSTLER-GUEST-UP").ends_with(&format!("cpus {cpus}")),
            "{}",
            self.0
        );
        assert_eq!(self.line("STATUS "), "0");
        assert_eq!(self.line("DISK-READ "), sums.disk);
        assert_eq!(self.line("DISK-WRITTEN "), "0");
        assert_eq!(self.line("DISK-AFTER "), sums.after);
        assert!(
            self.line("PING ")
                .starts_with("3 packets transmitted, 3 packets received")
        );
        assert_eq!(self.line("SENT "), sums.after);
        assert_eq!(self.line("RECEIVED "), sums.sent);
        assert_eq!(self.line("RECEIVED-AGAIN "), sums.sent);
        assert_eq!(self.line("CARD-ERRORS "), "0");
        assert_eq!(self.line("LOOKED "), "yes");
    }

    /// The guest's kernel complained about nothing, but for its XSAVE area where `xsave` is set.
    ///
    /// QEMU's emulated processors (7.2) do not intercept XSETBV, so KVM in that host never learns the guest's XCR0 and
    /// reports the size of the XSAVE area as if only x87 and SSE were on. Linux checks that size once.
    fn assert_log_is_clean(&self, xsave: bool) {
        assert!(
            self.0.contains("\nLOG-END\n"),
            "the log is not whole:\n{}",
            self.0
        );
        let mut lines = self
            .lines("LOG ")
            .map(|line| line.split_once("] ").map_or(line, |(_, text)| text));
        let mut complaints = Vec::new();
        while let Some(text) = lines.next() {
            if text.contains("[ cut here ]") {
                let what = lines.next().unwrap_or_default();
                if xsave && what.starts_with("XSAVE consistency problem: size ") {
                    // The trace, and behind it a dump of CPUID.
                    lines.find(|text| text.contains("[ end trace "));
                } else {
                    complaints.push(what);
                }
            } else if !(HARMLESS.iter().any(|known| text.trim_start().starts_with(known))
                || xsave && text.starts_with("CPUID[0d, "))
            {
                complaints.push(text);
            }
        }
        assert!(
            complaints.is_empty(),
            "the guest's kernel complained: {complaints:#?}"
        );
    }

    fn top(&self) -> Value {
        serde_json::from_str(self.line("TOP ")).unwrap()
    }

    /// What KVM's statistics say is there, and what it does not count is null.
    fn assert_counters(&self, cpus: usize) {
        let top = self.top();
        assert_eq!(top["accelerator"], "kvm");
        let vcpus = top["vcpus"].as_array().unwrap();
        assert_eq!(vcpus.len(), cpus);
        for vcpu in vcpus {
            for counted in [
                "/exits/halt",
                "/exits/interrupt",
                "/exits/other",
                "/time-ns/guest",
                "/time-ns/idle",
            ] {
                let value = vcpu.pointer(counted).and_then(Value::as_u64);
                assert!(value > Some(0), "{counted} is {value:?} in {vcpu:#}");
            }
            for unknown in [
                "/exits/doorbell",
                "/kicks/timer",
                "/kicks/device",
                "/kicks/ipi",
                "/instructions",
            ] {
                assert_eq!(vcpu.pointer(unknown), Some(&Value::Null), "{unknown} in {vcpu:#}");
            }
        }
        let disk = device(&top, "disk0");
        assert!(disk["requests"].as_u64() > Some(0), "{disk:#}");
    }

    /// What our own worker of the card moved.
    fn bytes_to_guest(&self) -> u64 {
        device(&self.top(), "net0")["bytes-to-guest"].as_u64().unwrap()
    }
}

fn device(top: &Value, name: &str) -> Value {
    let devices = top["devices"].as_array().unwrap();
    let found = devices.iter().find(|device| device["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {top:#}"))["counters"].clone()
}

/// A guest on the software CPU must not have vhost-net, whose writes to its RAM nothing would see.
fn assert_vhost_is_for_kvm_only(console: &str) {
    let count = |accelerator: &str| -> u32 {
        let begin = format!("TINY {accelerator} up ");
        let line = console.lines().find_map(|line| line.strip_prefix(&begin));
        line.unwrap_or_else(|| panic!("no {begin:?}:\n{console}"))
            .parse()
            .unwrap()
    };
    assert!(
        count("kvm") >= 1,
        "even KVM's guest has no descriptor of /dev/vhost-net"
    );
    assert_eq!(count("soft"), 0);
}

fn assert_selftest(console: &str) {
    assert!(console.contains("\nKVM: hello: good"), "{console}");
    assert!(!console.contains("KVM: skipped"), "{console}");
    assert!(console.contains("SELFTEST-STATUS 0"), "{console}");
}

/// A Multiboot kernel that says `up` and sleeps.
fn tiny_kernel() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES_VALID: u32 = 1 << 16;
    const BASE: u32 = 0x10_0000;
    let checksum = 0u32.wrapping_sub(MAGIC + ADDRESSES_VALID);
    let header = [MAGIC, ADDRESSES_VALID, checksum, BASE, BASE, 0, 0, BASE + 32];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for byte in *b"up\n" {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        file.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
    }
    // cli; again: hlt; jmp again
    file.extend([0xfa, 0xf4, 0xeb, 0xfd]);
    file
}

/// Bytes without a pattern (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15 ^ len as u64;
    let words = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// As `sha256sum` prints it for its standard input.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
