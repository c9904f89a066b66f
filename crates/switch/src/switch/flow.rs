//! What was decided of the frame before: frames of a batch that follow each other from one station to another go where the first one
//! went.
//!
//! It holds only as long as nothing else happens: within one batch, and up to the next frame that is not of the flow. Whatever
//! changes a decision (another station that is heard, a BPDU, the clock, a command) comes in between.

use super::ingress::Transit;
use crate::port_set::PortIndex;
use crate::vlan::VlanId;
use crate::{Frame, Mac, Tci};

/// Frames between two stations, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    destination: Mac,
    source: Mac,
    tag: Option<Tci>,
    ether_type: u16,
    pub vlan: VlanId,
    pub to: PortIndex,
}

impl Flow {
    /// The flow of a frame that goes to one port.
    pub fn of(transit: &Transit<'_>, vlan: VlanId, to: PortIndex) -> Self {
        let frame = &transit.frame;
        Self {
            destination: frame.destination,
            source: frame.source,
            tag: frame.tag,
            ether_type: frame.ether_type,
            vlan,
            to,
        }
    }

    /// Whether a frame is of it.
    pub fn has(&self, frame: &Frame<'_>) -> bool {
        self.destination == frame.destination
            && self.source == frame.source
            && self.tag == frame.tag
            && self.ether_type == frame.ether_type
    }
}
