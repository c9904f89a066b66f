//! As much of a packet as the protection of a port looks at: who sends it, and what it is. Nothing here is trusted; what cannot
//! be read is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Frame, Mac};

const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Extension headers that are walked through (RFC 8200, 4). Honest packets have two or three.
const MOST_HEADERS: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// ARP or RARP: who says that he is who (RFC 826).
    Arp { sender: Mac, address: Ipv4Addr },
    /// IP.
    Ip { source: IpAddr, what: What },
    /// Anything else.
    Other,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// UDP between these ports.
    Udp { from: u16, to: u16 },
    /// An ICMPv6 message of this type. A neighbour advertisement (136) or solicitation (135) has a target (RFC 4861, 4.3, 4.4).
    Icmpv6 { kind: u8, target: Option<Ipv6Addr> },
    /// A later fragment, or another protocol.
    Other,
}

impl Packet {
    /// Reads what a frame carries. `None` if it claims to be ARP or IP and cannot be read.
    pub fn read(frame: &Frame<'_>) -> Option<Self> {
        match frame.ether_type {
            0x0806 | 0x8035 => arp(frame.payload),
            0x0800 => ipv4(frame.payload),
            0x86dd => ipv6(frame.payload),
            _ => Some(Self::Other),
        }
    }
}

/// Ethernet and IPv4 only (RFC 826: hardware 1, protocol 0800, lengths 6 and 4).
fn arp(packet: &[u8]) -> Option<Packet> {
    let body = packet.strip_prefix(&[0, 1, 8, 0, 6, 4])?.get(2..22)?;
    let sender = Mac::read(body)?;
    let address = Ipv4Addr::from(*body.get(6..)?.first_chunk::<4>()?);
    Some(Packet::Arp { sender, address })
}

fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let body = packet.get(length..total.min(packet.len()))?;
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let source = Ipv4Addr::from([header[12], header[13], header[14], header[15]]).into();
    let what = if first && header[9] == UDP {
        udp(body)?
    } else {
        What::Other
    };
    Some(Packet::Ip { source, what })
}

fn ipv6(packet: &[u8]) -> Option<Packet> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?).into();
    let mut body = &packet[40..];
    let mut next = header[6];
    for _ in 0..MOST_HEADERS {
        let length = match next {
            UDP => {
                return Some(Packet::Ip {
                    source,
                    what: udp(body)?,
                });
            }
            ICMPV6 => {
                return Some(Packet::Ip {
                    source,
                    what: icmpv6(body)?,
                });
            }
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => usize::from(*body.get(1)?) * 8 + 8,
            // Authentication (RFC 4302).
            51 => usize::from(*body.get(1)?) * 4 + 8,
            44 => {
                if u16::from_be_bytes([*body.get(2)?, *body.get(3)?]) & 0xfff8 != 0 {
                    return Some(Packet::Ip {
                        source,
                        what: What::Other,
                    });
                }
                8
            }
            _ => {
                return Some(Packet::Ip {
                    source,
                    what: What::Other,
                });
            }
        };
        next = *body.first()?;
        body = body.get(length..)?;
    }
    // More headers than anyone honest has hide something (RFC 7113).
    None
}

fn udp(body: &[u8]) -> Option<What> {
    let [a, b, c, d] = *body.first_chunk()?;
    Some(What::Udp {
        from: u16::from_be_bytes([a, b]),
        to: u16::from_be_bytes([c, d]),
    })
}

fn icmpv6(body: &[u8]) -> Option<What> {
    let kind = *body.first()?;
    let target = match kind {
        135 | 136 => Some(Ipv6Addr::from(*body.get(8..)?.first_chunk::<16>()?)),
        _ => None,
    };
    Some(What::Icmpv6 { kind, target })
}
