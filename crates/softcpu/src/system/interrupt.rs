//! Delivery of exceptions and interrupts through the IDT (SDM vol. 3, chapter 7; vol. 2, INT n).

use super::descriptor::{self, Descriptor, code_of, is_canonical, is_null, kind, set_accessed};
use super::stack::{NewStack, set_sp, within_limit};
use super::{segment, task};
use crate::fault::{Exception, Result, Stop, vector};
use crate::flags::bit;
use crate::state::{Activity, Cpu, cr0, cr4, reg, seg};

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The processor found it: a fault or trap.
    Exception,
    /// An external interrupt or NMI.
    External,
    /// INT n.
    IntN,
    /// INT3 or INTO.
    Software,
    /// INT1.
    Int1,
}

/// An event on its way through the IDT.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// What is pushed after the return address.
    pub error_code: Option<u32>,
    /// Origin.
    pub source: Source,
    /// The address to return to.
    pub return_rip: u64,
}

impl Event {
    /// INT n, INT3 and INTO check the gate's DPL.
    fn checks_dpl(&self) -> bool {
        matches!(self.source, Source::IntN | Source::Software)
    }

    /// The error code that names this event's IDT entry.
    fn code(&self) -> u32 {
        u32::from(self.vector) << 3 | 2
    }

    /// The flags to push: RF set by faults so that the instruction's own breakpoint does not hit again.
    fn flags(&self, cpu: &Cpu) -> u64 {
        let traps = matches!(self.vector, vector::DB | vector::BP | vector::OF | vector::DF);
        if self.source == Source::Exception && !traps {
            cpu.rflags() | bit::RF
        } else {
            cpu.rflags()
        }
    }
}

/// Sends `event` through the IDT. On an error nothing but memory below the new stack pointer has changed.
pub fn enter(cpu: &mut Cpu, event: &Event) -> Result<()> {
    let result = if cpu.cr0 & cr0::PE == 0 {
        real(cpu, event)
    } else if cpu.long_active() {
        long(cpu, event)
    } else if event.source == Source::IntN
        && cpu.rflags_rest & bit::VM != 0
        && v86_redirects(cpu, event.vector)?
    {
        v86_virtual(cpu, event)
    } else {
        protected(cpu, event)
    };
    if result.is_ok() {
        cpu.shadow = false;
        cpu.msrs.entered = true;
    } else if !event.checks_dpl()
        && let Some(e) = cpu.exception.as_mut()
        && let Some(code) = e.error_code.as_mut()
        && e.vector != vector::PF
    {
        // EXT: the guest's program did not ask for this event.
        *code |= 1;
    }
    result
}

fn real(cpu: &mut Cpu, event: &Event) -> Result<()> {
    let at = u32::from(event.vector) * 4;
    if at + 3 > u32::from(cpu.idtr.limit) {
        return Err(cpu.raise(Exception::gp(event.code())));
    }
    let entry = cpu.load_system::<u32>(cpu.idtr.base.wrapping_add(u64::from(at)))?;
    let flags = cpu.rflags();
    let mut stack = NewStack::current(cpu);
    stack.push(cpu, 2, flags)?;
    stack.push(cpu, 2, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, 2, event.return_rip)?;
    set_sp(cpu, stack.sp);
    cpu.set_rflags(flags & !(bit::IF | bit::TF | bit::AC | bit::RF));
    cpu.segs[seg::CS] = segment::real_segment(cpu, seg::CS, (entry >> 16) as u16);
    cpu.rip = u64::from(entry & 0xffff);
    cpu.update_mode();
    Ok(())
}

/// INT n in virtual-8086 mode: true if it stays inside the 8086 program, `#GP` if it needs a higher IOPL.
fn v86_redirects(cpu: &mut Cpu, vector: u8) -> Result<bool> {
    if cpu.cr4 & cr4::VME != 0 && task::redirected(cpu, vector)? {
        return Ok(true);
    }
    if cpu.rflags_rest & bit::IOPL != bit::IOPL {
        return Err(cpu.gp0());
    }
    Ok(false)
}

