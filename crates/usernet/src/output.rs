//! Frames on their way to the guest.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ndp;
use crate::neighbours::{Neighbours, link_local};
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, ICMPV6, IPV4_LEN, IPV6_LEN, Mac,
    TCP, TCP_LEN, UDP, UDP_LEN, VNET_LEN, fold, pseudo, sum,
};

/// Bytes of frames that wait for a slow guest before TCP stops sending.
const SOFT_LIMIT: usize = 256 << 10;
/// Bytes of frames that wait for a slow guest before datagrams are dropped.
const HARD_LIMIT: usize = 1 << 20;
/// Bytes of the largest IP packet on the guest's cable, if it does not take large segments.
pub const MTU: usize = 1500;
/// Buffers of frames that are kept for the next ones.
const SPARE: usize = 16;
/// Bytes of an IP packet at most.
const MAX_PACKET: usize = 65_535;
/// How many routers a packet may pass. Neighbour discovery's must have passed none (RFC 4861, 6.1).
const HOPS: u8 = 64;
const ALL_HOPS: u8 = 255;

/// What the guest's driver takes over, as told by each frame of the guest (`ostler_netio::SocketNet::with_headers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// It completes checksums.
    pub checksum: bool,
    /// It takes TCP segments over IPv4 that are larger than the MTU.
    pub large: bool,
    /// The same over IPv6.
    pub large6: bool,
}

/// What one TCP segment says beside its payload.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of 4 bytes.
    pub options: &'a [u8],
    /// Bytes of payload that the guest takes in one packet.
    pub mss: usize,
}

/// The queue of frames, each behind its virtio-net header.
#[derive(Debug)]
pub struct Output {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    ours: Mac,
    /// Our IP address, in whose name stations are asked for their Ethernet address.
    address: Ipv4Addr,
    /// The same of IPv6: the one that our card has on its link.
    address6: Ipv6Addr,
    pub neighbours: Neighbours,
    pub takes: Takes,
    identification: u16,
    /// Frames that a full queue had no place for, or whose receiver is not known.
    pub dropped: u64,
}

