//! Packets: a length, a header of six words, and a payload that the procedure gives its shape.

use std::io::{self, Read};

use thiserror::Error;

use crate::xdr::{Encode, XdrError};

/// The program that clients call.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The program of calls that only guests like QEMU's have.
pub const QEMU_PROGRAM: u32 = 0x2000_8087;
/// The program of pings and pongs.
pub const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The version of both.
pub const PROGRAM_VERSION: u32 = 1;
/// Procedure of the keepalive program: are you there?
pub const PING: i32 = 1;
/// Procedure of the keepalive program: I am.
pub const PONG: i32 = 2;

/// Bytes of the length and the header.
const HEAD: usize = 28;
/// Longest packet, in bytes: 32 MiB after its length.
pub const MAX_PACKET: usize = (32 << 20) + 4;
/// Most bytes of a payload.
pub const MAX_PAYLOAD: usize = MAX_PACKET - HEAD;
/// Most bytes of a stream in one packet; clients of every age take these.
pub const MAX_STREAM_DATA: usize = 262_120;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// The answer to a call.
    Reply,
    /// An event or a ping, which nobody answers.
    Event,
    /// A piece of a stream, or its end.
    Stream,
    /// A piece of a stream with nothing but zeroes: [`crate::types::StreamHole`].
    Hole,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done, or a stream's regular end.
    Ok,
    /// The payload is an error.
    Error,
    /// More of the stream follows. With nothing in it: the other end has no more to send.
    Continue,
}

/// What comes before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose procedures these are.
    pub program: u32,
    /// The program's version.
    pub version: u32,
    /// The procedure.
    pub procedure: i32,
    /// Call, reply, event or stream.
    pub kind: Kind,
    /// The call's number: the caller chooses, replies and streams repeat it.
    pub serial: u32,
    /// How it stands.
    pub status: Status,
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub header: Header,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Why a packet cannot be read; the connection is of no use any more.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// A length that no packet has.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// A type or status that is not known, or was not offered.
    #[error("a packet of type {kind} with status {status}")]
    Header {
        /// The word that tells the type.
        kind: u32,
        /// The word that tells the status.
        status: u32,
    },
    /// The payload is longer than its type may be.
    #[error(transparent)]
    Payload(#[from] XdrError),
}

impl Message {
    /// A packet with `value` as its payload.
    pub fn new(header: Header, value: &impl Encode) -> Result<Self, FrameError> {
        let mut payload = Vec::new();
        value.encode(&mut payload)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(FrameError::Length(payload.len() + HEAD));
        }
        Ok(Self { header, payload })
    }

    /// A ping or a pong.
    pub fn keepalive(procedure: i32) -> Self {
        let header = Header {
            program: KEEPALIVE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure,
            kind: Kind::Event,
            serial: 0,
            status: Status::Ok,
        };
        Self {
            header,
            payload: Vec::new(),
        }
    }

    /// Reads one packet, or `None` if the other end hung up between two.
    ///
    /// Memory is taken as the bytes come, so that a length alone costs nothing.
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut head = [0; HEAD];
        match from.read(&mut head[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Self::read(from),
            Err(error) => return Err(error.into()),
        }
        from.read_exact(&mut head[1..])?;
        let word =
            |n: usize| u32::from_be_bytes([head[4 * n], head[4 * n + 1], head[4 * n + 2], head[4 * n + 3]]);
        let length = word(0) as usize;
        if !(HEAD..=MAX_PACKET).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let header = Header {
            program: word(1),
            version: word(2),
            procedure: word(3) as i32,
            kind: kind(word(4), word(6))?,
            serial: word(5),
            status: status(word(4), word(6))?,
        };
        let mut payload = Vec::new();
        from.take((length - HEAD) as u64).read_to_end(&mut payload)?;
        if payload.len() != length - HEAD {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Some(Self { header, payload }))
    }

    /// How it looks on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Header {
            program,
            version,
            procedure,
            kind,
            serial,
            status,
        } = self.header;
        let kind = match kind {
            Kind::Call => 0,
            Kind::Reply => 1,
            Kind::Event => 2,
            Kind::Stream => 3,
            Kind::Hole => 6,
        };
        let status = match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Continue => 2,
        };
        let length = HEAD + self.payload.len();
        let mut bytes = Vec::with_capacity(length);
        for word in [
            length as u32,
            program,
            version,
            procedure as u32,
            kind,
            serial,
            status,
        ] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

fn kind(kind: u32, status: u32) -> Result<Kind, FrameError> {
    match kind {
        0 => Ok(Kind::Call),
        1 => Ok(Kind::Reply),
        2 => Ok(Kind::Event),
        3 => Ok(Kind::Stream),
        6 => Ok(Kind::Hole),
        // Descriptors come only from clients that were offered to pass them.
        _ => Err(FrameError::Header { kind, status }),
    }
}

fn status(kind: u32, status: u32) -> Result<Status, FrameError> {
    match status {
        0 => Ok(Status::Ok),
        1 => Ok(Status::Error),
        2 => Ok(Status::Continue),
        _ => Err(FrameError::Header { kind, status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes one at a time, as a network may.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_ping_looks_as_libvirt_sends_it() {
        let bytes = Message::keepalive(PING).to_bytes();
        let words = [28, 0x6b65_6570, 1, 1, 2, 0, 0].map(u32::to_be_bytes).concat();
        assert_eq!(bytes, words);
        let read = Message::read(&mut Slow(&bytes)).unwrap().unwrap();
        assert_eq!(read, Message::keepalive(PING));
    }

    #[test]
    fn lengths_and_types_that_cannot_be_are_refused() {
        for length in [0, 27, MAX_PACKET as u32 + 1, u32::MAX] {
            let mut bytes = Message::keepalive(PING).to_bytes();
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            assert!(
                matches!(Message::read(&mut &bytes[..]), Err(FrameError::Length(l)) if l == length as usize)
            );
        }
        for (at, value) in [(16, 4), (16, 5), (16, 7), (24, 3)] {
            let mut bytes = Message::keepalive(PING).to_bytes();
            bytes[at + 3] = value;
            assert!(matches!(
                Message::read(&mut &bytes[..]),
                Err(FrameError::Header { .. })
            ));
        }
        assert!(Message::read(&mut &b""[..]).unwrap().is_none());
        assert!(Message::read(&mut &b"\0\0"[..]).is_err());
        // The largest packet, of which only the head comes.
        let mut bytes = Message::keepalive(PING).to_bytes();
        bytes[..4].copy_from_slice(&(MAX_PACKET as u32).to_be_bytes());
        assert!(matches!(Message::read(&mut &bytes[..]), Err(FrameError::Io(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_packets_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(Some(message)) = Message::read(&mut Slow(&bytes)) {
                let again = message.to_bytes();
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
        }

        #[test]
        fn packets_read_back(procedure in any::<i32>(), serial in any::<u32>(), payload in any::<Vec<u8>>()) {
            let header = Header { program: REMOTE_PROGRAM, version: 1, procedure, kind: Kind::Call, serial,
                                  status: Status::Ok };
            let message = Message { header, payload };
            prop_assert_eq!(Message::read(&mut Slow(&message.to_bytes())).unwrap().unwrap(), message);
        }
    }
}
