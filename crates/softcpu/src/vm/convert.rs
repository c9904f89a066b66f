//! Between [`Cpu`] and the accelerators' common [`CpuState`].

use ostler_accel::{CpuState, Error, MpState, PendingEvents};

use crate::fault::Exception;
use crate::state::{Activity, Cpu, VectorRegister, reg};
use crate::system::{self, lapic, msr};

/// Bytes of the XSAVE area up to the end of the AVX part.
const XSAVE_SIZE: usize = 832;
/// Where MXCSR lies in it.
const MXCSR: usize = 24;
/// Where the XMM registers lie.
const XMM: usize = 160;
/// Where XSTATE_BV lies.
const XSTATE_BV: usize = 512;
/// Where the upper halves of the YMM registers lie.
const YMM: usize = 576;

/// The state of `cpu`.
pub fn save(cpu: &mut Cpu) -> Result<CpuState, Error> {
    cpu.sync_x87();
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&cpu.gpr[..16]);
    let exception = cpu
        .exception
        .map(|exception| (exception.vector, exception.error_code));
    Ok(CpuState {
        gpr,
        rip: cpu.rip,
        rflags: cpu.rflags(),
        segments: cpu.segs,
        ldtr: cpu.ldtr,
        tr: cpu.tr,
        gdtr: cpu.gdtr,
        idtr: cpu.idtr,
        cr0: cpu.cr0,
        cr2: cpu.cr2,
        cr3: cpu.cr3,
        cr4: cpu.cr4,
        cr8: u64::from(lapic::save(cpu).registers[0x80] >> 4),
        efer: cpu.efer,
        xcr0: cpu.xcr0,
        apic_base: cpu.lapic.base,
        debug: [cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3], cpu.dr6, cpu.dr7],
        xsave: save_vectors(cpu),
        msrs: msr::save(cpu),
        lapic: lapic::save(cpu),
        events: PendingEvents {
            exception,
            interrupt: cpu.lapic.in_flight,
            nmis_pending: cpu.nmis_pending,
            nmi_masked: cpu.nmi_masked,
            interrupt_shadow: cpu.shadow,
        },
        smm: cpu.smm,
        mp: match cpu.activity {
            Activity::Running | Activity::Shutdown => MpState::Runnable,
            Activity::Halted => MpState::Halted,
            Activity::WaitForSipi => MpState::WaitForSipi,
        },
    })
}

fn save_vectors(cpu: &Cpu) -> Vec<u8> {
    let mut area = vec![0; XSAVE_SIZE];
    area[..512].copy_from_slice(&cpu.fx.0);
    area[MXCSR..MXCSR + 4].copy_from_slice(&cpu.mxcsr.to_le_bytes());
    area[XSTATE_BV] = 7;
    for (n, register) in cpu.vec.iter().enumerate() {
        for (quarter, value) in register.0.iter().enumerate() {
            let at = if quarter < 2 {
                XMM + 16 * n + 8 * quarter
            } else {
                YMM + 16 * n + 8 * (quarter - 2)
            };
            area[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    area
}

/// Gives `cpu` the state `state`.
pub fn restore(cpu: &mut Cpu, state: &CpuState) -> Result<(), Error> {
    cpu.smm = state.smm;
    cpu.mmu.select_view(cpu.smm.active);
    take_registers(cpu, state)?;
    msr::restore(cpu, &state.msrs)?;
    cpu.lapic.base = state.apic_base;
    lapic::restore(cpu, &state.lapic);
    cpu.lapic.in_flight = state.events.interrupt;
    cpu.nmis_pending = PendingEvents::wait(state.events.nmis_pending, 0, state.events.nmi_masked);
    cpu.nmi_masked = state.events.nmi_masked;
    cpu.shadow = state.events.interrupt_shadow;
    cpu.stack_loaded = false;
    cpu.exception = state.events.exception.map(|(vector, error_code)| Exception {
        vector,
        error_code,
        cr2: None,
        dr6: 0,
    });
    cpu.activity = match state.mp {
        MpState::Runnable => Activity::Running,
        MpState::Halted => Activity::Halted,
        MpState::Uninitialized | MpState::WaitForSipi => Activity::WaitForSipi,
    };
    cpu.replay.clear();
    cpu.exit = Default::default();
    registers_changed(cpu);
    Ok(())
}

/// Gives `cpu` the registers of `state` and IA32_KERNEL_GS_BASE, and leaves the rest as it is. Between instructions only.
pub fn restore_registers(cpu: &mut Cpu, state: &CpuState) -> Result<(), Error> {
    take_registers(cpu, state)?;
    msr::restore_kernel_gs_base(cpu, &state.msrs)?;
    registers_changed(cpu);
    // What waits for RFLAGS.IF may be deliverable now.
    cpu.held = true;
    system::request_service(cpu);
    Ok(())
}

/// What depends on registers is computed again.
fn registers_changed(cpu: &mut Cpu) {
    cpu.update_mode();
    cpu.flush_tlb(true);
    cpu.switch_address_space(false);
    cpu.update_mode();
}

fn take_registers(cpu: &mut Cpu, state: &CpuState) -> Result<(), Error> {
    cpu.gpr[..16].copy_from_slice(&state.gpr);
    cpu.gpr[reg::ZERO] = 0;
    cpu.rip = state.rip;
    cpu.segs = state.segments;
    cpu.ldtr = state.ldtr;
    cpu.tr = state.tr;
    cpu.gdtr = state.gdtr;
    cpu.idtr = state.idtr;
    (cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    cpu.efer = state.efer;
    cpu.xcr0 = state.xcr0;
    cpu.dr.copy_from_slice(&state.debug[..4]);
    (cpu.dr6, cpu.dr7) = (state.debug[4], state.debug[5]);
    cpu.cpl = (state.segments[crate::state::seg::SS].rights >> 5 & 3) as u8;
    cpu.set_rflags(state.rflags);
    restore_vectors(cpu, &state.xsave)
}

fn restore_vectors(cpu: &mut Cpu, area: &[u8]) -> Result<(), Error> {
    if area.len() < YMM {
        return Err(Error::BadState(format!(
            "its XSAVE area has {} bytes, not at least {YMM}",
            area.len()
        )));
    }
    let quad = |at: usize| {
        area.get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    cpu.fx.0.copy_from_slice(&area[..512]);
    cpu.mxcsr = quad(MXCSR) as u32;
    let has_upper = area[XSTATE_BV] & 4 != 0;
    for (n, register) in cpu.vec.iter_mut().enumerate() {
        let upper = |at| if has_upper { quad(at) } else { 0 };
        *register = VectorRegister([
            quad(XMM + 16 * n),
            quad(XMM + 16 * n + 8),
            upper(YMM + 16 * n),
            upper(YMM + 16 * n + 8),
        ]);
    }
    cpu.x87_image_changed();
    Ok(())
}
