//! The stream socket to the guest's network card: each frame with its virtio-net header behind the length of both in four
//! bytes, most significant first (`ostler_netio::SocketNet::with_headers`).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::error::Error;
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
pub struct Cable {
    socket: OwnedFd,
    input: Box<[u8]>,
    filled: usize,
    /// The frame on its way out, and how many bytes of prefix and frame went.
    output: Option<(Vec<u8>, usize)>,
}

impl Cable {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: vec![0; INPUT].into(),
            filled: 0,
            output: None,
        }
    }

    /// True if a frame waits until the socket is writable.
    pub fn is_blocked(&self) -> bool {
        self.output.is_some()
    }

    /// Reads once, and hands each whole frame to `take`.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Result<Flow, Error> {
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

    /// Sends frames of `next` until there are none, or the socket takes no more.
    pub fn send(&mut self, mut next: impl FnMut() -> Option<Vec<u8>>) -> Flow {
        loop {
            let Some((frame, gone)) = self.output.take().or_else(|| next().map(|frame| (frame, 0))) else {
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
                Ok(count) if gone + count == PREFIX_LEN + frame.len() => {}
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

impl AsFd for Cable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes the socket's buffer large enough for a few large segments, as far as the host allows.
pub fn enlarge(socket: impl AsFd) -> io::Result<()> {
    rustix::net::sockopt::set_socket_send_buffer_size(socket, 1 << 20).map_err(io::Error::from)
}
