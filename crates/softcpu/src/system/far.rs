//! Far JMP, CALL and RET, directly and through call gates, TSSs and task gates (SDM vol. 2, JMP, CALL, RET).

use ostler_accel::Segment;

use super::descriptor::{self, Descriptor, code_of, is_canonical, is_null, kind, rpl, set_accessed};
use super::stack::{NewStack, Popper, within_limit};
use super::{segment, task};
use crate::fault::{Exception, Result};
use crate::state::{Cpu, reg, seg};

/// Commits CS and the instruction pointer.
pub fn set_cs(cpu: &mut Cpu, cs: Segment, cpl: u8, rip: u64) {
    cpu.segs[seg::CS] = cs;
    cpu.segs[seg::CS].selector = cs.selector & !3 | u16::from(cpl);
    cpu.cpl = cpl;
    cpu.rip = rip;
    cpu.update_mode();
}

/// Checks that `offset` can be executed in the code segment `d`.
pub fn check_target(cpu: &mut Cpu, d: &Descriptor, offset: u64) -> Result<()> {
    let good = if cpu.long_active() && d.is_long() {
        is_canonical(offset)
    } else {
        offset <= u64::from(d.limit())
    };
    if good { Ok(()) } else { Err(cpu.gp0()) }
}

/// 64-bit code must not have D set as well.
pub fn has_bad_size(cpu: &Cpu, d: &Descriptor) -> bool {
    cpu.long_active() && d.is_long() && d.is_big()
}

