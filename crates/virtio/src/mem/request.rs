//! A driver's request and the answer to it (virtio 1.2, 5.15.6).

use crate::chain::Chain;
use crate::error::GuestError;

const REQUEST_LEN: usize = 24;
const RESPONSE_LEN: usize = 10;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Blocks of guest-physical memory, as a driver names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Address of the first.
    pub gpa: u64,
    /// How many.
    pub blocks: u16,
}

/// What a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Plug(Span),
    Unplug(Span),
    UnplugAll,
    State(Span),
    Unknown,
}

impl Request {
    /// Reads a request from what the driver wrote.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut gpa = [0; 8];
        gpa.copy_from_slice(&bytes[8..16]);
        let span = Span {
            gpa: u64::from_le_bytes(gpa),
            blocks: word(16),
        };
        match word(0) {
            PLUG => Self::Plug(span),
            UNPLUG => Self::Unplug(span),
            UNPLUG_ALL => Self::UnplugAll,
            STATE => Self::State(span),
            _ => Self::Unknown,
        }
    }

    /// Reads the request in `chain`.
    ///
    /// # Errors
    /// If it is not whole, or there is no room for the answer.
    pub fn read(chain: &Chain) -> Result<Self, GuestError> {
        let mut bytes = [0; REQUEST_LEN];
        if chain.read_at(0, &mut bytes) < REQUEST_LEN {
            return Err(GuestError::Request("a memory request that is not whole"));
        }
        if chain.writable_bytes() < RESPONSE_LEN {
            return Err(GuestError::Request(
                "a memory request without room for its answer",
            ));
        }
        Ok(Self::parse(&bytes))
    }
}

/// Which of the blocks that were asked about are plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// It is done.
    Ack,
    /// It is done, and this is the answer.
    State(BlockState),
    /// The guest is not to have that much now.
    Nack,
    /// Not now.
    Busy,
    /// It makes no sense.
    Error,
}

impl Response {
    /// Writes the answer; returns how many bytes.
    pub fn write(self, chain: &Chain) -> u32 {
        let (kind, state) = match self {
            Self::Ack => (0u16, 0u16),
            Self::State(state) => (0, state as u16),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
        };
        let mut bytes = [0; RESPONSE_LEN];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&state.to_le_bytes());
        chain.write_at(0, &bytes) as u32
    }
}
