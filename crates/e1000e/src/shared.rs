//! What vCPU threads and the worker share: the card, guest RAM, the way to the guest's attention.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ostler_bus::registers::lock;
use ostler_memory::GuestRam;
use ostler_netio::NetBackend;
use ostler_pci::{ConfigSpace, Intx, MsiCapability, Msix, regs};
use ostler_worker::{DeviceMetrics, new_event};
use vmm_sys_util::eventfd::EventFd;

use crate::Error;
use crate::card::{Card, Effects};
use crate::interrupts::Mode;

/// Power management control and status: the state, in the lowest two bits (PCI PM 1.2, 3.2.4).
pub const POWER_STATE: u16 = 3;

/// Lock order: `dma`, then the card, then the pin or the table of vectors.
pub struct Shared {
    card: Mutex<Card>,
    /// Held by the worker while it uses memory as the card's registers say.
    dma: Mutex<()>,
    /// Signalled when the worker has something to look at.
    pub event: EventFd,
    /// Set with it, until the worker has seen it.
    rung: AtomicBool,
    pub ram: Arc<GuestRam>,
    pub backend: Arc<dyn NetBackend>,
    pub config: ConfigSpace,
    /// Where in it power management is.
    pub power: u16,
    pub intx: Intx,
    pub msi: MsiCapability,
    pub msix: Arc<Msix>,
    pub metrics: Arc<DeviceMetrics>,
    /// The cable is in, as far as the control side is concerned.
    plugged: AtomicBool,
    /// The back end went away under the worker.
    lost: AtomicBool,
}

/// The parts of a function that are made before.
pub struct Parts {
    pub config: ConfigSpace,
    pub power: u16,
    pub msi: MsiCapability,
    pub msix: Arc<Msix>,
}

impl Shared {
    pub fn new(
        mac: [u8; 6],
        backend: Arc<dyn NetBackend>,
        ram: Arc<GuestRam>,
        parts: Parts,
    ) -> Result<Self, Error> {
        Ok(Self {
            card: Mutex::new(Card::new(mac, backend.link_up())),
            dma: Mutex::new(()),
            event: new_event()?,
            rung: AtomicBool::new(false),
            ram,
            backend,
            config: parts.config,
            power: parts.power,
            intx: Intx::new(),
            msi: parts.msi,
            msix: parts.msix,
            metrics: Arc::default(),
            plugged: AtomicBool::new(true),
            lost: AtomicBool::new(false),
        })
    }

    /// The card. Whoever changes it lets [`Shared::settle`] look at it before the lock goes.
    pub fn card(&self) -> MutexGuard<'_, Card> {
        lock(&self.card)
    }

    /// Held while memory is used.
    pub fn dma(&self) -> MutexGuard<'_, ()> {
        lock(&self.dma)
    }

    fn mode(&self) -> Mode {
        if self.msix.enabled() {
            Mode::Vectors
        } else if self.msi.enabled(&self.config) {
            Mode::Message
        } else {
            Mode::Pin
        }
    }

    /// True if causes have vectors.
    pub fn has_vectors(&self) -> bool {
        self.msix.enabled()
    }

    /// Tells the guest what it has to be told.
    pub fn settle(&self, card: &mut Card) {
        let mode = self.mode();
        let extended = card.extended();
        let due = card.interrupts.settle(mode, extended);
        let sent = match mode {
            Mode::Pin => {
                self.intx.set(&self.config, due.level);
                due.message
            }
            Mode::Message => due.message && self.msi.trigger(&self.config),
            Mode::Vectors => {
                let vectors = (0..8).filter(|at| due.vectors & 1 << at != 0);
                vectors.for_each(|vector| self.msix.trigger(vector));
                due.vectors != 0
            }
        };
        if sent {
            card.count(crate::registers::IAC);
            DeviceMetrics::add(&self.metrics.interrupts, 1);
        }
    }

    /// Does what a write asked for.
    pub fn follow(&self, effects: Effects) {
        if effects.stops {
            // The worker looks at the card's registers anew each time it takes this.
            drop(self.dma());
        }
        if effects.wake {
            self.ring();
        }
    }

    /// Wakes the worker.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // It fails only if it was rung 2^64 times without an answer.
            let _ = self.event.write(1);
        }
    }

    /// True if the worker was rung for since [`Shared::listen`].
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// The worker looks at everything from now on.
    pub fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// The configuration space may have changed: whether memory may be used, and how the guest is told.
    pub fn config_changed(&self) {
        let command = self.config.u16(regs::COMMAND);
        let on = self.config.u16(self.power) & POWER_STATE == 0;
        let mut card = self.card();
        card.set_master(on && command & regs::COMMAND_BUS_MASTER != 0);
        if self.mode() != Mode::Pin {
            self.intx.set(&self.config, false);
        }
        self.settle(&mut card);
        drop(card);
        self.follow(Effects {
            wake: true,
            stops: true,
        });
    }

    /// False while frames are to get nowhere.
    pub fn is_plugged(&self) -> bool {
        self.plugged.load(Ordering::SeqCst)
    }

    /// Puts the cable in or takes it out.
    pub fn plug(&self, plugged: bool) {
        self.plugged.store(plugged, Ordering::SeqCst);
        self.look_at_link();
        self.ring();
    }

    /// The back end is gone.
    pub fn backend_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.look_at_link();
    }

    /// Tells the guest if the link went up or down.
    pub fn look_at_link(&self) {
        let up = self.is_plugged() && !self.lost.load(Ordering::SeqCst) && self.backend.link_up();
        let mut card = self.card();
        card.set_cable(up);
        self.settle(&mut card);
    }

    /// Something happened while `epoch` held.
    pub fn add_causes(&self, epoch: u64, causes: u32) {
        let mut card = self.card();
        if causes != 0 && card.is_epoch(epoch) {
            card.interrupts.add_causes(causes);
            self.settle(&mut card);
        }
    }
}
