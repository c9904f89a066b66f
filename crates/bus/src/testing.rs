//! For fuzzers of devices: their input as a program, and a platform that takes everything and tells nobody.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::{Device, Doorbell, DoorbellRegistry, InterruptLine, Msi, MsiSink};

/// A fuzzer's input, taken from its start. Numbers are little-endian; what is missing at the end is zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True if nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of `from`, which is not empty, by a byte.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    /// An access to `device` at `offset`, of 1, 2, 4 or 8 bytes, `most` at most: a byte says which, and whether to write what
    /// follows it.
    pub fn access(&mut self, device: &dyn Device, offset: u64, most: usize) {
        let how = self.u8();
        let width = (1 << (how & 3)).min(most);
        if how & 4 == 0 {
            device.read(offset, &mut [0; 8][..width]);
        } else {
            let mut data = [0; 8];
            let taken = self.take(width);
            data[..taken.len()].copy_from_slice(taken);
            device.write(offset, &data[..width]);
        }
    }
}

/// A platform that takes lines, messages and doorbells. An event cannot be connected to a message.
#[derive(Default)]
pub struct Silent;

impl InterruptLine for Silent {
    fn set(&self, _: bool) {}
}

impl MsiSink for Silent {
    fn signal(&self, _: Msi) {}
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DoorbellRegistry for Silent {
    fn add(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
