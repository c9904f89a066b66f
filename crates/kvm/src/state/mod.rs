//! Whole-state save and restore.
//!
//! The order matters, because one piece of state decides how KVM takes the next. **Restore:**
//!
//! 1. special registers (`sregs`): EFER, control registers and APIC base first of all: they decide the mode in which
//!    everything else is judged, and whether the LAPIC's page is in xAPIC or x2APIC form;
//! 2. general registers (after sregs: KVM drops pending exceptions here, so events come later);
//! 3. XCR0, then the XSAVE area: components that XCR0 does not enable would be refused;
//! 4. debug registers;
//! 5. MSRs but for those that need the LAPIC: the TSC is set here, last but for the clocks that are computed from it, and twice
//!    in the first state of a VM (see `write_msrs_with_tsc`);
//! 6. the LAPIC: its page is judged by the APIC base of step 1, its timer is started by the TSC of step 5;
//! 7. the TSC deadline: the LAPIC's timer must already be in that mode;
//! 8. whether it runs (`mp_state`): KVM wakes a boot CPU by itself in step 1, so this comes after;
//! 9. events last: everything before may reset or deliver them; with them whether it is in system management mode, which it
//!    left before step 1;
//! 10. the paravirtual clock is told that the guest was paused, so that its watchdogs forgive the gap.
//!
//! **One instruction** that the software CPU executes instead needs less, and must not touch what others write meanwhile: the
//! LAPIC (a message may arrive), NMIs that were posted, the clocks and the pages behind the paravirtual MSRs.
//!
//! **Save** is the other way round where it matters: `mp_state` first, because reading it lets KVM act on a pending INIT
//! or start-up IPI, which changes registers.

mod events;
mod msrs;
pub mod nested;
mod registers;

use std::sync::PoisonError;

