//! Frames on their way to the guest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, IPV4_LEN, Mac, TCP, TCP_LEN, UDP, UDP_LEN, VNET_LEN, fold,
    pseudo, sum,
};

/// Bytes of frames that wait for a slow guest before TCP stops sending.
const SOFT_LIMIT: usize = 256 << 10;
/// Bytes of frames that wait for a slow guest before datagrams are dropped.
const HARD_LIMIT: usize = 1 << 20;
/// Bytes of the largest IP packet on the guest's cable, if it does not take large segments.
pub const MTU: usize = 1500;
/// Bytes of a large segment at most: an IP packet has no more.
const MAX_SEGMENT: usize = 65_535 - IPV4_LEN - TCP_LEN;

/// Stations whose Ethernet address is known at most, and those that are asked for theirs at a time.
const MAX_NEIGHBOURS: usize = 4096;
const MAX_ASKED: usize = 64;

/// What the guest's driver takes over, as told by each frame of the guest (`ostler_netio::SocketNet::with_headers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// It completes checksums.
    pub checksum: bool,
    /// It takes TCP segments over IPv4 that are larger than the MTU.
    pub large: bool,
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
    ours: Mac,
    /// Our IP address, in whose name stations are asked for their Ethernet address.
    address: Ipv4Addr,
    neighbours: HashMap<Ipv4Addr, Mac>,
    /// Who was asked of late.
    asked: HashSet<Ipv4Addr>,
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
            ours,
            address,
            neighbours: HashMap::new(),
            asked: HashSet::new(),
            takes: Takes::default(),
            identification: 0,
            dropped: 0,
        }
    }

    /// Notes that `address` is at `mac`. When there are too many, some other is forgotten, and will be asked.
    pub fn learn(&mut self, address: Ipv4Addr, mac: Mac) {
        if self.neighbours.len() >= MAX_NEIGHBOURS
            && !self.neighbours.contains_key(&address)
            && let Some(some) = self.neighbours.keys().next().copied()
        {
            self.neighbours.remove(&some);
        }
        self.neighbours.insert(address, mac);
    }

    /// The Ethernet address of `address`. If it is not known it is asked for, and what was to be sent is lost.
    fn mac_of(&mut self, address: Ipv4Addr) -> Option<Mac> {
        const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
        if address == Ipv4Addr::BROADCAST {
            return Some([0xff; 6]);
        }
        let known = self.neighbours.get(&address).copied();
        if known.is_none() {
            self.dropped += 1;
            if self.asked.len() < MAX_ASKED && self.asked.insert(address) {
                let mut request = [0; 28];
                request[..8].copy_from_slice(&REQUEST);
                request[8..14].copy_from_slice(&self.ours);
                request[14..18].copy_from_slice(&self.address.octets());
                request[24..].copy_from_slice(&address.octets());
                self.ethernet([0xff; 6], ETHERTYPE_ARP, &request);
            }
        }
        known
    }

    /// Those who were asked for their Ethernet address may be asked again.
    pub fn ask_again(&mut self) {
        self.asked.clear();
    }

    /// The next frame, with its header.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
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
    fn start(&self, to: Mac, kind: u16, payload: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(VNET_LEN + ETHERNET_LEN + payload);
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
    fn ipv4_header(
        &self,
        frame: &mut Vec<u8>,
        protocol: u8,
        from: Ipv4Addr,
        to: Ipv4Addr,
        len: usize,
        fragment: u16,
    ) {
        let at = frame.len();
        frame.extend([0x45, 0]);
        frame.extend(((IPV4_LEN + len) as u16).to_be_bytes());
        frame.extend(self.identification.to_be_bytes());
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        let checksum = !fold(sum(&frame[at..]));
        frame[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// An IPv4 packet, in fragments if it is larger than the MTU (RFC 791, 3.2).
    pub fn ipv4(&mut self, protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) {
        const MORE: u16 = 0x2000;
        const PIECE: usize = (MTU - IPV4_LEN) / 8 * 8;
        if payload.len() > usize::from(u16::MAX) - IPV4_LEN {
            self.dropped += 1;
            return;
        }
        let Some(mac) = self.mac_of(to) else { return };
        self.identification = self.identification.wrapping_add(1);
        let mut at = 0;
        loop {
            let rest = &payload[at..];
            let (len, more) = if rest.len() > MTU - IPV4_LEN {
                (PIECE, MORE)
            } else {
                (rest.len(), 0)
            };
            let mut frame = self.start(mac, ETHERTYPE_IPV4, IPV4_LEN + len);
            self.ipv4_header(&mut frame, protocol, from, to, len, (at / 8) as u16 | more);
            frame.extend(&rest[..len]);
            self.push(frame);
            at += len;
            if more == 0 {
                return;
            }
        }
    }

    /// A UDP datagram.
    pub fn udp(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
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
        let checksum = match !fold(pseudo(*from.ip(), *to.ip(), UDP, len) + sum(&datagram)) {
            // A zero would mean that there is none.
            0 => 0xffff,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        self.ipv4(UDP, *from.ip(), *to.ip(), &datagram);
    }

    /// Bytes of payload that one segment may have for a guest that takes `mss` in a packet.
    pub fn largest_segment(&self, mss: usize) -> usize {
        let mss = mss.max(1);
        if self.takes.checksum && self.takes.large {
            MAX_SEGMENT / mss * mss
        } else {
            mss
        }
    }

    /// A TCP segment with the payload in two pieces; checksum and segmentation are left to a guest that takes them.
    pub fn tcp(&mut self, from: SocketAddrV4, to: SocketAddrV4, segment: &Segment<'_>, payload: [&[u8]; 2]) {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const DONT_FRAGMENT: u16 = 0x4000;
        const CHECKSUM_AT: usize = 16;
        let header = TCP_LEN + segment.options.len();
        let data = payload[0].len() + payload[1].len();
        let len = header + data;
        let Some(mac) = self.mac_of(*to.ip()) else { return };
        let mut frame = self.start(mac, ETHERTYPE_IPV4, IPV4_LEN + len);
        self.identification = self.identification.wrapping_add(1);
        self.ipv4_header(&mut frame, TCP, *from.ip(), *to.ip(), len, DONT_FRAGMENT);
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
        let pseudo = pseudo(*from.ip(), *to.ip(), TCP, len);
        let checksum = if self.takes.checksum {
            frame[0] = NEEDS_CSUM;
            frame[6..8].copy_from_slice(&((ETHERNET_LEN + IPV4_LEN) as u16).to_le_bytes());
            frame[8..10].copy_from_slice(&(CHECKSUM_AT as u16).to_le_bytes());
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&frame[at..]))
        };
        frame[at + CHECKSUM_AT..at + CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        if data > segment.mss {
            frame[1] = GSO_TCPV4;
            frame[2..4].copy_from_slice(&((ETHERNET_LEN + IPV4_LEN + header) as u16).to_le_bytes());
            frame[4..6].copy_from_slice(&(segment.mss as u16).to_le_bytes());
        }
        self.push(frame);
    }
}
