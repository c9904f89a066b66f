//! String instructions. Memory is moved page by page on the host where both pages are plain; every step is committed, so that
//! a repeated instruction can be interrupted, fault and go on.

use std::arch::asm;
use std::sync::atomic::Ordering;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::segment_index;
use super::alu::Alu;
use super::operand::{by_size, mask};
use crate::fault::{Flow, Result};
use crate::flags::{HOST_ZF, bit};
use crate::host;
use crate::host::Int;
use crate::mmu::access::Access;
use crate::state::{Cpu, reg, seg};
use crate::system;

/// Steps between two looks at the attention word.
const STEPS: u32 = 64;

/// One step of a string instruction.
type Step = fn(&mut Cpu, &Form) -> Result<()>;

/// What one string instruction works on.
struct Form {
    width: usize,
    address: u64,
    segment: usize,
    /// Bytes that an index moves by, negative with DF.
    step: u64,
}

impl Form {
    fn new(cpu: &Cpu, i: &Instruction, width: usize) -> Self {
        let step = if cpu.rflags_rest & bit::DF != 0 {
            (width as u64).wrapping_neg()
        } else {
            width as u64
        };
        Self {
            width,
            address: address_mask(i),
            segment: segment_index(i.memory_segment()).unwrap_or(seg::DS),
            step,
        }
    }

    fn index(&self, cpu: &Cpu, register: usize) -> u64 {
        cpu.gpr[register] & self.address
    }

    /// Adds `by` to an index (or counter) register in the address size.
    fn advance(&self, cpu: &mut Cpu, register: usize, by: u64) {
        let old = cpu.gpr[register];
        let new = old.wrapping_add(by) & self.address;
        cpu.gpr[register] = if self.address == 0xffff {
            old & !0xffff | new
        } else {
            new
        };
    }
}

/// Mask of the address size.
fn address_mask(i: &Instruction) -> u64 {
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 0xffff,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 0xffff_ffff,
            _ => {}
        }
    }
    u64::MAX
}

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let (width, step): (usize, Step) = match i.mnemonic() {
        Mnemonic::Movsb => (1, move_one),
        Mnemonic::Movsw => (2, move_one),
        Mnemonic::Movsd => (4, move_one),
        Mnemonic::Movsq => (8, move_one),
        Mnemonic::Stosb => (1, store_one),
        Mnemonic::Stosw => (2, store_one),
        Mnemonic::Stosd => (4, store_one),
        Mnemonic::Stosq => (8, store_one),
        Mnemonic::Lodsb => (1, load_one),
        Mnemonic::Lodsw => (2, load_one),
        Mnemonic::Lodsd => (4, load_one),
        Mnemonic::Lodsq => (8, load_one),
        Mnemonic::Cmpsb => (1, compare_one),
        Mnemonic::Cmpsw => (2, compare_one),
        Mnemonic::Cmpsd => (4, compare_one),
        Mnemonic::Cmpsq => (8, compare_one),
        Mnemonic::Scasb => (1, scan_one),
        Mnemonic::Scasw => (2, scan_one),
        Mnemonic::Scasd => (4, scan_one),
        _ => (8, scan_one),
    };
    let form = Form::new(cpu, i, width);
    if !i.has_rep_prefix() && !i.has_repne_prefix() {
        step(cpu, &form)?;
        return Ok(Flow::Next);
    }
    match i.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            repeat(cpu, &form, move_many, step)
        }
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            repeat(cpu, &form, store_many, step)
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            repeat(cpu, &form, |_, _, _| 0, step)
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            repeat_while(cpu, &form, i.has_repne_prefix(), compare_many, step)
        }
        _ => repeat_while(cpu, &form, i.has_repne_prefix(), scan_many, step),
    }
}

/// True if the instruction should stop between steps to let the engine look at events.
pub fn interrupted(cpu: &Cpu) -> bool {
    cpu.shared.attention.load(Ordering::Relaxed) != 0 || cpu.mode & crate::state::mode::ALONE != 0
}

