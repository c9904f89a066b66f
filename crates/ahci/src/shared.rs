//! What vCPU threads and workers share: the registers, guest RAM, the way to the guest's attention.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use ostler_bus::registers::lock;
use ostler_memory::GuestRam;
use ostler_pci::{ConfigSpace, Intx, MsiCapability};
use ostler_worker::{DeviceMetrics, new_event};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::fis::Taskfile;
use crate::hba::{Attention, Hba, PORTS};
use crate::port::Wanted;
use crate::tray::Tray;

/// Where in the received FIS area each kind of FIS goes (AHCI 1.3.1, 4.2.1).
const AREA_PIO_SETUP: u64 = 0x20;
const AREA_REGISTER: u64 = 0x40;
const AREA_DEVICE_BITS: u64 = 0x58;

/// How often somebody who waits for a worker looks whether it is still there.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Wakes a port's worker.
pub struct Doorbell {
    /// Signalled at each write that the worker has to look at.
    pub event: EventFd,
    /// Set with it, for a worker that polls.
    pub rung: AtomicBool,
    /// The worker is gone, and will never answer.
    pub abandoned: AtomicBool,
}

impl Doorbell {
    fn new() -> Result<Self, ostler_worker::Error> {
        Ok(Self {
            event: new_event()?,
            rung: AtomicBool::new(false),
            abandoned: AtomicBool::new(true),
        })
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        // It fails only if it was rung 2^64 times without an answer.
        let _ = self.event.write(1);
    }
}

/// A FIS from the drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A register FIS, with or without a request for an interrupt.
    Register(Taskfile, bool),
    /// A PIO set-up: its end, to the host or from it, bytes.
    PioSetup(Taskfile, bool, u16),
    /// Set device bits: the status, and a bit for each tag that is over.
    DeviceBits(Taskfile, u32),
}

/// Lock order: the registers, then the pin.
pub struct Shared {
    hba: Mutex<Hba>,
    /// Signalled when a worker has done what was wanted.
    answered: Condvar,
    pub doorbells: [Doorbell; PORTS],
    /// Of ports with CD-ROM drives.
    pub trays: [Tray; PORTS],
    pub ram: Arc<GuestRam>,
    pub config: ConfigSpace,
    pub intx: Intx,
    pub msi: MsiCapability,
    pub metrics: [Arc<DeviceMetrics>; PORTS],
}

impl Shared {
    /// The shared part of a controller.
    pub fn new(
        hba: Hba,
        ram: Arc<GuestRam>,
        config: ConfigSpace,
        msi: MsiCapability,
    ) -> Result<Self, ostler_worker::Error> {
        let [a, b, c, d, e, f] = [(); PORTS].map(|()| Doorbell::new());
        Ok(Self {
            hba: Mutex::new(hba),
            answered: Condvar::new(),
            doorbells: [a?, b?, c?, d?, e?, f?],
            trays: Default::default(),
            ram,
            config,
            intx: Intx::new(),
            msi,
            metrics: [(); PORTS].map(|()| Arc::default()),
        })
    }

    /// The registers. Whoever changes them lets [`Shared::settle`] look at them before the lock goes.
    pub fn hba(&self) -> MutexGuard<'_, Hba> {
        lock(&self.hba)
    }

    /// Tells the guest what it has to be told, and whoever waits.
    pub fn settle(&self, hba: &mut Hba) {
        let Attention { level, message } = hba.settle();
        if !self.msi.enabled(&self.config) {
            self.intx.set(&self.config, level);
        } else if message {
            self.msi.trigger(&self.config);
        }
        self.answered.notify_all();
    }

    /// Wakes the workers of these ports.
    pub fn wake(&self, ports: u32) {
        for (port, doorbell) in self.doorbells.iter().enumerate() {
            if ports & 1 << port != 0 {
                doorbell.ring();
            }
        }
    }

    /// True if the port has no worker, or has none any more.
    pub fn is_abandoned(&self, port: usize) -> bool {
        self.doorbells[port].abandoned.load(Ordering::Acquire)
    }

    /// Waits until no port wants anything of its worker, or those are gone.
    pub fn wait_for_workers(&self) {
        let mut hba = self.hba();
        loop {
            let waiting =
                (0..PORTS).any(|port| hba.port(port).wanted() != Wanted::Nothing && !self.is_abandoned(port));
            if !waiting {
                return;
            }
            hba = match self.answered.wait_timeout(hba, PATIENCE) {
                Ok((hba, _)) => hba,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Puts a FIS where the guest receives it, if it does. False if that is not in RAM.
    pub fn receive(&self, area: Option<u64>, fis: Received) -> bool {
        let Some(area) = area else { return true };
        let put = |offset: u64, bytes: &[u8]| {
            area.checked_add(offset)
                .is_some_and(|at| self.ram.write_slice(bytes, GuestAddress(at)).is_ok())
        };
        match fis {
            Received::Register(end, interrupt) => put(AREA_REGISTER, &end.to_host(interrupt)),
            Received::PioSetup(end, to_host, len) => put(AREA_PIO_SETUP, &end.pio_setup(to_host, len)),
            Received::DeviceBits(end, tags) => put(AREA_DEVICE_BITS, &end.device_bits(tags)),
        }
    }
}
