//! Pictures of a guest's screen.

use std::fs::File;
use std::os::fd::AsFd;

use ostler_libvirt::{Code, RemoteError};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;

use super::Control;

/// A picture of what is on the screen, as PNG: a file in memory. `number` is that of nothing that was plugged in.
pub fn picture(control: &Control, number: u32) -> Result<File, RemoteError> {
    let failed = |why: String| RemoteError::new(Code::OperationFailed, why);
    let file = memfd_create("screen", MemfdFlags::CLOEXEC).map(File::from);
    let file = file.map_err(|error| failed(format!("no memory for a picture: {error}")))?;
    let set = json!({ "fdset-id": number, "opaque": "screen" });
    control
        .execute_with_fd("add-fd", set, file.as_fd())
        .map_err(|error| failed(error.to_string()))?;
    let dump = json!({ "filename": format!("/dev/fdset/{number}"), "format": "png" });
    let taken = control.execute_with("screendump", dump);
    // The set is for the hand-over only, whatever came of it.
    let _ = control.execute_with("remove-fd", json!({ "fdset-id": number }));
    taken.map_err(|error| failed(error.to_string()))?;
    Ok(file)
}
