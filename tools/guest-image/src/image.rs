//! The standard image, and overlays to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Archive, ModuleTree};

/// The modules that the standard image loads: virtio devices, the power button and its events, and the device that hears
/// of a panic.
pub const STANDARD_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "button",
    "evdev",
    "pvpanic_mmio",
];

const INIT: &str = include_str!("../files/init");
const LEASE: &str = include_str!("../files/lease");
const POWER_BUTTON: &str = include_str!("../files/power-button");

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}; is the Debian package unpacked there?")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not exactly one kernel is unpacked.
    #[error("{path} holds {count} kernels; one is wanted")]
    KernelVersions {
        /// Where.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A module is missing.
    #[error("kernel {version} has no module named {name}")]
    NoModule {
        /// The module.
        name: String,
        /// The kernel.
        version: String,
    },
    /// A host made in software did not come about.
    #[error("cannot run a host made in software: {0}")]
    Host(io::Error),
    /// A host made in software did not end.
    #[error("the host made in software did not end within {limit:?}; its console showed:\n{console}")]
    HostTooSlow {
        /// How long it was given.
        limit: std::time::Duration,
        /// Its console.
        console: String,
    },
}

/// The image that boots to a shell, from packages unpacked at `root`; `extra` modules are loaded after the standard ones.
pub fn standard(root: &Path, extra: &[&str]) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::new();
    for directory in [
        "dev", "proc", "sys", "tmp", "mnt", "root", "run", "var/log", "var/run",
    ] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &read(&root.join("bin/busybox"))?);
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/lease", 0o755, LEASE.as_bytes());
    archive.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON.as_bytes());
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    let modules: Vec<&str> = STANDARD_MODULES.iter().chain(extra).copied().collect();
    add_modules(&mut archive, root, &modules)?;
    Ok(archive.finish())
}

/// An archive to append to the standard image: `script` as `/run.sh`, and `files` as (path in the guest, contents),
/// which become executable.
pub fn overlay(script: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("run.sh", 0o755, script.as_bytes());
    for (path, contents) in files {
        archive.file(path, 0o755, contents);
    }
    archive.finish()
}

fn add_modules(archive: &mut Archive, root: &Path, names: &[&str]) -> Result<(), Error> {
    let mut list = String::new();
    for path in ModuleTree::open(root)?.in_load_order(names)? {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        archive.file(&format!("lib/modules/{file}"), 0o644, &read(&path)?);
        list.push_str(&file);
        list.push('\n');
    }
    archive.file("etc/modules", 0o644, list.as_bytes());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
