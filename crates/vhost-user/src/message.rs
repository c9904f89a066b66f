//! The messages of a front end, from bytes (the vhost-user protocol, "Message Specification").
//!
//! Numbers of requests and features are those of the crate `vhost`. Its own reader waits for the rest of a message, which the switch's
//! one thread must not; so reading is ours.

use vhost::vhost_user::message::FrontendReq;

use crate::Error;

/// Bytes of a header: request, flags, length of the payload, all in the host's order.
pub(crate) const HEADER_LEN: usize = 12;
/// Bytes of the longest payload: a table of eight regions.
pub(crate) const MAX_PAYLOAD: usize = 8 + 8 * REGION_LEN;
/// Regions in one table, and descriptors with one message.
pub(crate) const MAX_REGIONS: usize = 8;
const REGION_LEN: usize = 32;

pub(crate) const VERSION: u32 = 1;
pub(crate) const VERSION_MASK: u32 = 3;
pub(crate) const REPLY: u32 = 1 << 2;
pub(crate) const NEED_REPLY: u32 = 1 << 3;
/// Of the number that says for which ring a descriptor is: no descriptor comes.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// What comes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub request: u32,
    pub needs_reply: bool,
    pub len: usize,
}

impl Header {
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, Error> {
        let fields = Fields(bytes);
        let (request, flags, len) = (fields.u32(0), fields.u32(4), fields.u32(8) as usize);
        if flags & (VERSION_MASK | REPLY) != VERSION {
            return Err(Error::Flags(flags));
        }
        if len > MAX_PAYLOAD {
            return Err(Error::TooLong(len));
        }
        Ok(Self {
            request,
            needs_reply: flags & NEED_REPLY != 0,
            len,
        })
    }
}

/// The bytes of an answer to `request`.
pub(crate) fn answer(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    for word in [request, VERSION | REPLY, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A piece of the guest's memory, as its front end describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
    /// Address in the front end's own process, by which it says where rings are.
    pub user: u64,
    /// Where it starts in its file.
    pub offset: u64,
}

/// Where the parts of a ring are, in the front end's own address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingAddress {
    pub descriptors: u64,
    pub used: u64,
    pub available: u64,
}

/// Which descriptor a ring gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Kick,
    Call,
    Error,
}

/// A message that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    GetFeatures,
    SetFeatures(u64),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    GetMaxMemSlots,
    SetOwner,
    /// RESET_OWNER and RESET_DEVICE.
    Reset,
    SetMemTable(Vec<Region>),
    AddMemReg(Region),
    RemMemReg(Region),
    SetVringNum {
        ring: u32,
        num: u32,
    },
    SetVringAddr {
        ring: u32,
        address: RingAddress,
    },
    SetVringBase {
        ring: u32,
        base: u32,
    },
    GetVringBase {
        ring: u32,
    },
    SetVringEnable {
        ring: u32,
        on: u32,
    },
    SetVringEvent {
        ring: u32,
        event: Event,
        has_descriptor: bool,
    },
}

impl Request {
    /// Understands a payload.
    pub fn parse(number: u32, payload: &[u8]) -> Result<Self, Error> {
        let request = FrontendReq::try_from(number).map_err(|_| Error::Request(number))?;
        let fields = Fields(payload);
        let sized = |len: usize| match payload.len() == len {
            true => Ok(()),
            false => Err(Error::Length {
                request: number,
                len: payload.len(),
            }),
        };
        let empty = |request| sized(0).map(|()| request);
        let word = || sized(8).map(|()| fields.u64(0));
        let pair = || sized(8).map(|()| (fields.u32(0), fields.u32(4)));
        let region = || sized(8 + REGION_LEN).map(|()| fields.region(8));
        let event = |event| {
            word().map(|word| Self::SetVringEvent {
                ring: word as u32 & 0xff,
                event,
                has_descriptor: word & NO_DESCRIPTOR == 0,
            })
        };
        match request {
            FrontendReq::GET_FEATURES => empty(Self::GetFeatures),
            FrontendReq::SET_FEATURES => word().map(Self::SetFeatures),
            FrontendReq::GET_PROTOCOL_FEATURES => empty(Self::GetProtocolFeatures),
            FrontendReq::SET_PROTOCOL_FEATURES => word().map(Self::SetProtocolFeatures),
            FrontendReq::GET_QUEUE_NUM => empty(Self::GetQueueNum),
            FrontendReq::GET_MAX_MEM_SLOTS => empty(Self::GetMaxMemSlots),
            FrontendReq::SET_OWNER => empty(Self::SetOwner),
            FrontendReq::RESET_OWNER | FrontendReq::RESET_DEVICE => empty(Self::Reset),
            FrontendReq::SET_MEM_TABLE => {
                let count = fields.u32(0) as usize;
                if count > MAX_REGIONS {
                    return Err(Error::Region("there are more than eight in one table"));
                }
                sized(8 + count * REGION_LEN)?;
                let regions = (0..count).map(|i| fields.region(8 + i * REGION_LEN));
                Ok(Self::SetMemTable(regions.collect()))
            }
            FrontendReq::ADD_MEM_REG => region().map(Self::AddMemReg),
            FrontendReq::REM_MEM_REG => region().map(Self::RemMemReg),
            FrontendReq::SET_VRING_NUM => pair().map(|(ring, num)| Self::SetVringNum { ring, num }),
            FrontendReq::SET_VRING_BASE => pair().map(|(ring, base)| Self::SetVringBase { ring, base }),
            FrontendReq::GET_VRING_BASE => pair().map(|(ring, _)| Self::GetVringBase { ring }),
            FrontendReq::SET_VRING_ENABLE => pair().map(|(ring, on)| Self::SetVringEnable { ring, on }),
            FrontendReq::SET_VRING_ADDR => sized(40).map(|()| Self::SetVringAddr {
                ring: fields.u32(0),
                address: RingAddress {
                    descriptors: fields.u64(8),
                    used: fields.u64(16),
                    available: fields.u64(24),
                },
            }),
            FrontendReq::SET_VRING_KICK => event(Event::Kick),
            FrontendReq::SET_VRING_CALL => event(Event::Call),
            FrontendReq::SET_VRING_ERR => event(Event::Error),
            _ => Err(Error::Request(number)),
        }
    }