/// INT n through the 8086 program's own vector table (SDM vol. 3, 21.3.3).
fn v86_virtual(cpu: &mut Cpu, event: &Event) -> Result<()> {
    let entry = cpu.load_linear::<u32>(u64::from(event.vector) * 4)?;
    let flags = cpu.rflags();
    let full = flags & bit::IOPL == bit::IOPL;
    let mut pushed = flags;
    if !full {
        pushed = pushed & !bit::IF | bit::IOPL;
        if flags & bit::VIF != 0 {
            pushed |= bit::IF;
        }
    }
    let mut stack = NewStack::current(cpu);
    stack.push(cpu, 2, pushed)?;
    stack.push(cpu, 2, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, 2, event.return_rip)?;
    set_sp(cpu, stack.sp);
    let cleared = bit::TF | bit::NT | if full { bit::IF } else { bit::VIF };
    cpu.set_rflags(flags & !cleared);
    cpu.segs[seg::CS] = segment::real_segment(cpu, seg::CS, (entry >> 16) as u16);
    cpu.rip = u64::from(entry & 0xffff);
    cpu.update_mode();
    Ok(())
}

/// Reads and checks the gate; a task gate is answered as it is.
fn gate(cpu: &mut Cpu, event: &Event) -> Result<Descriptor> {
    let long = cpu.long_active();
    let size = if long { 16 } else { 8 };
    let at = u64::from(event.vector) * size;
    if at + size - 1 > u64::from(cpu.idtr.limit) {
        return Err(cpu.raise(Exception::gp(event.code())));
    }
    let address = cpu.idtr.base.wrapping_add(at);
    let low = cpu.load_system::<u64>(address)?;
    let high = if long {
        cpu.load_system::<u64>(address.wrapping_add(8))?
    } else {
        0
    };
    let d = Descriptor { low, high, address };
    let known = !d.is_segment()
        && match d.kind() {
            kind::INTERRUPT | kind::TRAP => true,
            kind::INTERRUPT16 | kind::TRAP16 | kind::TASK => !long,
            _ => false,
        };
    if !known || (event.checks_dpl() && d.dpl() < cpu.cpl) {
        return Err(cpu.raise(Exception::gp(event.code())));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(event.code())));
    }
    Ok(d)
}

/// The handler's code segment.
fn handler_segment(cpu: &mut Cpu, selector: u16) -> Result<Descriptor> {
    if is_null(selector) {
        return Err(cpu.gp0());
    }
    let d = descriptor::fetch(cpu, selector, Exception::gp)?;
    let code = code_of(selector);
    let wrong_size = cpu.long_active() && (!d.is_long() || d.is_big());
    if !d.is_code() || d.dpl() > cpu.cpl || wrong_size {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    Ok(d)
}

/// The flags in the handler.
fn handler_flags(flags: u64, gate: &Descriptor) -> u64 {
    let is_interrupt = gate.kind() & 1 == 0;
    flags & !(bit::TF | bit::NT | bit::RF | bit::VM | if is_interrupt { bit::IF } else { 0 })
}

fn long(cpu: &mut Cpu, event: &Event) -> Result<()> {
    let gate = gate(cpu, event)?;
    let selector = gate.gate_selector();
    let mut code = handler_segment(cpu, selector)?;
    let cpl = if code.is_conforming() { cpu.cpl } else { code.dpl() };
    let ist = (gate.low >> 32) as u8 & 7;
    let inner = cpl < cpu.cpl;
    let sp = match ist {
        0 if inner => task::inner_stack(cpu, cpl)?.1,
        0 => cpu.gpr[reg::RSP],
        _ => task::ist_stack(cpu, ist)?,
    };
    let old_sp = cpu.gpr[reg::RSP];
    let mut stack = NewStack::flat(sp & !0xf, cpl);
    let flags = event.flags(cpu);
    stack.push(cpu, 8, u64::from(cpu.segs[seg::SS].selector))?;
    stack.push(cpu, 8, old_sp)?;
    stack.push(cpu, 8, flags)?;
    stack.push(cpu, 8, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, 8, event.return_rip)?;
    if let Some(error) = event.error_code {
        stack.push(cpu, 8, u64::from(error))?;
    }
    let rip = gate.gate_offset();
    if !is_canonical(rip) {
        return Err(cpu.gp0());
    }
    set_accessed(cpu, &mut code)?;
    if inner {
        cpu.segs[seg::SS] = segment::null_ss(u16::from(cpl), cpl);
    }
    cpu.set_rflags(handler_flags(cpu.rflags(), &gate));
    super::far::set_cs(cpu, code.segment(selector), cpl, rip);
    cpu.gpr[reg::RSP] = stack.sp;
    Ok(())
}

fn protected(cpu: &mut Cpu, event: &Event) -> Result<()> {
    let gate = gate(cpu, event)?;
    if gate.kind() == kind::TASK {
        return task::switch(
            cpu,
            gate.gate_selector(),
            task::Cause::Interrupt(event.return_rip),
            event.error_code,
        );
    }
    let wide = gate.kind() & 8 != 0;
    let width = if wide { 4 } else { 2 };
    let selector = gate.gate_selector();
    let mut code = handler_segment(cpu, selector)?;
    let v86 = cpu.rflags_rest & bit::VM != 0;
    let cpl = if code.is_conforming() { cpu.cpl } else { code.dpl() };
    if v86 && cpl != 0 {
        return Err(cpu.raise(Exception::gp(code_of(selector))));
    }
    let flags = event.flags(cpu);
    let old_sp = cpu.gpr[reg::RSP];
    let inner = cpl < cpu.cpl;
    let (new_ss, mut stack) = if inner {
        let (ss, sp) = task::inner_stack(cpu, cpl)?;
        (Some(ss), NewStack::in_segment(ss, sp, cpl))
    } else {
        (None, NewStack::current(cpu))
    };
    if v86 {
        for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
            stack.push(cpu, width, u64::from(cpu.segs[index].selector))?;
        }
    }
    if inner {
        stack.push(cpu, width, u64::from(cpu.segs[seg::SS].selector))?;
        stack.push(cpu, width, old_sp)?;
    }
    stack.push(cpu, width, flags)?;
    stack.push(cpu, width, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, width, event.return_rip)?;
    if let Some(error) = event.error_code {
        stack.push(cpu, width, u64::from(error))?;
    }
    let rip = if wide {
        gate.gate_offset()
    } else {
        gate.low & 0xffff
    };
    if !within_limit(&code.segment(selector), rip, 1) {
        return Err(cpu.gp0());
    }
    set_accessed(cpu, &mut code)?;
    if let Some(ss) = new_ss {
        cpu.segs[seg::SS] = ss;
    }
    if v86 {
        for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
            cpu.segs[index] = segment::null_segment(0);
        }
    }
    cpu.set_rflags(handler_flags(cpu.rflags(), &gate));
    super::far::set_cs(cpu, code.segment(selector), cpl, rip);
    set_sp(cpu, stack.sp);
    Ok(())
}