impl Output {
    pub fn new(ours: Mac, address: Ipv4Addr) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
            ours,
            address,
            address6: link_local(&ours),
            neighbours: Neighbours::default(),
            takes: Takes::default(),
            identification: 0,
            dropped: 0,
        }
    }

    /// Notes that `address` is at `mac`.
    pub fn learn(&mut self, address: impl Into<IpAddr>, mac: Mac) {
        self.neighbours.learn(address.into(), mac);
    }

    /// The Ethernet address of `address`. If it is not known it is asked for, and what was to be sent is lost.
    fn mac_of(&mut self, address: IpAddr) -> Option<Mac> {
        match address {
            IpAddr::V4(Ipv4Addr::BROADCAST) => return Some([0xff; 6]),
            IpAddr::V6(group) if group.is_multicast() => return Some(group_mac(group)),
            _ => {}
        }
        let known = self.neighbours.card(address);
        if known.is_none() {
            self.dropped += 1;
            if self.neighbours.ask(address) {
                match address {
                    IpAddr::V4(address) => self.ask_by_arp(address),
                    IpAddr::V6(address) => self.ask_by_discovery(address),
                }
            }
        }
        known
    }

    fn ask_by_arp(&mut self, address: Ipv4Addr) {
        const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
        let mut request = [0; 28];
        request[..8].copy_from_slice(&REQUEST);
        request[8..14].copy_from_slice(&self.ours);
        request[14..18].copy_from_slice(&self.address.octets());
        request[24..].copy_from_slice(&address.octets());
        self.ethernet([0xff; 6], ETHERTYPE_ARP, &request);
    }

    fn ask_by_discovery(&mut self, address: Ipv6Addr) {
        let question = ndp::neighbour_solicitation(address, &self.ours);
        self.discovery(ndp::solicited_node(address), question);
    }

    /// A message of neighbour discovery from the address that our card has on its link; its checksum is filled in.
    pub fn discovery(&mut self, to: Ipv6Addr, message: Vec<u8>) {
        self.icmpv6(self.address6, to, message, ALL_HOPS);
    }

    /// The same in the name of another router.
    pub fn discovery_from(&mut self, from: Ipv6Addr, to: Ipv6Addr, message: Vec<u8>) {
        self.icmpv6(from, to, message, ALL_HOPS);
    }

    /// An ICMPv6 message, whose checksum is filled in (RFC 4443, 2.3).
    pub fn icmpv6(&mut self, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>, hops: u8) {
        message[2..4].fill(0);
        let checksum = !fold(pseudo(from.into(), to.into(), ICMPV6, message.len()) + sum(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        self.ip_with(ICMPV6, from.into(), to.into(), hops, &message);
    }

    /// The next frame, with its header.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// Whether there is one.
    pub fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Gives back the buffer of a frame that was sent.
    pub fn recycle(&mut self, frame: Vec<u8>) {
        if frame.capacity() > 0 && self.spare.len() < SPARE {
            self.spare.push(frame);
        }
    }

    /// True if TCP may send more.
    pub fn has_room(&self) -> bool {
        self.bytes < SOFT_LIMIT
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.bytes > HARD_LIMIT {
            self.dropped += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// The start of a frame for whoever has `to`: the empty header of virtio-net, and Ethernet's.
    fn start(&mut self, to: Mac, kind: u16, payload: usize) -> Vec<u8> {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.reserve(VNET_LEN + ETHERNET_LEN + payload);
        frame.extend([0; VNET_LEN]);
        frame.extend(to);
        frame.extend(self.ours);
        frame.extend(kind.to_be_bytes());
        frame
    }

    /// A frame of any kind for `to`.
    pub fn ethernet(&mut self, to: Mac, kind: u16, payload: &[u8]) {
        let mut frame = self.start(to, kind, payload.len());
        frame.extend(payload);
        self.push(frame);
    }

    /// An IPv4 header; `fragment` are its flags and offset.
    fn ipv4_header(&self, frame: &mut Vec<u8>, header: &IpHeader<Ipv4Addr>, fragment: u16) {
        let at = frame.len();
        frame.extend([0x45, 0]);
        frame.extend(((IPV4_LEN + header.len) as u16).to_be_bytes());
        frame.extend(self.identification.to_be_bytes());
        frame.extend(fragment.to_be_bytes());
        frame.extend([header.hops, header.protocol, 0, 0]);
        frame.extend(header.from.octets());
        frame.extend(header.to.octets());
        let checksum = !fold(sum(&frame[at..]));
        frame[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// An IP packet of the addresses' family, in fragments if it is larger than the MTU.
    pub fn ip(&mut self, protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) {
        self.ip_with(protocol, from, to, HOPS, payload);
    }

    fn ip_with(&mut self, protocol: u8, from: IpAddr, to: IpAddr, hops: u8, payload: &[u8]) {
        let header = if to.is_ipv4() { IPV4_LEN } else { 0 };
        if payload.len() > MAX_PACKET - header {
            self.dropped += 1;
            return;
        }
        let Some(mac) = self.mac_of(to) else { return };
        self.identification = self.identification.wrapping_add(1);
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = payload.len();
                self.ipv4(
                    mac,
                    IpHeader {
                        protocol,
                        from,
                        to,
                        hops,
                        len,
                    },
                    payload,
                );
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let len = payload.len();
                self.ipv6(
                    mac,
                    IpHeader {
                        protocol,
                        from,
                        to,
                        hops,
                        len,
                    },
                    payload,
                );
            }
            // Nobody of one family speaks to the other.
            _ => self.dropped += 1,
        }
    }

    /// Fragments of IPv4 (RFC 791, 3.2).
    fn ipv4(&mut self, mac: Mac, header: IpHeader<Ipv4Addr>, payload: &[u8]) {
        const MORE: u16 = 0x2000;
        for piece in pieces(payload, MTU - IPV4_LEN, MTU - IPV4_LEN) {
            let mut frame = self.start(mac, ETHERTYPE_IPV4, IPV4_LEN + piece.bytes.len());
            let len = piece.bytes.len();
            let fragment = (piece.at / 8) as u16 | if piece.more { MORE } else { 0 };
            self.ipv4_header(&mut frame, &IpHeader { len, ..header }, fragment);
            frame.extend(piece.bytes);
            self.push(frame);
        }
    }

    /// Fragments of IPv6: behind a header of their own (RFC 8200, 4.5).
    fn ipv6(&mut self, mac: Mac, header: IpHeader<Ipv6Addr>, payload: &[u8]) {
        const FRAGMENT_LEN: usize = 8;
        for piece in pieces(payload, MTU - IPV6_LEN, MTU - IPV6_LEN - FRAGMENT_LEN) {
            let mut frame = self.start(mac, ETHERTYPE_IPV6, IPV6_LEN + FRAGMENT_LEN + piece.bytes.len());
            if piece.at == 0 && !piece.more {
                ipv6_header(&mut frame, &header);
            } else {
                let len = FRAGMENT_LEN + piece.bytes.len();
                ipv6_header(
                    &mut frame,
                    &IpHeader {
                        protocol: FRAGMENT,
                        len,
                        ..header
                    },
                );
                frame.extend([header.protocol, 0]);
                frame.extend((piece.at as u16 | u16::from(piece.more)).to_be_bytes());
                frame.extend(u32::from(self.identification).to_be_bytes());
            }
            frame.extend(piece.bytes);
            self.push(frame);
        }
    }

    /// A UDP datagram.
    pub fn udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let len = UDP_LEN + payload.len();
        let Ok(short) = u16::try_from(len) else {
            self.dropped += 1;
            return;
        };
        let mut datagram = Vec::with_capacity(len);
        for word in [from.port(), to.port(), short, 0] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(payload);
        let checksum = match !fold(pseudo(from.ip(), to.ip(), UDP, len) + sum(&datagram)) {
            // A zero would mean that there is none.
            0 => 0xffff,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        self.ip(UDP, from.ip(), to.ip(), &datagram);
    }

    /// Bytes of payload that one segment may have for a guest at `to` that takes `mss` in a packet.
    pub fn largest_segment(&self, mss: usize, to: &SocketAddr) -> usize {
        let mss = mss.max(1);
        let (large, header) = match to {
            SocketAddr::V4(_) => (self.takes.large, IPV4_LEN),
            SocketAddr::V6(_) => (self.takes.large6, IPV6_LEN),
        };
        if self.takes.checksum && large {
            (MAX_PACKET - header - TCP_LEN) / mss * mss
        } else {
            mss
        }
    }

    /// A TCP segment with the payload in two pieces; checksum and segmentation are left to a guest that takes them.
    pub fn tcp(&mut self, from: SocketAddr, to: SocketAddr, segment: &Segment<'_>, payload: [&[u8]; 2]) {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const GSO_TCPV6: u8 = 4;
        const DONT_FRAGMENT: u16 = 0x4000;
        const CHECKSUM_AT: usize = 16;
        let header = TCP_LEN + segment.options.len();
        let data = payload[0].len() + payload[1].len();
        let len = header + data;
        let Some(mac) = self.mac_of(to.ip()) else { return };
        self.identification = self.identification.wrapping_add(1);
        let (protocol, hops) = (TCP, HOPS);
        let (mut frame, gso) = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut frame = self.start(mac, ETHERTYPE_IPV4, IPV4_LEN + len);
                let header = IpHeader {
                    protocol,
                    from,
                    to,
                    hops,
                    len,
                };
                self.ipv4_header(&mut frame, &header, DONT_FRAGMENT);
                (frame, GSO_TCPV4)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut frame = self.start(mac, ETHERTYPE_IPV6, IPV6_LEN + len);
                ipv6_header(
                    &mut frame,
                    &IpHeader {
                        protocol,
                        from,
                        to,
                        hops,
                        len,
                    },
                );
                (frame, GSO_TCPV6)
            }
            _ => {
                self.dropped += 1;
                return;
            }
        };
        let at = frame.len();
        frame.extend(from.port().to_be_bytes());
        frame.extend(to.port().to_be_bytes());
        frame.extend(segment.sequence.to_be_bytes());
        frame.extend(segment.acknowledgment.to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, segment.flags]);
        frame.extend(segment.window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(segment.options);
        frame.extend(payload[0]);
        frame.extend(payload[1]);
        let pseudo = pseudo(from.ip(), to.ip(), TCP, len);
        let checksum = if self.takes.checksum {
            frame[0] = NEEDS_CSUM;
            frame[6..8].copy_from_slice(&((at - VNET_LEN) as u16).to_le_bytes());
            frame[8..10].copy_from_slice(&(CHECKSUM_AT as u16).to_le_bytes());
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&frame[at..]))
        };
        frame[at + CHECKSUM_AT..at + CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        if data > segment.mss {
            frame[1] = gso;
            frame[2..4].copy_from_slice(&((at - VNET_LEN + header) as u16).to_le_bytes());
            frame[4..6].copy_from_slice(&(segment.mss as u16).to_le_bytes());
        }
        self.push(frame);
    }
}

