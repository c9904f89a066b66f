//! An interface of the host, by a packet socket (packet(7)): what it receives comes here, and what is sent here it sends.
//!
//! Frames come by a ring that the kernel fills (TPACKET_V2, see `ring.rs`), so a frame of the usual size costs no system call; they go
//! out by `sendmmsg`, many with one. Each frame has a virtio-net header, by which checksums and segments that a peer in the kernel
//! (veth) left undone stay so. The kernel takes VLAN tags out of frames; they are put back here.

mod outgoing;
mod ring;
mod socket;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use ostler_netio::{Header, Offloads};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use outgoing::{Outgoing, Stopped};
use ring::{Filled, Ring};
use socket::PacketSocket;

use super::interface::Interface;
use super::{Batch, Gone, Link, Lost};

/// Bytes of the header in front of each frame: virtio-net's without the number of buffers (packet(7), PACKET_VNET_HDR).
const HEADER_LEN: usize = 10;
/// Bytes in front of a tag.
const ADDRESSES: usize = 12;
/// What the kernel takes over from us.
const TAKES: Offloads = Offloads {
    uso: false,
    ..Offloads::ALL
};

pub(crate) struct PacketLink {
    interface: Interface,
    // Before the socket, so that the mapping goes first.
    ring: Ring,
    outgoing: Outgoing,
    /// For a frame that is too long for a place in the ring.
    large: Box<[u8]>,
    lost: Lost,
    socket: PacketSocket,
}

impl PacketLink {
    /// Takes the frames of the interface called `name`.
    pub fn open(name: &str) -> io::Result<Self> {
        let interface = Interface::find(name)?;
        let socket = PacketSocket::open()?;
        let ring = Ring::new(&socket)?;
        socket.bind(interface.index())?;
        Ok(Self {
            interface,
            ring,
            outgoing: Outgoing::default(),
            large: vec![0; HEADER_LEN + ostler_netio::MAX_FRAME].into(),
            lost: Lost::default(),
            socket,
        })
    }

    /// Takes the frame whose place in the ring was too short for it.
    fn take_large(&mut self, tag: Option<[u8; 4]>, batch: &mut Batch) -> Result<(), Gone> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        if tag.is_none() {
            return self.take_large_untagged(flags, batch);
        }
        match rustix::net::recv(&self.socket, &mut self.large[..], flags) {
            Ok((_, whole)) if whole <= self.large.len() => {
                push(batch, &self.large[..whole], tag, &mut self.lost)
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => self.lost.received += 1,
            Err(error) => return Err(Gone(error.to_string())),
        }
        Ok(())
    }

    /// The same without a tag: straight to where it is looked at.
    fn take_large_untagged(&mut self, flags: RecvFlags, batch: &mut Batch) -> Result<(), Gone> {
        let socket = &self.socket;
        let taken = batch.push_behind(HEADER_LEN, |bytes| {
            let start = bytes.len();
            bytes.reserve(HEADER_LEN + ostler_netio::MAX_FRAME);
            match rustix::net::recv(socket, spare_capacity(bytes), flags) {
                Ok((came, whole)) if came == whole => {
                    let header = bytes.get(start..start + HEADER_LEN).and_then(Header::read);
                    if header.is_none() {
                        bytes.truncate(start);
                    }
                    Ok(header)
                }
                Ok(_) => {
                    bytes.truncate(start);
                    Ok(None)
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => Ok(None),
                Err(error) => Err(Gone(error.to_string())),
            }
        })?;
        self.lost.received += u64::from(!taken);
        Ok(())
    }

    /// An interface that goes down leaves an error at the socket, which would be readable until somebody took it.
    fn clear_error(&self) {
        let _ = rustix::net::sockopt::socket_error(&self.socket);
    }
}

/// Adds a frame that is behind its header to the batch, with the tag that the kernel took out of it.
fn push(batch: &mut Batch, bytes: &[u8], tag: Option<[u8; 4]>, lost: &mut Lost) {
    let split = bytes.split_at_checked(HEADER_LEN);
    let Some((header, frame)) = split.and_then(|(header, frame)| Some((Header::read(header)?, frame))) else {
        lost.received += 1;
        return;
    };
    match (tag, frame.split_at_checked(ADDRESSES)) {
        (Some(tag), Some((addresses, rest))) => {
            batch.push_parts(&header.moved(4), &[addresses, &tag, rest]);
        }
        _ => batch.push_parts(&header, &[frame]),
    }
}

impl Link for PacketLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        (!self.outgoing.is_empty()).then(|| self.socket.as_fd())
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        if !self.ring.has_frames() {
            self.clear_error();
        }
        while !batch.is_full() {
            let lost = &mut self.lost;
            let taken = self.ring.take(|filled| match filled {
                Filled::Whole { bytes, tag } => {
                    push(batch, bytes, tag, lost);
                    None
                }
                Filled::Aside { tag } => Some(tag),
                Filled::Cut => {
                    lost.received += 1;
                    None
                }
            });
            match taken {
                None => break,
                Some(None) => {}
                Some(Some(tag)) => self.take_large(tag, batch)?,
            }
        }
        Ok(())
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        self.outgoing.push(&Header::default(), parts)
    }

    fn takes(&self) -> Offloads {
        TAKES
    }

    fn send_headed(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        self.outgoing.send_large(&self.socket, header, parts) || self.outgoing.push(header, parts)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        match self.outgoing.flush(&self.socket, &mut self.lost.sent) {
            // The state of the interface tells the rest.
            Stopped::Empty | Stopped::Full => Ok(()),
            Stopped::Broken(error) => Err(Gone(error.to_string())),
        }
    }

    fn has_frames(&self) -> bool {
        self.ring.has_frames()
    }

    fn sleep(&mut self) -> bool {
        self.ring.has_frames()
    }

    fn lost(&self) -> Lost {
        self.lost
    }

    fn is_up(&mut self) -> Result<bool, Gone> {
        self.lost.received += self.socket.take_drops();
        self.interface.is_running()
    }
}
