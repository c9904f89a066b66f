//! What is where on bus 0, and which interrupt line each slot's pins drive. Part of the guest's ABI.

use std::sync::Arc;

use ostler_bus::{InterruptLine, Range};
use ostler_memory::GuestRam;
use ostler_pci::{Location, PciFunction, Windows, regs};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::PIRQ_ISA;
use crate::interrupts::{FIRST_PIRQ_GSI, Input, Router};

/// The host bridge.
pub const HOST_BRIDGE: Location = Location::device(0);
/// The LPC bridge.
pub const LPC_BRIDGE: Location = Location::device(31);
/// The SATA controller, if there is one.
pub const SATA: Location = Location {
    device: 31,
    function: 2,
};
/// The display, if there is one and nobody places it.
pub const DISPLAY: Location = Location::device(30);
/// Slot of the first device that nobody places; the others follow.
pub const FIRST_DEVICE: u8 = 1;
/// Devices that fit on bus 0 if nobody places them.
pub const MAX_DEVICES: usize = 15;
/// Slot of the first root port, if nobody places them.
pub const FIRST_ROOT_PORT: u8 = 16;
/// Number of root ports where nobody places them, each with one hotplug slot.
pub const ROOT_PORTS: u8 = 4;

/// PIRQ (0 is PIRQA) of `pin` (0 is INTA) of a slot on bus 0: slots 0 to 24 turn through PIRQE to PIRQH; the chips of
/// the south bridge, above, are on PIRQA to PIRQD.
pub fn pirq(device: u8, pin: u8) -> u8 {
    if device < 25 {
        4 + (device + pin) % 4
    } else {
        pin % 4
    }
}

/// IOAPIC input of a PIRQ.
pub fn gsi(pirq: u8) -> u8 {
    FIRST_PIRQ_GSI + pirq
}

/// The line of a function on bus 0, if it has a pin.
pub fn line(
    router: &Arc<Router>,
    at: Location,
    function: &dyn PciFunction,
) -> Option<Arc<dyn InterruptLine>> {
    let pin = function.config().u8(regs::INTERRUPT_PIN).checked_sub(1)?;
    Some(router.line(Input::Pirq(pirq(at.device, pin))))
}

/// The line of a device in a root port's slot: device 0 behind a bridge keeps its pin (PCI-to-PCI Bridge 1.2, 9.1).
pub fn line_behind(
    router: &Arc<Router>,
    port: Location,
    function: &dyn PciFunction,
) -> Option<Arc<dyn InterruptLine>> {
    line(router, port, function)
}

/// Writes into a function's interrupt line register which ISA interrupt its pin is without an IOAPIC, as firmware does:
/// where a guest without ACPI looks.
pub fn set_interrupt_line(at: Location, function: &dyn PciFunction) {
    let config = function.config();
    if let Some(pin) = config.u8(regs::INTERRUPT_PIN).checked_sub(1) {
        let isa = PIRQ_ISA[usize::from(pirq(at.device, pin))];
        config.set(regs::INTERRUPT_LINE, &[isa]);
    }
}

/// Start of the 32-bit window.
pub const WINDOW32_START: u64 = 0xc000_0000;
/// End of the 32-bit window (exclusive).
pub const WINDOW32_END: u64 = 0xfec0_0000;
const WINDOW64_SIZE: u64 = 64 << 30;

/// The address windows that are forwarded to PCI.
pub fn windows(ram: &GuestRam) -> Windows {
    let ram_end = ram
        .iter()
        .map(|region| region.start_addr().0 + region.len())
        .max()
        .unwrap_or(0);
    let base = ram_end.max(1 << 32).next_multiple_of(1 << 30);
    Windows {
        io: Range::new(0x4000, 0xc000),
        memory32: Range::new(WINDOW32_START, WINDOW32_END - WINDOW32_START),
        memory64: Range::new(base, WINDOW64_SIZE),
    }
}