/// What an IP header says.
#[derive(Debug, Clone, Copy)]
struct IpHeader<A> {
    protocol: u8,
    from: A,
    to: A,
    hops: u8,
    /// Bytes behind it.
    len: usize,
}

/// An IPv6 header (RFC 8200, 3).
fn ipv6_header(frame: &mut Vec<u8>, header: &IpHeader<Ipv6Addr>) {
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((header.len as u16).to_be_bytes());
    frame.extend([header.protocol, header.hops]);
    frame.extend(header.from.octets());
    frame.extend(header.to.octets());
}

/// The Ethernet address of a group (RFC 2464, 7).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A part of a packet's payload.
struct Piece<'a> {
    at: usize,
    bytes: &'a [u8],
    more: bool,
}

/// The whole if it is not longer than `whole`, else pieces of at most `part` bytes, all but the last a multiple of 8.
fn pieces(payload: &[u8], whole: usize, part: usize) -> impl Iterator<Item = Piece<'_>> {
    let size = if payload.len() > whole {
        part / 8 * 8
    } else {
        whole
    };
    let count = payload.len().div_ceil(size).max(1);
    (0..count).map(move |index| {
        let at = index * size;
        let end = payload.len().min(at + size);
        Piece {
            at,
            bytes: &payload[at..end],
            more: end < payload.len(),
        }
    })
}
