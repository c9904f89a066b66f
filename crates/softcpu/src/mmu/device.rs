//! Accesses that are no RAM, by replay.
//!
//! The first time an instruction touches a device, it stops ([`Stop::Exit`]) with the request in [`Cpu::exit`]. Once user mode has
//! answered, the instruction is executed again from its start and finds the answer here. An instruction may touch devices
//! several times; the log is cleared when it retires.

use ostler_accel::ExitCause;
use ostler_bus::Space;

use crate::fault::{Result, Stop};
use crate::state::{Cpu, PendingExit};
use crate::system::lapic;

/// Device accesses of the current instruction that are done already.
#[derive(Default)]
pub struct Replay {
    /// What each answered (writes: nothing).
    done: Vec<u64>,
    /// How many of them the current attempt has met.
    met: usize,
}

impl Replay {
    /// True while an instruction is under way that user mode has answered.
    #[inline]
    pub fn is_active(&self) -> bool {
        !self.done.is_empty()
    }

    /// Adds the answer to the access that stopped the instruction.
    pub fn answer(&mut self, value: u64) {
        self.done.push(value);
    }

    /// Before another attempt.
    pub fn rewind(&mut self) {
        self.met = 0;
    }

    /// The instruction (or one step of a repeated one) has retired.
    pub fn clear(&mut self) {
        self.done.clear();
        self.met = 0;
    }

    fn next(&mut self) -> Option<u64> {
        let value = self.done.get(self.met).copied()?;
        self.met += 1;
        Some(value)
    }
}

impl Cpu {
    /// A load from a device; 1 to 8 bytes, in one page.
    pub(crate) fn device_read(&mut self, gpa: u64, len: usize) -> Result<u64> {
        if self.lapic.page() == Some(gpa & !0xfff) {
            let mut data = [0; 8];
            lapic::mmio_read(self, gpa & 0xfff, &mut data[..len])?;
            return Ok(u64::from_le_bytes(data));
        }
        if let Some(value) = self.replay.next() {
            return Ok(value);
        }
        self.exit = PendingExit::MmioRead { gpa, len };
        Err(Stop::Exit)
    }

    /// A store to a device.
    pub(crate) fn device_write(&mut self, gpa: u64, len: usize, value: u64) -> Result<()> {
        if self.lapic.page() == Some(gpa & !0xfff) {
            return lapic::mmio_write(self, gpa & 0xfff, &value.to_le_bytes()[..len]);
        }
        if self.replay.next().is_some() {
            return Ok(());
        }
        if self.vm.doorbells.ring(Space::Memory, gpa, len as u8, value) {
            self.shared.stats.count_exit(ExitCause::Doorbell);
            self.replay_done();
            return Ok(());
        }
        self.exit_data[..8].copy_from_slice(&value.to_le_bytes());
        self.exit = PendingExit::MmioWrite { gpa, len };
        Err(Stop::Exit)
    }

    /// A write that was done at once: should the instruction stop later, it must not be done again.
    fn replay_done(&mut self) {
        if self.replay.is_active() {
            self.replay.answer(0);
            self.replay.met += 1;
        }
    }

    /// Port input of `width` (1, 2, 4) bytes. The caller has checked the permission.
    pub fn port_read(&mut self, port: u16, width: u8) -> Result<u32> {
        if let Some(value) = self.replay.next() {
            return Ok(value as u32);
        }
        self.exit = PendingExit::PortRead {
            port,
            width,
            len: usize::from(width),
        };
        Err(Stop::Exit)
    }

    /// Port output of `width` (1, 2, 4) bytes. The caller has checked the permission.
    pub fn port_write(&mut self, port: u16, width: u8, value: u32) -> Result<()> {
        if self.replay.next().is_some() {
            return Ok(());
        }
        if self
            .vm
            .doorbells
            .ring(Space::Port, u64::from(port), width, u64::from(value))
        {
            self.shared.stats.count_exit(ExitCause::Doorbell);
            self.replay_done();
            return Ok(());
        }
        self.exit_data[..4].copy_from_slice(&value.to_le_bytes());
        self.exit = PendingExit::PortWrite {
            port,
            width,
            len: usize::from(width),
        };
        Err(Stop::Exit)
    }
}