/// Goes on with the same instruction later.
pub fn again(cpu: &mut Cpu) -> Result<Flow> {
    // `rip` is that of this instruction already.
    system::note_repetition(cpu);
    Ok(Flow::Jump)
}

/// True if each step may be followed by a trap of its own: single step, or a breakpoint that it met.
fn is_debugged(cpu: &Cpu) -> bool {
    cpu.rflags_rest & bit::TF != 0 || cpu.dr7 & 0xff != 0 || cpu.debugging.steps()
}

/// REP: `many` does as much as can be done at once and says how many steps that was; where it says 0, `one` does one.
fn repeat(cpu: &mut Cpu, form: &Form, many: impl Fn(&mut Cpu, &Form, u64) -> u64, one: Step) -> Result<Flow> {
    let mut steps = 0;
    loop {
        let count = form.index(cpu, reg::RCX);
        if count == 0 {
            return Ok(Flow::Next);
        }
        let mut done = if is_debugged(cpu) {
            0
        } else {
            many(cpu, form, count)
        };
        if done == 0 {
            one(cpu, form)?;
            done = 1;
        }
        form.advance(cpu, reg::RCX, done.wrapping_neg());
        cpu.replay.clear();
        steps += if done > 1 { STEPS } else { 1 };
        if steps >= STEPS || cpu.mode & crate::state::mode::ALONE != 0 {
            steps = 0;
            if done != count && interrupted(cpu) {
                return again(cpu);
            }
        }
    }
}

/// REPE and REPNE: `many` passes over elements that do not end it, as many as can be seen at once, and says how many those were; `one`
/// does the next.
fn repeat_while(
    cpu: &mut Cpu,
    form: &Form,
    until_equal: bool,
    many: impl Fn(&mut Cpu, &Form, u64, bool) -> u64,
    one: Step,
) -> Result<Flow> {
    let mut steps = 0;
    loop {
        let count = form.index(cpu, reg::RCX);
        if count == 0 {
            return Ok(Flow::Next);
        }
        // The last element is left to the single step, for the flags.
        let passed = if count == 1 || is_debugged(cpu) {
            0
        } else {
            many(cpu, form, count - 1, until_equal)
        };
        form.advance(cpu, reg::RCX, passed.wrapping_neg());
        one(cpu, form)?;
        form.advance(cpu, reg::RCX, u64::MAX);
        cpu.replay.clear();
        if (cpu.flags & HOST_ZF != 0) == until_equal {
            return Ok(Flow::Next);
        }
        steps += if passed > 0 { STEPS } else { 1 };
        if steps >= STEPS || is_debugged(cpu) {
            steps = 0;
            if form.index(cpu, reg::RCX) != 0 && interrupted(cpu) {
                return again(cpu);
            }
        }
    }
}

fn move_one(cpu: &mut Cpu, form: &Form) -> Result<()> {
    let value = cpu.load_sized(form.segment, form.index(cpu, reg::RSI), form.width)?;
    cpu.store_sized(seg::ES, form.index(cpu, reg::RDI), form.width, value)?;
    form.advance(cpu, reg::RSI, form.step);
    form.advance(cpu, reg::RDI, form.step);
    Ok(())
}

fn store_one(cpu: &mut Cpu, form: &Form) -> Result<()> {
    cpu.store_sized(seg::ES, form.index(cpu, reg::RDI), form.width, cpu.gpr[reg::RAX])?;
    form.advance(cpu, reg::RDI, form.step);
    Ok(())
}

fn load_one(cpu: &mut Cpu, form: &Form) -> Result<()> {
    let value = cpu.load_sized(form.segment, form.index(cpu, reg::RSI), form.width)?;
    let rax = cpu.gpr[reg::RAX];
    cpu.gpr[reg::RAX] = if form.width == 4 {
        value
    } else {
        rax & !mask(form.width) | value
    };
    form.advance(cpu, reg::RSI, form.step);
    Ok(())
}

