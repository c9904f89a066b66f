//! The socket to a back end: messages out, answers in. No call waits longer than the line's patience, nor once the device stops.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use vhost::vhost_user::message::FrontendReq;

use super::BackEndError;
use crate::message::{HEADER_LEN, NEED_REPLY, REPLY, VERSION, VERSION_MASK};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most descriptors with one message here.
const MAX_DESCRIPTORS: usize = 1;

pub(super) struct Line {
    socket: UnixStream,
    patience: Duration,
}

impl Line {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            patience: PATIENCE,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub fn with_patience(socket: UnixStream, patience: Duration) -> Self {
        Self { socket, patience }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a message; `acknowledged` asks for an answer that says whether it was followed.
    pub fn send(
        &self,
        request: FrontendReq,
        payload: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        acknowledged: bool,
    ) -> Result<(), BackEndError> {
        let number = u32::from(request);
        let flags = VERSION | if acknowledged { NEED_REPLY } else { 0 };
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        for word in [number, flags, payload.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(count) if count == bytes.len() => Ok(()),
            // There is room for hundreds of messages.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Err(BackEndError::Silent(number)),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(BackEndError::Closed),
            Err(error) => Err(BackEndError::host("a message to the back end")(error)),
        }
    }

    /// Waits for the answer to `request`, which has `N` bytes behind its header. Descriptors that come with it are closed.
    pub fn answer<const N: usize>(
        &self,
        request: FrontendReq,
        stop: BorrowedFd<'_>,
    ) -> Result<[u8; N], BackEndError> {
        let asked = u32::from(request);
        let end = Instant::now() + self.patience;
        let mut header = [0; HEADER_LEN];
        self.read(&mut header, asked, stop, end)?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (request, flags, len) = (word(0), word(4), word(8));
        if request != asked || flags & (VERSION_MASK | REPLY) != VERSION | REPLY || len as usize != N {
            return Err(BackEndError::Answer {
                asked,
                request,
                flags,
                len,
            });
        }
        let mut payload = [0; N];
        self.read(&mut payload, asked, stop, end)?;
        Ok(payload)
    }

    fn read(
        &self,
        mut into: &mut [u8],
        asked: u32,
        stop: BorrowedFd<'_>,
        end: Instant,
    ) -> Result<(), BackEndError> {
        while !into.is_empty() {
            match recv(&self.socket, &mut *into, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(BackEndError::Closed),
                Ok((count, _)) => into = &mut into[count..],
                Err(Errno::AGAIN) => self.wait(asked, stop, end)?,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(BackEndError::Closed),
                Err(error) => return Err(BackEndError::host("an answer of the back end")(error)),
            }
        }
        Ok(())
    }

    fn wait(&self, asked: u32, stop: BorrowedFd<'_>, end: Instant) -> Result<(), BackEndError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BackEndError::Silent(asked));
        }
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut waited = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        match poll(&mut waited, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(BackEndError::host("a wait")(error)),
        }
        match waited[1].revents().is_empty() {
            true => Ok(()),
            false => Err(BackEndError::Stopped),
        }
    }

    /// What a back end that owes nothing has said: it left, or it spoke unasked. Nothing, if it did neither.
    pub fn look(&self) -> Result<(), BackEndError> {
        match recv(&self.socket, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok((1.., _)) => Err(BackEndError::Unasked),
            Ok(_) | Err(_) => Err(BackEndError::Closed),
        }
    }
}
