//! A console as the outside end of a virtio console's port.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_virtio::console::ByteStream;

use super::{Console, InputSink};
use crate::bell::Bell;

/// Bytes of input that wait for the guest.
const CAPACITY: usize = 4096;

/// Input on its way to the device's worker, which waits for the bell.
struct Input {
    bytes: Mutex<VecDeque<u8>>,
    bell: Bell,
}

impl Input {
    fn bytes(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for Input {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut waiting = self.bytes();
        let taken = bytes.len().min(CAPACITY - waiting.len());
        waiting.extend(&bytes[..taken]);
        self.bell.ring();
        taken
    }
}

/// The stream that a port of the device reads and writes.
pub(crate) struct PortStream {
    console: Arc<Console>,
    input: Arc<Input>,
}

impl PortStream {
    /// Connects `console`.
    pub fn new(console: Arc<Console>) -> io::Result<Self> {
        let input = Arc::new(Input {
            bytes: Mutex::default(),
            bell: Bell::new()?,
        });
        console.attach(input.clone());
        Ok(Self { console, input })
    }
}

impl Drop for PortStream {
    fn drop(&mut self) {
        self.console.detach();
    }
}

impl ByteStream for PortStream {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.input.bell.as_fd())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut waiting = self.input.bytes();
        let was_full = waiting.len() == CAPACITY;
        let count = waiting.len().min(into.len());
        for (to, from) in into.iter_mut().zip(waiting.drain(..count)) {
            *to = from;
        }
        if waiting.is_empty() {
            self.input.bell.silence();
        }
        drop(waiting);
        if was_full && count > 0 {
            self.console.input_room();
        }
        if count == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(count)
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.console.output(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_bounded_and_in_order() {
        let descriptors = crate::handoff::Descriptors::new();
        let console = Console::open("console", &crate::spec::ConsoleSpec::None, &descriptors).unwrap();
        let mut stream = PortStream::new(Arc::new(console)).unwrap();
        let mut buffer = [0; 3000];
        assert_eq!(
            stream.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let bytes: Vec<u8> = (0..5000).map(|n| n as u8).collect();
        assert_eq!(stream.input.push(&bytes), CAPACITY);
        assert_eq!(stream.read(&mut buffer).unwrap(), 3000);
        assert_eq!(buffer, bytes[..3000]);
        assert_eq!(stream.input.push(&bytes[CAPACITY..]), 5000 - CAPACITY);
        assert_eq!(stream.read(&mut buffer).unwrap(), 2000);
        assert_eq!(buffer[..2000], bytes[3000..]);
        assert_eq!(
            stream.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
