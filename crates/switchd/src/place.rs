//! Where the control sockets of switches are.

use std::path::{Path, PathBuf};

use crate::Error;

const PREFIX: &str = "switch-";
const SUFFIX: &str = ".sock";

/// Checks the name of a switch or a port.
pub fn check_name(name: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err(Error::Name(name.chars().take(80).collect()))
    }
}

/// The folder of this user's sockets: /run/ostler for root.
pub fn runtime_folder() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/run/ostler".into());
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty())?;
    Some(Path::new(&folder).join("ostler"))
}

/// The control socket of the switch called `name`. A name with a slash is the path itself.
pub fn control_path(name: &str) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(name.into());
    }
    check_name(name)?;
    let folder = runtime_folder().ok_or_else(|| Error::NoFolder(name.into()))?;
    control_path_in(&folder, name)
}

/// The same where the folder of sockets is said.
pub fn control_path_in(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(name.into());
    }
    check_name(name)?;
    Ok(folder.join(format!("{PREFIX}{name}{SUFFIX}")))
}

/// The names of the switches that have a socket in that folder, whether they answer or not.
pub fn switches_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).ok();
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.to_owned())
        })
        .collect();
    names.sort();
    names
}
