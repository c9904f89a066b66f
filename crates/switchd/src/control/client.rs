//! One client: bytes in, lines out of them, and answers back. It is never waited for.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ostler_worker::{EventLoop, Interest};

/// Longest command, in bytes.
const MAX_LINE: usize = 64 << 10;
/// Bytes of answers that wait for a client that does not read them. It is hung up on when there are more.
const MAX_WAITING: usize = 16 << 20;

pub(crate) struct Client {
    pub stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    interest: Interest,
}

/// The client is gone, or sends what cannot be.
pub(crate) struct HungUp;

impl Client {
    pub fn new(stream: UnixStream, token: u64, events: &EventLoop) -> Result<Self, String> {
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let mut interest = Interest::new(token);
        interest
            .set(events, Some(stream.as_fd()), None)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            interest,
        })
    }

    pub fn forget(&mut self, events: &EventLoop) {
        let _ = self.interest.set(events, None, None);
    }

    /// Takes what the client sent.
    pub fn receive(&mut self) -> Result<(), HungUp> {
        // What it sent before comes first.
        if self.input.len() > MAX_LINE {
            return if self.input.contains(&b'\n') {
                Ok(())
            } else {
                Err(HungUp)
            };
        }
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(HungUp),
            Ok(count) => {
                self.input.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(HungUp),
        }
    }

    /// Whether there is a whole line to be served now.
    pub fn has_line(&self) -> bool {
        self.output.is_empty() && self.input.contains(&b'\n')
    }

    /// The next whole line. None while many answers wait: a client that does not read is not served.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        if !self.output.is_empty() {
            return None;
        }
        let end = self.input.iter().position(|&byte| byte == b'\n')?;
        Some(self.input.drain(..=end).collect())
    }

    /// Adds an answer and sends what can be sent.
    pub fn answer(&mut self, line: &str) -> Result<(), HungUp> {
        self.output.extend_from_slice(line.as_bytes());
        self.output.push(b'\n');
        self.flush()
    }

    pub fn flush(&mut self) -> Result<(), HungUp> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(HungUp),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(HungUp),
            }
        }
        if self.output.len() > MAX_WAITING {
            return Err(HungUp);
        }
        Ok(())
    }

    /// Waits for room only while answers wait, and for commands only while none do.
    pub fn watch(&mut self, events: &EventLoop) -> Result<(), HungUp> {
        let waits = !self.output.is_empty();
        let fd = self.stream.as_fd();
        self.interest
            .set(events, (!waits).then_some(fd), waits.then_some(fd))
            .map_err(|_| HungUp)
    }
}
