//! MSI with one vector, for functions without registers of their own (PCI 3.0, 6.8.1).

use std::sync::Arc;

use ostler_bus::{Msi, MsiSink};

use crate::config::{ConfigBuilder, ConfigSpace};
use crate::regs;

/// A 64-bit MSI capability with one vector and no mask bits.
pub struct MsiCapability {
    offset: u16,
    sink: Arc<dyn MsiSink>,
}

impl MsiCapability {
    /// Adds the capability to `config`.
    pub fn new(config: &mut ConfigBuilder, sink: Arc<dyn MsiSink>) -> Self {
        let mut body = [0; 12];
        body[0] = 0x80; // 64-bit addresses
        let writable = [
            0x01, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        Self {
            offset: config.capability(regs::CAP_MSI, &body, &writable),
            sink,
        }
    }

    /// True while the guest has MSI on.
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        config.u16(self.offset + 2) & 1 != 0
    }

    /// Sends the message if MSI is on; returns whether it is.
    pub fn trigger(&self, config: &ConfigSpace) -> bool {
        if !self.enabled(config) {
            return false;
        }
        let address = u64::from(config.u32(self.offset + 4)) | u64::from(config.u32(self.offset + 8)) << 32;
        self.sink.signal(Msi {
            address,
            data: u32::from(config.u16(self.offset + 12)),
        });
        true
    }
}
