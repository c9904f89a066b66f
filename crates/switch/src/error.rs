//! What can be wrong with a configuration.

use crate::{Mac, PortIndex, VlanId};

/// A request that the switch refuses. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an address.
    #[error("`{0}` is no MAC address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")]
    MacText(String),
    /// A VLAN number out of range.
    #[error("VLAN {0} does not exist; VLANs are numbered 1 to 4094")]
    Vlan(u32),
    /// A VLAN list that cannot be read.
    #[error("`{0}` is no list of VLANs; write numbers and ranges with commas, such as 1,10-20")]
    VlanText(String),
    /// A port that is not there.
    #[error("the switch has no port {0}; list the ports to see their numbers")]
    NoPort(PortIndex),
    /// All port numbers are taken.
    #[error("the switch has {0} ports already, and no more fit; remove one first")]
    Full(usize),
    /// A number outside its range.
    #[error("{what} is {value}; it must be {least} to {most}")]
    Range {
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The smallest value that works.
        least: u64,
        /// The largest value that works.
        most: u64,
    },
    /// A number that is not a multiple of its step.
    #[error("{what} is {value}; it must be a multiple of {step}")]
    Step {
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The step.
        step: u64,
    },
    /// Spanning-tree times that do not fit together (802.1D-2004, 17.14).
    #[error(
        "max age {max_age} s, hello time {hello} s and forward delay {forward_delay} s do not fit together; \
         2 x (forward delay - 1) must be at least max age, and max age at least 2 x (hello time + 1)"
    )]
    Times {
        /// In seconds.
        max_age: u8,
        /// In seconds.
        hello: u8,
        /// In seconds.
        forward_delay: u8,
    },
    /// A static FDB entry for a group.
    #[error("{0} is the address of a group or of nobody; an entry needs the address of one station")]
    NotAStation(Mac),
    /// A static FDB entry in a VLAN that the port is not in.
    #[error("port {port} is not in VLAN {vlan}; add it to the VLAN first")]
    NotAMember {
        /// The port.
        port: PortIndex,
        /// The VLAN.
        vlan: VlanId,
    },
    /// A PVID that the port would not send untagged.
    #[error("the PVID {0} is not among the VLANs of the port; add it")]
    PvidOutside(VlanId),
    /// A VLAN that is both tagged and untagged.
    #[error("VLAN {0} is both tagged and untagged on the port; choose one")]
    BothWays(VlanId),
    /// A mirror that would feed itself.
    #[error("port {0} cannot be mirrored to itself; choose another destination")]
    MirrorLoop(PortIndex),
    /// Reserved addresses that are never forwarded.
    #[error(
        "01:80:c2:00:00:0{0:x} cannot be forwarded; the switch answers it itself, or it concerns one link only"
    )]
    NeverForwarded(u8),
    /// No room for another static entry.
    #[error(
        "the forwarding table holds {0} static entries and has no room for another; remove one or enlarge the table"
    )]
    FdbFull(usize),
    /// No such static entry.
    #[error("there is no entry for {mac} in VLAN {vlan}")]
    NoEntry {
        /// The address.
        mac: Mac,
        /// The VLAN.
        vlan: VlanId,
    },
}
