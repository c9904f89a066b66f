//! Which queue pair of the guest a frame goes to: that by which it last sent frames of the same flow (virtio 1.2, 5.1.6.5.5).

/// Flows that are told apart.
const FLOWS: usize = 256;
/// Bytes of a frame in which its addresses and ports are looked for.
const LOOKED_AT: usize = 96;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const WITH_PORTS: [u8; 2] = [6, 17];

pub(crate) struct Steering {
    pairs: [u8; FLOWS],
}

impl Steering {
    pub fn new() -> Self {
        Self { pairs: [0; FLOWS] }
    }

    /// The guest sent a frame by this pair.
    pub fn learn(&mut self, parts: &[&[u8]], pair: usize) {
        self.pairs[flow(parts)] = pair as u8;
    }

    /// The pair for a frame to the guest.
    pub fn pair(&self, parts: &[&[u8]]) -> usize {
        self.pairs[flow(parts)].into()
    }
}

/// The number of a frame's flow, the same in both directions.
fn flow(parts: &[&[u8]]) -> usize {
    let mut bytes = [0; LOOKED_AT];
    let mut len = 0;
    for part in parts {
        let here = part.len().min(LOOKED_AT - len);
        bytes[len..len + here].copy_from_slice(&part[..here]);
        len += here;
    }
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = 12;
    while TAGS.contains(&word(at)) && at < 20 {
        at += 4;
    }
    // Both ends in one, so that their order does not matter.
    let both = |at: usize, len: usize| {
        (0..len)
            .step_by(2)
            .fold(0, |sum, i| sum ^ word(at + i) ^ word(at + len + i))
    };
    let ip = at + 2;
    let (addresses, protocol, ports_at) = match word(at) {
        IPV4 => {
            let is_fragment = word(ip + 6) & 0x3fff != 0;
            let protocol = if is_fragment { 0 } else { bytes[ip + 9] };
            (both(ip + 12, 4), protocol, ip + usize::from(bytes[ip] & 15) * 4)
        }
        IPV6 => (both(ip + 8, 16), bytes[ip + 6], ip + 40),
        _ => return 0,
    };
    let has_ports = WITH_PORTS.contains(&protocol) && ports_at + 4 <= LOOKED_AT;
    let ports = if has_ports { both(ports_at, 2) } else { 0 };
    let mixed = (u32::from(addresses) << 16 | u32::from(ports)).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp(v6: bool, from: u8, to: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut frame = [&[2; 12][..], if v6 { &[0x86, 0xdd] } else { &[8, 0] }].concat();
        if v6 {
            frame.extend([&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &[from; 16], &[to; 16]].concat());
        } else {
            frame.extend(
                [
                    &[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..],
                    &[10, 0, 0, from, 10, 0, 0, to],
                ]
                .concat(),
            );
        }
        frame.extend(ports.map(u16::to_be_bytes).concat());
        frame
    }

    #[test]
    fn answers_come_by_the_pair_of_their_questions() {
        for v6 in [false, true] {
            let mut steering = Steering::new();
            let sent: Vec<_> = (0..8u16).map(|i| udp(v6, 1, 2, [40_000 + i, 53])).collect();
            for (i, frame) in sent.iter().enumerate() {
                steering.learn(&[frame], i % 4);
            }
            let distinct: std::collections::BTreeSet<_> = sent.iter().map(|frame| flow(&[frame])).collect();
            assert!(distinct.len() > 4, "{distinct:?}");
            for i in 0..8u16 {
                let answer = udp(v6, 2, 1, [53, 40_000 + i]);
                assert_eq!(steering.pair(&[&answer]), steering.pair(&[&sent[usize::from(i)]]));
                // With a tag, and in parts.
                let parts: [&[u8]; 3] = [&answer[..12], &[0x81, 0, 0, 5], &answer[12..]];
                assert_eq!(flow(&parts), flow(&[&answer]));
            }
        }
    }

    proptest! {
        #[test]
        fn any_frame_has_a_flow(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(flow(&[&frame]) < FLOWS);
        }
    }
}
