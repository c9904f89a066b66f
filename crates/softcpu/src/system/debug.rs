//! Breakpoints and single step (SDM vol. 3, chapter 18).

use crate::fault::{Exception, Result};
use crate::flags::bit;
use crate::state::{Cpu, cr4, seg};

/// General detect: an access to a debug register raises #DB.
pub const DR7_GD: u64 = 1 << 13;
/// What can be written to DR7.
pub const DR7_WRITABLE: u64 = 0xffff_23ff;
/// What always reads as one in DR7.
pub const DR7_FIXED: u64 = 1 << 10;
/// What can be written to DR6.
pub const DR6_WRITABLE: u64 = 0xe00f;
/// What always reads as one in DR6 (no RTM, no bus-lock detection).
pub const DR6_FIXED: u64 = 0xffff_0ff0;
/// The breakpoints that were met: each #DB says its own only, while the other bits gather.
pub const DR6_HITS: u64 = 0xf;
/// A debug register was accessed while DR7.GD was set.
pub const DR6_BD: u64 = 1 << 13;
/// Single step.
pub const DR6_BS: u64 = 1 << 14;

/// Kind of access of a breakpoint, bits 16 + 4 n of DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Port,
    ReadWrite,
}

fn breakpoint(dr7: u64, n: usize) -> Option<(Kind, u64)> {
    if dr7 >> (2 * n) & 3 == 0 {
        return None;
    }
    let field = dr7 >> (16 + 4 * n);
    let kind = match field & 3 {
        0 => Kind::Execute,
        1 => Kind::Write,
        2 => Kind::Port,
        _ => Kind::ReadWrite,
    };
    let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
    Some((kind, len))
}

/// Bits of DR6 for the breakpoints that `hit` accepts, given their address and length.
fn matching(cpu: &Cpu, hit: impl Fn(Kind, u64, u64) -> bool) -> u64 {
    (0..4)
        .filter(|&n| breakpoint(cpu.dr7, n).is_some_and(|(kind, len)| hit(kind, cpu.dr[n] & !(len - 1), len)))
        .fold(0, |bits, n| bits | 1 << n)
}

/// See [`super::begin_step`].
pub fn begin_step(cpu: &mut Cpu) -> Result<bool> {
    if std::mem::take(&mut cpu.msrs.returned_traced) {
        return Err(cpu.raise(Exception::db(DR6_BS)));
    }
    // What a load of SS met is told with what comes after it. (Breakpoints on that are not held back, as on AMD's processors.)
    let held = std::mem::take(&mut cpu.stack_loaded);
    if !held {
        cpu.msrs.debug_hits = 0;
    }
    cpu.msrs.entered = false;
    cpu.msrs.repeats = false;
    let resumes = cpu.rflags_rest & bit::RF != 0;
    if cpu.dr7 & 0xff != 0 && !resumes {
        let base = if cpu.is_long() { 0 } else { cpu.segs[seg::CS].base };
        let linear = base.wrapping_add(cpu.rip);
        let bits = matching(cpu, |kind, at, _| kind == Kind::Execute && at == linear);
        if bits != 0 {
            return Err(cpu.raise(Exception::db(bits)));
        }
    }
    cpu.msrs.resumed = resumes;
    Ok(cpu.rflags_rest & bit::TF != 0)
}

/// Notes the data breakpoints that an access meets.
pub fn note_data_access(cpu: &mut Cpu, linear: u64, len: usize, write: bool) {
    let end = linear.wrapping_add(len as u64);
    let bits = matching(cpu, |kind, at, size| {
        let watched = kind == Kind::ReadWrite || (write && kind == Kind::Write);
        watched && at < end && linear < at.wrapping_add(size)
    });
    cpu.msrs.debug_hits |= bits;
}

/// Notes the port breakpoints that an access meets (CR4.DE).
pub fn note_port_access(cpu: &mut Cpu, port: u16, len: u8) {
    if cpu.cr4 & cr4::DE == 0 || cpu.dr7 & 0xff == 0 {
        return;
    }
    let first = u64::from(port);
    let end = first + u64::from(len);
    let bits = matching(cpu, |kind, at, size| {
        kind == Kind::Port && at < end && first < at.wrapping_add(size)
    });
    cpu.msrs.debug_hits |= bits;
}

/// Notes that a repeated string instruction stops between two iterations.
pub fn note_repetition(cpu: &mut Cpu) {
    cpu.msrs.repeats = true;
}

/// See [`super::debug_trap`]. A transfer through the IDT or by SYSCALL is not followed by a single-step trap.
pub fn trap(cpu: &mut Cpu, traced: bool) -> Option<Exception> {
    let watched = traced || cpu.dr7 & 0xff != 0;
    if cpu.msrs.repeats && watched {
        // The instruction goes on after the trap: its own breakpoint must not hit again.
        cpu.rflags_rest |= bit::RF;
    } else if cpu.msrs.resumed && !cpu.msrs.entered {
        cpu.rflags_rest &= !bit::RF;
    }
    if cpu.stack_loaded {
        // SDM vol. 3, 6.8.3: nothing comes between a load of SS and the instruction after it.
        return None;
    }
    let mut bits = std::mem::take(&mut cpu.msrs.debug_hits);
    if traced && !cpu.msrs.entered {
        bits |= DR6_BS;
    }
    (bits != 0).then(|| Exception::db(bits))
}
