//! BPDUs on the wire (802.1D-2004, 9.3), with the LLC header in front of them.

use super::types::{BridgeId, PortId, Priority, Role, Times};
use crate::Mac;

/// Addresses, length, LLC and the longest BPDU that is sent.
pub const MAX_FRAME: usize = 14 + 3 + 36;

/// LLC: the bridge spanning tree protocol's SAP twice, unnumbered information (802.1D-2004, 7.12.3).
const LLC: [u8; 3] = [0x42, 0x42, 0x03];

const TYPE_CONFIG: u8 = 0;
const TYPE_RST: u8 = 2;
const TYPE_TCN: u8 = 0x80;

const FLAG_TC: u8 = 1 << 0;
const FLAG_PROPOSAL: u8 = 1 << 1;
const FLAG_LEARNING: u8 = 1 << 4;
const FLAG_FORWARDING: u8 = 1 << 5;
const FLAG_AGREEMENT: u8 = 1 << 6;
const FLAG_TCA: u8 = 1 << 7;

/// What a BPDU carries beside vector and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags {
    /// The topology changed.
    pub topology_change: bool,
    /// The sender wants to forward at once.
    pub proposal: bool,
    /// It learns.
    pub learning: bool,
    /// It forwards.
    pub forwarding: bool,
    /// It lets the receiver forward at once.
    pub agreement: bool,
    /// It heard of the topology change.
    pub topology_change_ack: bool,
}

/// A BPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpdu {
    /// A Configuration BPDU of STP (9.3.1).
    Config {
        /// Vector of the sender.
        priority: Priority,
        /// Times of the sender.
        times: Times,
        /// Only the two for topology changes.
        flags: Flags,
    },
    /// A Topology Change Notification BPDU of STP (9.3.2).
    TopologyChange,
    /// A Rapid Spanning Tree BPDU (9.3.3).
    Rapid {
        /// Vector of the sender.
        priority: Priority,
        /// Times of the sender.
        times: Times,
        /// Flags.
        flags: Flags,
        /// Role of the sending port: Alternate stands for Backup too, Disabled for "unknown".
        role: Role,
    },
}

impl Bpdu {
    /// Reads the BPDU behind an Ethernet header. `length` is that header's length field, `rest` what follows it.
    ///
    /// `None` if it is none that 9.3.4 calls valid: another protocol, too short for its type, of an unknown type, older than
    /// it may be. Times are rounded to seconds and brought into the ranges of the standard (table 17-1), so that no
    /// neighbour makes ports forward before they should. Longer BPDUs are read as far as they are known.
    pub fn parse(length: u16, rest: &[u8]) -> Option<Self> {
        let rest = rest.get(..usize::from(length))?;
        let body = rest.strip_prefix(&LLC)?;
        let (protocol, body) = body.split_first_chunk::<2>()?;
        let (&version, body) = body.split_first()?;
        let (&kind, body) = body.split_first()?;
        if *protocol != [0, 0] {
            return None;
        }
        match kind {
            TYPE_TCN => Some(Self::TopologyChange),
            TYPE_CONFIG => {
                let (flags, priority, times) = vector(body)?;
                let flags = Flags {
                    topology_change: flags & FLAG_TC != 0,
                    topology_change_ack: flags & FLAG_TCA != 0,
                    ..Flags::default()
                };
                Some(Self::Config {
                    priority,
                    times,
                    flags,
                })
            }
            TYPE_RST if version >= 2 && body.len() >= 32 => {
                let (bits, priority, times) = vector(body)?;
                let flags = Flags {
                    topology_change: bits & FLAG_TC != 0,
                    proposal: bits & FLAG_PROPOSAL != 0,
                    learning: bits & FLAG_LEARNING != 0,
                    forwarding: bits & FLAG_FORWARDING != 0,
                    agreement: bits & FLAG_AGREEMENT != 0,
                    topology_change_ack: bits & FLAG_TCA != 0,
                };
                let role = match bits >> 2 & 3 {
                    0 => Role::Disabled,
                    1 => Role::Alternate,
                    2 => Role::Root,
                    _ => Role::Designated,
                };
                Some(Self::Rapid {
                    priority,
                    times,
                    flags,
                    role,
                })
            }
            _ => None,
        }
    }

    /// Writes the frame that carries this BPDU from `source`, and returns its length.
    pub fn write(&self, source: Mac, frame: &mut [u8; MAX_FRAME]) -> usize {
        let mut writer = Writer { frame, at: 14 };
        writer.put(&LLC);
        match self {
            Self::TopologyChange => writer.put(&[0, 0, 0, TYPE_TCN]),
            Self::Config {
                priority,
                times,
                flags,
            } => {
                writer.put(&[0, 0, 0, TYPE_CONFIG, bits(flags) & (FLAG_TC | FLAG_TCA)]);
                writer.vector(priority, times);
            }
            Self::Rapid {
                priority,
                times,
                flags,
                role,
            } => {
                let role = match role {
                    Role::Disabled => 0,
                    Role::Alternate | Role::Backup => 1,
                    Role::Root => 2,
                    Role::Designated => 3,
                };
                writer.put(&[0, 0, 2, TYPE_RST, bits(flags) | role << 2]);
                writer.vector(priority, times);
                writer.put(&[0]);
            }
        }
        let end = writer.at;
        frame[..6].copy_from_slice(&Mac::BRIDGE_GROUP.0);
        frame[6..12].copy_from_slice(&source.0);
        frame[12..14].copy_from_slice(&((end - 14) as u16).to_be_bytes());
        end
    }
}

