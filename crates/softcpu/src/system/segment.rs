//! Loads of segment registers (SDM vol. 2, MOV; vol. 3, 6.5 to 6.8).

use ostler_accel::Segment;

use super::descriptor::{self, code_of, is_null, kind, rpl, set_accessed};
use crate::fault::{Exception, Result};
use crate::mmu::access::is_canonical;
use crate::state::{Cpu, cr0, rights, seg};

/// Rights of a writable data segment, accessed, DPL 3: what virtual-8086 mode gives every segment.
pub const V86_RIGHTS: u16 = 0xf3;

/// A segment as real or virtual-8086 mode forms it from a selector.
pub fn real_segment(cpu: &Cpu, index: usize, selector: u16) -> Segment {
    let base = u64::from(selector) << 4;
    if cpu.cr0 & cr0::PE != 0 {
        return Segment {
            selector,
            base,
            limit: 0xffff,
            rights: V86_RIGHTS,
        };
    }
    // Real mode keeps limit and rights: "unreal" mode depends on it.
    Segment {
        selector,
        base,
        ..cpu.segs[index]
    }
}

/// A register that holds the null selector.
pub fn null_segment(selector: u16) -> Segment {
    Segment {
        selector,
        ..Default::default()
    }
}

/// SS after a switch to an inner level in 64-bit mode: null, usable for nothing outside it.
pub fn null_ss(selector: u16, cpl: u8) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0,
        rights: u16::from(cpl) << 5,
    }
}

/// Checks `selector` for segment register `index` (not CS) and returns the new contents, without committing them.
///
/// # Errors
/// `#GP`, `#SS` or `#NP` with the selector as error code.
pub fn checked(cpu: &mut Cpu, index: usize, selector: u16) -> Result<Segment> {
    if !cpu.is_protected() {
        return Ok(real_segment(cpu, index, selector));
    }
    if index == seg::SS {
        checked_stack(cpu, selector, cpu.cpl, Exception::gp)
    } else {
        checked_data(cpu, selector)
    }
}

fn checked_data(cpu: &mut Cpu, selector: u16) -> Result<Segment> {
    if is_null(selector) {
        return Ok(null_segment(selector));
    }
    let mut d = descriptor::fetch(cpu, selector, Exception::gp)?;
    let code = code_of(selector);
    let least = rpl(selector).max(cpu.cpl);
    let conforming = d.is_code() && d.is_conforming();
    if !d.is_readable() || (!conforming && least > d.dpl()) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    set_accessed(cpu, &mut d)?;
    Ok(d.segment(selector))
}

/// Checks `selector` as a stack segment for privilege level `cpl`; `refusal` is `#GP` for loads and `#TS` where it came from a
/// TSS.
///
/// # Errors
/// `refusal`, or `#SS(selector)` if it is not present.
pub fn checked_stack(cpu: &mut Cpu, selector: u16, cpl: u8, refusal: descriptor::Refusal) -> Result<Segment> {
    let code = code_of(selector);
    if is_null(selector) {
        if cpu.is_long() && cpl < 3 && rpl(selector) == cpl {
            return Ok(null_ss(selector, cpl));
        }
        return Err(cpu.raise(refusal(code)));
    }
    let mut d = descriptor::fetch(cpu, selector, refusal)?;
    if rpl(selector) != cpl || !d.is_writable_data() || d.dpl() != cpl {
        return Err(cpu.raise(refusal(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::ss(code)));
    }
    set_accessed(cpu, &mut d)?;
    Ok(d.segment(selector))
}

/// Loads segment register `index` (not CS).
pub fn load(cpu: &mut Cpu, index: usize, selector: u16) -> Result<()> {
    let loaded = checked(cpu, index, selector)?;
    cpu.segs[index] = loaded;
    cpu.update_mode();
    Ok(())
}

/// After a return to an outer level: data segments that the outer level may not use become null (SDM vol. 2, RET).
pub fn drop_inner_segments(cpu: &mut Cpu) {
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let s = cpu.segs[index];
        let conforming_code =
            s.rights & (rights::CODE | rights::EXPAND_DOWN) == rights::CODE | rights::EXPAND_DOWN;
        let dpl = (s.rights >> 5) as u8 & 3;
        if s.rights & rights::PRESENT != 0 && !conforming_code && dpl < cpu.cpl {
            // The base stays, unlike after a load of a null selector: that of FS and GS still counts in 64-bit mode.
            cpu.segs[index] = Segment {
                base: s.base,
                ..null_segment(0)
            };
        } else if is_null(s.selector) {
            // A null selector's RPL is cleared with it; bases of FS and GS set by MSR stay.
            cpu.segs[index].selector = 0;
        }
    }
}

