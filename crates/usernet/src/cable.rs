//! The cable to the guest's network card, or to the switch of several: frames behind their virtio-net headers.
//!
//! To another process it is a stream socket, on which each frame is behind its length in four bytes, most significant first
//! (`ostler_netio::SocketNet::with_headers`); to another thread it is a [`Pipe`].

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::core::Core;
use crate::error::Error;
use crate::pipe::Pipe;
use crate::wire::{ETHERNET_LEN, VNET_LEN};

const PREFIX_LEN: usize = 4;
/// Bytes of the longest message: an IP packet of 65,535 bytes behind an Ethernet header with a VLAN tag.
const MAX_MESSAGE: usize = VNET_LEN + 65_535 + 18;
/// Room for a few of the longest messages.
const INPUT: usize = 4 * (PREFIX_LEN + MAX_MESSAGE);

/// What a call left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It may be called again at once.
    More,
    /// The socket has to become ready first.
    Blocked,
    /// The other end is gone.
    Gone,
}

/// Our end.
pub enum Cable {
    Stream(StreamCable),
    Pipe(PipeCable),
}

impl Cable {
    /// True if a frame waits until the descriptor is writable.
    pub fn is_blocked(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.output.is_some())
    }

    /// Takes frames in, and hands each to `take`.
    pub fn receive(&mut self, take: impl FnMut(&[u8])) -> Result<Flow, Error> {
        match self {
            Self::Stream(stream) => stream.receive(take),
            Self::Pipe(pipe) => Ok(pipe.receive(take)),
        }
    }

    /// Sends the core's frames until there are none, or no more have room.
    pub fn send(&mut self, core: &mut Core) -> Flow {
        match self {
            Self::Stream(stream) => stream.send(core),
            Self::Pipe(pipe) => pipe.send(core),
        }
    }
}

impl AsFd for Cable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(stream) => stream.socket.as_fd(),
            Self::Pipe(pipe) => pipe.pipe.as_fd(),
        }
    }
}

/// One in memory.
pub struct PipeCable {
    pipe: Pipe,
    /// A frame that had no room.
    output: Option<Vec<u8>>,
}

impl PipeCable {
    pub fn new(pipe: Pipe) -> Self {
        Self { pipe, output: None }
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Flow {
        while let Some(frame) = self.pipe.receive() {
            if (VNET_LEN + ETHERNET_LEN..=MAX_MESSAGE).contains(&frame.len()) {
                take(&frame);
            }
            self.pipe.recycle(frame);
            if !self.pipe.has_frames() {
                // The bell tells of more.
                return Flow::Blocked;
            }
        }
        if self.pipe.is_over() {
            Flow::Gone
        } else {
            Flow::Blocked
        }
    }

    fn send(&mut self, core: &mut Core) -> Flow {
        let flow = loop {
            let Some(frame) = self.output.take().or_else(|| core.next_frame()) else {
                break Flow::More;
            };
            if let Err(frame) = self.pipe.send(frame) {
                self.output = Some(frame);
                break Flow::Blocked;
            }
            core.recycle(self.pipe.buffer());
        };
        self.pipe.flush();
        flow
    }
}

/// One to another process.
pub struct StreamCable {
    socket: OwnedFd,
    input: Box<[u8]>,
    filled: usize,
    /// The frame on its way out, and how many bytes of prefix and frame went.
    output: Option<(Vec<u8>, usize)>,
}

impl StreamCable {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: vec![0; INPUT].into(),
            filled: 0,
            output: None,
        }
    }

    /// Reads once, and hands each whole frame to `take`.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Result<Flow, Error> {
        match recv(&self.socket, &mut self.input[self.filled..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Flow::Gone),
            Ok((count, _)) => self.filled += count,
            Err(Errno::INTR) => return Ok(Flow::More),
            Err(Errno::AGAIN) => return Ok(Flow::Blocked),
            Err(_) => return Ok(Flow::Gone),
        }
        let mut rest = &self.input[..self.filled];
        while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_LEN>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            if !(VNET_LEN + ETHERNET_LEN..=MAX_MESSAGE).contains(&len) {
                return Err(Error::Cable(len));
            }
            let Some((message, after)) = after.split_at_checked(len) else {
                break;
            };
            take(message);
            rest = after;
        }
        let left = rest.len();
        self.input.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
        Ok(Flow::More)
    }

    fn send(&mut self, core: &mut Core) -> Flow {
        loop {
            let next = || core.next_frame().map(|frame| (frame, 0));
            let Some((frame, gone)) = self.output.take().or_else(next) else {
                return Flow::More;
            };
            let prefix = (frame.len() as u32).to_be_bytes();
            let slices = [
                IoSlice::new(&prefix[gone.min(PREFIX_LEN)..]),
                IoSlice::new(&frame[gone.saturating_sub(PREFIX_LEN)..]),
            ];
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), flags);
            match sent {
                Ok(count) if gone + count == PREFIX_LEN + frame.len() => core.recycle(frame),
                Ok(count) => self.output = Some((frame, gone + count)),
                Err(Errno::INTR) => self.output = Some((frame, gone)),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.output = Some((frame, gone));
                    return Flow::Blocked;
                }
                Err(_) => return Flow::Gone,
            }
        }
    }
}

/// Makes the socket's buffer large enough for a few large segments, as far as the host allows.
pub fn enlarge(socket: impl AsFd) -> io::Result<()> {
    rustix::net::sockopt::set_socket_send_buffer_size(socket, 1 << 20).map_err(io::Error::from)
}
