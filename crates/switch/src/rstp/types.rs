//! Identifiers, priority vectors and times (802.1D-2004, 9.2, 17.5, 17.6).

use std::fmt;

use crate::Mac;

/// A bridge identifier: priority (4 bits), extension (12 bits), address (802.1D-2004, 9.2.5). The lower is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u64);

impl BridgeId {
    /// The identifier of a bridge with that priority and address.
    pub fn new(priority: u16, mac: Mac) -> Self {
        Self(u64::from(priority) << 48 | mac.as_u64())
    }

    /// The priority with its extension.
    pub fn priority(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The address.
    pub fn mac(self) -> Mac {
        Mac::from_u64(self.0)
    }
}

impl fmt::Display for BridgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}.{}", self.priority(), self.mac())
    }
}

/// A port identifier: priority (4 bits), number (12 bits) (802.1D-2004, 9.2.7). The lower is the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The identifier of a port with that priority (a multiple of 16) and number.
    pub fn new(priority: u8, number: u16) -> Self {
        Self(u16::from(priority & 0xf0) << 8 | number & 0xfff)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0 & 0xfff
    }
}

/// A priority vector (802.1D-2004, 17.5) without the identifier of the receiving port. The lower is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// Who is root.
    pub root: BridgeId,
    /// What the path there costs.
    pub cost: u32,
    /// Who says so.
    pub bridge: BridgeId,
    /// On which of its ports.
    pub port: PortId,
}

impl Priority {
    /// Whether a message with this vector replaces what a port has (802.1D-2004, 17.6): it is better, or comes from the
    /// same port of the same bridge. One that is the same is superior too.
    pub fn is_superior_to(&self, of_port: &Self) -> bool {
        self < of_port
            || (self.bridge.mac() == of_port.bridge.mac() && self.port.number() == of_port.port.number())
    }
}

/// Times that go with a vector, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How old the information is.
    pub message_age: u16,
    /// How old it may become.
    pub max_age: u16,
    /// Between two BPDUs.
    pub hello: u16,
    /// In each of the states listening and learning.
    pub forward_delay: u16,
}

/// A port's role (802.1D-2004, 17.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Takes no part.
    #[default]
    Disabled,
    /// Leads to the root.
    Root,
    /// Leads away from it.
    Designated,
    /// Leads to the root by another way, and waits.
    Alternate,
    /// Leads to a segment that another port of this bridge serves already.
    Backup,
}

/// What a port does with frames (802.1D-2004, 17.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortState {
    /// Nothing.
    #[default]
    Discarding,
    /// It learns whom it hears.
    Learning,
    /// It learns and forwards.
    Forwarding,
}
