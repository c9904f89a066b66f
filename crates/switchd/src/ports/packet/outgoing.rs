//! Frames that wait to be sent, so that one system call sends many.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use ostler_netio::Header;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::HEADER_LEN;

/// Bytes that may wait. What is above that is dropped, and counted by the core.
const MOST_BYTES: usize = 1 << 20;
/// Bytes of a frame for which a system call costs less than a copy.
const LARGE: usize = 16 << 10;
/// Parts of a frame at most.
const MOST_PARTS: usize = 5;
/// Frames of one call.
const AT_ONCE: usize = 64;

/// Frames behind their headers.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Their lengths.
    frames: VecDeque<usize>,
}

/// Why no more is sent now.
pub(super) enum Stopped {
    /// Nothing waits.
    Empty,
    /// The kernel has no room.
    Full,
    /// The socket is of no use any more.
    Broken(io::Error),
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a frame, given in parts. False if there is no room.
    pub fn push(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let len = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.bytes.len() + len > MOST_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(&header.bytes()[..HEADER_LEN]);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.frames.push_back(len);
        true
    }

    /// Sends a large frame at once, without a copy, if nothing waits before it and the kernel takes it.
    pub fn send_large(&self, socket: &impl AsFd, header: &Header, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut slices = [IoSlice::new(&[]); MOST_PARTS + 1];
        if len < LARGE || !self.is_empty() || parts.len() > MOST_PARTS {
            return false;
        }
        slices[0] = IoSlice::new(&header.bytes()[..HEADER_LEN]);
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let slices = &slices[..=parts.len()];
        let nothing = &mut SendAncillaryBuffer::default();
        // Why it did not is asked again when it has waited.
        sendmsg(socket, slices, nothing, SendFlags::DONTWAIT).is_ok()
    }

    /// Sends what waits, as far as the kernel takes it. Frames that it will not take are counted in `lost`.
    pub fn flush(&mut self, socket: &impl AsFd, lost: &mut u64) -> Stopped {
        let mut sent = 0;
        let stopped = loop {
            if self.frames.is_empty() {
                break Stopped::Empty;
            }
            match send_some(socket, &self.bytes[sent..], &self.frames) {
                Ok(count) => sent += self.frames.drain(..count).sum::<usize>(),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => break Stopped::Full,
                    // The first of them was the reason: the interface is down or full, or the frame too long for it.
                    Some(
                        libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::ENETDOWN
                        | libc::EMSGSIZE
                        | libc::EINVAL
                        | libc::EIO,
                    ) => {
                        *lost += 1;
                        sent += self.frames.pop_front().unwrap_or(0);
                    }
                    _ => break Stopped::Broken(error),
                },
            }
        };
        self.bytes.drain(..sent);
        stopped
    }
}

/// Sends the first of `frames`, which are in `bytes` one behind the other; says how many.
fn send_some(socket: &impl AsFd, mut bytes: &[u8], frames: &VecDeque<usize>) -> io::Result<usize> {
    let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; AT_ONCE];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; AT_ONCE];
    let mut count = 0;
    for ((part, message), &len) in parts.iter_mut().zip(&mut messages).zip(frames) {
        let Some((frame, rest)) = bytes.split_at_checked(len) else {
            break;
        };
        bytes = rest;
        let part = part.write(libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        });
        // SAFETY: zeroes are a valid message without address and ancillary data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = part;
        header.msg_iovlen = 1;
        message.write(libc::mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        });
        count += 1;
    }
    let first = messages.as_mut_ptr().cast();
    // SAFETY: the first `count` messages are there, and each has one part, which lies in `bytes`; sendmmsg writes lengths only.
    let sent = unsafe { libc::sendmmsg(socket.as_fd().as_raw_fd(), first, count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// By a datagram socket, which keeps frames apart as a packet socket does.
    #[test]
    fn all_frames_go_out_in_order_and_what_is_too_much_is_refused() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut outgoing = Outgoing::default();
        let mut accepted = 0u32;
        while outgoing.push(&Header::default(), &[&accepted.to_be_bytes(), &[7; 1000]]) {
            accepted += 1;
        }
        assert_eq!(accepted as usize, MOST_BYTES / (HEADER_LEN + 1004));
        let (mut seen, mut lost) = (0u32, 0);
        let mut room = [0; 2000];
        loop {
            let stopped = outgoing.flush(&ours, &mut lost);
            while let Ok(len) = theirs.recv(&mut room) {
                assert_eq!(len, HEADER_LEN + 1004);
                assert_eq!(room[HEADER_LEN..HEADER_LEN + 4], seen.to_be_bytes());
                seen += 1;
            }
            match stopped {
                Stopped::Empty => break,
                Stopped::Full => assert!(!outgoing.is_empty()),
                Stopped::Broken(error) => panic!("{error}"),
            }
        }
        assert_eq!((seen, lost), (accepted, 0));
        assert!(outgoing.is_empty() && outgoing.bytes.is_empty());
    }

    #[test]
    fn a_large_frame_goes_at_once_unless_others_wait() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (header, large) = (Header::default(), [7; LARGE]);
        let mut outgoing = Outgoing::default();
        assert!(
            !outgoing.send_large(&ours, &header, &[&[1; 100]]),
            "a small one waits for others"
        );
        assert!(outgoing.send_large(&ours, &header, &[&[1, 2], &large]));
        let mut room = [0; 2 * LARGE];
        assert_eq!(theirs.recv(&mut room).unwrap(), HEADER_LEN + 2 + LARGE);
        assert_eq!(room[HEADER_LEN..HEADER_LEN + 3], [1, 2, 7]);
        assert!(outgoing.push(&header, &[&[1; 100]]));
        assert!(!outgoing.send_large(&ours, &header, &[&large]), "in order");
        // What the kernel does not take waits, too.
        let mut outgoing = Outgoing::default();
        while outgoing.send_large(&ours, &header, &[&large]) {}
        assert!(outgoing.push(&header, &[&large]) && !outgoing.is_empty());
    }
}
