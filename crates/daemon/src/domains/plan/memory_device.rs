//! Memory that comes and goes, and files that are memory.

use std::path::PathBuf;

use ostler_libvirt_xml::domain as xml;
use ostler_virtio::mem::block_size;
use ostler_vmm::spec::check_pmem_size;

use super::Lacks;

/// The id that a guest's process has for memory that comes and goes.
pub const ID: &str = "vmem0";

/// Memory that comes and goes. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDevice {
    /// The device's alias.
    pub alias: String,
    /// Most that there can be of it.
    pub size: u64,
    /// How much of it the guest is to have.
    pub requested: u64,
}

/// A file that is memory of the guest, and keeps what is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persistent {
    /// The device's alias.
    pub alias: String,
    /// The file, which is made if it is not there.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// What the guest writes is dropped.
    pub readonly: bool,
}

pub(super) fn pluggable(devices: &xml::Devices) -> Result<Option<MemoryDevice>, Lacks> {
    let mut found = None;
    for device in &devices.memories {
        let xml::MemoryKind::Pluggable { block, requested } = device.kind else {
            continue;
        };
        if found.is_some() {
            return Err("a guest has one <memory model='virtio-mem'> at most".into());
        }
        let least = block_size(device.size);
        if block < least || !device.size.is_multiple_of(least) {
            return Err(format!(
                "a <memory> of {} MiB comes and goes in blocks of {} MiB or more: its <block> has {} KiB",
                device.size >> 20,
                least >> 20,
                block >> 10
            ));
        }
        found = Some(MemoryDevice {
            alias: device.common.alias.clone().unwrap_or_default(),
            size: device.size,
            requested,
        });
    }
    Ok(found)
}

pub(super) fn persistent(devices: &xml::Devices) -> Result<Vec<Persistent>, Lacks> {
    let mut files = Vec::new();
    for device in &devices.memories {
        let xml::MemoryKind::Persistent { path, readonly } = &device.kind else {
            continue;
        };
        check_pmem_size(device.size).map_err(|error| format!("\"{path}\": {error}"))?;
        files.push(Persistent {
            alias: device.common.alias.clone().unwrap_or_default(),
            path: path.into(),
            size: device.size,
            readonly: *readonly,
        });
    }
    Ok(files)
}
