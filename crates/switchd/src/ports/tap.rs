//! A tap of the host. Each frame is behind a virtio-net header: the kernel leaves checksums and segments to us, and we to it.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use ostler_netio::{HEADER_LEN, Header, MAX_FRAME, Offloads};

use super::interface::Interface;
use super::{Batch, Gone, Link};

pub(crate) struct TapLink {
    file: File,
    interface: Interface,
    /// What the kernel leaves to us; it takes over as much.
    offloads: Offloads,
    buffer: Box<[u8]>,
    gone: bool,
}

impl TapLink {
    /// Opens the existing tap `name`.
    pub fn open(name: &str) -> Result<Self, String> {
        let tap = ostler_netio::open_tap(name, 1, false).map_err(|error| error.to_string())?;
        let file = tap.queues.into_iter().next().ok_or("the tap has no queue")?;
        Ok(Self {
            offloads: ostler_netio::take_offloads(&file),
            file,
            interface: Interface::find(name).map_err(|error| error.to_string())?,
            buffer: vec![0; HEADER_LEN + MAX_FRAME].into(),
            gone: false,
        })
    }
}

impl Link for TapLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        while !batch.is_full() {
            match self.file.read(&mut self.buffer) {
                Ok(count) => {
                    if let Some(header) = Header::read(&self.buffer[..count.min(HEADER_LEN)]) {
                        batch.push_parts(&header, &[&self.buffer[HEADER_LEN..count]]);
                    }
                }
                Err(error) => {
                    return match error.raw_os_error() {
                        Some(libc::EAGAIN | libc::EINTR) => Ok(()),
                        // It is set down: the flags will tell.
                        Some(libc::EIO) => Ok(()),
                        _ => Err(Gone(error.to_string())),
                    };
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        self.send_headed(&Header::default(), parts)
    }

    fn takes(&self) -> Offloads {
        self.offloads
    }

    fn send_headed(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let mut slices = [
            IoSlice::new(header.bytes()),
            IoSlice::new(&[]),
            IoSlice::new(&[]),
            IoSlice::new(&[]),
        ];
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        match self.file.write_vectored(&slices) {
            // A frame is taken whole or not at all.
            Ok(taken) => taken > HEADER_LEN,
            Err(error) => {
                self.gone |= error.raw_os_error() == Some(libc::EBADFD);
                false
            }
        }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.gone {
            return Err(Gone("the tap was removed".into()));
        }
        Ok(())
    }

    fn is_up(&mut self) -> Result<bool, Gone> {
        self.interface.is_running()
    }
}