fn bits(flags: &Flags) -> u8 {
    [
        (flags.topology_change, FLAG_TC),
        (flags.proposal, FLAG_PROPOSAL),
        (flags.learning, FLAG_LEARNING),
        (flags.forwarding, FLAG_FORWARDING),
        (flags.agreement, FLAG_AGREEMENT),
        (flags.topology_change_ack, FLAG_TCA),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |bits, (_, flag)| bits | flag)
}

struct Writer<'a> {
    frame: &'a mut [u8; MAX_FRAME],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.frame[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn vector(&mut self, priority: &Priority, times: &Times) {
        self.put(&priority.root.0.to_be_bytes());
        self.put(&priority.cost.to_be_bytes());
        self.put(&priority.bridge.0.to_be_bytes());
        self.put(&priority.port.0.to_be_bytes());
        for seconds in [times.message_age, times.max_age, times.hello, times.forward_delay] {
            self.put(&seconds.saturating_mul(256).to_be_bytes());
        }
    }
}

/// Flags, vector and times; 31 bytes.
fn vector(body: &[u8]) -> Option<(u8, Priority, Times)> {
    let (&flags, body) = body.split_first()?;
    let (root, body) = body.split_first_chunk()?;
    let (cost, body) = body.split_first_chunk()?;
    let (bridge, body) = body.split_first_chunk()?;
    let (port, body) = body.split_first_chunk()?;
    let (times, _) = body.split_first_chunk::<8>()?;
    let time = |at: usize| u16::from_be_bytes([times[at], times[at + 1]]);
    if time(0) >= time(2) {
        return None;
    }
    let seconds = |at: usize| ((u32::from(time(at)) + 128) / 256) as u16;
    let times = Times {
        message_age: seconds(0),
        max_age: seconds(2).clamp(6, 40),
        hello: seconds(4).clamp(1, 10),
        forward_delay: seconds(6).clamp(4, 30),
    };
    let priority = Priority {
        root: BridgeId(u64::from_be_bytes(*root)),
        cost: u32::from_be_bytes(*cost),
        bridge: BridgeId(u64::from_be_bytes(*bridge)),
        port: PortId(u16::from_be_bytes(*port)),
    };
    Some((flags, priority, times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn parse(frame: &[u8]) -> Option<Bpdu> {
        Bpdu::parse(u16::from_be_bytes([frame[12], frame[13]]), &frame[14..])
    }

    fn priority() -> Priority {
        Priority {
            root: BridgeId(0x8000_0200_0000_0001),
            cost: 20_000,
            bridge: BridgeId(0x9000_0200_0000_0002),
            port: PortId(0x8003),
        }
    }

    const TIMES: Times = Times {
        message_age: 1,
        max_age: 20,
        hello: 2,
        forward_delay: 15,
    };

    /// 802.1D-2004, 9.3.1, figure 9-1, byte for byte.
    #[test]
    fn a_configuration_bpdu() {
        let flags = Flags {
            topology_change: true,
            ..Flags::default()
        };
        let bpdu = Bpdu::Config {
            priority: priority(),
            times: TIMES,
            flags,
        };
        let mut frame = [0; MAX_FRAME];
        let length = bpdu.write(MAC, &mut frame);
        let want = [
            0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 1, 0x80, 0, 2, 0,
            0, 0, 0, 1, 0, 0, 0x4e, 0x20, 0x90, 0, 2, 0, 0, 0, 0, 2, 0x80, 3, 1, 0, 20, 0, 2, 0, 15, 0,
        ];
        assert_eq!(frame[..length], want);
        assert_eq!(parse(&frame[..length]), Some(bpdu));
    }

    /// 802.1D-2004, 9.3.2: four bytes.
    #[test]
    fn a_topology_change_notification() {
        let mut frame = [0; MAX_FRAME];
        let length = Bpdu::TopologyChange.write(MAC, &mut frame);
        assert_eq!(frame[12..length], [0, 7, 0x42, 0x42, 3, 0, 0, 0, 0x80]);
        assert_eq!(parse(&frame[..length]), Some(Bpdu::TopologyChange));
    }

    /// 802.1D-2004, 9.3.3, figure 9-3: version 2, type 2, 36 bytes, the last of them 0.
    #[test]
    fn a_rapid_bpdu() {
        let flags = Flags {
            proposal: true,
            learning: true,
            ..Flags::default()
        };
        let bpdu = Bpdu::Rapid {
            priority: priority(),
            times: TIMES,
            flags,
            role: Role::Designated,
        };
        let mut frame = [0; MAX_FRAME];
        let length = bpdu.write(MAC, &mut frame);
        assert_eq!(length, 14 + 3 + 36);
        assert_eq!(frame[17..22], [0, 0, 2, 2, 0b0001_1110]);
        assert_eq!(frame[length - 1], 0);
        assert_eq!(parse(&frame[..length]), Some(bpdu));
    }

    /// 802.1D-2004, 9.3.4: what is discarded.
    #[test]
    fn invalid_ones_are_refused() {
        let bpdu = Bpdu::Rapid {
            priority: priority(),
            times: TIMES,
            flags: Flags::default(),
            role: Role::Root,
        };
        let mut frame = [0; MAX_FRAME];
        let length = bpdu.write(MAC, &mut frame);
        let with = |at: usize, value: u8| {
            let mut other = frame;
            other[at] = value;
            parse(&other[..length])
        };
        assert!(with(0, 1).is_some());
        for (at, value) in [
            (13, 38),
            (13, 255),
            (14, 0),
            (16, 0xf3),
            (17, 1),
            (18, 1),
            (19, 0),
            (20, 1),
            (20, 0x81),
            (44, 20),
        ] {
            assert_eq!(with(at, value), None, "byte {at} = {value}");
        }
        for short in 14..length {
            assert_eq!(parse(&frame[..short]), None, "{short} bytes");
        }
    }

    /// 802.1D-2004, 9.3.4: unknown versions above are read as what is known of them.
    #[test]
    fn later_versions_are_read_as_rapid() {
        let bpdu = Bpdu::Rapid {
            priority: priority(),
            times: TIMES,
            flags: Flags::default(),
            role: Role::Alternate,
        };
        let mut frame = [0; MAX_FRAME];
        bpdu.write(MAC, &mut frame);
        frame[19] = 3;
        assert_eq!(parse(&frame), Some(bpdu));
    }

    #[test]
    fn absurd_times_are_brought_into_range() {
        let mut frame = [0; MAX_FRAME];
        Bpdu::Config {
            priority: priority(),
            times: TIMES,
            flags: Flags::default(),
        }
        .write(MAC, &mut frame);
        frame[44..52].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        match parse(&frame) {
            Some(Bpdu::Config { times, .. }) => {
                assert_eq!(
                    times,
                    Times {
                        message_age: 0,
                        max_age: 40,
                        hello: 1,
                        forward_delay: 4
                    }
                );
            }
            other => panic!("{other:?}"),
        }
    }

    prop_compose! {
        fn any_bpdu()(
            root: u64, cost: u32, bridge: u64, port: u16,
            age in 0..6u16, max_age in 6..=40u16, hello in 1..=10u16, forward_delay in 4..=30u16,
            bits in prop::array::uniform6(any::<bool>()), kind in 0..3,
            role in prop::sample::select(vec![Role::Disabled, Role::Alternate, Role::Root, Role::Designated]),
        ) -> Bpdu {
            let priority = Priority { root: BridgeId(root), cost, bridge: BridgeId(bridge), port: PortId(port) };
            let times = Times { message_age: age, max_age, hello, forward_delay };
            let [topology_change, proposal, learning, forwarding, agreement, topology_change_ack] = bits;
            let flags = Flags { topology_change, topology_change_ack, ..Flags::default() };
            match kind {
                0 => Bpdu::Config { priority, times, flags },
                1 => Bpdu::TopologyChange,
                _ => Bpdu::Rapid {
                    priority, times, role, flags: Flags { proposal, learning, forwarding, agreement, ..flags },
                },
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bpdu in any_bpdu()) {
            let mut frame = [0; MAX_FRAME];
            let length = bpdu.write(MAC, &mut frame);
            prop_assert_eq!(parse(&frame[..length]), Some(bpdu));
        }

        /// Random bytes, and BPDUs with some bytes changed: never a panic, and times are always in range.
        #[test]
        fn any_bytes_are_read_or_refused(
            bpdu in any_bpdu(),
            changes in prop::collection::vec((14..MAX_FRAME, any::<u8>()), 0..8),
            length in any::<u16>(), random in prop::collection::vec(any::<u8>(), 0..80), cut in 0..=MAX_FRAME,
        ) {
            let mut frame = [0; MAX_FRAME];
            bpdu.write(MAC, &mut frame);
            changes.iter().for_each(|&(at, value)| frame[at] = value);
            let _ = Bpdu::parse(length, &random);
            let _ = Bpdu::parse(length, &frame[cut..]);
            if let Some(Bpdu::Config { times, .. } | Bpdu::Rapid { times, .. }) = parse(&frame) {
                prop_assert!((6..=40).contains(&times.max_age) && (4..=30).contains(&times.forward_delay));
                prop_assert!((1..=10).contains(&times.hello) && times.message_age <= 256);
            }
        }
    }
}
