//! Whether the host passes packets on from one interface to another.

use std::fs;
use std::path::Path;

use crate::Error;

/// Of the network namespace of the thread that opens it, as all of these are.
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

/// Settings of IPv6, by interface.
const SETTINGS6: &str = "/proc/sys/net/ipv6/conf";

/// The same for IPv6. An interface that hears routers hears them no more when the host is one, unless it is told to: it is, so that the
/// host keeps its own way out. `bridge` is no such interface.
pub(super) fn switch_on6(bridge: &str) -> Result<(), Error> {
    let settings = Path::new(SETTINGS6);
    let switch = settings.join("all/forwarding");
    let failed = || {
        Error::io(format!(
            "switching on the forwarding of packets in {}",
            switch.display()
        ))
    };
    let now = fs::read_to_string(&switch).map_err(failed())?;
    if now.trim() != "0" {
        return Ok(());
    }
    for entry in fs::read_dir(settings).map_err(failed())?.flatten() {
        let name = entry.file_name();
        let heard = entry.path().join("accept_ra");
        let general = name == "all" || name == "default" || name == bridge;
        if !general && fs::read_to_string(&heard).is_ok_and(|text| text.trim() == "1") {
            fs::write(&heard, "2\n").map_err(failed())?;
        }
    }
    fs::write(&switch, "1\n").map_err(failed())
}

/// Has the host believe no routers behind an interface, and make no addresses of what they say.
pub(super) fn hear_no_routers(name: &str) -> Result<(), Error> {
    for setting in ["accept_ra", "autoconf"] {
        let path = Path::new(SETTINGS6).join(name).join(setting);
        fs::write(&path, "0\n").map_err(Error::io(format!("writing {}", path.display())))?;
    }
    Ok(())
}
