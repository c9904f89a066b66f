//! The controllers' registers on the bus.

use std::sync::Arc;

use ostler_bus::Device;

use super::router::Router;
use crate::registers::{read_bytes, read_dwords, write_bytes, write_dwords};

/// The IOAPIC's memory window.
pub struct IoapicWindow(pub Arc<Router>);

impl Device for IoapicWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |register| self.0.read_ioapic(register & 0xff));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_dwords(offset, data, |register, masked| {
            self.0.write_ioapic(register & 0xff, masked.value)
        });
    }
}

/// Command and data port of the first (0) or second (1) 8259.
pub struct PicPorts {
    /// The controllers.
    pub router: Arc<Router>,
    /// Which chip.
    pub chip: usize,
}

impl Device for PicPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |port| {
            self.router.access_pic(|pic| pic.read(self.chip, port & 1))
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |port, value| {
            self.router
                .access_pic(|pic| pic.write(self.chip, port & 1, value))
        });
    }
}

/// The edge/level registers at ports 0x4d0 and 0x4d1.
pub struct ElcrPorts(pub Arc<Router>);

impl Device for ElcrPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |port| {
            self.0.access_pic(|pic| pic.read_elcr((port & 1) as usize))
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |port, value| {
            self.0
                .access_pic(|pic| pic.write_elcr((port & 1) as usize, value))
        });
    }
}
