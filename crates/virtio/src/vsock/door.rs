//! The host's side: the socket at which its clients come in, and the plug for the guest's own wishes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, SocketType, accept_with, recv};

use super::plug;

/// Clients that have not yet said where they want to go. When another one comes, the oldest is sent away.
const MAX_CALLERS: usize = 32;
/// Longest line of a client, in bytes: "CONNECT " with a port and the end of the line.
const MAX_LINE: usize = 20;
/// Clients that are let in in one go.
const BATCH: usize = 16;

/// Where connections of one device come from and go to. It outlives resets of the guest.
pub struct Door {
    listener: OwnedFd,
    plug: Option<OwnedFd>,
    /// Ids of connections, which are never used twice in a row.
    next_id: AtomicU32,
}

impl Door {
    /// A device whose clients come in at `listener`, and whose guest has `plug` for its own wishes, or cannot have any.
    ///
    /// # Errors
    /// If `listener` is no listening stream socket, or `plug` no SEQPACKET socket.
    pub fn new(listener: OwnedFd, plug: Option<OwnedFd>) -> io::Result<Self> {
        use rustix::net::sockopt;
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if sockopt::socket_type(&listener)? != SocketType::STREAM || !sockopt::socket_acceptconn(&listener)? {
            return wrong("it is no listening stream socket");
        }
        if let Some(plug) = &plug
            && sockopt::socket_type(plug)? != SocketType::SEQPACKET
        {
            return wrong("its plug is no SEQPACKET socket");
        }
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: listener.into(),
            plug,
            next_id: AtomicU32::new(0),
        })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn plug(&self) -> Option<&OwnedFd> {
        self.plug.as_ref()
    }

    pub(super) fn first_id(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed)
    }

    pub(super) fn keep_id(&self, id: u32) {
        self.next_id.store(id, Ordering::Relaxed);
    }

    /// Asks for a connection to `port`; false if it cannot be had.
    pub(super) fn wish(&self, id: u32, port: u32) -> bool {
        self.plug
            .as_ref()
            .is_some_and(|plug| plug::wish(plug, id, port).is_ok())
    }
}

/// A client that has not yet said where it wants to go.
pub(crate) struct Caller {
    pub id: u32,
    stream: OwnedFd,
    line: Vec<u8>,
}

/// What a caller has said.
pub(crate) enum Said {
    /// Not all of it yet.
    Nothing,
    /// Where it wants to go.
    Port(u32),
    /// Something else, or it left.
    Nonsense,
}

/// The callers of a device.
#[derive(Default)]
pub(crate) struct Callers {
    list: Vec<Caller>,
    next_id: u32,
}

impl Callers {
    /// Lets clients in; `admit` is told of each. Returns true if there may be more.
    pub fn let_in(&mut self, door: &Door, mut admit: impl FnMut(BorrowedFd<'_>, u32) -> bool) -> bool {
        for _ in 0..BATCH {
            let stream = match accept_with(door.listener(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(stream) => stream,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return false,
                Err(error) => {
                    // Out of descriptors: those that wait are let in when some are free again.
                    tracing::warn!("a vsock's client could not be let in: {error}");
                    return false;
                }
            };
            if self.list.len() >= MAX_CALLERS {
                self.list.remove(0);
            }
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            if admit(stream.as_fd(), id) {
                self.list.push(Caller {
                    id,
                    stream,
                    line: Vec::new(),
                });
            }
        }
        true
    }

    /// Listens to caller `id`. Gives its stream and where it wants to go, once it has said so.
    pub fn hear(&mut self, id: u32) -> Option<(OwnedFd, u32)> {
        let at = self.list.iter().position(|caller| caller.id == id)?;
        match self.list[at].hear() {
            Said::Nothing => None,
            Said::Nonsense => {
                self.list.remove(at);
                None
            }
            Said::Port(port) => Some((self.list.remove(at).stream, port)),
        }
    }
}

impl Caller {
    /// Takes one byte after the other, as what follows the line is the guest's.
    fn hear(&mut self) -> Said {
        let mut byte = [0];
        while self.line.len() < MAX_LINE {
            match recv(&self.stream, &mut byte, RecvFlags::DONTWAIT) {
                Ok((1, _)) if byte[0] == b'\n' => {
                    return parse(&self.line).map_or(Said::Nonsense, Said::Port);
                }
                Ok((1, _)) => self.line.push(byte[0]),
                Err(Errno::AGAIN | Errno::INTR) => return Said::Nothing,
                Ok(_) | Err(_) => return Said::Nonsense,
            }
        }
        Said::Nonsense
    }
}

/// The port in "CONNECT port".
pub(crate) fn parse(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?;
    let port = text.trim_end_matches('\r').strip_prefix("CONNECT ")?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten()
}
