//! Devices of the host, as the kernel shows them in /sys, and what the firmware says of the host. Nothing is changed here.

mod dmi;
mod scan;
mod watch;

pub use watch::DeviceEvents;

use std::path::Path;

use ostler_libvirt::error::Source;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::node_device::NodeDevice;

/// Where the kernel shows devices.
const SYS: &str = "/sys";

/// All devices that there are now.
pub fn all() -> Vec<NodeDevice> {
    scan::devices(Path::new(SYS))
}

fn failed(why: String) -> RemoteError {
    RemoteError::new(Code::OperationFailed, why).of(Source::NodeDevice)
}

/// The device of this name.
pub fn by_name(name: &str) -> Result<NodeDevice, RemoteError> {
    let found = all().into_iter().find(|device| device.name == name);
    found.ok_or_else(|| {
        let why = format!("no node device with matching name '{name}'");
        RemoteError::new(Code::NoNodeDevice, why).of(Source::NodeDevice)
    })
}

/// What the firmware says of the host, as `<sysinfo>`; `None` if it says nothing.
pub fn sysinfo() -> Option<String> {
    dmi::sysinfo(Path::new(SYS))
}
