//! Pools that are a file system: mounted when they start, by the host's `mount`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::{Pool as Definition, PoolType};

use super::failed;

/// Most bytes of what a program complains of that a client is told.
const COMPLAINT: usize = 400;

/// Mounts what the pool is, if it has to be.
pub fn mount(definition: &Definition) -> Result<(), RemoteError> {
    if definition.kind != PoolType::Fs {
        return Ok(());
    }
    let target = &definition.target;
    let device = definition.devices.first().map(String::as_str).unwrap_or_default();
    if !device.starts_with('/') {
        let why = format!("'{device}' is no path of a device");
        return Err(failed(Code::Xml, why));
    }
    if is_mounted(target) {
        let why = format!("something is mounted at \"{target}\" already");
        return Err(failed(Code::OperationInvalid, why));
    }
    let format = definition.format.as_deref().unwrap_or("auto");
    run("mount", &["-t", format, "--", device, target])
}

/// Takes away what was mounted for the pool.
pub fn unmount(definition: &Definition) -> Result<(), RemoteError> {
    match definition.kind {
        PoolType::Fs if is_mounted(&definition.target) => run("umount", &["--", &definition.target]),
        _ => Ok(()),
    }
}

/// An error if what has to be mounted is not.
pub fn check(definition: &Definition) -> Result<(), RemoteError> {
    match definition.kind {
        PoolType::Fs if !is_mounted(&definition.target) => Err(failed(
            Code::OperationInvalid,
            format!("nothing is mounted at \"{}\"", definition.target),
        )),
        _ => Ok(()),
    }
}

/// True if a folder is on another file system than the one above it.
fn is_mounted(folder: &str) -> bool {
    let device = |path: &Path| path.metadata().map(|meta| meta.dev());
    let path = Path::new(folder);
    let above = path.parent().map(device);
    match (device(path), above) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), RemoteError> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(super::refused(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
    let end = said.char_indices().map(|(at, _)| at).nth(COMPLAINT);
    said.truncate(end.unwrap_or(said.len()));
    Err(failed(
        Code::OperationFailed,
        format!("{program} {} failed: {}", arguments.join(" "), said.trim()),
    ))
}
