//! The card as a PCI function (82574 datasheet, chapter 9): registers in BAR 0, a window of ports to them in BAR 2, MSI-X in
//! BAR 3, MSI, power management.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ostler_bus::registers::{fill, number, read_dwords, write_dwords};
use ostler_bus::{Device, InterruptLine, MsiSink};
use ostler_memory::GuestRam;
use ostler_netio::NetBackend;
use ostler_pci::{BarSpec, ConfigSpace, Identity, MsiCapability, Msix, PciFunction, Pin};
use ostler_worker::{DeviceMetrics, Worker};

use crate::Error;
use crate::card::Effects;
use crate::interrupts::VECTORS;
use crate::registers;
use crate::shared::{POWER_STATE, Parts, Shared};
use crate::worker::CardWorker;

/// Intel.
pub const VENDOR: u16 = 0x8086;
/// 82574L.
pub const DEVICE: u16 = 0x10d3;
/// As Intel's own adapter has it.
pub const SUBSYSTEM: u16 = 0xa01f;

const REGISTER_BAR: usize = 0;
const PORT_BAR: usize = 2;
const VECTOR_BAR: usize = 3;
/// Ports of the window: an address and its data (10.2.1.2).
const PORTS: u64 = 32;
const PORT_ADDRESS: u64 = 0;
const PORT_DATA: u64 = 4;

const CAP_POWER: u8 = 0x01;

/// A network card to be.
pub struct CardOptions {
    /// Its address.
    pub mac: [u8; 6],
    /// Where its frames go.
    pub backend: Arc<dyn NetBackend>,
}

/// A network card.
pub struct E1000e {
    registers: Arc<Registers>,
    ports: Arc<Ports>,
    worker: Option<Worker<()>>,
}

/// What is behind BAR 0.
struct Registers(Arc<Shared>);

/// What is behind BAR 2.
struct Ports {
    registers: Arc<Registers>,
    address: AtomicU32,
}

impl E1000e {
    /// A card over a back end.
    ///
    /// # Errors
    /// If the host gives no thread or events, or the back end has no queue left.
    pub fn new(options: CardOptions, ram: Arc<GuestRam>, msi: Arc<dyn MsiSink>) -> Result<Arc<Self>, Error> {
        let mut builder = ConfigSpace::type0(Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: 0,
            // An Ethernet controller.
            class: 0x02_0000,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        builder.bar(REGISTER_BAR, BarSpec::memory32(registers::SIZE));
        builder.bar(PORT_BAR, BarSpec::io(PORTS));
        builder.bar(VECTOR_BAR, BarSpec::memory32(Msix::region_size(VECTORS)));
        builder.interrupt_pin(Pin::A);
        // Version 1.2, no wake-up; D3hot and back.
        let power = builder.capability(
            CAP_POWER,
            &[3, 0, 0, 0, 0, 0],
            &[0, 0, POWER_STATE as u8, 0, 0, 0],
        ) + 4;
        let message = MsiCapability::new(&mut builder, msi.clone());
        let msix = Arc::new(Msix::new(&mut builder, VECTOR_BAR as u8, VECTORS, msi));
        let parts = Parts {
            config: builder.build(),
            power,
            msi: message,
            msix,
        };
        let shared = Arc::new(Shared::new(options.mac, options.backend, ram, parts)?);
        let worker = CardWorker::new(shared.clone())?;
        let worker = Worker::spawn("e1000e".into(), move |stop| worker.run(&stop))?;
        let registers = Arc::new(Registers(shared));
        let ports = Arc::new(Ports {
            registers: registers.clone(),
            address: AtomicU32::new(0),
        });
        Ok(Arc::new(Self {
            registers,
            ports,
            worker: Some(worker),
        }))
    }

    /// The handle for the control side.
    pub fn control(&self) -> CardControl {
        CardControl(self.registers.0.clone())
    }

    /// What the card counts.
    pub fn metrics(&self) -> &Arc<DeviceMetrics> {
        &self.shared().metrics
    }

    fn shared(&self) -> &Shared {
        &self.registers.0
    }
}

/// The control side of a card.
#[derive(Clone)]
pub struct CardControl(Arc<Shared>);

impl CardControl {
    /// Puts the card's cable in or takes it out, and tells the guest. Frames get nowhere while it is out.
    pub fn set_link(&self, up: bool) {
        self.0.plug(up);
    }

    /// False while the cable is out.
    pub fn is_plugged(&self) -> bool {
        self.0.is_plugged()
    }

    /// The current MAC address, which the guest may have changed.
    pub fn mac(&self) -> [u8; 6] {
        self.0.card().mac()
    }
}

impl Device for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut card = self.0.card();
        read_dwords(offset, data, |at| u32::try_from(at).map_or(0, |at| card.read(at)));
        self.0.settle(&mut card);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut all = Effects::default();
        {
            let mut card = self.0.card();
            write_dwords(offset, data, |at, masked| {
                if let Ok(at) = u32::try_from(at) {
                    let effects = card.write(at, masked);
                    all.wake |= effects.wake;
                    all.stops |= effects.stops;
                }
            });
            self.0.settle(&mut card);
        }
        self.0.follow(all);
    }
}

impl Device for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let address = self.address.load(Ordering::Relaxed);
        match offset {
            PORT_ADDRESS => fill(data, address.into()),
            PORT_DATA => self.registers.read(address.into(), data),
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match offset {
            PORT_ADDRESS => self
                .address
                .store(number(data) as u32 & 0x1_fffc, Ordering::Relaxed),
            PORT_DATA => self
                .registers
                .write(self.address.load(Ordering::Relaxed).into(), data),
            _ => {}
        }
    }
}

impl PciFunction for E1000e {
    fn config(&self) -> &ConfigSpace {
        &self.shared().config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let shared = self.shared();
        let was_off = shared.config.u16(shared.power) & POWER_STATE != 0;
        shared.config.write(offset, data);
        shared.msix.config_written(&shared.config);
        let is_off = shared.config.u16(shared.power) & POWER_STATE != 0;
        if was_off && !is_off {
            // Whoever comes back from D3hot has forgotten everything (PCI PM 1.2, 5.4.1).
            shared.card().power_on();
        }
        shared.config_changed();
        shared.intx.config_written(&shared.config);
    }

    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        match index {
            REGISTER_BAR => Some(self.registers.clone()),
            PORT_BAR => Some(self.ports.clone()),
            VECTOR_BAR => Some(self.shared().msix.clone()),
            _ => None,
        }
    }

    fn bar_moved(&self, _: usize, _: Option<u64>) {}

    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.shared().intx.connect(line);
    }

    fn reset(&self) {
        let shared = self.shared();
        shared.config.reset();
        shared.msix.reset();
        self.ports.address.store(0, Ordering::Relaxed);
        shared.card().power_on();
        shared.config_changed();
        shared.intx.set(&shared.config, false);
    }
}

impl Drop for E1000e {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }
}
