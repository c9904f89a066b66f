use crate::DebugCause;

/// Why a vCPU left guest mode for user mode.
///
/// Data that a read asks for is filled in place; the access completes at the next [`crate::Vcpu::run`]. A state must
/// not be saved between the two: run once more after a kick ([`Exit::Kicked`]) to complete it.
#[derive(Debug)]
pub enum Exit<'a> {
    /// Port input: `data` holds one or more items of `width` bytes, each read from the same port (`rep ins`).
    PortRead {
        /// The port.
        port: u16,
        /// Bytes an item: 1, 2 or 4.
        width: u8,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// Port output: `data` holds one or more items of `width` bytes, each written to the same port (`rep outs`).
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes an item: 1, 2 or 4.
        width: u8,
        /// What the guest wrote.
        data: &'a [u8],
    },
    /// A load from an address that is no RAM; 1 to 8 bytes.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// A store to an address that is no writable RAM; 1 to 8 bytes.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// What the guest wrote.
        data: &'a [u8],
    },
    /// The LAPIC ended a level-triggered interrupt: the IOAPIC may have to send it again.
    EndOfInterrupt {
        /// Vector of the interrupt.
        vector: u8,
    },
    /// Someone asked the vCPU to come back ([`crate::Kick`]); nothing is pending inside.
    Kicked,
    /// Triple fault: the platform resets.
    Shutdown,
    /// The guest asked for a reset of its machine by a register of the accelerator's.
    Reset,
    /// KVM could not emulate the instruction at the current `rip`; the state is that before the instruction.
    EmulationFailed,
    /// The debugger asked for this ([`crate::Vcpu::set_debug`]); nothing is pending inside.
    Debug(DebugCause),
}
