//! Views of the packets that a guest sends, and the parts of those that it gets.
//!
//! A view is checked when it is made: every length in it lies inside the bytes that came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of the virtio-net header in front of every frame (virtio 1.2, 5.1.6).
pub const VNET_LEN: usize = 12;
/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of a UDP header, and of that of an ICMP echo.
pub const UDP_LEN: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
/// The extension header of fragments (RFC 8200, 4.5).
pub const FRAGMENT: u8 = 44;

/// TCP's flags (RFC 9293, 3.1).
pub mod flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// Two bytes at `at`, most significant first; `None` outside.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Four bytes at `at`, most significant first; `None` outside.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An IPv4 address at `at`; `None` outside.
pub fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    u32_at(bytes, at).map(Ipv4Addr::from_bits)
}

/// The sum of all 16-bit words, a last odd byte padded (RFC 1071). To be folded.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    sum
}

/// A sum in 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6 for `len` bytes (RFC 9293, 3.1; RFC 8200, 8.1).
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let address = |address| match address {
        IpAddr::V4(address) => u64::from(Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(source) + address(destination) + u64::from(protocol) + len as u64
}

/// An IPv6 address at `at`; `None` outside.
pub fn address6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes
        .get(at..)?
        .first_chunk::<16>()
        .map(|octets| Ipv6Addr::from(*octets))
}

/// An IP packet of either family.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// What is inside; of IPv6 also the first extension header.
    pub protocol: u8,
    /// How many routers it may still pass.
    pub hops: u8,
    /// A part of a packet only. Of IPv6 the protocol says so.
    pub fragment: bool,
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A packet of IPv4 (RFC 791).
    pub fn ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header = usize::from(bytes.first()? & 15) * 4;
        let total = usize::from(u16_at(bytes, 2)?);
        if bytes[0] >> 4 != 4 || header < IPV4_LEN || total < header || total > bytes.len() {
            return None;
        }
        (fold(sum(&bytes[..header])) == 0xffff).then_some(())?;
        Some(Self {
            source: address_at(bytes, 12)?.into(),
            destination: address_at(bytes, 16)?.into(),
            protocol: *bytes.get(9)?,
            hops: *bytes.get(8)?,
            fragment: u16_at(bytes, 6)? & 0x3fff != 0,
            payload: &bytes[header..total],
        })
    }

    /// A packet of IPv6 (RFC 8200). Extension headers are payload.
    pub fn ipv6(bytes: &'a [u8]) -> Option<Self> {
        let len = usize::from(u16_at(bytes, 4)?);
        if bytes[0] >> 4 != 6 {
            return None;
        }
        let payload = bytes.get(IPV6_LEN..IPV6_LEN + len)?;
        Some(Self {
            source: address6_at(bytes, 8)?.into(),
            destination: address6_at(bytes, 24)?.into(),
            protocol: bytes[6],
            hops: bytes[7],
            fragment: false,
            payload,
        })
    }

    /// True if the checksum of the TCP segment, UDP datagram or ICMPv6 message inside is right.
    pub fn checksum_holds(&self) -> bool {
        let pseudo = pseudo(self.source, self.destination, self.protocol, self.payload.len());
        fold(pseudo + sum(self.payload)) == 0xffff
    }
}

/// A UDP datagram (RFC 768).
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    pub source: u16,
    pub destination: u16,
    /// Without a checksum there is none to check.
    pub has_checksum: bool,
    pub payload: &'a [u8],
}

impl<'a> Udp<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let len = usize::from(u16_at(bytes, 4)?);
        Some(Self {
            source: u16_at(bytes, 0)?,
            destination: u16_at(bytes, 2)?,
            has_checksum: u16_at(bytes, 6)? != 0,
            payload: bytes.get(UDP_LEN..len)?,
        })
    }
}

/// The ranges that a selective acknowledgment names (RFC 2018, 3): more than four have no room in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlocks {
    blocks: [(u32, u32); MAX_SACK_BLOCKS],
    count: usize,
}

/// Blocks of one selective acknowledgment at most.
pub const MAX_SACK_BLOCKS: usize = 4;

impl SackBlocks {
    /// The blocks of an option's value; a part of one is none.
    fn parse(value: &[u8]) -> Self {
        let mut all = Self::default();
        for (place, block) in all.blocks.iter_mut().zip(value.as_chunks::<8>().0) {
            let [a, b, c, d, e, f, g, h] = *block;
            *place = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            all.count += 1;
        }
        all
    }

    /// First sequence number of each, and the one behind it.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.blocks.iter().copied().take(self.count)
    }
}

