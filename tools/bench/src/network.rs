//! A network namespace with a tap in it, which every guest of the benchmark uses in turn.

use std::process::Command;

use rustix::thread::UnshareFlags;

/// The tap.
pub(crate) const TAP: &str = "tap0";
/// The host's address on it.
pub(crate) const HOST: &str = "10.98.0.1";
/// The guest's.
pub(crate) const GUEST: &str = "10.98.0.2";

/// Moves this thread, and what it starts from now on, into a namespace with the tap; says why where that cannot be.
pub(crate) fn enter() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a network namespace needs root".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Err("/dev/net/tun is missing".into());
    }
    // SAFETY: only the network namespace changes, and this thread is still the only one.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|e| format!("no network namespace: {e}"))?;
    for line in [
        "link set lo up".into(),
        format!("tuntap add dev {TAP} mode tap"),
        format!("address add {HOST}/24 dev {TAP}"),
        format!("link set {TAP} up"),
    ] {
        match Command::new("ip").args(line.split(' ')).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return Err(format!(
                    "ip {line}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
            }
            Err(error) => return Err(format!("ip {line}: {error}")),
        }
    }
    Ok(())
}
