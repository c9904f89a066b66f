//! A unix stream socket as a cable: each Ethernet frame behind its length in four bytes, most significant first.
//!
//! This is what QEMU's `-netdev stream`, passt and vde's helpers speak. There is no virtio-net header on the wire, so no
//! offloads either.
//!
//! With a peer of our own ([`SocketNet::with_headers`]) each frame, and the length, has its virtio-net header in front.
//! In the guest's frames byte 10 (`num_buffers`, unused there) says which offloads the guest takes now: bit 0 checksums,
//! bit 1 large TCP segments over IPv4, bit 2 over IPv6.

mod queue;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

pub use wire::{FrameReader, FrameWriter, Parsed};

use crate::slots::Slots;
use crate::{Error, HEADER_LEN, NetBackend, NetQueue, Offloads};

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
    framing: Framing,
}

/// What is on the wire beside frames.
#[derive(Debug, Clone)]
enum Framing {
    /// Nothing.
    Plain,
    /// Virtio-net headers; inside is what the guest takes, see [`TAKES_CHECKSUM`].
    Headers(Arc<AtomicU8>),
}

/// The guest completes checksums.
const TAKES_CHECKSUM: u8 = 1;
/// The guest takes large TCP segments over IPv4.
const TAKES_TSO4: u8 = 2;
/// The same over IPv6.
const TAKES_TSO6: u8 = 4;

/// What a peer that speaks virtio-net headers does.
const PEER: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: false,
    uso: false,
};

impl Framing {
    /// What the guest may leave to the peer.
    fn accepts(&self) -> Offloads {
        match self {
            Self::Plain => Offloads::NONE,
            Self::Headers(_) => PEER,
        }
    }

    /// Bytes in front of each frame, its length not counted.
    fn header_len(&self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Headers(_) => HEADER_LEN,
        }
    }
}

impl SocketNet {
    /// The back end on `socket`. Opens nothing.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        Self::with_framing(socket, Framing::Plain)
    }

    /// The back end on `socket`, with virtio-net headers on the wire. Opens nothing.
    pub fn with_headers(socket: OwnedFd) -> Result<Self, Error> {
        Self::with_framing(socket, Framing::Headers(Arc::default()))
    }

    fn with_framing(socket: OwnedFd, framing: Framing) -> Result<Self, Error> {
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
            framing,
        })
    }
}

impl NetBackend for SocketNet {
    fn accepts(&self) -> Offloads {
        self.framing.accepts()
    }

    fn delivers(&self) -> Offloads {
        self.framing.accepts()
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        if !offloads.within(self.delivers()) {
            return Err(Error::Offloads(offloads));
        }
        if let Framing::Headers(takes) = &self.framing {
            let checksum = u8::from(offloads.checksum) * TAKES_CHECKSUM;
            let large = (u8::from(offloads.tso4) * TAKES_TSO4) | (u8::from(offloads.tso6) * TAKES_TSO6);
            takes.store(checksum | large, Ordering::Relaxed);
        }
        Ok(())
    }

    fn link_up(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        let slot = self.slots.take(index)?;
        Ok(Box::new(queue::SocketQueue::new(
            self.socket.clone(),
            self.closed.clone(),
            self.framing.clone(),
            slot,
        )))
    }
}

#[cfg(test)]
mod tests;
