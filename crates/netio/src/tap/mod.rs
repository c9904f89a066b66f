//! Taps: the host's kernel is the peer.

mod macvtap;
mod open;
mod queue;
mod sys;

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub use macvtap::open_macvtap;
pub use open::{OpenTap, open_tap};
use rustix::fs::OFlags;

use crate::slots::Slots;
use crate::{Error, HEADER_LEN, KernelWorker, NetBackend, NetQueue, Offloads, VhostNet};

/// A tap on open descriptors.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Arc<File>>,
    vhost: Vec<VhostNet>,
    slots: Slots,
    offloads: Offloads,
    mtu: Option<u16>,
    /// How many pairs carry frames.
    active: Mutex<usize>,
}

impl Tap {
    /// The tap behind what [`open_tap`] opened. Opens nothing.
    pub fn new(open: OpenTap) -> Result<Self, Error> {
        let broken = |what| {
            move |source| Error::Setup {
                what,
                name: "the tap handed in".into(),
                source,
            }
        };
        let first = open.queues.first().ok_or(Error::NoQueue { index: 0, pairs: 0 })?;
        let described = sys::describe(first).map_err(broken("describing the tap"))?;
        for queue in &open.queues {
            let flags = sys::describe(queue)
                .map_err(broken("describing the tap"))?
                .flags();
            if flags & sys::IFF_VNET_HDR == 0 || flags & sys::IFF_NO_PI == 0 {
                let source = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is not set up for virtio-net (IFF_VNET_HDR, IFF_NO_PI)",
                );
                return Err(broken("taking over a tap")(source));
            }
            // A tap that someone else opened comes with the kernel's length, which lacks the last field.
            if sys::header_len(queue).map_err(broken("asking for the header length"))? != HEADER_LEN {
                sys::set_header_len(queue, HEADER_LEN)
                    .map_err(broken("setting the header length of a tap"))?;
            }
            // A tap that blocks would stop the worker.
            let status = rustix::fs::fcntl_getfl(queue).map_err(io::Error::from);
            let status = status.map_err(broken("reading the flags of a tap"))?;
            let set = rustix::fs::fcntl_setfl(queue, status | OFlags::NONBLOCK).map_err(io::Error::from);
            set.map_err(broken("setting the flags of a tap"))?;
        }
        let offloads = match open.whole {
            true => Offloads::NONE,
            false => supported(first).map_err(broken("finding the offloads of a tap"))?,
        };
        let queues: Vec<Arc<File>> = open.queues.into_iter().map(Arc::new).collect();
        let pairs = queues.len();
        Ok(Self {
            name: described.name(),
            vhost: open
                .vhost
                .into_iter()
                .zip(&queues)
                .map(|(file, tap)| VhostNet::new(file, tap.clone()))
                .collect(),
            queues,
            slots: Slots::new(pairs),
            offloads,
            mtu: open.mtu,
            active: Mutex::new(pairs),
        })
    }

    /// The interface's name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Setup {
            what,
            name: self.name.clone(),
            source,
        }
    }
}

/// Has the kernel leave to the reader of a tap whatever this host's taps can leave, and says what that is.
pub fn take_offloads(tun: &File) -> Offloads {
    let ladder = [
        Offloads::ALL,
        Offloads {
            uso: false,
            ..Offloads::ALL
        },
        Offloads {
            checksum: true,
            ..Offloads::NONE
        },
    ];
    let best = ladder
        .into_iter()
        .find(|offloads| sys::set_offloads(tun, *offloads).is_ok());
    best.unwrap_or(Offloads::NONE)
}

/// Finds by trying what this host's taps can leave to the reader, and leaves nothing set.
fn supported(tun: &File) -> io::Result<Offloads> {
    let best = take_offloads(tun);
    sys::set_offloads(tun, Offloads::NONE)?;
    Ok(best)
}

impl NetBackend for Tap {
    fn queue_pairs(&self) -> usize {
        self.queues.len()
    }

    fn accepts(&self) -> Offloads {
        self.offloads
    }

    fn delivers(&self) -> Offloads {
        self.offloads
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        if !offloads.within(self.offloads) {
            return Err(Error::Offloads(offloads));
        }
        sys::set_offloads(&self.queues[0], offloads).map_err(self.failed("setting the offloads of the tap"))
    }

    fn link_up(&self) -> bool {
        true
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        let slot = self.slots.take(index)?;
        Ok(Box::new(queue::TapQueue::new(
            self.queues[index].clone(),
            self.offloads,
            slot,
        )))
    }

    fn set_active_pairs(&self, pairs: usize) -> Result<(), Error> {
        if pairs == 0 || pairs > self.queues.len() {
            return Err(Error::NoQueue {
                index: pairs,
                pairs: self.queues.len(),
            });
        }
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        while *active != pairs {
            let grows = *active < pairs;
            let index = if grows { *active } else { *active - 1 };
            sys::set_active(&self.queues[index], grows)
                .map_err(self.failed("switching a queue of the tap"))?;
            *active = if grows { *active + 1 } else { *active - 1 };
        }
        Ok(())
    }

    fn vhost(&self, index: usize) -> Option<&dyn KernelWorker> {
        self.vhost.get(index).map(|vhost| vhost as &dyn KernelWorker)
    }
}

#[cfg(test)]
mod tests;
