//! Questions of the switch's own: IGMPv3 (RFC 3376, 4.1) and MLDv2 (RFC 3810, 5.1), which stations of older versions answer too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{as_code8, sum};
use crate::{Mac, VlanId};

/// Bytes of the longest one, with its tag.
pub(crate) const MAX_QUERY: usize = 18 + 40 + 8 + 28;

/// Who is asked, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The group; `None` for all.
    pub group: Option<IpAddr>,
    /// Seconds to answer in.
    pub response: u32,
    pub robustness: u8,
    /// Seconds from question to question.
    pub interval: u32,
}

/// A frame of the switch's own.
pub(crate) struct Written {
    bytes: [u8; MAX_QUERY],
    len: usize,
}

impl Written {
    fn new() -> Self {
        Self {
            bytes: [0; MAX_QUERY],
            len: 0,
        }
    }

    /// Appends bytes, of which there is room for as many as these frames have.
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn ethernet(&mut self, to: [u8; 6], from: Mac, tag: Option<(u16, VlanId)>, ether_type: u16) {
        self.put(&to);
        self.put(&from.0);
        if let Some((kind, vlan)) = tag {
            self.put(&kind.to_be_bytes());
            self.put(&vlan.get().to_be_bytes());
        }
        self.put(&ether_type.to_be_bytes());
    }

    /// Stores the checksum of all from `start` on at `at`.
    fn checksum(&mut self, start: usize, end: usize, at: usize, pseudo: u32) {
        let sum = !(sum(&self.bytes[start..end], pseudo) as u16);
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The question of a switch with these addresses. `tag` is what the frame is tagged with: EtherType and VLAN.
pub(crate) fn write(mac: Mac, source: IpAddr, tag: Option<(u16, VlanId)>, asked: &Asked) -> Written {
    match source {
        IpAddr::V4(source) => igmp(mac, source, tag, asked),
        IpAddr::V6(source) => mld(mac, source, tag, asked),
    }
}

fn igmp(mac: Mac, source: Ipv4Addr, tag: Option<(u16, VlanId)>, asked: &Asked) -> Written {
    let group = match asked.group {
        Some(IpAddr::V4(group)) => group,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let to = if group.is_unspecified() {
        Ipv4Addr::new(224, 0, 0, 1)
    } else {
        group
    };
    let [_, b, c, d] = to.octets();
    let mut frame = Written::new();
    frame.ethernet([1, 0, 0x5e, b & 0x7f, c, d], mac, tag, 0x0800);
    let ip = frame.len;
    // 24 bytes of header with the Router Alert option (RFC 2113), precedence "internetwork control", TTL 1.
    frame.put(&[0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2, 0, 0]);
    frame.put(&source.octets());
    frame.put(&to.octets());
    frame.put(&[0x94, 4, 0, 0]);
    frame.checksum(ip, ip + 24, ip + 10, 0);
    let body = frame.len;
    frame.put(&[0x11, as_code8(asked.response.saturating_mul(10)), 0, 0]);
    frame.put(&group.octets());
    frame.put(&[asked.robustness & 7, as_code8(asked.interval), 0, 0]);
    frame.checksum(body, frame.len, body + 2, 0);
    frame
}

fn mld(mac: Mac, source: Ipv6Addr, tag: Option<(u16, VlanId)>, asked: &Asked) -> Written {
    let group = match asked.group {
        Some(IpAddr::V6(group)) => group,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    let to = if group.is_unspecified() {
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
    } else {
        group
    };
    let [.., a, b, c, d] = to.octets();
    let mut frame = Written::new();
    frame.ethernet([0x33, 0x33, a, b, c, d], mac, tag, 0x86dd);
    let ip = frame.len;
    // Hop limit 1, and a hop-by-hop header with the Router Alert option (RFC 2711).
    frame.put(&[0x60, 0, 0, 0, 0, 36, 0, 1]);
    frame.put(&source.octets());
    frame.put(&to.octets());
    frame.put(&[58, 0, 5, 2, 0, 0, 1, 0]);
    let body = frame.len;
    // Up to 32,767 the code is the number itself.
    let response = asked.response.saturating_mul(1000).min(32_767) as u16;
    frame.put(&[130, 0, 0, 0]);
    frame.put(&response.to_be_bytes());
    frame.put(&[0, 0]);
    frame.put(&group.octets());
    frame.put(&[asked.robustness & 7, as_code8(asked.interval), 0, 0]);
    let pseudo = sum(&frame.bytes[ip + 8..ip + 40], 28 + 58);
    frame.checksum(body, frame.len, body + 2, pseudo);
    frame
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, read};
    use super::*;
    use crate::{Frame, TagType};

    /// What is written is read as what was meant, checksums included.
    #[test]
    fn questions_are_read_as_they_were_meant() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        for (source, group) in [
            ("10.0.0.1", None),
            ("10.0.0.1", Some("239.1.2.3")),
            ("fe80::1", None),
            ("fe80::1", Some("ff05::1:3")),
        ] {
            let group: Option<IpAddr> = group.map(|group| group.parse().unwrap());
            let source: IpAddr = source.parse().unwrap();
            for tag in [None, Some((0x8100, VlanId::new(7).unwrap()))] {
                let asked = Asked {
                    group,
                    response: 10,
                    robustness: 2,
                    interval: 125,
                };
                let frame = write(mac, source, tag, &asked);
                let frame = Frame::parse(frame.bytes(), TagType::Customer).unwrap();
                assert_eq!(frame.tag.map(|tag| tag.vid()), tag.map(|(_, vlan)| vlan.get()));
                let Some(Ok(Message::Query(query))) = read(&frame) else {
                    panic!("{:?}", read(&frame))
                };
                assert_eq!((query.source, query.group, query.response), (source, group, 10));
                assert_eq!(query.timing, Some((2, 125)));
            }
        }
    }
}
