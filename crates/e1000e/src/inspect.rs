//! What the card finds out about a received frame: its checksums (82574 datasheet, 7.1.11).

use crate::checksum::{fold, sum, word};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What was looked at, and whether it was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// The header checksum of IPv4.
    pub ip: Option<bool>,
    /// The checksum of TCP or UDP.
    pub layer4: Option<(Layer4, bool)>,
}

/// Looks at the IP packet at `at` of `frame`, whose EtherType is in the two bytes before. `trusted` says that the checksum of
/// TCP or UDP is known to be right.
pub fn check(frame: &[u8], at: usize, trusted: bool) -> Checked {
    let packet = frame.get(at..).unwrap_or_default();
    match word(frame, at.saturating_sub(2)) {
        IPV4 => check_ipv4(packet, trusted),
        IPV6 => check_ipv6(packet, trusted),
        _ => Checked::default(),
    }
}

fn check_ipv4(packet: &[u8], trusted: bool) -> Checked {
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
    if packet.len() < 20 || packet[0] >> 4 != 4 || header < 20 || header > packet.len() {
        return Checked::default();
    }
    let ip = Some(fold(sum(&packet[..header])) == 0xffff);
    let total = usize::from(word(packet, 2));
    let fragment = word(packet, 6) & 0x3fff != 0;
    if fragment || total < header || total > packet.len() {
        return Checked { ip, layer4: None };
    }
    let pseudo = sum(&packet[12..20]);
    Checked {
        ip,
        layer4: check_layer4(packet[9], &packet[header..total], pseudo, trusted),
    }
}

fn check_ipv6(packet: &[u8], trusted: bool) -> Checked {
    let total = 40 + usize::from(word(packet, 4));
    if packet.len() < 40 || packet[0] >> 4 != 6 || total > packet.len() {
        return Checked::default();
    }
    let pseudo = sum(&packet[8..40]);
    Checked {
        ip: None,
        layer4: check_layer4(packet[6], &packet[40..total], pseudo, trusted),
    }
}

fn check_layer4(protocol: u8, bytes: &[u8], pseudo: u64, trusted: bool) -> Option<(Layer4, bool)> {
    let kind = match protocol {
        TCP if bytes.len() >= 20 => Layer4::Tcp,
        // A zero says that there is no checksum.
        UDP if bytes.len() >= 8 && (trusted || word(bytes, 6) != 0) => Layer4::Udp,
        _ => return None,
    };
    let right = trusted || fold(pseudo + u64::from(protocol) + bytes.len() as u64 + sum(bytes)) == 0xffff;
    Some((kind, right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tcp4, udp6};

    #[test]
    fn right_checksums_are_seen_and_wrong_ones_too() {
        let frame = tcp4(&[1, 2, 3]);
        let good = Checked {
            ip: Some(true),
            layer4: Some((Layer4::Tcp, true)),
        };
        assert_eq!(check(&frame, 14, false), good);
        let mut broken = frame.clone();
        broken[56] ^= 1;
        assert_eq!(check(&broken, 14, false).layer4, Some((Layer4::Tcp, false)));
        assert_eq!(check(&broken, 14, true), good, "somebody vouches for it");
        broken[15] ^= 1;
        assert_eq!(check(&broken, 14, false).ip, Some(false));
        let frame = udp6(&[9; 100]);
        assert_eq!(check(&frame, 14, false).layer4, Some((Layer4::Udp, true)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(0u8.., 0..200), at in 0usize..64, ip in 0usize..3) {
            let mut bytes = bytes;
            if ip > 0 && at >= 2 && bytes.len() > at {
                let kind = [IPV4, IPV6][ip - 1];
                crate::checksum::set_word(&mut bytes, at - 2, kind);
                bytes[at] = [0x45, 0x60][ip - 1];
            }
            check(&bytes, at, false);
        }
    }
}
