//! The controller's registers: pure state (AHCI 1.3.1, 3.1). The ports' are in `crate::port`.

use ostler_bus::registers::Masked;

use crate::port::{DriveKind, Port, Wanted};

/// Ports of the controller.
pub const PORTS: usize = 6;
/// Bytes of the register block.
pub const SIZE: u64 = 0x1000;
/// Where the first port's registers are.
const PORT_BASE: u64 = 0x100;
/// Bytes between two ports' registers.
const PORT_STRIDE: u64 = 0x80;

const CAPABILITIES: u64 = 0x00;
const CONTROL: u64 = 0x04;
const INTERRUPT_STATUS: u64 = 0x08;
const IMPLEMENTED: u64 = 0x0c;
const VERSION: u64 = 0x10;

/// 6 ports, 32 slots, PIO of several blocks, AHCI only, 6 Gb/s, command list override, queueing, 64-bit addresses.
const CAPABILITIES_VALUE: u32 =
    (PORTS as u32 - 1) | 31 << 8 | 1 << 15 | 1 << 18 | 3 << 20 | 1 << 24 | 1 << 30 | 1 << 31;
/// 1.3.1.
const VERSION_VALUE: u32 = 0x0001_0301;

const CONTROL_RESET: u32 = 1 << 0;
const CONTROL_INTERRUPTS: u32 = 1 << 1;
/// Always on: the controller has no other mode.
const CONTROL_AHCI: u32 = 1 << 31;

/// Whether the controller wants attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attention {
    /// The level of its interrupt pin.
    pub level: bool,
    /// There is something new: a message is due.
    pub message: bool,
}

/// The controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hba {
    interrupts: bool,
    resetting: bool,
    status: u32,
    ports: [Port; PORTS],
    /// What was told last.
    told: bool,
}

impl Hba {
    /// A controller after power-on with these drives.
    pub fn new(drives: [Option<DriveKind>; PORTS]) -> Self {
        Self {
            interrupts: false,
            resetting: false,
            status: 0,
            ports: drives.map(Port::new),
            told: false,
        }
    }

    /// A port.
    pub fn port(&self, index: usize) -> &Port {
        &self.ports[index % PORTS]
    }

    /// A port. After a change [`Hba::settle`] has to be called.
    pub fn port_mut(&mut self, index: usize) -> &mut Port {
        &mut self.ports[index % PORTS]
    }

    /// The 32-bit register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            CAPABILITIES => CAPABILITIES_VALUE,
            CONTROL => {
                let bit = |set: bool, bit: u32| if set { bit } else { 0 };
                CONTROL_AHCI | bit(self.interrupts, CONTROL_INTERRUPTS) | bit(self.resetting, CONTROL_RESET)
            }
            INTERRUPT_STATUS => self.status,
            IMPLEMENTED => (1 << PORTS) - 1,
            VERSION => VERSION_VALUE,
            _ => place(offset).map_or(0, |(port, register)| self.ports[port].read(register)),
        }
    }

    /// A guest's write. [`Hba::settle`] has to be called afterwards, and the workers of the ports whose bits are set in the
    /// result have to be woken.
    pub fn write(&mut self, offset: u64, masked: Masked) -> u32 {
        let mut wake = 0;
        match offset {
            CONTROL => {
                let new = masked.over(self.read(CONTROL));
                self.interrupts = new & CONTROL_INTERRUPTS != 0;
                if new & CONTROL_RESET != 0 {
                    self.reset();
                    wake = (1 << PORTS) - 1;
                }
            }
            // Software has to wait until a reset is over.
            _ if self.resetting => {}
            INTERRUPT_STATUS => self.status &= !masked.value,
            _ => {
                if let Some((port, register)) = place(offset) {
                    wake = u32::from(self.ports[port].write(register, masked)) << port;
                }
            }
        }
        wake
    }

    /// Back to the state after power-on, addresses included. Returns the ports whose workers have to be woken.
    pub fn power_on(&mut self) -> u32 {
        self.reset();
        self.ports.iter_mut().for_each(Port::forget_addresses);
        (1 << PORTS) - 1
    }

    fn reset(&mut self) {
        self.interrupts = false;
        self.status = 0;
        self.ports.iter_mut().for_each(Port::reset);
        self.resetting = true;
    }

    /// Brings the interrupt status and the reset bit in line with the ports, and says whether the guest has to be told.
    pub fn settle(&mut self) -> Attention {
        if self.resetting && self.ports.iter().all(|port| port.wanted() == Wanted::Nothing) {
            self.resetting = false;
        }
        let pending = (0..).zip(&self.ports);
        let pending = pending.fold(0, |bits, (at, port)| {
            bits | u32::from(port.interrupt_pending()) << at
        });
        let fresh = pending & !self.status != 0;
        self.status |= pending;
        let level = self.interrupts && self.status != 0;
        let message = level && (fresh || !self.told);
        self.told = level;
        Attention { level, message }
    }
}

/// Port and register that an offset means.
fn place(offset: u64) -> Option<(usize, u64)> {
    let within = offset.checked_sub(PORT_BASE)?;
    let port = usize::try_from(within / PORT_STRIDE).ok()?;
    (port < PORTS).then_some((port, within % PORT_STRIDE))
}
