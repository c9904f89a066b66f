//! The virtio devices that a specification asks for, in the order of their slots: disks, then the entropy source.

use std::fs::File;
use std::sync::Arc;

use ostler_disk::{Disk, RawDisk};
use ostler_virtio::block::{BlockDevice, BlockOptions};
use ostler_virtio::rng::RngDevice;
use ostler_virtio::{Platform, VirtioDevice, VirtioPci};

use crate::Error;
use crate::handoff::Descriptors;
use crate::spec::{DiskFormat, DiskSpec, GuestSpec};

/// Most queues of a block device; more than CPUs of the host bring nothing.
const MAX_BLOCK_QUEUES: u32 = 8;

/// A device with the name that users see.
pub(crate) struct NamedDevice {
    pub name: String,
    pub device: Arc<VirtioPci>,
}

/// Makes all devices, not running yet.
pub(crate) fn build(
    spec: &GuestSpec,
    descriptors: &Descriptors,
    platform: &Platform,
) -> Result<Vec<NamedDevice>, Error> {
    let mut devices = Vec::new();
    let mut add = |name: String, device: Box<dyn VirtioDevice>| -> Result<(), Error> {
        let device = VirtioPci::new(device, platform).map_err(|e| Error::part(name.clone(), e))?;
        devices.push(NamedDevice { name, device });
        Ok(())
    };
    for (index, disk) in spec.disks.iter().enumerate() {
        let name = format!("disk{index}");
        let back = open_disk(disk, descriptors).map_err(|e| Error::part(name.clone(), e))?;
        let queues = spec.cpus.min(MAX_BLOCK_QUEUES) as u16;
        let options = BlockOptions {
            serial: disk.serial.clone(),
            queues,
        };
        add(name, Box::new(BlockDevice::new(back, &options)))?;
    }
    if spec.rng {
        add("rng".into(), Box::new(RngDevice::new()))?;
    }
    Ok(devices)
}

fn open_disk(
    spec: &DiskSpec,
    descriptors: &Descriptors,
) -> Result<Arc<dyn Disk>, Box<dyn std::error::Error + Send + Sync>> {
    let file = File::from(descriptors.duplicate(spec.file)?);
    match spec.format {
        DiskFormat::Raw => Ok(Arc::new(RawDisk::new(file)?)),
    }
}