fn compare_one(cpu: &mut Cpu, form: &Form) -> Result<()> {
    let a = cpu.load_sized(form.segment, form.index(cpu, reg::RSI), form.width)?;
    let b = cpu.load_sized(seg::ES, form.index(cpu, reg::RDI), form.width)?;
    cpu.flags = by_size!(form.width, T => Alu::sub(T::from_u64(a), T::from_u64(b)).1);
    form.advance(cpu, reg::RSI, form.step);
    form.advance(cpu, reg::RDI, form.step);
    Ok(())
}

fn scan_one(cpu: &mut Cpu, form: &Form) -> Result<()> {
    let a = cpu.gpr[reg::RAX];
    let b = cpu.load_sized(seg::ES, form.index(cpu, reg::RDI), form.width)?;
    cpu.flags = by_size!(form.width, T => Alu::sub(T::from_u64(a), T::from_u64(b)).1);
    form.advance(cpu, reg::RDI, form.step);
    Ok(())
}

/// How many whole elements lie before the end of the page, at `linear`.
fn elements_in_page(linear: u64, form: &Form) -> u64 {
    (4096 - (linear & 0xfff)) / form.width as u64
}

fn move_many(cpu: &mut Cpu, form: &Form, count: u64) -> u64 {
    if form.step != form.width as u64 {
        return 0;
    }
    let (from, to) = (form.index(cpu, reg::RSI), form.index(cpu, reg::RDI));
    let Ok(from) = cpu.linear(form.segment, from, form.width as u64, Access::Read) else {
        return 0;
    };
    let Ok(to) = cpu.linear(seg::ES, to, form.width as u64, Access::Write) else {
        return 0;
    };
    let steps = count
        .min(elements_in_page(from, form))
        .min(elements_in_page(to, form));
    let bytes = steps as usize * form.width;
    if steps == 0 || !within_segments(cpu, form, bytes as u64) {
        return 0;
    }
    let (Some(source), Some(target)) = (cpu.mmu.read_hit(from, bytes), cpu.mmu.write_hit(to, bytes)) else {
        return 0;
    };
    let apart = (target as usize).wrapping_sub(source as usize);
    if apart != 0 && apart < form.width {
        return 0;
    }
    // SAFETY: the TLB leads to guest RAM with room for `bytes` at both. An overlap gives what the elements in order would
    // give, because the target is not inside the first element.
    unsafe { host::copy(target, source, bytes) };
    form.advance(cpu, reg::RSI, bytes as u64);
    form.advance(cpu, reg::RDI, bytes as u64);
    steps
}

/// Outside 64-bit mode indices wrap and segments end: many steps at once only well inside.
fn within_segments(cpu: &mut Cpu, form: &Form, bytes: u64) -> bool {
    if cpu.is_long() && form.address == u64::MAX {
        return true;
    }
    let last = |cpu: &Cpu, register| {
        form.index(cpu, register)
            .checked_add(bytes - 1)
            .filter(|&at| at <= form.address)
    };
    let (Some(from), Some(to)) = (last(cpu, reg::RSI), last(cpu, reg::RDI)) else {
        return false;
    };
    is_inside(cpu, form.segment, from, Access::Read) && is_inside(cpu, seg::ES, to, Access::Write)
}

/// True if a byte of the segment may be accessed. The exception is raised by the step that really gets there.
fn is_inside(cpu: &mut Cpu, segment: usize, offset: u64, access: Access) -> bool {
    let inside = cpu.linear(segment, offset, 1, access).is_ok();
    if !inside {
        cpu.exception = None;
    }
    inside
}

