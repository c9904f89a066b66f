//! Tables of cases with the exceptions that the manuals give them, on a CPU with paging off and a GDT in RAM.

mod control_registers;
mod delivery;
mod exceptions;
mod identity;
mod long_mode;
mod segments;
mod tasks;
mod virtual_8086;

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions};
use ostler_accel::model::{self, Topology};
use ostler_accel::{DescriptorTable, Segment, reset_state};
use ostler_memory::{RamOptions, RamSlot, allocate};

use crate::exec::Family;
use crate::fault::{Exception, Flow, Result};
use crate::shared::VcpuShared;
use crate::state::{Cpu, mode, reg, seg};
use crate::vm::{Engine, new_shared};

/// Linear address of the GDT.
pub const GDT: u64 = 0x1000;
/// Linear address of the IDT.
pub const IDT: u64 = 0x2000;
/// Linear address of the TSS.
pub const TSS: u64 = 0x3000;
/// Top of the stack of level 0 in the TSS.
pub const STACK0: u64 = 0x8000;
/// Top of the stack that runs.
pub const STACK: u64 = 0x7000;

/// Descriptors by index: flat code and data of levels 0 and 3, and oddities.
const DESCRIPTORS: [u64; 14] = [
    0,
    0x00cf_9b00_0000_ffff,          // 08 code 0
    0x00cf_9300_0000_ffff,          // 10 data 0
    0x00cf_fb00_0000_ffff,          // 18 code 3
    0x00cf_f300_0000_ffff,          // 20 data 3
    0x00cf_1b00_0000_ffff,          // 28 code 0, absent
    0x00cf_1300_0000_ffff,          // 30 data 0, absent
    0x00cf_9f00_0000_ffff,          // 38 conforming code 0
    0x00cf_9100_0000_ffff,          // 40 read-only data 0
    0x00cf_9900_0000_ffff,          // 48 execute-only code 0
    0x0000_8b00_3000_0067,          // 50 busy TSS
    0x0000_8200_4000_00ff,          // 58 LDT
    0x0000_ec00_0008_4000 | 0x5678, // 60 call gate of level 3 to 08
    0x00af_9b00_0000_ffff,          // 68 64-bit code 0
];

/// A CPU in 32-bit protected mode at level 0 with flat segments; interrupt gates of level 0 for every vector lead to
/// 08:10vv00, except 0x80 which has level 3, 0x81 which is absent, and 0x82 which is no gate.
pub fn protected() -> Box<Cpu> {
    let ram = allocate(2 << 20, RamOptions::default()).unwrap();
    let vm = new_shared(1, RamSlot::all_of(&ram), Engine::Interpreter);
    let shared = Arc::new(VcpuShared::new(0));
    assert!(vm.vcpus[0].set(shared.clone()).is_ok());
    let leaves = model::build(
        "x86-64-v2",
        &super::cpuid::supported(2_000_000),
        Topology { cpus: 1 },
        0,
    )
    .unwrap();
    let mut cpu = Cpu::new(vm, shared, 0, &leaves);
    crate::vm::convert::restore(&mut cpu, &reset_state(0)).unwrap();
    for (n, d) in DESCRIPTORS.iter().enumerate() {
        poke(&mut cpu, GDT + 8 * n as u64, &d.to_le_bytes());
    }
    for vector in 0..=255u64 {
        let rights = match vector {
            0x80 => 0xee00,
            0x81 => 0x0e00,
            0x82 => 0x8200,
            _ => 0x8e00,
        };
        let gate = (vector << 8) | 8 << 16 | rights << 32 | 0x10 << 48;
        poke(&mut cpu, IDT + 8 * vector, &gate.to_le_bytes());
    }
    poke(&mut cpu, TSS + 4, &(STACK0 as u32).to_le_bytes());
    poke(&mut cpu, TSS + 8, &0x10u32.to_le_bytes());
    cpu.gdtr = DescriptorTable {
        base: GDT,
        limit: 14 * 8 - 1,
    };
    cpu.idtr = DescriptorTable {
        base: IDT,
        limit: 0x7ff,
    };
    cpu.tr = Segment {
        selector: 0x50,
        base: TSS,
        limit: 0x67,
        rights: 0x8b,
    };
    cpu.cr0 |= crate::state::cr0::PE;
    cpu.segs = [flat(0x10, 0xc093); 6];
    cpu.segs[seg::CS] = flat(8, 0xc09b);
    cpu.gpr[reg::RSP] = STACK;
    cpu.rip = 0x1234;
    cpu.next_rip = 0x1236;
    cpu.update_mode();
    cpu
}

/// The same at level 3.
pub fn user() -> Box<Cpu> {
    let mut cpu = protected();
    cpu.segs = [flat(0x23, 0xc0f3); 6];
    cpu.segs[seg::CS] = flat(0x1b, 0xc0fb);
    cpu.cpl = 3;
    cpu.update_mode();
    cpu
}

pub fn flat(selector: u16, rights: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

pub fn poke(cpu: &mut Cpu, gpa: u64, bytes: &[u8]) {
    cpu.write_physical(gpa, bytes).unwrap();
}

pub fn peek32(cpu: &mut Cpu, gpa: u64) -> u32 {
    let mut bytes = [0; 4];
    cpu.read_physical(gpa, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

pub fn peek64(cpu: &mut Cpu, gpa: u64) -> u64 {
    let mut bytes = [0; 8];
    cpu.read_physical(gpa, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// The exception that `result` stopped with.
pub fn fault<T: std::fmt::Debug>(cpu: &mut Cpu, result: Result<T>) -> Exception {
    assert!(result.is_err(), "{result:?}");
    cpu.exception.take().unwrap()
}

/// Executes one instruction at the instruction pointer, which moves on unless the instruction moved it.
pub fn exec(cpu: &mut Cpu, code: &[u8]) -> Result<Flow> {
    let bitness = match cpu.mode & (mode::LONG | mode::CODE32) {
        0 => 16,
        bits if bits & mode::LONG != 0 => 64,
        _ => 32,
    };
    let offset = cpu.rip & 0xfff;
    let i = Decoder::with_ip(bitness, code, offset, DecoderOptions::NONE).decode();
    assert_eq!(i.len(), code.len(), "{i}");
    cpu.next_rip = cpu.rip + i.len() as u64;
    cpu.gpr[reg::RIP_BASE] = cpu.rip - offset;
    let flow = match Family::of(&i) {
        Some(family) => family.execute(cpu, &i),
        None => super::execute(cpu, &i),
    };
    if flow == Ok(Flow::Next) {
        cpu.rip = cpu.next_rip;
    }
    flow
}

/// The words of 32 bits on the current stack.
pub fn stack_of(cpu: &mut Cpu) -> [u32; 3] {
    let sp = cpu.gpr[reg::RSP];
    std::array::from_fn(|n| peek32(cpu, sp + 4 * n as u64))
}
