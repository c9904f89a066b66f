//! What a guest's process and the process that started it say to each other: one JSON object a line, both ways.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Said to a guest's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToGuest {
    /// The terminal has this size now.
    WindowSize {
        /// Characters a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Press the power button.
    PowerButton,
    /// End at once.
    Stop,
}

/// Said by a guest's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromGuest {
    /// The machine is built and its CPUs run.
    Started,
    /// What the user asked for cannot be built.
    Refused {
        /// One sentence for the user.
        message: String,
    },
    /// Something that the user should know.
    Note {
        /// One sentence.
        message: String,
    },
    /// The guest is over.
    Ended(Outcome),
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// It powered off.
    PoweredOff,
    /// It reset, and was not to start again.
    Reset,
    /// Its kernel panicked.
    Panicked,
    /// A CPU met a triple fault.
    TripleFault,
    /// It wrote to the debug exit port.
    DebugExit {
        /// What it wrote.
        value: u8,
    },
    /// A user or a client ended it.
    Stopped,
    /// It could not go on.
    Failed {
        /// One sentence for the user.
        message: String,
    },
}

/// Sends one message.
pub fn send<M: Serialize>(mut socket: &UnixStream, message: &M) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Reads messages until the other end hangs up.
pub struct Receiver {
    reader: BufReader<UnixStream>,
}

impl Receiver {
    /// Reads from `socket`.
    pub fn new(socket: UnixStream) -> Self {
        Self {
            reader: BufReader::with_capacity(4096, socket),
        }
    }

    /// The next message, or `None` at the end. Text that is no message is an error.
    pub fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(io::Error::from)
    }

    /// True if a whole message may be waiting in the buffer, where poll does not see it.
    pub fn is_buffered(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_the_end_is_seen() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &FromGuest::Started).unwrap();
        send(&ours, &FromGuest::Ended(Outcome::DebugExit { value: 3 })).unwrap();
        drop(ours);
        let mut receiver = Receiver::new(theirs);
        assert_eq!(receiver.receive().unwrap(), Some(FromGuest::Started));
        assert!(receiver.is_buffered());
        assert_eq!(
            receiver.receive().unwrap(),
            Some(FromGuest::Ended(Outcome::DebugExit { value: 3 }))
        );
        assert_eq!(receiver.receive::<FromGuest>().unwrap(), None);
    }

    #[test]
    fn garbage_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"{\"surprise\":1}\n").unwrap();
        assert!(Receiver::new(theirs).receive::<ToGuest>().is_err());
    }
}
