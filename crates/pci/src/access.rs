//! The two ways to configuration space: ports 0xcf8/0xcfc (PCI 3.0, 3.2.2.3.2) and ECAM (PCIe 4.0, 7.2.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ostler_bus::Device;

use crate::function::Location;
use crate::root::Root;

const ENABLE: u32 = 1 << 31;

/// CONFIG_ADDRESS at offset 0, CONFIG_DATA at offset 4.
pub(crate) struct ConfigPorts {
    root: Arc<Root>,
    address: AtomicU32,
    reset_control: Option<Arc<dyn Device>>,
}

impl ConfigPorts {
    pub fn new(root: Arc<Root>, reset_control: Option<Arc<dyn Device>>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
            reset_control,
        }
    }

    /// Bus, place and register that CONFIG_DATA at `offset` (4 to 7) stands for at present.
    fn target(&self, offset: u64) -> Option<(u8, Location, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        if address & ENABLE == 0 {
            return None;
        }
        let at = Location {
            device: (address >> 11) as u8 & 0x1f,
            function: (address >> 8) as u8 & 7,
        };
        Some((
            (address >> 16) as u8,
            at,
            (address & 0xfc) as u16 + (offset & 3) as u16,
        ))
    }
}

impl Device for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes()),
            (1, 1) if self.reset_control.is_some() => {
                if let Some(device) = &self.reset_control {
                    device.read(0, data);
                }
            }
            (4..=7, _) => match self.target(offset) {
                Some((bus, at, register)) => self.root.config_read(bus, at, register, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                self.address
                    .store(u32::from_le_bytes([a, b, c, d]) & 0x80ff_fffc, Ordering::Relaxed);
            }
            (1, &[_]) => {
                if let Some(device) = &self.reset_control {
                    device.write(0, data);
                }
            }
            (4..=7, _) => {
                if let Some((bus, at, register)) = self.target(offset) {
                    self.root.config_write(bus, at, register, data);
                }
            }
            _ => {}
        }
    }
}

/// The memory-mapped window: bus, device, function and register are address bits.
pub(crate) struct Ecam {
    root: Arc<Root>,
}

impl Ecam {
    pub fn new(root: Arc<Root>) -> Self {
        Self { root }
    }
}

fn ecam_target(offset: u64) -> (u8, Location, u16) {
    let at = Location {
        device: (offset >> 15) as u8 & 0x1f,
        function: (offset >> 12) as u8 & 7,
    };
    ((offset >> 20) as u8, at, (offset & 0xfff) as u16)
}

impl Device for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (bus, at, register) = ecam_target(offset);
        self.root.config_read(bus, at, register, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (bus, at, register) = ecam_target(offset);
        self.root.config_write(bus, at, register, data);
    }
}