fn store_many(cpu: &mut Cpu, form: &Form, count: u64) -> u64 {
    if form.step != form.width as u64 {
        return 0;
    }
    let Ok(to) = cpu.linear(
        seg::ES,
        form.index(cpu, reg::RDI),
        form.width as u64,
        Access::Write,
    ) else {
        return 0;
    };
    let steps = count.min(elements_in_page(to, form));
    let bytes = steps as usize * form.width;
    if steps == 0 || !target_within_segment(cpu, form, bytes as u64) {
        return 0;
    }
    let Some(target) = cpu.mmu.write_hit(to, bytes) else {
        return 0;
    };
    let value = cpu.gpr[reg::RAX];
    // SAFETY: the TLB leads to plainly writable guest RAM with room for `bytes`; the direction flag is clear in Rust code.
    unsafe {
        match form.width {
            1 => {
                asm!("rep stosb", inout("rdi") target => _, inout("rcx") steps => _, in("al") value as u8, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep stosw", inout("rdi") target => _, inout("rcx") steps => _, in("ax") value as u16, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep stosd", inout("rdi") target => _, inout("rcx") steps => _, in("eax") value as u32, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep stosq", inout("rdi") target => _, inout("rcx") steps => _, in("rax") value, options(nostack, preserves_flags))
            }
        }
    }
    form.advance(cpu, reg::RDI, bytes as u64);
    steps
}

/// How many of at most `most` elements from `linear` on lie in its page, and where they are on the host: for reading.
fn readable(cpu: &mut Cpu, form: &Form, linear: u64, most: u64) -> Option<(*const u8, u64)> {
    let steps = most.min(elements_in_page(linear, form));
    let host = cpu.mmu.read_hit(linear, steps as usize * form.width)?;
    (steps != 0).then_some((host, steps))
}

/// True where the indices are linear addresses and go upwards.
fn is_plain(cpu: &Cpu, form: &Form) -> bool {
    form.step == form.width as u64 && cpu.is_long() && form.address == u64::MAX
}

fn compare_many(cpu: &mut Cpu, form: &Form, count: u64, until_equal: bool) -> u64 {
    if !is_plain(cpu, form) {
        return 0;
    }
    let (rsi, rdi) = (cpu.gpr[reg::RSI], cpu.gpr[reg::RDI]);
    let width = form.width as u64;
    let Ok(from) = cpu.linear(form.segment, rsi, width, Access::Read) else {
        // Raised again by the step that gets there.
        cpu.exception = None;
        return 0;
    };
    let Some((second, steps)) = readable(cpu, form, rdi, count) else {
        return 0;
    };
    let Some((first, steps)) = readable(cpu, form, from, steps) else {
        return 0;
    };
    let passed = by_size!(form.width, T => (0..steps as usize)
        .take_while(|&n| {
            let at = n * T::SIZE;
            // SAFETY: the TLB leads to guest RAM with room for `steps` elements at both.
            let (a, b) = unsafe { (T::load(first.wrapping_add(at)), T::load(second.wrapping_add(at))) };
            (a == b) != until_equal
        })
        .count() as u64);
    form.advance(cpu, reg::RSI, passed * width);
    form.advance(cpu, reg::RDI, passed * width);
    passed
}

fn scan_many(cpu: &mut Cpu, form: &Form, count: u64, until_equal: bool) -> u64 {
    if !is_plain(cpu, form) {
        return 0;
    }
    let Some((host, steps)) = readable(cpu, form, cpu.gpr[reg::RDI], count) else {
        return 0;
    };
    let wanted = cpu.gpr[reg::RAX];
    let passed = by_size!(form.width, T => (0..steps as usize)
        .take_while(|&n| {
            // SAFETY: the TLB leads to guest RAM with room for `steps` elements.
            let found = unsafe { T::load(host.wrapping_add(n * T::SIZE)) };
            (found == T::from_u64(wanted)) != until_equal
        })
        .count() as u64);
    form.advance(cpu, reg::RDI, passed * form.width as u64);
    passed
}

fn target_within_segment(cpu: &mut Cpu, form: &Form, bytes: u64) -> bool {
    if cpu.is_long() && form.address == u64::MAX {
        return true;
    }
    let last = form
        .index(cpu, reg::RDI)
        .checked_add(bytes - 1)
        .filter(|&at| at <= form.address);
    last.is_some_and(|to| is_inside(cpu, seg::ES, to, Access::Write))
}