    /// How many descriptors come with it: at least, and at most.
    pub fn descriptors(&self) -> (usize, usize) {
        match self {
            Self::SetMemTable(regions) => (regions.len(), regions.len()),
            Self::AddMemReg(_) => (1, 1),
            // Front ends of before 2023 send the region's with it.
            Self::RemMemReg(_) => (0, 1),
            Self::SetVringEvent { has_descriptor, .. } => {
                (usize::from(*has_descriptor), usize::from(*has_descriptor))
            }
            _ => (0, 0),
        }
    }
}

/// Words in a payload; what is not there reads as zeroes, as lengths are looked at apart.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().unwrap_or([0; N])
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    fn region(self, at: usize) -> Region {
        Region {
            gpa: self.u64(at),
            len: self.u64(at + 8),
            user: self.u64(at + 16),
            offset: self.u64(at + 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vhost::vhost_user::message::{
        VhostUserMemory, VhostUserMemoryRegion, VhostUserSingleMemoryRegion, VhostUserVringAddr,
        VhostUserVringAddrFlags, VhostUserVringState,
    };
    use vm_memory::ByteValued;

    use super::*;

    fn header(request: u32, flags: u32, len: u32) -> Result<Header, Error> {
        let words = [request, flags, len].map(u32::to_ne_bytes);
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&words.concat());
        Header::parse(&bytes)
    }

    #[test]
    fn headers_are_of_this_version_and_no_replies() {
        let good = header(1, 1 | 8, 8).unwrap();
        assert_eq!((good.request, good.needs_reply, good.len), (1, true, 8));
        for flags in [0, 2, 3, 1 | 4] {
            assert!(matches!(header(1, flags, 8), Err(Error::Flags(_))), "{flags}");
        }
        assert!(matches!(header(1, 1, 265), Err(Error::TooLong(265))));
        assert!(matches!(header(1, 1, u32::MAX), Err(Error::TooLong(_))));
    }

    /// What another implementation of the protocol writes is read as it was meant.
    #[test]
    fn payloads_of_the_crate_vhost_are_understood() {
        let number = |request: FrontendReq| u32::from(request);
        let addr = VhostUserVringAddr::new(3, VhostUserVringAddrFlags::empty(), 0x1000, 0x3000, 0x2000, 9);
        assert_eq!(
            Request::parse(number(FrontendReq::SET_VRING_ADDR), addr.as_slice()).unwrap(),
            Request::SetVringAddr {
                ring: 3,
                address: RingAddress {
                    descriptors: 0x1000,
                    used: 0x3000,
                    available: 0x2000
                }
            }
        );
        let state = VhostUserVringState::new(2, 256);
        assert_eq!(
            Request::parse(number(FrontendReq::SET_VRING_NUM), state.as_slice()).unwrap(),
            Request::SetVringNum { ring: 2, num: 256 }
        );
        let region = Region {
            gpa: 0x10_0000,
            len: 0x2000,
            user: 0x7f00_0000_0000,
            offset: 0x4000,
        };
        let one = VhostUserSingleMemoryRegion::new(region.gpa, region.len, region.user, region.offset);
        assert_eq!(
            Request::parse(number(FrontendReq::ADD_MEM_REG), one.as_slice()).unwrap(),
            Request::AddMemReg(region)
        );
        let one = VhostUserMemoryRegion::new(region.gpa, region.len, region.user, region.offset);
        let table = [VhostUserMemory::new(2).as_slice(), one.as_slice(), one.as_slice()].concat();
        let request = Request::parse(number(FrontendReq::SET_MEM_TABLE), &table).unwrap();
        assert_eq!(request, Request::SetMemTable(vec![region; 2]));
        assert_eq!(request.descriptors(), (2, 2));
    }

    #[test]
    fn lengths_are_those_of_their_requests() {
        for (request, len) in [
            (1, 8),
            (2, 0),
            (2, 9),
            (5, 8 + 31),
            (8, 4),
            (9, 39),
            (18, 12),
            (37, 32),
        ] {
            let payload = vec![1; len];
            let parsed = Request::parse(request, &payload);
            assert!(
                matches!(parsed, Err(Error::Length { .. } | Error::Region(_))),
                "{request}: {parsed:?}"
            );
        }
        let mut table = [0; 8];
        table[0] = 9;
        assert!(matches!(Request::parse(5, &table), Err(Error::Region(_))));
        for request in [0, 6, 21, 22, 28, 45, u32::MAX] {
            assert!(
                matches!(Request::parse(request, &[]), Err(Error::Request(_))),
                "{request}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(
            bytes: [u8; HEADER_LEN], request in 0u32..50, payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.len <= MAX_PAYLOAD);
            }
            if let Ok(request) = Request::parse(request, &payload) {
                prop_assert!(request.descriptors().1 <= MAX_REGIONS);
            }
        }
    }
}
