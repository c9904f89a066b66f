//! The parent's part in a card at a switch: it connects, and connects again when the switch was restarted.

use std::os::fd::OwnedFd;

use ostler_switchd::cable::{Cable, port_name};
use ostler_switchd::config::{Edge, PortSpec};
use ostler_switchd::control_path;

use super::options::SwitchOption;
use crate::failure::Failure;

/// Connects card `index` of `guest` to the switch for the first time. The other value is the guest's end.
pub fn lay(option: &SwitchOption, guest: &str, index: usize) -> Result<(Cable, OwnedFd), Failure> {
    let control = control_path(&option.switch).map_err(Failure::bad_input)?;
    let port = PortSpec {
        name: option
            .port
            .clone()
            .unwrap_or_else(|| port_name(guest, &format!("net{index}"))),
        vlan: option.vlan,
        trunk: option.trunk.clone(),
        native: option.native,
        // A guest that bridges makes itself known by its BPDUs.
        edge: Edge::On,
        ..PortSpec::default()
    };
    Cable::lay(control, port).map_err(Failure::bad_input)
}