/// A far transfer without a change of mode: real and virtual-8086 mode.
fn real_target(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<Segment> {
    let cs = segment::real_segment(cpu, seg::CS, selector);
    if offset > u64::from(cs.limit) {
        return Err(cpu.gp0());
    }
    Ok(cs)
}

fn set_real_cs(cpu: &mut Cpu, cs: Segment, offset: u64) {
    cpu.segs[seg::CS] = cs;
    cpu.rip = offset;
    cpu.update_mode();
}

/// Checks a code segment as the direct target of a jump or call; the level stays.
fn direct_target(cpu: &mut Cpu, d: &mut Descriptor, selector: u16, offset: u64) -> Result<Segment> {
    let code = code_of(selector);
    let cpl = cpu.cpl;
    let allowed = if d.is_conforming() {
        d.dpl() <= cpl
    } else {
        rpl(selector) <= cpl && d.dpl() == cpl
    };
    if !allowed || has_bad_size(cpu, d) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    check_target(cpu, d, offset)?;
    set_accessed(cpu, d)?;
    Ok(d.segment(selector))
}

/// Reads the target of a far transfer; the null selector is refused.
fn target(cpu: &mut Cpu, selector: u16) -> Result<Descriptor> {
    if is_null(selector) {
        return Err(cpu.gp0());
    }
    descriptor::fetch(cpu, selector, Exception::gp)
}

/// Far JMP to `selector:offset`.
pub fn jump(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<()> {
    if !cpu.is_protected() {
        let cs = real_target(cpu, selector, offset)?;
        set_real_cs(cpu, cs, offset);
        return Ok(());
    }
    let mut d = target(cpu, selector)?;
    if d.is_code() {
        let cs = direct_target(cpu, &mut d, selector, offset)?;
        set_cs(cpu, cs, cpu.cpl, offset);
        return Ok(());
    }
    match Gate::check(cpu, &d, selector)? {
        Gate::Call(gate) => {
            let (mut d, selector) = gate.target(cpu)?;
            let allowed = if d.is_conforming() {
                d.dpl() <= cpu.cpl
            } else {
                d.dpl() == cpu.cpl
            };
            if !allowed {
                return Err(cpu.raise(Exception::gp(code_of(selector))));
            }
            check_target(cpu, &d, gate.offset)?;
            set_accessed(cpu, &mut d)?;
            let cs = d.segment(selector);
            set_cs(cpu, cs, cpu.cpl, gate.offset);
            Ok(())
        }
        Gate::Task(selector) => task::switch(cpu, selector, task::Cause::Jump, None),
    }
}

/// What a system descriptor in a far transfer leads to.
enum Gate {
    Call(CallGate),
    /// The selector of a TSS.
    Task(u16),
}

struct CallGate {
    selector: u16,
    offset: u64,
    /// Parameters to copy.
    count: u8,
    /// Width of what is pushed.
    width: u8,
}

impl Gate {
    /// Checks privilege and presence of the gate or TSS that `selector` names.
    fn check(cpu: &mut Cpu, d: &Descriptor, selector: u16) -> Result<Self> {
        let code = code_of(selector);
        let long = cpu.long_active();
        let known = !d.is_segment()
            && match d.kind() {
                kind::CALL => true,
                kind::CALL16 | kind::TASK | kind::TSS16 | kind::TSS => !long,
                _ => false,
            };
        if !known || d.dpl() < cpu.cpl || d.dpl() < rpl(selector) {
            return Err(cpu.raise(Exception::gp(code)));
        }
        if long && d.high >> 40 & 0x1f != 0 {
            return Err(cpu.raise(Exception::gp(code)));
        }
        if !d.present() {
            return Err(cpu.raise(Exception::np(code)));
        }
        Ok(match d.kind() {
            kind::CALL | kind::CALL16 => {
                let wide = d.kind() == kind::CALL;
                Self::Call(CallGate {
                    selector: d.gate_selector(),
                    offset: if wide { d.gate_offset() } else { d.low & 0xffff },
                    count: (d.low >> 32) as u8 & 0x1f,
                    width: if long {
                        8
                    } else if wide {
                        4
                    } else {
                        2
                    },
                })
            }
            kind::TASK => Self::Task(d.gate_selector()),
            _ => Self::Task(selector),
        })
    }
}

impl CallGate {
    /// The code segment behind the gate. The level is checked by the caller as far as it differs between JMP and CALL.
    fn target(&self, cpu: &mut Cpu) -> Result<(Descriptor, u16)> {
        let selector = self.selector;
        let d = target(cpu, selector)?;
        let code = code_of(selector);
        let long = cpu.long_active();
        let wrong_size = long && (!d.is_long() || d.is_big());
        if !d.is_code() || d.dpl() > cpu.cpl || wrong_size {
            return Err(cpu.raise(Exception::gp(code)));
        }
        if !d.present() {
            return Err(cpu.raise(Exception::np(code)));
        }
        Ok((d, selector))
    }
}

/// Far CALL to `selector:offset`, pushing values of `width` bytes unless a gate says otherwise.
pub fn call(cpu: &mut Cpu, selector: u16, offset: u64, width: u8) -> Result<()> {
    if !cpu.is_protected() {
        let cs = real_target(cpu, selector, offset)?;
        let stack = push_return(cpu, width)?;
        super::stack::set_sp(cpu, stack.sp);
        set_real_cs(cpu, cs, offset);
        return Ok(());
    }
    let mut d = target(cpu, selector)?;
    if d.is_code() {
        let cs = direct_target(cpu, &mut d, selector, offset)?;
        let stack = push_return(cpu, width)?;
        super::stack::set_sp(cpu, stack.sp);
        set_cs(cpu, cs, cpu.cpl, offset);
        return Ok(());
    }
    match Gate::check(cpu, &d, selector)? {
        Gate::Call(gate) => call_gate(cpu, &gate),
        Gate::Task(selector) => task::switch(cpu, selector, task::Cause::Call, None),
    }
}

/// Pushes CS and the address of the next instruction on the current stack.
fn push_return(cpu: &mut Cpu, width: u8) -> Result<NewStack> {
    let mut stack = NewStack::current(cpu);
    stack.push(cpu, width, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, width, cpu.next_rip)?;
    Ok(stack)
}

fn call_gate(cpu: &mut Cpu, gate: &CallGate) -> Result<()> {
    let (mut d, selector) = gate.target(cpu)?;
    if d.is_conforming() || d.dpl() == cpu.cpl {
        check_target(cpu, &d, gate.offset)?;
        set_accessed(cpu, &mut d)?;
        let stack = push_return(cpu, gate.width)?;
        super::stack::set_sp(cpu, stack.sp);
        set_cs(cpu, d.segment(selector), cpu.cpl, gate.offset);
        return Ok(());
    }
    let cpl = d.dpl();
    let (ss, sp) = task::inner_stack(cpu, cpl)?;
    let mut stack = if cpu.long_active() {
        NewStack::flat(sp, cpl)
    } else {
        NewStack::in_segment(ss, sp, cpl)
    };
    let old_sp = cpu.gpr[reg::RSP];
    stack.push(cpu, gate.width, u64::from(cpu.segs[seg::SS].selector))?;
    stack.push(cpu, gate.width, old_sp)?;
    if !cpu.long_active() {
        for n in (0..u64::from(gate.count)).rev() {
            let at = old_sp.wrapping_add(n * u64::from(gate.width)) & cpu.rsp_mask;
            let value = match gate.width {
                2 => u64::from(cpu.load::<u16>(seg::SS, at)?),
                _ => u64::from(cpu.load::<u32>(seg::SS, at)?),
            };
            stack.push(cpu, gate.width, value)?;
        }
    }
    stack.push(cpu, gate.width, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, gate.width, cpu.next_rip)?;
    check_target(cpu, &d, gate.offset)?;
    set_accessed(cpu, &mut d)?;
    cpu.segs[seg::SS] = ss;
    set_cs(cpu, d.segment(selector), cpl, gate.offset);
    super::stack::set_sp(cpu, stack.sp);
    Ok(())
}

/// Far RET, popping values of `width` bytes and releasing `release` bytes of parameters.
pub fn ret(cpu: &mut Cpu, width: u8, release: u16) -> Result<()> {
    let mut popper = Popper::new(cpu, width);
    let rip = popper.pop(cpu)?;
    let selector = popper.pop(cpu)? as u16;
    if !cpu.is_protected() {
        let cs = real_target(cpu, selector, rip)?;
        popper.skip(cpu, u64::from(release));
        popper.commit(cpu);
        set_real_cs(cpu, cs, rip);
        return Ok(());
    }
    let d = return_code_segment(cpu, selector)?;
    check_target(cpu, &d, rip)?;
    if rpl(selector) == cpu.cpl {
        popper.skip(cpu, u64::from(release));
        popper.commit(cpu);
        set_cs(cpu, d.segment(selector), cpu.cpl, rip);
        return Ok(());
    }
    popper.skip(cpu, u64::from(release));
    let sp = popper.pop(cpu)?;
    let ss_selector = popper.pop(cpu)? as u16;
    let ss = return_stack(cpu, &d, ss_selector, rpl(selector))?;
    to_outer(
        cpu,
        d.segment(selector),
        rpl(selector),
        rip,
        ss,
        sp.wrapping_add(u64::from(release)),
    );
    Ok(())
}

/// Checks the code segment that RET or IRET returns to, and marks it accessed.
pub fn return_code_segment(cpu: &mut Cpu, selector: u16) -> Result<Descriptor> {
    let mut d = target(cpu, selector)?;
    let code = code_of(selector);
    let level = rpl(selector);
    let allowed = if d.is_conforming() {
        d.dpl() <= level
    } else {
        d.dpl() == level
    };
    if !d.is_code() || level < cpu.cpl || !allowed || has_bad_size(cpu, &d) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    set_accessed(cpu, &mut d)?;
    Ok(d)
}

/// Checks the stack segment that RET or IRET returns to at level `cpl` with the code segment `code`.
pub fn return_stack(cpu: &mut Cpu, code: &Descriptor, selector: u16, cpl: u8) -> Result<Segment> {
    let to_long = cpu.long_active() && code.is_long();
    if is_null(selector) {
        if to_long && cpl != 3 && rpl(selector) == cpl {
            return Ok(segment::null_ss(selector, cpl));
        }
        return Err(cpu.gp0());
    }
    segment::checked_stack(cpu, selector, cpl, Exception::gp)
}

/// Commits a return to an outer (or, in 64-bit mode, any) level with its stack.
pub fn to_outer(cpu: &mut Cpu, cs: Segment, cpl: u8, rip: u64, ss: Segment, sp: u64) {
    let outer = cpl > cpu.cpl;
    cpu.segs[seg::SS] = ss;
    set_cs(cpu, cs, cpl, rip);
    super::stack::set_sp(cpu, sp);
    if outer {
        segment::drop_inner_segments(cpu);
        cpu.update_mode();
    }
}

/// True if `offset` can be executed in the current code segment.
pub fn is_executable(cpu: &Cpu, offset: u64) -> bool {
    if cpu.is_long() {
        is_canonical(offset)
    } else {
        within_limit(&cpu.segs[seg::CS], offset, 1)
    }
}
