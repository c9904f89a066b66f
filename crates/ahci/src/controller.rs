//! The controller as a PCI function, as an ICH9 has it (8086:2922): registers in BAR 5, MSI with one vector, INTA.

use std::sync::Arc;

use ostler_bus::registers::{read_dwords, write_dwords};
use ostler_bus::{Device, InterruptLine, MsiSink};
use ostler_disk::Disk;
use ostler_memory::GuestRam;
use ostler_pci::{BarSpec, ConfigSpace, Identity, MsiCapability, PciFunction, Pin};
use ostler_worker::{DeviceMetrics, Worker};

use crate::Error;
use crate::drive::Drive;
use crate::hba::{Hba, PORTS, SIZE};
use crate::port::DriveKind;
use crate::shared::Shared;
use crate::tray::TrayControl;
use crate::worker::PortWorker;

/// BAR of the registers (ABAR).
const BAR: usize = 5;

/// A drive to be.
pub struct DriveOptions {
    /// What it is.
    pub kind: DriveKind,
    /// The image behind it; a CD-ROM drive may have none, and is empty then.
    pub disk: Option<Arc<dyn Disk>>,
    /// Serial number; at most 20 characters are shown.
    pub serial: String,
}

/// An AHCI controller with its drives.
pub struct Ahci {
    registers: Arc<Registers>,
    /// One a drive.
    workers: Vec<Worker<()>>,
    kinds: [Option<DriveKind>; PORTS],
}

/// What is behind the BAR.
struct Registers(Arc<Shared>);

impl Ahci {
    /// A controller with `drives` at its ports, from the first on.
    ///
    /// # Errors
    /// If there are more drives than ports, a disk has no image, or the host gives no threads and events.
    pub fn new(
        drives: Vec<DriveOptions>,
        ram: Arc<GuestRam>,
        msi: Arc<dyn MsiSink>,
    ) -> Result<Arc<Self>, Error> {
        if drives.len() > PORTS {
            return Err(Error::TooManyDrives(drives.len()));
        }
        let mut builder = ConfigSpace::type0(Identity {
            vendor: 0x8086,
            device: 0x2922,
            revision: 2,
            // A SATA controller with the interface of AHCI.
            class: 0x01_0601,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        builder.bar(BAR, BarSpec::memory32(SIZE));
        builder.interrupt_pin(Pin::A);
        let msi = MsiCapability::new(&mut builder, msi);
        let mut kinds = [None; PORTS];
        for (kind, drive) in kinds.iter_mut().zip(&drives) {
            *kind = Some(drive.kind);
        }
        let shared = Arc::new(Shared::new(Hba::new(kinds), ram, builder.build(), msi)?);
        let mut workers = Vec::new();
        for (port, options) in drives.into_iter().enumerate() {
            let disk = options.disk.as_deref();
            let drive = Drive::new(options.kind, disk, options.serial)?;
            let worker = PortWorker::new(port, drive, disk, shared.clone())?;
            let name = format!("sata{port}");
            workers.push(Worker::spawn(name, move |stop| worker.run(&stop))?);
        }
        let registers = Arc::new(Registers(shared));
        Ok(Arc::new(Self {
            registers,
            workers,
            kinds,
        }))
    }

    /// The counters of the drive at `port`.
    pub fn metrics(&self, port: usize) -> Arc<DeviceMetrics> {
        self.shared().metrics[port % PORTS].clone()
    }

    /// The tray of the drive at `port`; only a CD-ROM drive has one.
    pub fn tray(&self, port: usize) -> Option<TrayControl> {
        let kind = self.kinds.get(port).copied().flatten();
        (kind == Some(DriveKind::Cdrom)).then(|| TrayControl {
            shared: self.registers.0.clone(),
            port,
        })
    }

    fn shared(&self) -> &Shared {
        &self.registers.0
    }
}

impl Device for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let hba = self.0.hba();
        read_dwords(offset, data, |register| hba.read(register));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut wake = 0;
        {
            let mut hba = self.0.hba();
            write_dwords(offset, data, |register, masked| {
                wake |= hba.write(register, masked)
            });
            self.0.settle(&mut hba);
        }
        self.0.wake(wake);
    }
}

impl PciFunction for Ahci {
    fn config(&self) -> &ConfigSpace {
        &self.shared().config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let shared = self.shared();
        shared.config.write(offset, data);
        // MSI may have been switched on or off, and INTx with it: the pin is driven anew.
        let mut hba = shared.hba();
        if shared.msi.enabled(&shared.config) {
            shared.intx.set(&shared.config, false);
        }
        shared.settle(&mut hba);
        shared.intx.config_written(&shared.config);
    }

    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        (index == BAR).then(|| self.registers.clone() as Arc<dyn Device>)
    }

    fn bar_moved(&self, _: usize, _: Option<u64>) {}

    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.shared().intx.connect(line);
    }

    fn reset(&self) {
        let shared = self.shared();
        let wake = {
            let mut hba = shared.hba();
            let wake = hba.power_on();
            shared.settle(&mut hba);
            wake
        };
        shared.wake(wake);
        shared.wait_for_workers();
        shared.config.reset();
        shared.intx.set(&shared.config, false);
    }
}

impl Drop for Ahci {
    fn drop(&mut self) {
        for worker in self.workers.drain(..) {
            worker.stop();
        }
    }
}
