//! One ring: what a front end said of it, and the ring itself while it runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_virtio::{Chain, GuestError, QueueSettings, Vring};

use crate::Error;
use crate::event::{Call, Kick};
use crate::memory::Memory;
use crate::message::RingAddress;

/// Entries of the largest ring.
pub(crate) const MAX_SIZE: u16 = 4096;

/// A ring that runs. It goes before the memory that it is in.
pub(crate) struct Live {
    pub vring: Vring,
    /// Chains that are filled again and again.
    pub chains: Vec<Chain>,
    /// The guest's available index when its chains were too few.
    pub too_few: Option<u16>,
    memory: Arc<Memory>,
}

impl Live {
    /// The place for the chain `number` of those in use at once.
    pub fn chain(&mut self, number: usize) -> (&mut Vring, &mut Chain) {
        while self.chains.len() <= number {
            self.chains.push(Chain::new(self.memory.ram.clone()));
        }
        (&mut self.vring, &mut self.chains[number])
    }
}

#[derive(Default)]
pub(crate) struct Ring {
    pub size: u16,
    pub address: Option<RingAddress>,
    /// The available index from which it goes on.
    pub base: u16,
    pub enabled: bool,
    pub kick: Option<Kick>,
    pub call: Option<Call>,
    pub error: Option<OwnedFd>,
    /// How the guest broke it, until it is started anew.
    pub broken: Option<GuestError>,
    live: Option<Live>,
}

impl Ring {
    /// Whether it was started, and the guest kept to the rules since.
    pub fn runs(&self) -> bool {
        self.live.is_some()
    }

    /// The ring, if it runs.
    pub fn running(&mut self) -> Option<&mut Live> {
        self.live.as_mut()
    }

    /// The ring, if it carries frames.
    pub fn live(&mut self) -> Option<&mut Live> {
        self.live.as_mut().filter(|_| self.enabled)
    }

    /// Whether it carries frames.
    pub fn is_live(&self) -> bool {
        self.enabled && self.live.is_some()
    }

    /// Whether the guest seems to have given it chains.
    pub fn looks_available(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.vring.looks_available())
    }

    /// Whether the guest has given it more chains since they were too few.
    pub fn has_more(&self) -> bool {
        let grew = |live: &Live| live.too_few.is_none() || live.vring.driver_index() != live.too_few;
        self.live.as_ref().is_some_and(grew)
    }

    /// Starts it where the front end said. What the guest is to blame for breaks it.
    pub fn start(&mut self, number: u32, memory: &Arc<Memory>, event_idx: bool) -> Result<(), Error> {
        let address = self.address.ok_or(Error::RingUnknown(number))?;
        let place = memory.find(address)?;
        let settings = QueueSettings {
            size: self.size,
            descriptors: place.descriptors,
            available: place.available,
            used: place.used,
        };
        let started = Vring::new(memory.ram.clone(), settings, MAX_SIZE, event_idx).and_then(|mut vring| {
            vring.set_next_available(self.base);
            vring.reload_used()?;
            Ok(vring)
        });
        match started {
            Ok(vring) => {
                self.broken = None;
                self.live = Some(Live {
                    vring,
                    chains: Vec::new(),
                    too_few: None,
                    memory: memory.clone(),
                });
                // What was used before we came may not have been told.
                self.call()
            }
            Err(error) => {
                self.fail(number, error);
                Ok(())
            }
        }
    }

    /// Ends it; says from where it would go on.
    pub fn stop(&mut self) -> u16 {
        if let Some(mut live) = self.live.take() {
            // Should it fail, the guest sees nothing of what was done last.
            let _ = live.vring.publish();
            self.base = live.vring.next_available();
        }
        self.kick = None;
        self.base
    }

    /// Goes on at the same place in other memory.
    pub fn move_to(&mut self, number: u32, memory: &Arc<Memory>, event_idx: bool) -> Result<(), Error> {
        if let Some(mut live) = self.live.take() {
            let _ = live.vring.publish();
            self.base = live.vring.next_available();
            self.start(number, memory, event_idx)?;
        }
        Ok(())
    }

    /// The guest broke the rules: the ring rests until it is set up anew, and the front end is told.
    pub fn fail(&mut self, number: u32, error: GuestError) {
        tracing::info!("a guest broke ring {number}: {error}");
        self.live = None;
        self.broken = Some(error);
        if let Some(Ok(descriptor)) = self.error.as_ref().map(OwnedFd::try_clone) {
            // A front end that has no use for it is no worse off.
            let _ = Call::new(descriptor).and_then(|mut call| call.signal());
        }
    }

    /// Interrupts the guest.
    pub fn call(&mut self) -> Result<(), Error> {
        self.call.as_mut().map_or(Ok(()), Call::signal)
    }
}
