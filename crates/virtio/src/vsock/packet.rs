//! The header of a packet (virtio 1.2, 5.10.6).

/// Bytes of a header.
pub(crate) const HEADER: usize = 44;
/// Most bytes of data in a packet that a guest sends.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// What a packet says (5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
    /// None of those.
    Unknown(u16),
}

impl Op {
    fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
            Self::Unknown(other) => other,
        }
    }
}

/// The only type of connection here: streams (5.10.6).
pub(crate) const STREAM: u16 = 1;

/// Of a shutdown (5.10.6.6.1): the sender receives no more.
pub(crate) const NO_RECEIVE: u32 = 1;
/// Of a shutdown: the sender sends no more.
pub(crate) const NO_SEND: u32 = 2;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub source_cid: u64,
    pub target_cid: u64,
    pub source_port: u32,
    pub target_port: u32,
    /// Bytes of data that follow.
    pub len: u32,
    pub kind: u16,
    pub op: Op,
    pub flags: u32,
    /// Bytes that the sender's buffer for this connection has.
    pub buffer: u32,
    /// Bytes that left that buffer so far, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let array = |at: usize, out: &mut [u8]| out.copy_from_slice(&bytes[at..at + out.len()]);
        let u64_at = |at| {
            let mut word = [0; 8];
            array(at, &mut word);
            u64::from_le_bytes(word)
        };
        let u32_at = |at| {
            let mut word = [0; 4];
            array(at, &mut word);
            u32::from_le_bytes(word)
        };
        let u16_at = |at| {
            let mut word = [0; 2];
            array(at, &mut word);
            u16::from_le_bytes(word)
        };
        Self {
            source_cid: u64_at(0),
            target_cid: u64_at(8),
            source_port: u32_at(16),
            target_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: Op::from_number(u16_at(30)),
            flags: u32_at(32),
            buffer: u32_at(36),
            forwarded: u32_at(40),
        }
    }

    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, word: &[u8]| bytes[at..at + word.len()].copy_from_slice(word);
        put(0, &self.source_cid.to_le_bytes());
        put(8, &self.target_cid.to_le_bytes());
        put(16, &self.source_port.to_le_bytes());
        put(20, &self.target_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.number().to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet (5.10.6.6: a packet that fits no connection is answered so).
    pub fn reset(&self) -> Self {
        Self {
            source_cid: self.target_cid,
            target_cid: self.source_cid,
            source_port: self.target_port,
            target_port: self.source_port,
            len: 0,
            kind: self.kind,
            op: Op::Reset,
            flags: 0,
            buffer: 0,
            forwarded: 0,
        }
    }
}
