//! Disks and CD-ROM drives.

use std::path::PathBuf;

use ostler_libvirt_xml::domain as xml;

use super::Lacks;

/// Longest serial number that a guest can see.
const MAX_SERIAL: usize = 20;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The name of the device of a guest that runs.
    pub alias: String,
    /// What holds its bytes; none in a CD-ROM drive that is empty.
    pub image: Option<Image>,
    /// The name that clients call it by.
    pub target: String,
    /// The serial number that the guest sees.
    pub serial: String,
    /// On the SATA controller, not a PCI device of its own.
    pub sata: bool,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// The guest may only read.
    pub readonly: bool,
    /// The host's page cache is passed by.
    pub direct: bool,
}

/// What holds the bytes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// A volume of a pool, which is looked for when the guest starts.
    Volume {
        /// The pool's name.
        pool: String,
        /// Its own name.
        volume: String,
    },
}

/// Virtio disks in their order, then SATA drives in that of their ports.
pub(super) fn read(model: &xml::Domain) -> Result<Vec<Disk>, Lacks> {
    let mut disks: Vec<&xml::Disk> = model.devices.disks.iter().collect();
    disks.sort_by_key(|disk| match disk.bus {
        xml::DiskBus::Virtio => None,
        xml::DiskBus::Sata { port } => Some(port),
    });
    disks.into_iter().map(disk).collect()
}

fn disk(disk: &xml::Disk) -> Result<Disk, Lacks> {
    let lacks = |what: &str| Err(format!("the disk '{}' cannot be: {what}", disk.target));
    let image = match &disk.source {
        Some(xml::DiskSource::File(path)) => Some(Image::File(path.into())),
        Some(xml::DiskSource::Block(path)) => Some(Image::Block(path.into())),
        Some(xml::DiskSource::Volume { pool, volume }) => Some(Image::Volume {
            pool: pool.clone(),
            volume: volume.clone(),
        }),
        None => None,
    };
    if disk.shareable && !disk.readonly {
        return lacks("an image that is written to has one guest, it cannot be <shareable>");
    }
    if disk.limited {
        return lacks("its speed cannot be limited by <iotune>");
    }
    if disk.detect_zeroes {
        return lacks("zeroes are written as they come, detect_zeroes has to be 'off'");
    }
    let direct = match disk.cache {
        xml::Cache::None => true,
        // Flushes reach the disk more often than they would have to.
        xml::Cache::Writeback | xml::Cache::Unsafe => false,
        xml::Cache::Writethrough | xml::Cache::Directsync => {
            return lacks(
                "writes are flushed when the guest says so, the cache cannot be 'writethrough' or 'directsync'",
            );
        }
    };
    let mut serial = disk.serial.clone();
    if serial.is_empty() {
        serial = disk.target.clone();
    }
    serial.truncate(MAX_SERIAL);
    Ok(Disk {
        alias: disk.common.alias.clone().unwrap_or_default(),
        image,
        target: disk.target.clone(),
        serial,
        sata: matches!(disk.bus, xml::DiskBus::Sata { .. }),
        cdrom: disk.device == xml::DiskDevice::Cdrom,
        readonly: disk.readonly,
        direct,
    })
}
