//! The local APIC (SDM vol. 3, chapter 11).
//!
//! | file | idea |
//! |---|---|
//! | `registers` | the chip as a pure state machine: registers, priorities, acceptance, end of interrupt |
//! | `timer` | its timer: one-shot, periodic, TSC deadline |
//! | `shared` | what other threads write: posted vectors, NMI, INIT, SIPI; and what they read to find a destination |
//! | `route` | from a message (IPI, MSI) to the LAPICs it addresses |
//! | here | the glue: register page, x2APIC MSRs, IA32_APIC_BASE, conversion to the accelerator's state |

mod registers;
mod route;
mod shared;
mod timer;

use std::sync::atomic::Ordering;

use ostler_accel::LapicState;

pub use registers::{Event, Lapic};
pub use route::{Destination, Message, deliver, signal};
pub use shared::{LapicShared, Posted};

use crate::fault::Result;
use crate::host;
use crate::state::Cpu;

/// IA32_APIC_BASE: this is the boot processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the LAPIC is on.
pub const BASE_ENABLE: u64 = 1 << 11;

/// Register offsets in the page; the x2APIC MSR is 0x800 plus the offset divided by 16.
pub mod register {
    /// Id.
    pub const ID: u32 = 0x20;
    /// Version.
    pub const VERSION: u32 = 0x30;
    /// Task priority.
    pub const TPR: u32 = 0x80;
    /// Arbitration priority.
    pub const APR: u32 = 0x90;
    /// Processor priority.
    pub const PPR: u32 = 0xa0;
    /// End of interrupt.
    pub const EOI: u32 = 0xb0;
    /// Logical destination.
    pub const LDR: u32 = 0xd0;
    /// Destination format.
    pub const DFR: u32 = 0xe0;
    /// Spurious interrupt vector.
    pub const SVR: u32 = 0xf0;
    /// In service, first of eight.
    pub const ISR: u32 = 0x100;
    /// Trigger mode, first of eight.
    pub const TMR: u32 = 0x180;
    /// Requested, first of eight.
    pub const IRR: u32 = 0x200;
    /// Error status.
    pub const ESR: u32 = 0x280;
    /// Interrupt command, low half.
    pub const ICR: u32 = 0x300;
    /// Interrupt command, high half.
    pub const ICR_HIGH: u32 = 0x310;
    /// Timer entry, the first of the local vector table.
    pub const LVT_TIMER: u32 = 0x320;
    /// Performance counters.
    pub const LVT_PERFORMANCE: u32 = 0x340;
    /// LINT0.
    pub const LVT_LINT0: u32 = 0x350;
    /// LINT1.
    pub const LVT_LINT1: u32 = 0x360;
    /// Error.
    pub const LVT_ERROR: u32 = 0x370;
    /// Initial count.
    pub const INITIAL_COUNT: u32 = 0x380;
    /// Current count.
    pub const CURRENT_COUNT: u32 = 0x390;
    /// Divide configuration.
    pub const DIVIDE: u32 = 0x3e0;
    /// Self IPI (x2APIC only).
    pub const SELF_IPI: u32 = 0x3f0;
}

/// A load from the register page. Only aligned 32-bit accesses have a defined meaning; others read the bytes they cover.
pub fn mmio_read(cpu: &mut Cpu, offset: u64, data: &mut [u8]) -> Result<()> {
    let value = read_register(cpu, offset as u32 & 0xff0);
    let bytes = value.to_le_bytes();
    let start = (offset & 0xf) as usize;
    for (n, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(start + n).copied().unwrap_or(0);
    }
    Ok(())
}

/// A store to the register page; only aligned 32-bit stores do anything.
pub fn mmio_write(cpu: &mut Cpu, offset: u64, data: &[u8]) -> Result<()> {
    if let Ok(bytes) = <[u8; 4]>::try_from(data)
        && offset & 0xf == 0
    {
        write_register(cpu, offset as u32, u64::from(u32::from_le_bytes(bytes)));
    }
    Ok(())
}

/// Reads a register, in the kernel's time.
fn read_register(cpu: &mut Cpu, offset: u32) -> u32 {
    let begun = host::tsc();
    let value = cpu.lapic.read(offset, begun);
    cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
    value
}

/// Writes a register and does what follows from it, in the kernel's time. ICR takes 64 bits in x2APIC mode.
fn write_register(cpu: &mut Cpu, offset: u32, value: u64) {
    let begun = host::tsc();
    let event = cpu.lapic.write(offset, value, begun);
    act(cpu, event);
    if matches!(
        offset,
        register::ID | register::LDR | register::DFR | register::SVR
    ) {
        publish(cpu);
    }
    cpu.held = true;
    look_again(cpu);
    cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
}

/// Tells other threads how to address the LAPIC.
pub fn publish(cpu: &Cpu) {
    if !cpu.lapic.has_own_id() {
        cpu.vm.renumbered.store(true, Ordering::SeqCst);
    }
    cpu.lapic.publish(&cpu.shared.lapic);
}

