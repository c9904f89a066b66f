//! The queue pair of a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_memory::IoBuf;
use rustix::net::{RecvFlags, SendFlags};

use super::wire::{Input, Output, PREFIX_LEN, Parsed};
use crate::frame::{self, MAX_BUFFERS};
use crate::slots::SlotGuard;
use crate::{Error, HEADER_LEN, NetQueue, Offloads, QueueCounters, Received, Sent};

pub(super) struct SocketQueue {
    socket: Arc<OwnedFd>,
    closed: Arc<AtomicBool>,
    input: Input,
    output: Output,
    counters: QueueCounters,
    _slot: SlotGuard,
}

impl SocketQueue {
    pub(super) fn new(socket: Arc<OwnedFd>, closed: Arc<AtomicBool>, slot: SlotGuard) -> Self {
        let counters = QueueCounters::default();
        Self {
            socket,
            closed,
            input: Input::new(),
            output: Output::default(),
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
        let prefix = (len as u32).to_be_bytes();
        let mut vector = Vec::with_capacity(buffers.len() + 1);
        vector.push(IoBuf::of_const(&prefix));
        // SAFETY: promised by the caller.
        let header = unsafe { frame::split_header(buffers, &mut vector) };
        let plain = header
            .checked(Offloads::NONE, len)
            .is_some_and(|header| header.is_plain());
        self.flush()?;
        if !plain || !self.output.has_room(PREFIX_LEN + len) {
            return Ok(Sent::Dropped);
        }
        let mut gone = 0;
        if self.output.is_empty() && vector.len() <= MAX_BUFFERS {
            // SAFETY: promised by the caller; the prefix is on this frame.
            gone = match unsafe { self.send(&vector) } {
                Ok(count) => count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => 0,
                    _ => return Err(self.close()),
                },
            };
        }
        if gone < PREFIX_LEN + len {
            let tail = self.output.tail();
            // SAFETY: promised by the caller.
            unsafe { frame::gather(&vector, tail) };
            self.output.sent(gone);
        }
        Ok(Sent::Sent)
    }
}

impl NetQueue for SocketQueue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        loop {
            match self.input.next() {
                Parsed::Frame(range) => {
                    let bytes = self.input.bytes(range);
                    let count = HEADER_LEN + bytes.len();
                    if IoBuf::total(buffers).is_some_and(|room| room < count) {
                        self.counters.receive_drops += 1;
                        return Ok(Received::Dropped);
                    }
                    let mut header = [0; HEADER_LEN];
                    header[frame::NUM_BUFFERS_AT..].copy_from_slice(&frame::ONE_BUFFER);
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