/// How exceptions combine (SDM vol. 3, table 7-5).
#[derive(PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Delivers `exception` at `cpu.rip`; see [`super::deliver`].
pub fn deliver(cpu: &mut Cpu, mut exception: Exception) -> std::result::Result<(), Stop> {
    // Each round is a fault inside the delivery of the one before; the third is a shutdown at the latest.
    loop {
        if let Some(address) = exception.cr2 {
            cpu.cr2 = address;
        }
        if exception.vector == vector::DB {
            cpu.dr6 = cpu.dr6 & !super::debug::DR6_HITS | exception.dr6;
            cpu.dr7 &= !super::debug::DR7_GD;
        }
        let event = Event {
            vector: exception.vector,
            error_code: exception.error_code.filter(|_| cpu.cr0 & cr0::PE != 0),
            source: Source::Exception,
            return_rip: cpu.rip,
        };
        match enter(cpu, &event) {
            Ok(()) => return Ok(()),
            Err(Stop::Fault) => {}
            Err(stop) => return Err(stop),
        }
        let Some(second) = cpu.exception.take() else {
            return Ok(());
        };
        let combined = match (class(exception.vector), class(second.vector)) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => {
                cpu.activity = Activity::Shutdown;
                return Ok(());
            }
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                Exception::with_code(vector::DF, 0)
            }
            _ => second,
        };
        exception = combined;
    }
}

/// INT n, INT3, INTO and INT1 as instructions.
pub fn software(cpu: &mut Cpu, vector: u8, source: Source) -> Result<()> {
    // INT1's #DB is also that of the breakpoints that a load of SS just before it met.
    let met = match source {
        Source::Int1 => std::mem::take(&mut cpu.msrs.debug_hits),
        _ => 0,
    };
    let event = Event {
        vector,
        error_code: None,
        source,
        return_rip: cpu.next_rip,
    };
    enter(cpu, &event)?;
    if met != 0 {
        cpu.dr6 = cpu.dr6 & !super::debug::DR6_HITS | met;
    }
    Ok(())
}
