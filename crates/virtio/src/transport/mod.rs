//! The PCI transport: features, status, queue set-up, notification, reset (virtio 1.2, 3.1 and 4.1). Modern only.

mod common;
mod core;
mod doorbells;
mod layout;
mod signals;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ostler_bus::{Device, DoorbellRegistry, InterruptLine, MsiSink};
use ostler_memory::GuestRam;
use ostler_pci::{BarSpec, ConfigSpace, Identity, Msix, PciFunction, Pin};

use self::core::Core;
use self::doorbells::Doorbells;
use self::signals::Signals;
use crate::device::VirtioDevice;
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::worker::new_event;
#[cfg(any(test, fuzzing))]
pub(crate) use layout::{MSIX_BAR, NOTIFY, REGISTER_BAR, REGISTER_SIZE};

const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;

/// What of the platform a transport needs.
#[derive(Clone)]
pub struct Platform {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Where interrupt messages go.
    pub msi: Arc<dyn MsiSink>,
    /// Where kicks are registered.
    pub doorbells: Arc<dyn DoorbellRegistry>,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    core: Arc<Core>,
    signals: Arc<Signals>,
    doorbells: Doorbells,
    /// Offset of the capability that reaches BARs through configuration space.
    window: u16,
    metrics: Arc<DeviceMetrics>,
    kind: crate::DeviceKind,
}

impl VirtioPci {
    /// Puts `device` behind a PCI function.
    ///
    /// # Errors
    /// If the host gives no events.
    ///
    /// # Panics
    /// If the device has more queues than a function has room for (1,024).
    pub fn new(device: Box<dyn VirtioDevice>, platform: &Platform) -> Result<Arc<Self>, Error> {
        let kind = device.kind();
        let max_sizes = device.queue_max_sizes();
        assert!(
            max_sizes.len() <= layout::MAX_QUEUES,
            "a virtio device has at most 1,024 queues"
        );
        let vectors = max_sizes.len() as u16 + 1;
        let mut builder = ConfigSpace::type0(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind.id(),
            revision: 1,
            class: kind.pci_class(),
            subsystem_vendor: VENDOR,
            subsystem: 0x1100,
        });
        builder.bar(layout::MSIX_BAR, BarSpec::memory32(Msix::region_size(vectors)));
        builder.bar(layout::REGISTER_BAR, BarSpec::memory64(layout::REGISTER_SIZE));
        builder.interrupt_pin(Pin::A);
        let msix = Arc::new(Msix::new(
            &mut builder,
            layout::MSIX_BAR as u8,
            vectors,
            platform.msi.clone(),
        ));
        let window = layout::add_capabilities(&mut builder, max_sizes.len());
        let kicks = max_sizes
            .iter()
            .map(|_| new_event().map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let metrics = device.metrics();
        let signals = Arc::new(Signals::new(
            builder.build(),
            msix,
            max_sizes.len(),
            metrics.clone(),
        ));
        let doorbells = Doorbells::new(platform.doorbells.clone(), kicks.clone());
        let core = Arc::new(Core::new(device, platform.ram.clone(), signals.clone(), kicks));
        Ok(Arc::new(Self {
            core,
            signals,
            doorbells,
            window,
            metrics,
            kind,
        }))
    }

    /// The device's counters.
    pub fn metrics(&self) -> &Arc<DeviceMetrics> {
        &self.metrics
    }

    /// Which kind of device this is.
    pub fn kind(&self) -> crate::DeviceKind {
        self.kind
    }

    /// Offset of the data register of the access capability, and whether an access touches it.
    fn touches_window(&self, offset: u16, len: usize) -> bool {
        let data = usize::from(self.window) + 16;
        usize::from(offset) < data + 4 && usize::from(offset) + len > data
    }

    /// Where in the register BAR the access capability points: offset and width, if both are valid (4.1.4.9).
    fn window_target(&self) -> Option<(u64, usize)> {
        let config = &self.signals.config;
        let bar = usize::from(config.u8(self.window + 4));
        let offset = u64::from(config.u32(self.window + 8));
        let len = config.u32(self.window + 12);
        let valid =
            bar == layout::REGISTER_BAR && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len.into());
        (valid && offset + u64::from(len) <= layout::REGISTER_SIZE).then_some((offset, len as usize))
    }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.signals.config
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((target, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.core.read(target, &mut value[..len]);
            self.signals.config.set(self.window + 16, &value);
        }
        self.signals.config.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let config = &self.signals.config;
        config.write(offset, data);
        self.signals.msix.config_written(config);
        self.signals.intx.config_written(config);
        if self.touches_window(offset, data.len()) {
            let mut value = [0; 4];
            for (i, &byte) in data.iter().enumerate() {
                let at = (usize::from(offset) + i).checked_sub(usize::from(self.window) + 16);
                if let Some(slot) = at.and_then(|at| value.get_mut(at)) {
                    *slot = byte;
                }
            }
            config.set(self.window + 16, &value);
            if let Some((target, len)) = self.window_target() {
                self.core.write(target, &value[..len]);
            }
        }
    }

    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        match index {
            layout::MSIX_BAR => Some(self.signals.msix.clone()),
            layout::REGISTER_BAR => Some(self.core.clone()),
            _ => None,
        }
    }

    fn bar_moved(&self, index: usize, base: Option<u64>) {
        if index == layout::REGISTER_BAR {
            self.doorbells.move_to(base);
        }
    }

    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.signals.intx.connect(line);
    }

    fn reset(&self) {
        self.core.reset();
        self.signals.msix.reset();
        self.signals.config.reset();
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.doorbells.move_to(None);
        self.core.reset();
    }
}
