//! The virtio-net header in front of a frame (virtio 1.2, 5.1.6), and moving bytes between frames and guest memory.

use ostler_memory::IoBuf;

use crate::{HEADER_LEN, MAX_FRAME, Offloads};

/// Bytes of an Ethernet header: no frame is shorter.
pub(crate) const ETHERNET_LEN: usize = 14;
/// Scatter-gather entries that one call takes (`UIO_MAXIOV`), less two of our own.
pub(crate) const MAX_BUFFERS: usize = 1022;

pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;
pub(crate) const GSO_ECN: u8 = 0x80;

/// Where the header has its fields of two bytes.
const HEADERS_LEN_AT: usize = 2;
const SEGMENT_AT: usize = 4;
const START_AT: usize = 6;
const OFFSET_AT: usize = 8;

/// A header, taken out of guest memory once, so that what was checked is what is used: what is left to be done to the frame
/// behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header(pub(crate) [u8; HEADER_LEN]);

impl Header {
    /// The header at the start of `bytes`, which may lack the last field, the number of buffers.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        let given = bytes.get(..bytes.len().min(HEADER_LEN))?;
        header.0.get_mut(..given.len())?.copy_from_slice(given);
        (given.len() >= NUM_BUFFERS_AT).then_some(header)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; HEADER_LEN] {
        &self.0
    }

    /// Whether nothing is left to be done.
    pub fn is_plain(&self) -> bool {
        self.0[0] & NEEDS_CSUM == 0 && self.0[1] == GSO_NONE
    }

    /// Who takes these offloads can take the frame as it is.
    pub fn needs(&self) -> Offloads {
        let kind = self.kind();
        Offloads {
            checksum: self.0[0] & NEEDS_CSUM != 0,
            tso4: kind == GSO_TCPV4,
            tso6: kind == GSO_TCPV6,
            ecn: self.0[1] & GSO_ECN != 0,
            uso: kind == GSO_UDP_L4,
        }
    }

    /// The header of the same frame with `by` bytes more in front of its payload, or less.
    #[must_use]
    pub fn moved(mut self, by: isize) -> Self {
        for at in [HEADERS_LEN_AT, START_AT] {
            let value = self.u16_at(at);
            if value != 0 {
                self.set(at, value.saturating_add_signed(by));
            }
        }
        self
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[1] & !GSO_ECN
    }

    /// Bytes of payload in a segment.
    pub(crate) fn segment(&self) -> usize {
        self.u16_at(SEGMENT_AT)
    }

    /// Where the checksum starts to be computed.
    pub(crate) fn checksum_start(&self) -> usize {
        self.u16_at(START_AT)
    }

    /// Where it is stored, from there.
    pub(crate) fn checksum_offset(&self) -> usize {
        self.u16_at(OFFSET_AT)
    }

    /// Says how long the frame's headers are.
    pub(crate) fn with_headers(mut self, len: usize) -> Self {
        self.set(HEADERS_LEN_AT, len);
        self
    }

    fn set(&mut self, at: usize, value: usize) {
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn u16_at(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    /// The header as a back end that takes `accepted` may see it, for a frame of `len` bytes; `None` if it asks for
    /// something else or makes no sense.
    pub(crate) fn checked(mut self, accepted: Offloads, len: usize) -> Option<Self> {
        // The other flags and num_buffers say something on received frames only.
        self.0[0] &= NEEDS_CSUM;
        self.0[10..].fill(0);
        let needs_checksum = self.0[0] != 0;
        if needs_checksum {
            let end = self.u16_at(6) + self.u16_at(8) + 2;
            if !accepted.checksum || end > len {
                return None;
            }
        }
        let (kind, ecn) = (self.0[1] & !GSO_ECN, self.0[1] & GSO_ECN != 0);
        let offered = match kind {
            GSO_NONE => !ecn,
            GSO_TCPV4 => accepted.tso4,
            GSO_TCPV6 => accepted.tso6,
            GSO_UDP_L4 => accepted.uso && !ecn,
            _ => false,
        };
        let sized = kind == GSO_NONE || (needs_checksum && self.u16_at(4) > 0);
        (offered && sized && (!ecn || accepted.ecn)).then_some(self)
    }
}

/// Bytes of the frame behind the header if the buffers hold one of a length that can be sent.
pub(crate) fn sendable_len(buffers: &[IoBuf]) -> Option<usize> {
    let len = IoBuf::total(buffers)?.checked_sub(HEADER_LEN)?;
    (ETHERNET_LEN..=MAX_FRAME).contains(&len).then_some(len)
}

/// Takes the header out of the first bytes of `buffers`; the rest, the frame, is appended to `rest`.
///
/// # Safety
/// The buffers are mapped, and hold at least [`HEADER_LEN`] bytes.
pub(crate) unsafe fn split_header(buffers: &[IoBuf], rest: &mut Vec<IoBuf>) -> Header {
    let mut header = Header::default();
    let mut taken = 0;
    for buffer in buffers {
        // SAFETY: promised by the caller.
        let here = unsafe { buffer.copy_to(&mut header.0[taken..]) };
        taken += here;
        let after = buffer.advanced(here);
        if !after.is_empty() {
            rest.push(after);
        }
    }
    header
}

/// Copies all of `buffers` out.
///
/// # Safety
/// The buffers are mapped.
pub(crate) unsafe fn gather(buffers: &[IoBuf], into: &mut Vec<u8>) {
    for buffer in buffers {
        let start = into.len();
        into.resize(start + buffer.len(), 0);
        // SAFETY: promised by the caller.
        unsafe { buffer.copy_to(&mut into[start..]) };
    }
}

/// Stores `bytes` at `offset` of what `buffers` hold together; what does not fit is left out.
///
/// # Safety
/// The buffers are mapped and writable.
pub(crate) unsafe fn scatter(buffers: &[IoBuf], offset: usize, mut bytes: &[u8]) {
    let mut skip = offset;
    for buffer in buffers {
        let here = buffer.advanced(skip);
        skip -= skip.min(buffer.len());
        // SAFETY: promised by the caller.
        let stored = unsafe { here.copy_from(bytes) };
        bytes = &bytes[stored..];
        if bytes.is_empty() {
            return;
        }
    }
}

/// Bytes 10 and 11 of a received header: the frame is in one piece.
pub(crate) const ONE_BUFFER: [u8; 2] = [1, 0];
/// Where they are.
pub(crate) const NUM_BUFFERS_AT: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Offloads = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
    };

    fn header(flags: u8, gso: u8, gso_size: u16, start: u16, offset: u16) -> Header {
        let mut bytes = [0xff; HEADER_LEN];
        bytes[0] = flags;
        bytes[1] = gso;
        bytes[4..6].copy_from_slice(&gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        Header(bytes)
    }

    #[test]
    fn offloads_pass_only_where_they_were_accepted() {
        let tso = header(NEEDS_CSUM, GSO_TCPV4, 1448, 34, 16);
        assert!(tso.checked(ALL, 4000).is_some());
        assert_eq!(tso.checked(Offloads { tso4: false, ..ALL }, 4000), None);
        assert_eq!(
            header(0, GSO_TCPV4, 1448, 0, 0).checked(ALL, 4000),
            None,
            "segments need checksums"
        );
        assert_eq!(
            header(NEEDS_CSUM, GSO_TCPV4, 0, 34, 16).checked(ALL, 4000),
            None,
            "a size of 0 never ends"
        );
        assert_eq!(
            header(NEEDS_CSUM, 3, 1448, 34, 6).checked(ALL, 4000),
            None,
            "UFO is gone from Linux"
        );
        let ecn = header(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN, 1440, 54, 16);
        assert!(ecn.checked(ALL, 4000).is_some());
        assert_eq!(ecn.checked(Offloads { ecn: false, ..ALL }, 4000), None);
        assert_eq!(header(NEEDS_CSUM, 0, 0, 34, 16).checked(Offloads::NONE, 60), None);
        assert_eq!(
            header(NEEDS_CSUM, 0, 0, 50, 9).checked(ALL, 60),
            None,
            "the checksum lies outside"
        );
        let plain = header(2, 0, 0xffff, 0xffff, 0xffff)
            .checked(Offloads::NONE, 60)
            .unwrap();
        assert_eq!(plain.0[..2], [0, GSO_NONE]);
    }

    proptest! {
        #[test]
        fn no_header_gets_more_than_was_accepted(
            bytes: [u8; HEADER_LEN], len in ETHERNET_LEN..=MAX_FRAME, checksum: bool, tso4: bool, tso6: bool,
        ) {
            let accepted = Offloads { checksum, tso4, tso6, ecn: false, uso: false };
            if let Some(Header(passed)) = Header(bytes).checked(accepted, len) {
                prop_assert!(passed[0] == 0 || (passed[0] == NEEDS_CSUM && checksum));
                let allowed = match passed[1] {
                    GSO_NONE => true,
                    GSO_TCPV4 => tso4 && passed[0] == NEEDS_CSUM,
                    GSO_TCPV6 => tso6 && passed[0] == NEEDS_CSUM,
                    _ => false,
                };
                prop_assert!(allowed);
            }
        }

        #[test]
        fn splitting_and_gathering_lose_nothing(
            mut pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            patch in prop::collection::vec(any::<u8>(), 0..9),
            at in 0usize..60,
        ) {
            let mut whole = pieces.concat();
            let buffers: Vec<IoBuf> = pieces.iter_mut().map(|piece| IoBuf::of(piece)).collect();
            let mut gathered = Vec::new();
            // SAFETY: `pieces` is alive and used through the buffers only.
            unsafe { gather(&buffers, &mut gathered) };
            prop_assert_eq!(&gathered, &whole);
            if whole.len() >= HEADER_LEN {
                let mut rest = Vec::new();
                // SAFETY: as above, and the length was checked.
                let header = unsafe { split_header(&buffers, &mut rest) };
                let mut behind = Vec::new();
                // SAFETY: as above.
                unsafe { gather(&rest, &mut behind) };
                prop_assert_eq!(&header.0[..], &whole[..HEADER_LEN]);
                prop_assert_eq!(&behind[..], &whole[HEADER_LEN..]);
            }
            // SAFETY: as above.
            unsafe { scatter(&buffers, at, &patch) };
            for (i, byte) in patch.iter().enumerate() {
                if let Some(place) = whole.get_mut(at + i) {
                    *place = *byte;
                }
            }
            prop_assert_eq!(pieces.concat(), whole);
        }
    }
}
