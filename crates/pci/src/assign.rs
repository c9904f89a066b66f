//! Static assignment of addresses and bus numbers, in place of firmware.

use ostler_bus::{Range, Space};

use crate::bar::{BarKind, BarSpec};
use crate::config::ConfigSpace;
use crate::error::Error;
use crate::function::PciFunction;
use crate::mapper::Windows;
use crate::regs;
use crate::root_port::RootPort;

/// What every root port gets, so that a device plugged in later finds room.
const PORT_MEMORY: u64 = 2 << 20;
const PORT_PREFETCH: u64 = 256 << 20;
const PORT_IO: u64 = 0x1000;

/// Hands out addresses of one window from the bottom.
struct Pool {
    name: &'static str,
    next: u64,
    end: u64,
}

impl Pool {
    fn new(name: &'static str, window: Range) -> Self {
        // Address 0 in a BAR means "not assigned".
        Self {
            name,
            next: window.base.max(1),
            end: window.base.saturating_add(window.len),
        }
    }

    /// How many pieces of `size` bytes there are left.
    fn left(&self, size: u64) -> u64 {
        let next = self.next.checked_next_multiple_of(size).unwrap_or(u64::MAX);
        self.end.saturating_sub(next) / size
    }

    fn take(&mut self, size: u64) -> Result<u64, Error> {
        let full = Error::WindowFull {
            window: self.name,
            size,
        };
        let Some(base) = self.next.checked_next_multiple_of(size) else {
            return Err(full);
        };
        match base.checked_add(size) {
            Some(end) if end <= self.end => {
                self.next = end;
                Ok(base)
            }
            _ => Err(full),
        }
    }
}

/// The pools of one bus: the host bridge's windows, or a root port's.
pub(crate) struct Assigner {
    io: Pool,
    memory32: Pool,
    memory64: Pool,
}

impl Assigner {
    pub fn new(windows: Windows) -> Self {
        Self {
            io: Pool::new("I/O port", windows.io),
            memory32: Pool::new("32-bit PCI memory", windows.memory32),
            memory64: Pool::new("64-bit PCI memory", windows.memory64),
        }
    }

    /// Gives each BAR of a function an address and turns decoding on.
    pub fn function(&mut self, config: &ConfigSpace) -> Result<(), Error> {
        let mut command = 0;
        for (index, spec) in config.bars().iter().enumerate() {
            let Some(spec) = spec else { continue };
            let base = self.take(spec)?;
            config.assign_bar(index, base);
            command |= match spec.space() {
                Space::Port => regs::COMMAND_IO,
                Space::Memory => regs::COMMAND_MEMORY,
            };
        }
        config.update_u16(regs::COMMAND, 0, command);
        Ok(())
    }

    fn take(&mut self, spec: &BarSpec) -> Result<u64, Error> {
        match spec.kind {
            BarKind::Io => self.io.take(spec.size),
            BarKind::Memory32 => self.memory32.take(spec.size),
            BarKind::Memory64 { .. } => self.memory64.take(spec.size),
        }
    }

    /// Gives a root port its bus number and windows, and the device in its slot addresses out of these. So many later ports must
    /// find I/O ports (`waiting`).
    pub fn port(&mut self, port: &RootPort, bus: u8, waiting: usize) -> Result<(), Error> {
        let memory = self.memory32.take(PORT_MEMORY)?;
        let prefetch = self.memory64.take(PORT_PREFETCH)?;
        let config = port.config();
        config.write(regs::PRIMARY_BUS, &[0, bus, bus]);
        put_u16(config, regs::MEMORY_BASE, (memory >> 16) as u16);
        put_u16(
            config,
            regs::MEMORY_BASE + 2,
            ((memory + PORT_MEMORY - 1) >> 16) as u16,
        );
        put_u16(config, regs::PREFETCH_BASE, (prefetch >> 16) as u16);
        put_u16(
            config,
            regs::PREFETCH_BASE + 2,
            ((prefetch + PORT_PREFETCH - 1) >> 16) as u16,
        );
        config.write(
            regs::PREFETCH_BASE_UPPER,
            &((prefetch >> 32) as u32).to_le_bytes(),
        );
        config.write(
            regs::PREFETCH_BASE_UPPER + 4,
            &(((prefetch + PORT_PREFETCH - 1) >> 32) as u32).to_le_bytes(),
        );
        let io = self.io_window(config, waiting);
        config.update_u16(
            regs::COMMAND,
            0,
            regs::COMMAND_MEMORY | regs::COMMAND_BUS_MASTER | io.1,
        );
        let mut below = Self::new(Windows {
            io: io.0,
            memory32: Range::new(memory, PORT_MEMORY),
            memory64: Range::new(prefetch, PORT_PREFETCH),
        });
        port.child()
            .map_or(Ok(()), |child| below.function(child.config()))
    }

    /// Ports are scarce: a root port that finds none left has its window closed, and leaves them to those whose devices need some.
    fn io_window(&mut self, config: &ConfigSpace, waiting: usize) -> (Range, u16) {
        let closed = (Range::new(0, 0), 0);
        if self.io.left(PORT_IO) <= waiting as u64 {
            return closed;
        }
        let Ok(base) = self.io.take(PORT_IO) else {
            return closed;
        };
        config.write(
            regs::IO_BASE,
            &[(base >> 8) as u8, ((base + PORT_IO - 1) >> 8) as u8],
        );
        (Range::new(base, PORT_IO), regs::COMMAND_IO)
    }
}

fn put_u16(config: &ConfigSpace, offset: u16, value: u16) {
    config.write(offset, &value.to_le_bytes());
}