use kvm_bindings::{kvm_debugregs, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use ostler_accel::{CpuState, Error, MAX_XSAVE_SIZE, Msr, SmmState};

pub use events::{drop_exception, inject_external, is_started, mp_state, ready_for_external};
pub use msrs::{Msrs, read as read_msrs, supported as supported_msrs, write as write_msrs};

use crate::sys;
use crate::vm::Shared;

/// Legacy area and header: the least that an XSAVE area has, in bytes (SDM vol. 1, 13.4).
const MIN_XSAVE_SIZE: usize = 576;

/// Reads what one instruction works on. Whether the vCPU runs is not asked: that would let KVM act on a pending INIT.
pub fn for_instruction(fd: &VcpuFd, vm: &Shared) -> Result<CpuState, Error> {
    let mut state = read_registers(fd, vm)?;
    let needed: Vec<u32> = msrs::INSTRUCTION_MSRS
        .iter()
        .filter(|index| vm.msrs.contains(index))
        .copied()
        .collect();
    state.msrs = msrs::read(fd, &needed)?;
    // What is on its way stays with KVM, which delivers it after the instruction.
    let events = events::read(fd)?;
    state.events.nmi_masked = events.nmi_masked;
    state.events.interrupt_shadow = events.interrupt_shadow;
    Ok(state)
}

/// Writes back what one instruction made of `before`.
pub fn after_instruction(fd: &VcpuFd, vm: &Shared, before: &CpuState, after: &CpuState) -> Result<(), Error> {
    let special = registers::sregs(after);
    if special != registers::sregs(before) {
        fd.set_sregs(&special)
            .map_err(|e| Error::host("set a vCPU's special registers", e))?;
    }
    fd.set_regs(&registers::regs(after))
        .map_err(|e| Error::host("set a vCPU's registers", e))?;
    if vm.features.xcrs && after.xcr0 != before.xcr0 {
        write_xcr0(fd, after.xcr0)?;
    }
    if after.xsave != before.xsave {
        write_xsave(fd, vm, &after.xsave)?;
    }
    if after.debug != before.debug {
        fd.set_debug_regs(&debug_registers(after))
            .map_err(|e| Error::host("set a vCPU's debug registers", e))?;
    }
    let written: Vec<_> = after
        .msrs
        .iter()
        .filter(|msr| !before.msrs.contains(msr))
        .copied()
        .collect();
    msrs::write(fd, &written)?;
    if after.mp != before.mp {
        events::set_mp_state(fd, after.mp)?;
    }
    events::after_instruction(fd, &after.events)
}

/// Writes registers that a debugger changed. What is on its way into the guest stays there.
pub fn set_registers(fd: &VcpuFd, vm: &Shared, state: &CpuState) -> Result<(), Error> {
    let before = read_registers(fd, vm)?;
    let events = events::hold(fd)?;
    let special = registers::sregs(&CpuState {
        cr8: before.cr8,
        apic_base: before.apic_base,
        ..state.clone()
    });
    if special != registers::sregs(&before) {
        fd.set_sregs(&special)
            .map_err(|e| Error::host("set a vCPU's special registers", e))?;
    }
    fd.set_regs(&registers::regs(state))
        .map_err(|e| Error::host("set a vCPU's registers", e))?;
    if state.xsave != before.xsave {
        write_xsave(fd, vm, &state.xsave)?;
    }
    if state.debug != before.debug {
        fd.set_debug_regs(&debug_registers(state))
            .map_err(|e| Error::host("set a vCPU's debug registers", e))?;
    }
    let gs: Vec<_> = state
        .msrs
        .iter()
        .filter(|msr| msr.index == msrs::KERNEL_GS_BASE)
        .copied()
        .collect();
    msrs::write(fd, &gs)?;
    events::release(fd, events)
}

/// Reads the whole state.
pub fn save(fd: &VcpuFd, vm: &Shared, msrs: &Msrs) -> Result<CpuState, Error> {
    let mp = events::mp_state(fd)?;
    let mut state = read_registers(fd, vm)?;
    state.mp = mp;
    state.lapic = registers::lapic_to_state(
        &fd.get_lapic()
            .map_err(|e| Error::host("read a vCPU's local APIC", e))?,
    );
    state.msrs = msrs.read(fd)?;
    let (pending, smm) = events::read_all(fd)?;
    state.events = pending;
    if vm.has_smm() {
        let base = msrs::read(fd, &[msrs::SMBASE])?;
        let base = base
            .first()
            .map_or(SmmState::default().base, |msr| msr.value as u32);
        state.smm = SmmState { base, ..smm };
    }
    Ok(state)
}

/// General, special, debug registers and the XSAVE area.
fn read_registers(fd: &VcpuFd, vm: &Shared) -> Result<CpuState, Error> {
    let regs = fd
        .get_regs()
        .map_err(|e| Error::host("read a vCPU's registers", e))?;
    let sregs = fd
        .get_sregs()
        .map_err(|e| Error::host("read a vCPU's special registers", e))?;
    let debug = fd
        .get_debug_regs()
        .map_err(|e| Error::host("read a vCPU's debug registers", e))?;
    let mut state = registers::to_state(&regs, &sregs, &debug);
    state.xcr0 = if vm.features.xcrs { read_xcr0(fd)? } else { 1 };
    let area =
        sys::get_xsave(fd, vm.features.xsave_size).map_err(|e| Error::host("read a vCPU's XSAVE area", e))?;
    state.xsave = trimmed(area);
    Ok(state)
}

/// Replaces the whole state. An SMI that waits for the vCPU to be started is the caller's: KVM takes none then.
pub fn restore(fd: &VcpuFd, vm: &Shared, msrs: &Msrs, state: &CpuState) -> Result<(), Error> {
    check_smm(vm.has_smm(), state)?;
    let smm = vm.has_smm().then(|| SmmState {
        pending: state.smm.pending && is_started(state.mp),
        ..state.smm
    });
    if smm.is_some() {
        // In system management mode KVM refuses a state in which the vCPU waits for its start-up IPI.
        events::leave_smm(fd)?;
    }
    fd.set_sregs(&registers::sregs(state))
        .map_err(|e| Error::host("set a vCPU's special registers", e))?;
    fd.set_regs(&registers::regs(state))
        .map_err(|e| Error::host("set a vCPU's registers", e))?;
    if vm.features.xcrs {
        write_xcr0(fd, state.xcr0)?;
    }
    write_xsave(fd, vm, &state.xsave)?;
    fd.set_debug_regs(&debug_registers(state))
        .map_err(|e| Error::host("set a vCPU's debug registers", e))?;
    let (early, late) = msrs.groups(&state.msrs);
    write_msrs_with_tsc(fd, vm, &early)?;
    fd.set_lapic(&registers::lapic(state))
        .map_err(|e| Error::host("set a vCPU's local APIC", e))?;
    msrs::write(fd, &late)?;
    if let Some(smm) = &smm {
        msrs::write(fd, &[msrs::smbase(smm.base)])?;
    }
    events::set_mp_state(fd, state.mp)?;
    events::write(fd, &state.events, smm.as_ref())?;
    // A guest without the paravirtual clock refuses, and needs no forgiveness.
    let _ = fd.kvmclock_ctrl();
    Ok(())
}

/// Whether a guest with system management mode (`there`) or without can be in this state.
fn check_smm(there: bool, state: &CpuState) -> Result<(), Error> {
    let smm = &state.smm;
    if !there && *smm != SmmState::default() {
        return Err(Error::BadState(
            "it is of a guest with system management mode, which this one does not have".into(),
        ));
    }
    if smm.active && !is_started(state.mp) {
        return Err(Error::BadState(
            "it is in system management mode, and waits to be started".into(),
        ));
    }
    if smm.startup_pending.is_some() {
        return Err(Error::BadState(
            "a start-up IPI waits for the end of system management mode, which KVM cannot take over".into(),
        ));
    }
    Ok(())
}

/// Sets `msrs`, and the TSC among them so that KVM believes it.
///
/// KVM takes a TSC within a second of what the VM's TSC is now for the attempt to set all vCPUs alike, and leaves the vCPU the
/// VM's. That is what the second vCPU of a state needs. Before Linux 6.8, though, a VM's TSC is also what it started with,
/// and a guest younger than a second would go back to that: so before the first one, the TSC is set to somewhere else.
fn write_msrs_with_tsc(fd: &VcpuFd, vm: &Shared, msrs: &[Msr]) -> Result<(), Error> {
    // Held until the TSC is set: vCPUs are restored by threads of their own.
    let mut was_set = vm.tsc_was_set.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tsc) = msrs.iter().find(|msr| msr.index == msrs::TSC)
        && !*was_set
    {
        msrs::write(fd, &[msrs::far_from(*tsc)])?;
        *was_set = true;
    }
    msrs::write(fd, msrs)
}

