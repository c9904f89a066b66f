//! A unix stream socket as a cable: each Ethernet frame behind its length in four bytes, most significant first.
//!
//! This is what QEMU's `-netdev stream`, passt and vde's helpers speak. There is no virtio-net header on the wire, so no
//! offloads either.

mod queue;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::slots::Slots;
use crate::{Error, KernelWorker, NetBackend, NetQueue, Offloads};

/// Connects to the socket at `path`, for whoever starts the guest; the guest's process never calls this.
pub fn connect_socket(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Setup {
        what: "connecting",
        name: path.display().to_string(),
        source,
    };
    UnixStream::connect(path).map(OwnedFd::from).map_err(failed)
}

/// The back end on a connected stream socket.
#[derive(Debug)]
pub struct SocketNet {
    socket: Arc<OwnedFd>,
    slots: Slots,
    /// True once the peer is gone.
    closed: Arc<AtomicBool>,
}

impl SocketNet {
    /// The back end on `socket`. Opens nothing.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        let kind = rustix::net::sockopt::socket_type(&socket).map_err(io::Error::from);
        match kind {
            Ok(rustix::net::SocketType::STREAM) => {}
            Ok(_) => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no stream socket");
                return Err(Error::Setup {
                    what: "taking over a socket",
                    name: "the socket handed in".into(),
                    source,
                });
            }
            Err(source) => {
                return Err(Error::Setup {
                    what: "examining",
                    name: "the socket handed in".into(),
                    source,
                });
            }
        }
        Ok(Self {
            socket: Arc::new(socket),
            slots: Slots::new(1),
            closed: Arc::default(),
        })
    }
}

impl NetBackend for SocketNet {
    fn queue_pairs(&self) -> usize {
        1
    }

    fn accepts(&self) -> Offloads {
        Offloads::NONE
    }

    fn delivers(&self) -> Offloads {
        Offloads::NONE
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        if offloads == Offloads::NONE {
            Ok(())
        } else {
            Err(Error::Offloads(offloads))
        }
    }

    fn link_up(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        let slot = self.slots.take(index)?;
        Ok(Box::new(queue::SocketQueue::new(
            self.socket.clone(),
            self.closed.clone(),
            slot,
        )))
    }

    fn set_active_pairs(&self, pairs: usize) -> Result<(), Error> {
        if pairs == 1 {
            Ok(())
        } else {
            Err(Error::NoQueue {
                index: pairs,
                pairs: 1,
            })
        }
    }

    fn vhost(&self, _index: usize) -> Option<&dyn KernelWorker> {
        None
    }
}

#[cfg(test)]
mod tests;