/// A TCP segment (RFC 9293).
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    /// Not scaled.
    pub window: u16,
    /// Largest segment that the sender takes, in bytes; on a SYN.
    pub mss: Option<u16>,
    /// Shift of the sender's window (RFC 7323); on a SYN.
    pub scale: Option<u8>,
    /// The sender understands selective acknowledgments (RFC 2018, 2); on a SYN.
    pub sack_permitted: bool,
    pub sack: SackBlocks,
    pub payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = usize::from(bytes.get(12)? >> 4) * 4;
        let mut options = bytes.get(TCP_LEN..header)?;
        let (mut mss, mut scale) = (None, None);
        let (mut sack_permitted, mut sack) = (false, SackBlocks::default());
        while let [kind, rest @ ..] = options {
            options = match (kind, rest) {
                (0, _) => break,
                (1, _) => rest,
                (_, [len, ..]) if (2..=options.len()).contains(&usize::from(*len)) => {
                    let (option, after) = options.split_at(usize::from(*len));
                    match option {
                        [2, 4, value @ ..] => mss = u16_at(value, 0),
                        [3, 3, shift] => scale = Some((*shift).min(14)),
                        [4, 2] => sack_permitted = true,
                        [5, _, blocks @ ..] => sack = SackBlocks::parse(blocks),
                        _ => {}
                    }
                    after
                }
                // What follows makes no sense.
                _ => break,
            };
        }
        Some(Self {
            source: u16_at(bytes, 0)?,
            destination: u16_at(bytes, 2)?,
            sequence: u32_at(bytes, 4)?,
            acknowledgment: u32_at(bytes, 8)?,
            flags: bytes[13],
            window: u16_at(bytes, 14)?,
            mss,
            scale,
            sack_permitted,
            sack,
            payload: &bytes[header..],
        })
    }

    /// True if `flag` of [`flags`] is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_checksum_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(fold(sum(&[0x12])), 0x1200, "an odd byte is the upper one");
        assert_eq!(fold(sum(&[0x12, 0x34, 0x56])), 0x1234 + 0x5600);
    }

    #[test]
    fn options_of_a_syn_are_found() {
        let mut bytes = [0; 32];
        bytes[12] = 8 << 4;
        bytes[13] = flags::SYN;
        bytes[20..29].copy_from_slice(&[1, 2, 4, 5, 0xb4, 1, 3, 3, 99]);
        let tcp = Tcp::parse(&bytes).unwrap();
        assert_eq!((tcp.mss, tcp.scale), (Some(1460), Some(14)));
        bytes[22] = 1;
        assert_eq!(
            Tcp::parse(&bytes).unwrap().mss,
            None,
            "an option of a byte never ends"
        );
    }

    #[test]
    fn selective_acknowledgments_are_found() {
        let mut bytes = [0; 60];
        bytes[12] = 15 << 4;
        bytes[20..24].copy_from_slice(&[4, 2, 1, 1]);
        bytes[24..26].copy_from_slice(&[5, 34]);
        for (index, byte) in bytes[26..58].iter_mut().enumerate() {
            *byte = index as u8;
        }
        let tcp = Tcp::parse(&bytes).unwrap();
        assert!(tcp.sack_permitted);
        let blocks: Vec<_> = tcp.sack.iter().collect();
        assert_eq!((blocks.len(), blocks[0]), (4, (0x0001_0203, 0x0405_0607)));
        assert_eq!(blocks[3].1, 0x1c1d_1e1f);
        // A block and a half.
        bytes[25] = 14;
        assert_eq!(Tcp::parse(&bytes).unwrap().sack.iter().count(), 1);
    }

    proptest! {
        #[test]
        fn views_stay_inside(bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0x40u8..0x50) {
            let mut bytes = bytes;
            let _ = (Udp::parse(&bytes), Tcp::parse(&bytes), Packet::ipv4(&bytes));
            if bytes.len() >= IPV4_LEN {
                // With a right checksum the rest is looked at, too.
                bytes[0] = first;
                bytes[2] = 0;
                let header = (usize::from(first & 15) * 4).min(bytes.len());
                bytes[10..12].fill(0);
                let right = !fold(sum(&bytes[..header]));
                bytes[10..12].copy_from_slice(&right.to_be_bytes());
                if let Some(packet) = Packet::ipv4(&bytes) {
                    prop_assert!(packet.payload.len() + IPV4_LEN <= bytes.len());
                    packet.checksum_holds();
                }
            }
            if let [first, ..] = &mut bytes[..] {
                *first = 0x60;
            }
            if let Some(packet) = Packet::ipv6(&bytes) {
                prop_assert!(packet.payload.len() + IPV6_LEN <= bytes.len());
                packet.checksum_holds();
            }
        }
    }
}