/// LLDT.
pub fn load_ldtr(cpu: &mut Cpu, selector: u16) -> Result<()> {
    if is_null(selector) {
        cpu.ldtr = null_segment(selector);
        return Ok(());
    }
    cpu.ldtr = checked_ldt(cpu, selector, Exception::gp, Exception::np)?;
    Ok(())
}

/// Checks an LDT selector; `refusal` and `absent` are the exceptions for a bad and for an absent one.
pub fn checked_ldt(
    cpu: &mut Cpu,
    selector: u16,
    refusal: descriptor::Refusal,
    absent: descriptor::Refusal,
) -> Result<Segment> {
    let code = code_of(selector);
    if selector & 4 != 0 {
        return Err(cpu.raise(refusal(code)));
    }
    let d = descriptor::fetch(cpu, selector, refusal)?;
    if !d.is_system(kind::LDT) {
        return Err(cpu.raise(refusal(code)));
    }
    if !d.present() {
        return Err(cpu.raise(absent(code)));
    }
    let ldt = d.segment(selector);
    if cpu.long_active() && !is_canonical(ldt.base) {
        return Err(cpu.raise(refusal(code)));
    }
    Ok(ldt)
}

/// LTR.
pub fn load_tr(cpu: &mut Cpu, selector: u16) -> Result<()> {
    let code = code_of(selector);
    if is_null(selector) || selector & 4 != 0 {
        return Err(cpu.raise(Exception::gp(code)));
    }
    let d = descriptor::fetch(cpu, selector, Exception::gp)?;
    let narrow = d.is_system(kind::TSS16) && !cpu.long_active();
    if !(narrow || d.is_system(kind::TSS)) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if !d.present() {
        return Err(cpu.raise(Exception::np(code)));
    }
    let task = d.segment(selector);
    if cpu.long_active() && !is_canonical(task.base) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    descriptor::set_kind(cpu, &d, d.kind() | 2)?;
    cpu.tr = task;
    cpu.tr.rights |= 2;
    Ok(())
}

/// What LAR, LSL, VERR and VERW find out about a selector: the descriptor, if it is visible.
pub fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<descriptor::Descriptor>> {
    if is_null(selector) {
        return Ok(None);
    }
    let before = cpu.exception;
    let d = match descriptor::fetch(cpu, selector, Exception::gp) {
        Ok(d) => d,
        Err(stop) => {
            let outside = cpu
                .exception
                .is_some_and(|e| e.vector == crate::fault::vector::GP);
            if stop == crate::fault::Stop::Fault && outside {
                cpu.exception = before;
                return Ok(None);
            }
            return Err(stop);
        }
    };
    let conforming = d.is_code() && d.is_conforming();
    let hidden = !conforming && rpl(selector).max(cpu.cpl) > d.dpl();
    Ok(Some(d).filter(|_| !hidden))
}

/// True if LAR accepts the descriptor's type; LSL accepts those of them that have a limit.
pub fn has_rights(d: &descriptor::Descriptor, long: bool, with_limit: bool) -> bool {
    if d.is_segment() {
        return true;
    }
    match d.kind() {
        kind::LDT | kind::TSS | kind::TSS_BUSY => true,
        kind::TSS16 | kind::TSS16_BUSY => !long,
        kind::CALL => !with_limit,
        kind::CALL16 | kind::TASK => !with_limit && !long,
        _ => false,
    }
}
