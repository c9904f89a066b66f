//! The queue pair of a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_memory::IoBuf;
use rustix::net::{RecvFlags, SendFlags};

use super::wire::{FrameReader, FrameWriter, PREFIX_LEN, Parsed};
use super::{Framing, TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6};
use crate::frame::{self, Header, MAX_BUFFERS};
use crate::slots::SlotGuard;
use crate::{Error, HEADER_LEN, NetQueue, Offloads, QueueCounters, Received, Sent};

pub(super) struct SocketQueue {
    socket: Arc<OwnedFd>,
    closed: Arc<AtomicBool>,
    framing: Framing,
    input: FrameReader,
    output: FrameWriter,
    counters: QueueCounters,
    _slot: SlotGuard,
}

impl SocketQueue {
    pub(super) fn new(
        socket: Arc<OwnedFd>,
        closed: Arc<AtomicBool>,
        framing: Framing,
        slot: SlotGuard,
    ) -> Self {
        let counters = QueueCounters::default();
        Self {
            socket,
            closed,
            input: FrameReader::new(framing.header_len()),
            framing,
            output: FrameWriter::default(),
            counters,
            _slot: slot,
        }
    }

    fn close(&self) -> Error {
        self.closed.store(true, Ordering::Relaxed);
        Error::Closed
    }

    /// Reads what the peer has written, as far as there is room. False if that is nothing.
    fn receive(&mut self) -> Result<bool, Error> {
        match rustix::net::recv(&*self.socket, self.input.room(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(self.close()),
            Ok((count, _)) => {
                self.input.fill(count);
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(_) => Err(self.close()),
        }
    }

    /// Sends a prefix and a frame at once; returns how many bytes went.
    ///
    /// # Safety
    /// The buffers are mapped.
    unsafe fn send(&self, vector: &[IoBuf]) -> io::Result<usize> {
        let message = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: vector.as_ptr().cast_mut().cast(),
            msg_iovlen: vector.len(),
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the buffers are promised by the caller; IoBuf has the layout of iovec, which sendmsg does not write.
        let count = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, flags) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// # Safety
    /// The buffers are mapped, and hold header and frame.
    unsafe fn write(&mut self, buffers: &[IoBuf], len: usize) -> Result<Sent, Error> {
        let mut vector = Vec::with_capacity(buffers.len() + 1);
        vector.push(IoBuf::of_const(&[]));
        // SAFETY: promised by the caller.
        let header = unsafe { frame::split_header(buffers, &mut vector) };
        let header = header.checked(self.framing.accepts(), len);
        self.flush()?;
        let front_len = PREFIX_LEN + self.framing.header_len();
        let Some(mut header) = header.filter(|_| self.output.has_room(front_len + len)) else {
            return Ok(Sent::Dropped);
        };
        let mut front = [0; PREFIX_LEN + HEADER_LEN];
        front[..PREFIX_LEN].copy_from_slice(&((front_len - PREFIX_LEN + len) as u32).to_be_bytes());
        if let Framing::Headers(takes) = &self.framing {
            header.0[frame::NUM_BUFFERS_AT] = takes.load(Ordering::Relaxed);
            front[PREFIX_LEN..].copy_from_slice(&header.0);
        }
        vector[0] = IoBuf::of_const(&front[..front_len]);
        let mut gone = 0;
        if self.output.is_empty() && vector.len() <= MAX_BUFFERS {
            // SAFETY: promised by the caller; what is in front is in this call's stack frame.
            gone = match unsafe { self.send(&vector) } {
                Ok(count) => count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => 0,
                    _ => return Err(self.close()),
                },
            };
        }
        if gone < front_len + len {
            let tail = self.output.tail();
            // SAFETY: promised by the caller.
            unsafe { frame::gather(&vector, tail) };
            self.output.sent(gone);
        }
        Ok(Sent::Sent)
    }
}

impl Framing {
    /// The header that the guest sees of a frame of `len` bytes with `header` on the wire; `None` if it asks the guest for
    /// what it does not take.
    fn received(&self, header: &[u8], len: usize) -> Option<[u8; HEADER_LEN]> {
        let mut seen = Header::default();
        if let Self::Headers(takes) = self {
            let takes = takes.load(Ordering::Relaxed);
            let taken = Offloads {
                checksum: takes & TAKES_CHECKSUM != 0,
                tso4: takes & TAKES_TSO4 != 0,
                tso6: takes & TAKES_TSO6 != 0,
                ..Offloads::NONE
            };
            seen = Header(*header.first_chunk()?).checked(taken, len)?;
        }
        seen.0[frame::NUM_BUFFERS_AT..].copy_from_slice(&frame::ONE_BUFFER);
        Some(seen.0)
    }
}

impl NetQueue for SocketQueue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        loop {
            match self.input.next_frame() {
                Parsed::Frame(range) => {
                    let bytes = self.input.bytes(range);
                    let (header, bytes) = bytes.split_at(self.framing.header_len());
                    let count = HEADER_LEN + bytes.len();
                    let Some(header) = self.framing.received(header, bytes.len()) else {
                        self.counters.receive_drops += 1;
                        return Ok(Received::Dropped);
                    };
                    if IoBuf::total(buffers).is_some_and(|room| room < count) {
                        self.counters.receive_drops += 1;
                        return Ok(Received::Dropped);
                    }
                    // SAFETY: promised by the caller.
                    unsafe { frame::scatter(buffers, 0, &header) };
                    // SAFETY: promised by the caller.
                    unsafe { frame::scatter(buffers, HEADER_LEN, bytes) };
                    self.counters.received += 1;
                    return Ok(Received::Frame(count));
                }
                Parsed::Bad => {
                    self.counters.receive_drops += 1;
                    return Ok(Received::Dropped);
                }
                Parsed::Incomplete if self.receive()? => {}
                Parsed::Incomplete => return Ok(Received::Empty),
            }
        }
    }

    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        let sent = match frame::sendable_len(buffers) {
            // SAFETY: promised by the caller, and the length was checked.
            Some(len) => unsafe { self.write(buffers, len)? },
            None => Sent::Dropped,
        };
        match sent {
            Sent::Sent => self.counters.sent += 1,
            Sent::Dropped => self.counters.send_drops += 1,
        }
        Ok(sent)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        (!self.output.is_empty()).then(|| self.socket.as_fd())
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.output.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&*self.socket, self.output.waiting(), flags) {
                Ok(count) => self.output.sent(count),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
                Err(_) => return Err(self.close()),
            }
        }
        Ok(())
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}
