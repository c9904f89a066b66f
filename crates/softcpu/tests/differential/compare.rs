//! What must agree, and how a disagreement is told.

use std::fmt::Write;

use super::machine_state::{Case, Final, MEMORY, Registers, XSAVE};
use super::open;

/// Arithmetic flags, direction, alignment check, identification.
const FLAGS: u64 = 0x8d5 | 0x400 | 0x24_0000;

/// Where user space ends on Linux (TASK_SIZE_MAX).
const USER_END: u64 = (1 << 47) - 4096;

/// Brings components that are in their initial state into one form, and drops what is not compared: reserved bytes, the x87
/// instruction and data pointers (processors differ in when they update them), MXCSR's mask.
fn canonical(image: &[u8; XSAVE]) -> [u8; XSAVE] {
    let mut image = *image;
    let present = image[512];
    if present & 1 == 0 {
        image[..24].fill(0);
        image[32..160].fill(0);
        image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    }
    if present & 2 == 0 {
        image[160..416].fill(0);
    }
    if present & 4 == 0 {
        image[576..].fill(0);
    }
    image[5..24].fill(0);
    image[28..32].fill(0);
    for register in 0..8 {
        image[32 + register * 16 + 10..48 + register * 16].fill(0);
    }
    image[416..576].fill(0);
    image
}

/// Every difference between what the host and the interpreter made of `case`, one a line; empty if they agree. `undefined` are
/// flags that the architecture leaves open at the end.
pub fn differences(case: &Case, native: &Final, guest: &Final, undefined: u64) -> Vec<String> {
    let (mut native, mut guest) = (native.clone(), guest.clone());
    open::settle(case, &mut native, &mut guest);
    let mut found = Vec::new();
    let mut number = |name: &str, host: u64, ours: u64| {
        if host != ours {
            found.push(format!("{name}: host {host:#x}, interpreter {ours:#x}"));
        }
    };
    let either = open::is_either_of_two(case, &native, &guest);
    let (host, ours) = (&native.outcome, &guest.outcome);
    number("vector", if either { 12 } else { host.vector }, ours.vector);
    if matches!(host.vector, 8 | 10..=14 | 17) {
        // Linux says of every address beyond user space, which ends a page before the lower half does, that it is mapped.
        let beyond = u64::from(host.vector == 14 && host.cr2 >= USER_END);
        number("error code", host.error | beyond, ours.error | beyond);
    }
    number("cr2", host.cr2, ours.cr2);
    number("rip", host.registers.rip, ours.registers.rip);
    let flags = FLAGS & !undefined;
    number(
        "rflags",
        host.registers.rflags & flags,
        ours.registers.rflags & flags,
    );
    let count = if case.long { 16 } else { 8 };
    let registers = host.registers.gpr.iter().zip(&ours.registers.gpr);
    for (name, (host, ours)) in NAMES.iter().zip(registers).take(count) {
        number(name, *host, *ours);
    }
    extended(&host.registers, &ours.registers, &mut found);
    for at in (0..MEMORY).step_by(8) {
        let (host, ours) = (&native.memory[at..at + 8], &guest.memory[at..at + 8]);
        if host != ours {
            found.push(format!(
                "memory +{at:#x}: host {host:02x?}, interpreter {ours:02x?}"
            ));
        }
    }
    found
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Compares x87 and vector state field by field.
fn extended(host: &Registers, ours: &Registers, found: &mut Vec<String>) {
    let (host, ours) = (canonical(&host.xsave), canonical(&ours.xsave));
    let mut field = |name: String, range: std::ops::Range<usize>| {
        let (host, ours) = (&host[range.clone()], &ours[range]);
        if host != ours {
            found.push(format!("{name}: host {host:02x?}, interpreter {ours:02x?}"));
        }
    };
    field("fcw".into(), 0..2);
    field("fsw".into(), 2..4);
    field("ftw".into(), 4..5);
    field("mxcsr".into(), 24..28);
    for index in 0..8 {
        field(format!("st{index}"), 32 + index * 16..42 + index * 16);
    }
    for index in 0..16 {
        field(format!("xmm{index}"), 160 + index * 16..176 + index * 16);
        field(format!("ymm{index} upper"), 576 + index * 16..592 + index * 16);
    }
}

/// A state in readable form.
pub fn describe(registers: &Registers) -> String {
    let mut text = String::new();
    for (name, value) in NAMES.iter().zip(registers.gpr) {
        let _ = write!(text, "{name}={value:#x} ");
    }
    let image = canonical(&registers.xsave);
    let _ = write!(text, "rip={:#x} rflags={:#x} ", registers.rip, registers.rflags);
    let _ = write!(
        text,
        "fcw..ftw={:02x?} mxcsr={:02x?}",
        &image[..5],
        &image[24..28]
    );
    for index in 0..8 {
        let _ = write!(
            text,
            "\n  st{index}={:02x?}",
            &image[32 + index * 16..42 + index * 16]
        );
    }
    for index in 0..16 {
        let (low, high) = (160 + index * 16, 576 + index * 16);
        let _ = write!(
            text,
            "\n  ymm{index}={:02x?} {:02x?}",
            &image[low..low + 16],
            &image[high..high + 16]
        );
    }
    text
}
