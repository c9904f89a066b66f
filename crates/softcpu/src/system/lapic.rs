//! The local APIC.

use ostler_bus::Msi;

use crate::fault::Result;
use crate::shared::VmShared;
use crate::state::Cpu;

/// What only the vCPU's own thread touches.
#[derive(Default)]
pub struct Lapic {
    /// IA32_APIC_BASE.
    pub base: u64,
}

/// What other threads write: pending vectors, NMI, INIT, SIPI, ids and modes for routing.
pub struct LapicShared {
    /// vCPU and x2APIC id.
    pub id: u32,
}

impl LapicShared {
    /// The LAPIC of vCPU `id` after RESET.
    pub fn new(id: u32) -> Self {
        Self { id }
    }
}

impl Lapic {
    /// The page of the registers if they are mapped (xAPIC mode): guest-physical address.
    pub fn page(&self) -> Option<u64> {
        None
    }

    /// Host TSC at which the timer fires next.
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }
}

/// A load from the register page.
pub fn mmio_read(_cpu: &mut Cpu, _offset: u64, data: &mut [u8]) -> Result<()> {
    data.fill(0);
    Ok(())
}

/// A store to the register page.
pub fn mmio_write(_cpu: &mut Cpu, _offset: u64, _data: &[u8]) -> Result<()> {
    Ok(())
}

/// Routes a message to the LAPICs it addresses: sets their shared state and pokes them (`VcpuShared::event_arrived`).
pub fn signal(_vm: &VmShared, _msi: Msi) {}

/// The registers.
pub fn save(_cpu: &Cpu) -> ostler_accel::LapicState {
    ostler_accel::LapicState { registers: [0; 1024] }
}

/// Sets the registers.
pub fn restore(_cpu: &mut Cpu, _state: &ostler_accel::LapicState) {}
