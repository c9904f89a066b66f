//! The task state segment: inner stacks, the interrupt redirection bitmap, hardware task switches (SDM vol. 3, chapter 8).

use ostler_accel::Segment;

use super::descriptor::{self, Descriptor, code_of, is_canonical, is_null, kind};
use super::segment;
use super::stack::NewStack;
use crate::fault::{Exception, Result};
use crate::flags::bit;
use crate::state::{Cpu, cr0, seg};

/// True if TR holds a 16-bit TSS.
fn is_narrow(tr: &Segment) -> bool {
    tr.rights & 0xd == 1
}

/// The stack that the TSS gives privilege level `cpl`: SS (checked) and the stack pointer.
///
/// # Errors
/// `#TS` for a TSS that is too short or a bad selector in it, `#SS` for an absent segment.
pub fn inner_stack(cpu: &mut Cpu, cpl: u8) -> Result<(Segment, u64)> {
    let tr = cpu.tr;
    let level = u64::from(cpl);
    let short = Exception::ts(code_of(tr.selector));
    if cpu.long_active() {
        let sp = long_stack(cpu, 4 + 8 * level)?;
        return Ok((segment::null_ss(u16::from(cpl), cpl), sp));
    }
    let (sp_at, ss_at, last) = if is_narrow(&tr) {
        (2 + 4 * level, 4 + 4 * level, 5 + 4 * level)
    } else {
        (4 + 8 * level, 8 + 8 * level, 9 + 8 * level)
    };
    if last > u64::from(tr.limit) {
        return Err(cpu.raise(short));
    }
    let sp = if is_narrow(&tr) {
        u64::from(cpu.load_system::<u16>(tr.base + sp_at)?)
    } else {
        u64::from(cpu.load_system::<u32>(tr.base + sp_at)?)
    };
    let selector = cpu.load_system::<u16>(tr.base + ss_at)?;
    if is_null(selector) {
        return Err(cpu.raise(Exception::ts(code_of(selector))));
    }
    let ss = segment::checked_stack(cpu, selector, cpl, Exception::ts)?;
    Ok((ss, sp))
}

/// The stack pointer of the interrupt stack table's entry `ist` (1 to 7).
pub fn ist_stack(cpu: &mut Cpu, ist: u8) -> Result<u64> {
    long_stack(cpu, 0x24 + 8 * (u64::from(ist) - 1))
}

fn long_stack(cpu: &mut Cpu, at: u64) -> Result<u64> {
    if at + 7 > u64::from(cpu.tr.limit) {
        return Err(cpu.raise(Exception::ts(code_of(cpu.tr.selector))));
    }
    let sp = cpu.load_system::<u64>(cpu.tr.base.wrapping_add(at))?;
    if !is_canonical(sp) {
        return Err(cpu.raise(Exception::ss(0)));
    }
    Ok(sp)
}

/// True if the TSS's interrupt redirection bitmap sends `vector` to the 8086 program's own handler (CR4.VME).
pub fn redirected(cpu: &mut Cpu, vector: u8) -> Result<bool> {
    let tr = cpu.tr;
    let limit = u64::from(tr.limit);
    if is_narrow(&tr) || limit < 0x67 {
        return Ok(false);
    }
    let map = u64::from(cpu.load_system::<u16>(tr.base.wrapping_add(0x66))?);
    let Some(at) = map
        .checked_sub(32)
        .map(|start| start + u64::from(vector / 8))
        .filter(|&at| at <= limit)
    else {
        return Ok(false);
    };
    let bits = cpu.load_system::<u8>(tr.base.wrapping_add(at))?;
    Ok(bits >> (vector % 8) & 1 == 0)
}

/// Why a task switch happens; decides about busy bits, NT and the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// IRET with NT set.
    Return,
    /// Through a task gate in the IDT; the address is where the old task goes on.
    Interrupt(u64),
}

