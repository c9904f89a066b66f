//! What a port counts. The sums balance: what came in was forwarded, consumed or dropped for one reason, and what was to go
//! out was sent or dropped for one reason.

/// Why a frame that came in went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Drop {
    /// The port is down, or shut by BPDU guard.
    PortDown,
    /// It ends before its EtherType.
    Runt,
    /// It is longer than the port's MTU allows.
    Oversize,
    /// Its source is a group or nobody.
    BadSource,
    /// The port is the destination of a mirror, which takes nothing in.
    MirrorPort,
    /// More than the port's rate.
    RateLimit,
    /// To an address that bridges do not forward.
    Reserved,
    /// A BPDU that is none, or more of them than anyone has to send.
    BadBpdu,
    /// Tagged on a port that takes no tags, or the other way round.
    NotAdmitted,
    /// VLAN 4095.
    ReservedVlan,
    /// A second tag where none may be.
    DoubleTag,
    /// In a VLAN that the port is not in.
    NotAMember,
    /// The spanning tree does not forward on the port.
    Blocked,
    /// Its source is not the station that the port may have.
    SpoofedMac,
    /// Its IP or ARP sender is not the port's.
    SpoofedIp,
    /// A DHCP server's answer or a router's advertisement from a port that may have neither.
    Rogue,
    /// From a station above the port's limit.
    MacLimit,
    /// More to stations, groups or all than storm control lets through.
    Storm,
    /// The destination is where it came from.
    SamePort,
    /// No port was there to take it.
    NoDestination,
    /// What is left to be done to it (a checksum, segments) makes no sense for it.
    BadOffload,
    /// A message about groups that is none, or more of them than anyone has to send.
    BadGroupMessage,
}

/// Why a frame that was to go out of a port did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum EgressDrop {
    /// Longer than the port's MTU allows.
    TooLong,
    /// Without its outer tag it would be in another VLAN.
    DoubleTag,
    /// More than the port's rate.
    RateLimit,
    /// The port's own queue was full.
    QueueFull,
}

/// Numbers for each of `N` reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasons<const N: usize>([u64; N]);

impl<const N: usize> Default for Reasons<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Reasons<N> {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Reasons<22> {
    /// How many frames for this reason.
    pub fn get(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }

    pub(crate) fn count(&mut self, reason: Drop) {
        self.0[reason as usize] += 1;
    }
}

impl Reasons<4> {
    /// How many frames for this reason.
    pub fn get(&self, reason: EgressDrop) -> u64 {
        self.0[reason as usize]
    }

    pub(crate) fn count(&mut self, reason: EgressDrop) {
        self.0[reason as usize] += 1;
    }
}

/// A port's counters, since it was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that came in.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Those that went out of at least one other port.
    pub forwarded: u64,
    /// Those that the switch took for itself: BPDUs.
    pub consumed: u64,
    /// Those that went nowhere.
    pub dropped: Reasons<22>,
    /// Frames that were to go out of the port.
    pub offered: u64,
    /// Those that did.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Those that did not.
    pub egress_dropped: Reasons<4>,
    /// Frames of the switch itself that were sent.
    pub originated: u64,
    /// Copies that were sent for a mirror.
    pub mirrored: u64,
    /// Stations that moved to this port from another.
    pub moves: u64,
    /// Frames from stations that have a static entry on another port.
    pub static_conflicts: u64,
}

impl PortCounters {
    /// Whether the sums are right.
    pub fn balance(&self) -> bool {
        self.received == self.forwarded + self.consumed + self.dropped.total()
            && self.offered == self.sent + self.egress_dropped.total()
    }
}
