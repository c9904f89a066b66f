//! Whether the host passes packets of IPv4 on from one interface to another.

use std::fs;

use crate::Error;

/// Of the network namespace of the thread that opens it.
const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Switches it on, if it is off. Nobody switches it off again: others may have come to rely on it.
pub(super) fn switch_on() -> Result<(), Error> {
    let failed = || Error::io(format!("switching on the forwarding of packets in {SWITCH}"));
    let now = fs::read_to_string(SWITCH).map_err(failed())?;
    // Writing it resets settings of every interface, even where it changes nothing.
    if now.trim() == "0" {
        fs::write(SWITCH, "1\n").map_err(failed())?;
    }
    Ok(())
}