fn act(cpu: &mut Cpu, event: Event) {
    match event {
        Event::None => {}
        Event::Ended { vector, level } => {
            if level {
                cpu.ended.push(vector);
            }
        }
        Event::Send(message) => {
            let vm = cpu.vm.clone();
            deliver(&vm, Some(cpu.id), &message);
        }
    }
}

/// Makes the engine call `service_events` if an interrupt has become deliverable.
fn look_again(cpu: &mut Cpu) {
    if cpu.lapic.deliverable().is_some() {
        super::events::request(cpu);
    }
}

/// Sets the task priority (MOV to CR8).
pub fn set_tpr(cpu: &mut Cpu, tpr: u8) {
    write_register(cpu, register::TPR, u64::from(tpr));
}

/// RDMSR in the range 0x800 to 0x8ff.
pub fn msr_read(cpu: &mut Cpu, index: u32) -> Result<u64> {
    let offset = (index - 0x800) << 4;
    let exists = matches!(
        offset,
        register::ID
            | register::VERSION
            | register::TPR
            | register::PPR
            | register::LDR
            | register::SVR
            | register::ESR
            | register::ICR
            | register::INITIAL_COUNT
            | register::CURRENT_COUNT
            | register::DIVIDE
    ) || matches!(offset, 0x100..=0x270 | register::LVT_TIMER..=register::LVT_ERROR);
    if !cpu.lapic.is_x2apic() || !exists {
        return Err(cpu.gp0());
    }
    if offset == register::ICR {
        return Ok(cpu.lapic.icr());
    }
    Ok(u64::from(read_register(cpu, offset)))
}

/// WRMSR in the range 0x800 to 0x8ff.
pub fn msr_write(cpu: &mut Cpu, index: u32, value: u64) -> Result<()> {
    let offset = (index - 0x800) << 4;
    // The bits that may be set (SDM vol. 3, 11.12.1.2).
    // Delivery status and remote IRR are read-only, not reserved: Linux writes them as ones when it shuts down.
    let writable: u64 = match offset {
        register::TPR => 0xff,
        register::EOI | register::ESR => 0,
        register::SVR => 0x1ff,
        register::ICR => 0xffff_ffff_000c_cfff,
        register::LVT_TIMER => 0x7_10ff,
        0x330 | register::LVT_PERFORMANCE => 0x1_17ff,
        register::LVT_LINT0 | register::LVT_LINT1 => 0x1_f7ff,
        register::LVT_ERROR => 0x1_10ff,
        register::INITIAL_COUNT => 0xffff_ffff,
        register::DIVIDE => 0xb,
        register::SELF_IPI => 0xff,
        _ => return Err(cpu.gp0()),
    };
    if !cpu.lapic.is_x2apic() || value & !writable != 0 {
        return Err(cpu.gp0());
    }
    write_register(cpu, offset, value);
    Ok(())
}

/// Writes IA32_APIC_BASE (SDM vol. 3, 11.4.4 and 11.12.5).
pub fn write_base(cpu: &mut Cpu, value: u64) -> Result<()> {
    let old = cpu.lapic.base();
    let page_mask = (1u64 << super::cpuid::physical_bits(cpu)) - 0x1000;
    let modes = BASE_ENABLE | BASE_X2APIC;
    let x2apic_offered = super::cpuid::has(cpu, "x2apic");
    let bad = value & !(page_mask | BASE_BSP | modes) != 0
        || value & modes == BASE_X2APIC
        || (value & BASE_X2APIC != 0 && !x2apic_offered)
        // From x2APIC only to off, from off not straight to x2APIC.
        || (old & modes == modes && value & modes == BASE_ENABLE)
        || (old & modes == 0 && value & modes == modes);
    if bad {
        return Err(cpu.gp0());
    }
    cpu.lapic.set_base(value & !BASE_BSP | old & BASE_BSP);
    publish(cpu);
    cpu.held = true;
    // The register page moved, appeared or vanished.
    cpu.flush_tlb(true);
    Ok(())
}

/// Reads IA32_TSC_DEADLINE.
pub fn deadline(cpu: &Cpu) -> u64 {
    cpu.lapic.tsc_deadline()
}

/// Writes IA32_TSC_DEADLINE, in the guest's TSC.
pub fn set_deadline(cpu: &mut Cpu, value: u64) {
    let offset = cpu.msrs.tsc_offset;
    cpu.lapic.set_tsc_deadline(value, offset);
}

/// The registers in the accelerator's form.
pub fn save(cpu: &Cpu) -> LapicState {
    cpu.lapic.save(host::tsc())
}

/// Takes over registers in the accelerator's form, after IA32_APIC_BASE and the MSRs.
pub fn restore(cpu: &mut Cpu, state: &LapicState) {
    let offset = cpu.msrs.tsc_offset;
    // What others posted to the state before is not part of this one.
    let _ = cpu.shared.lapic.take();
    cpu.lapic.configure(cpu.id, cpu.vm.tsc_khz);
    cpu.lapic.restore(state, host::tsc(), offset);
    publish(cpu);
    super::events::request(cpu);
}

#[cfg(test)]
mod tests;