/// What a TSS holds for a task that does not run.
struct TaskState {
    cr3: Option<u64>,
    eip: u64,
    eflags: u64,
    gpr: [u64; 8],
    /// ES CS SS DS FS GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Switches to the task of TSS `selector`. `error_code` is pushed on the new task's stack.
pub fn switch(cpu: &mut Cpu, selector: u16, cause: Cause, error_code: Option<u32>) -> Result<()> {
    let refusal: descriptor::Refusal = if cause == Cause::Return {
        Exception::ts
    } else {
        Exception::gp
    };
    let code = code_of(selector);
    if is_null(selector) || selector & 4 != 0 || cpu.long_active() {
        return Err(cpu.raise(refusal(code)));
    }
    let d = descriptor::fetch(cpu, selector, refusal)?;
    let available = d.is_system(kind::TSS) || d.is_system(kind::TSS16);
    let busy = d.is_system(kind::TSS_BUSY) || d.is_system(kind::TSS16_BUSY);
    if (cause == Cause::Return && !busy) || (cause != Cause::Return && !available) {
        return Err(cpu.raise(refusal(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    let narrow = d.kind() & !2 == kind::TSS16;
    if d.limit() < if narrow { 0x2b } else { 0x67 } {
        return Err(cpu.raise(Exception::ts(code)));
    }
    let next = read_state(cpu, d.base(), narrow)?;
    let mut flags = cpu.rflags();
    if cause == Cause::Return {
        flags &= !bit::NT;
    }
    let resume = match cause {
        Cause::Interrupt(rip) => rip,
        _ => cpu.next_rip,
    };
    save_state(cpu, resume, flags)?;
    let old = cpu.tr;
    if matches!(cause, Cause::Jump | Cause::Return) {
        let old_descriptor = descriptor::fetch(cpu, old.selector, Exception::ts)?;
        descriptor::set_kind(cpu, &old_descriptor, old_descriptor.kind() & !2)?;
    }
    let nested = matches!(cause, Cause::Call | Cause::Interrupt(_));
    if nested {
        cpu.store_system::<u16>(d.base(), old.selector)?;
    }
    if cause != Cause::Return {
        descriptor::set_kind(cpu, &d, d.kind() | 2)?;
    }
    cpu.tr = d.segment(selector);
    cpu.tr.rights |= 2;
    cpu.cr0 |= cr0::TS;
    load_state(cpu, &next, nested, narrow)?;
    if let Some(error) = error_code {
        let mut stack = NewStack::current(cpu);
        stack.push(cpu, if narrow { 2 } else { 4 }, u64::from(error))?;
        super::stack::set_sp(cpu, stack.sp);
    }
    if !super::far::is_executable(cpu, cpu.rip) {
        return Err(cpu.gp0());
    }
    if next.trap {
        return Err(cpu.raise(Exception::db(1 << 15)));
    }
    Ok(())
}

fn read_state(cpu: &mut Cpu, base: u64, narrow: bool) -> Result<TaskState> {
    let mut state = TaskState {
        cr3: None,
        eip: 0,
        eflags: 0,
        gpr: [0; 8],
        selectors: [0; 6],
        ldt: 0,
        trap: false,
    };
    if narrow {
        state.eip = u64::from(cpu.load_system::<u16>(base + 0xe)?);
        state.eflags = u64::from(cpu.load_system::<u16>(base + 0x10)?);
        for n in 0..8 {
            state.gpr[n] = u64::from(cpu.load_system::<u16>(base + 0x12 + 2 * n as u64)?);
        }
        for n in 0..4 {
            state.selectors[n] = cpu.load_system::<u16>(base + 0x22 + 2 * n as u64)?;
        }
        state.ldt = cpu.load_system::<u16>(base + 0x2a)?;
        return Ok(state);
    }
    state.cr3 = Some(u64::from(cpu.load_system::<u32>(base + 0x1c)?));
    state.eip = u64::from(cpu.load_system::<u32>(base + 0x20)?);
    state.eflags = u64::from(cpu.load_system::<u32>(base + 0x24)?);
    for n in 0..8 {
        state.gpr[n] = u64::from(cpu.load_system::<u32>(base + 0x28 + 4 * n as u64)?);
    }
    for n in 0..6 {
        state.selectors[n] = cpu.load_system::<u16>(base + 0x48 + 4 * n as u64)?;
    }
    state.ldt = cpu.load_system::<u16>(base + 0x60)?;
    state.trap = cpu.load_system::<u16>(base + 0x64)? & 1 != 0;
    Ok(state)
}

/// Writes the registers of the task that ends into its TSS.
fn save_state(cpu: &mut Cpu, rip: u64, flags: u64) -> Result<()> {
    let base = cpu.tr.base;
    if is_narrow(&cpu.tr) {
        cpu.store_system(base + 0xe, rip as u16)?;
        cpu.store_system(base + 0x10, flags as u16)?;
        for n in 0..8 {
            cpu.store_system(base + 0x12 + 2 * n as u64, cpu.gpr[n] as u16)?;
        }
        for n in 0..4 {
            cpu.store_system(base + 0x22 + 2 * n as u64, cpu.segs[n].selector)?;
        }
        return Ok(());
    }
    cpu.store_system(base + 0x20, rip as u32)?;
    cpu.store_system(base + 0x24, flags as u32)?;
    for n in 0..8 {
        cpu.store_system(base + 0x28 + 4 * n as u64, cpu.gpr[n] as u32)?;
    }
    for n in 0..6 {
        cpu.store_system(base + 0x48 + 4 * n as u64, cpu.segs[n].selector)?;
    }
    Ok(())
}

/// Makes `next` the running task. Faults in here belong to the new task: its registers are committed before.
fn load_state(cpu: &mut Cpu, next: &TaskState, nested: bool, narrow: bool) -> Result<()> {
    if let Some(cr3) = next.cr3
        && cpu.cr0 & cr0::PG != 0
        && cr3 != cpu.cr3
    {
        cpu.cr3 = cr3;
        cpu.switch_address_space(false);
    }
    for n in 0..8 {
        // What a 16-bit task has no room for is all ones, since the 80386.
        cpu.gpr[n] = next.gpr[n] | if narrow { 0xffff_0000 } else { 0 };
    }
    cpu.rip = next.eip;
    cpu.set_rflags(next.eflags | if nested { bit::NT } else { 0 });
    let v86 = next.eflags & bit::VM != 0 && !narrow;
    cpu.dr7 &= !0x155;
    for n in 0..6 {
        cpu.segs[n] = segment::null_segment(next.selectors[n]);
    }
    cpu.cpl = if v86 {
        3
    } else {
        descriptor::rpl(next.selectors[seg::CS])
    };
    cpu.ldtr = segment::null_segment(next.ldt);
    cpu.update_mode();
    if !is_null(next.ldt) {
        cpu.ldtr = segment::checked_ldt(cpu, next.ldt, Exception::ts, Exception::ts)?;
    }
    if v86 {
        for n in 0..6 {
            cpu.segs[n] = segment::real_segment(cpu, n, next.selectors[n]);
        }
        cpu.update_mode();
        return Ok(());
    }
    load_task_cs(cpu, next.selectors[seg::CS])?;
    let ss = segment::checked_stack(cpu, next.selectors[seg::SS], cpu.cpl, Exception::ts)?;
    cpu.segs[seg::SS] = ss;
    cpu.update_mode();
    for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
        match segment::checked(cpu, n, next.selectors[n]) {
            Ok(loaded) => cpu.segs[n] = loaded,
            Err(stop) => {
                // What would be #GP in an ordinary load is #TS here.
                if let Some(e) = cpu.exception.as_mut()
                    && e.vector == crate::fault::vector::GP
                {
                    e.vector = crate::fault::vector::TS;
                }
                return Err(stop);
            }
        }
    }
    cpu.update_mode();
    Ok(())
}

fn load_task_cs(cpu: &mut Cpu, selector: u16) -> Result<()> {
    let code = code_of(selector);
    if is_null(selector) {
        return Err(cpu.raise(Exception::ts(code)));
    }
    let mut d: Descriptor = descriptor::fetch(cpu, selector, Exception::ts)?;
    let level = descriptor::rpl(selector);
    let allowed = if d.is_conforming() {
        d.dpl() <= level
    } else {
        d.dpl() == level
    };
    if !d.is_code() || !allowed {
        return Err(cpu.raise(Exception::ts(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    descriptor::set_accessed(cpu, &mut d)?;
    cpu.segs[seg::CS] = d.segment(selector);
    cpu.update_mode();
    Ok(())
}

/// Returns to the task that the current TSS links to (IRET with NT set).
pub fn return_to_link(cpu: &mut Cpu) -> Result<()> {
    let link = cpu.load_system::<u16>(cpu.tr.base)?;
    switch(cpu, link, Cause::Return, None)
}
