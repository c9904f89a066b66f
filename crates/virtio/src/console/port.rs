//! One port: a stream of bytes each way.

use std::io;
use std::os::fd::BorrowedFd;

use crate::chain::Chain;
use crate::error::GuestError;
use crate::event_loop::{EventLoop, Interest};
use crate::queue_server::{Answer, QueueServer, Served};

/// Bytes moved at a time.
const CHUNK: usize = 4096;
/// Most bytes that a guest may write with one chain.
const MAX_OUTPUT: usize = 1 << 20;

/// The outside end of a port. The device's worker owns it; no call may block.
pub trait ByteStream: Send {
    /// A descriptor that is readable while there is input; `None` if there will never be any.
    fn readable(&self) -> Option<BorrowedFd<'_>>;

    /// Takes input; 0 bytes mean that it ended.
    ///
    /// # Errors
    /// `WouldBlock` if there is none now. Any other error ends the input.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Takes all of the guest's output. What a slow reader cannot take is kept back or dropped, as the stream likes.
    fn write(&mut self, bytes: &[u8]);
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// A port with its queues, while the device runs.
pub(crate) struct Port {
    pub stream: Box<dyn ByteStream>,
    pub name: String,
    pub console: bool,
    /// The guest has the port open. Input waits until then.
    pub guest_open: bool,
    /// The stream's input ended.
    pub ended: bool,
    pub receive: Option<QueueServer>,
    pub transmit: Option<QueueServer>,
    pub interest: Interest,
    /// The guest has no buffers for input now.
    starved: bool,
}

/// What a round of one port did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    pub to_guest: usize,
    pub from_guest: usize,
    /// There may be more to do at once.
    pub more: bool,
    /// The stream's input ended just now.
    pub ended: bool,
}

impl Port {
    pub fn new(stream: Box<dyn ByteStream>, name: String, console: bool, token: u64) -> Self {
        Self {
            stream,
            name,
            console,
            guest_open: false,
            ended: false,
            receive: None,
            transmit: None,
            interest: Interest::new(token),
            starved: false,
        }
    }

    /// Moves what there is, both ways.
    pub fn move_bytes(&mut self) -> Result<Moved, GuestError> {
        let mut moved = Moved::default();
        self.output(&mut moved)?;
        self.input(&mut moved)?;
        Ok(moved)
    }

    fn output(&mut self, moved: &mut Moved) -> Result<(), GuestError> {
        let Some(server) = &mut self.transmit else {
            return Ok(());
        };
        let stream = &mut self.stream;
        let served = server.serve(|chain| {
            moved.from_guest += write_out(chain, &mut **stream)?;
            Ok(Answer::Used(0))
        })?;
        moved.more |= match served {
            Served::More => true,
            _ => server.active.vring.enable_kicks()?,
        };
        Ok(())
    }

    fn input(&mut self, moved: &mut Moved) -> Result<(), GuestError> {
        let Some(server) = &mut self.receive else {
            return Ok(());
        };
        self.starved = false;
        if self.ended || !self.guest_open {
            return Ok(());
        }
        let (stream, mut ended) = (&mut self.stream, false);
        let served = server.serve(|chain| match read_in(chain, &mut **stream)? {
            Input::Bytes(count) => {
                moved.to_guest += count;
                Ok(Answer::Used(count as u32))
            }
            Input::None => Ok(Answer::Later),
            Input::Ended => {
                ended = true;
                Ok(Answer::Later)
            }
        })?;
        if ended {
            self.ended = true;
            moved.ended = true;
        }
        match served {
            Served::More => moved.more = true,
            Served::Later => {}
            Served::All => {
                self.starved = true;
                moved.more |= server.active.vring.enable_kicks()?;
            }
        }
        Ok(())
    }

    /// Listens for input only while the guest can take it.
    pub fn watch(&mut self, events: &EventLoop, running: bool) -> Result<(), ostler_worker::Error> {
        let wanted = running && self.guest_open && !self.ended && !self.starved && self.receive.is_some();
        let readable = if wanted { self.stream.readable() } else { None };
        self.interest.set(events, readable, None)
    }
}

enum Input {
    Bytes(usize),
    None,
    Ended,
}

fn read_in(chain: &Chain, stream: &mut dyn ByteStream) -> Result<Input, GuestError> {
    let mut bytes = [0; CHUNK];
    let room = chain.writable_bytes().min(CHUNK);
    if room == 0 {
        return Err(GuestError::Request("an input buffer without room"));
    }
    Ok(match stream.read(&mut bytes[..room]) {
        Ok(0) => Input::Ended,
        Ok(count) => Input::Bytes(chain.write_at(0, &bytes[..count.min(room)])),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Input::None,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Input::None,
        Err(error) => {
            tracing::warn!("a console's input broke: {error}");
            Input::Ended
        }
    })
}

fn write_out(chain: &Chain, stream: &mut dyn ByteStream) -> Result<usize, GuestError> {
    let total = chain.readable_bytes();
    if total > MAX_OUTPUT {
        return Err(GuestError::Request("more than 1 MiB of console output at once"));
    }
    let mut bytes = [0; CHUNK];
    let mut done = 0;
    while done < total {
        let count = chain.read_at(done, &mut bytes);
        stream.write(&bytes[..count]);
        done += count;
    }
    Ok(done)
}