fn write_xsave(fd: &VcpuFd, vm: &Shared, area: &[u8]) -> Result<(), Error> {
    let area = padded(area, vm.features.xsave_size.max(sys::PLAIN_XSAVE_SIZE))?;
    sys::set_xsave(fd, &area, vm.features.xsave_size).map_err(|e| Error::host("set a vCPU's XSAVE area", e))
}

fn debug_registers(state: &CpuState) -> kvm_debugregs {
    let [d0, d1, d2, d3, dr6, dr7] = state.debug;
    kvm_debugregs {
        db: [d0, d1, d2, d3],
        dr6,
        dr7,
        ..Default::default()
    }
}

fn read_xcr0(fd: &VcpuFd) -> Result<u64, Error> {
    let xcrs = fd.get_xcrs().map_err(|e| Error::host("read a vCPU's XCR0", e))?;
    let count = (xcrs.nr_xcrs as usize).min(xcrs.xcrs.len());
    Ok(xcrs.xcrs[..count]
        .iter()
        .find(|register| register.xcr == 0)
        .map_or(1, |register| register.value))
}

fn write_xcr0(fd: &VcpuFd, value: u64) -> Result<(), Error> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = value;
    fd.set_xcrs(&xcrs)
        .map_err(|e| Error::host("set a vCPU's XCR0", e))
}

/// The area without the zeroes at its end: absent components read as zeroes.
fn trimmed(mut area: Vec<u8>) -> Vec<u8> {
    let used = area
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    area.truncate(used.next_multiple_of(64).clamp(MIN_XSAVE_SIZE, area.len()));
    area
}

/// The area in the size that KVM takes.
fn padded(area: &[u8], size: usize) -> Result<Vec<u8>, Error> {
    if area.len() < MIN_XSAVE_SIZE || area.len() > MAX_XSAVE_SIZE {
        return Err(Error::BadState(format!(
            "an XSAVE area has {MIN_XSAVE_SIZE} to {MAX_XSAVE_SIZE} bytes, not {}",
            area.len()
        )));
    }
    let mut padded = area.to_vec();
    if area.len() > size && area[size..].iter().any(|&byte| byte != 0) {
        return Err(Error::BadState(format!(
            "its XSAVE area holds more than the {size} bytes that this host's processor knows"
        )));
    }
    padded.resize(size, 0);
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xsave_area_is_trimmed_and_padded_without_loss() {
        let mut area = vec![0; 4096];
        assert_eq!(trimmed(area.clone()).len(), MIN_XSAVE_SIZE);
        area[830] = 1;
        let short = trimmed(area.clone());
        assert_eq!(short.len(), 832);
        assert_eq!(padded(&short, 4096).unwrap(), area);
        area[4095] = 1;
        assert_eq!(trimmed(area.clone()), area);
        assert!(padded(&area, 2048).is_err());
        assert!(padded(&area[..100], 4096).is_err());
        assert!(padded(&vec![0; MAX_XSAVE_SIZE + 1], 4096).is_err());
    }

    #[test]
    fn an_area_beyond_a_page_keeps_its_last_component() {
        // With tile data an area has 11,008 bytes.
        const TILES: usize = 11_008;
        let mut area = vec![0; TILES];
        (area[2816], area[4096], area[TILES - 1]) = (1, 2, 3);
        let moved = padded(&trimmed(area.clone()), TILES).unwrap();
        assert_eq!(moved, area);
        assert!(padded(&area, 4096).is_err(), "a host without tiles");
        area.truncate(5000);
        let wider = padded(&trimmed(area.clone()), TILES).unwrap();
        assert_eq!((wider.len(), &wider[..5000]), (TILES, &area[..]));
        assert!(wider[5000..].iter().all(|&byte| byte == 0));
    }
}
