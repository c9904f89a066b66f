//! Disks and CD-ROM drives: `<disk>`.

use super::Common;
use crate::error::shorten;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured(
        "@type",
        "file|block|volume",
        "a file, a block device, a volume of a pool",
    ),
    refused(
        "@type",
        "network|nvme|vhostuser|vhostvdpa|dir",
        "there is no such back end",
    ),
    honoured("@device", "disk|cdrom", ""),
    refused("@device", "floppy|lun", "there is no such drive"),
    honoured("@model", "virtio|virtio-non-transitional", "virtio 1"),
    refused("@model", "virtio-transitional", "there is no legacy virtio"),
    kept("@rawio", "no", ""),
    refused("@rawio", "yes", "SCSI commands are not passed on"),
    kept("@sgio", "filtered", ""),
    refused("@sgio", "unfiltered", "SCSI commands are not passed on"),
    kept(
        "@snapshot",
        "internal|external|no|manual",
        "a client's wish for its snapshots",
    ),
    honoured("driver@name", "qemu", ""),
    refused("driver@name", "", "there is no such back end"),
    honoured("driver@type", "raw", "never guessed from the image"),
    refused("driver@type", "", "images have to be raw"),
    honoured(
        "driver@cache",
        "default|none|writeback|writethrough|directsync|unsafe",
        "whether the host's page cache is used, and when writes count as done",
    ),
    kept(
        "driver@error_policy",
        "stop|report|ignore|enospace",
        "errors are reported to the guest",
    ),
    kept(
        "driver@rerror_policy",
        "stop|report|ignore",
        "errors are reported to the guest",
    ),
    honoured(
        "driver@io",
        "native|threads|io_uring",
        "a wish; the best engine there is is taken",
    ),
    kept("driver@copy_on_read", "off", ""),
    refused("driver@copy_on_read", "on", "there are no backing files"),
    honoured(
        "driver@discard",
        "ignore|unmap",
        "whether discards reach the image",
    ),
    kept("driver@discard_no_unref", "", ""),
    honoured(
        "driver@detect_zeroes",
        "off|on|unmap",
        "whether zeroes are written as holes",
    ),
    kept(
        "driver@{iothread,queues}",
        "",
        "each queue has a worker of its own",
    ),
    kept("driver/{iothreads,metadata_cache}", "", "").whole(),
    honoured(
        "source@{file,dev,pool,volume}",
        "",
        "where the image is; a CD-ROM drive may be empty",
    ),
    kept(
        "source@startupPolicy",
        "mandatory|requisite|optional",
        "a missing image is an error",
    ),
    kept("source@mode", "host|direct", "of pools of other types"),
    kept("source@{index,fdgroup}", "", "given anew when a guest starts"),
    kept("source/seclabel", "", "files keep the labels that they have").whole(),
    refused("source/encryption", "", "images are not encrypted"),
    refused(
        "source/{slices,reservations,privateData,cookies,auth,ssl,host}",
        "",
        "there is no such back end",
    ),
    kept("backingStore", "", "a raw image has none").whole(),
    refused("mirror", "", "of a guest that runs elsewhere"),
    honoured(
        "target@dev",
        "",
        "orders the disks of a bus, and names them for clients",
    ),
    honoured("target@bus", "virtio|sata", ""),
    refused(
        "target@bus",
        "ide|scsi|usb|fdc|xen|sd|uml|nvme",
        "there is no such bus",
    ),
    kept("target@tray", "open|closed", "of a guest that runs"),
    refused("target@removable", "on", "of USB disks"),
    kept("target@removable", "off", ""),
    kept("target@rotation_rate", "", "no disk shows one"),
    honoured(
        "iotune/{total_bytes_sec,read_bytes_sec,write_bytes_sec,total_iops_sec,read_iops_sec,write_iops_sec}",
        "",
        "limits, a second",
    ),
    kept("iotune", "", "bursts and groups are not limited").whole(),
    kept(
        "blockio@{logical_block_size,physical_block_size,discard_granularity}",
        "",
        "sectors have 512 bytes",
    ),
    refused("geometry", "", "the guest is shown no geometry"),
    honoured("readonly", "", ""),
    honoured("shareable", "", "several guests may have the image"),
    refused("transient", "", "changes are not thrown away at the end"),
    honoured("serial", "", "at most 20 characters are shown"),
    kept("wwn", "", "no disk shows one"),
    kept("vendor", "", "of SCSI disks"),
    kept("product", "", "of SCSI disks"),
    refused("encryption", "", "images are not encrypted"),
    refused("auth", "", "there is no such back end"),
];

pub(crate) const FAMILY: Family = Family::device("devices/disk", ROWS);

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What all devices have.
    pub common: Common,
    /// Disk or CD-ROM drive.
    pub device: DiskDevice,
    /// Where its bytes are; `None` for an empty CD-ROM drive.
    pub source: Option<DiskSource>,
    /// What it is connected to.
    pub bus: DiskBus,
    /// Its name for clients: `vda`.
    pub target: String,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether other guests may have it too.
    pub shareable: bool,
    /// Serial number that the guest sees.
    pub serial: String,
    /// How the host's page cache is used.
    pub cache: Cache,
    /// The engine that is wished for.
    pub io: Option<Io>,
    /// Whether discards reach the image.
    pub discard: bool,
    /// Whether zeroes are written as holes.
    pub detect_zeroes: bool,
    /// Whether its speed is limited (`<iotune>`).
    pub limited: bool,
}

/// Kinds of drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// Where a disk's bytes are. Images are raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file of this path.
    File(String),
    /// A block device of this path.
    Block(String),
    /// A volume.
    Volume {
        /// Name of its pool.
        pool: String,
        /// Its name there.
        volume: String,
    },
}

/// What a disk is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// A PCI device of its own.
    Virtio,
    /// The SATA controller; the drive's `unit` says which port.
    Sata {
        /// Number of the port.
        port: u32,
    },
}

/// How the host's page cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Used; the guest's flushes are honoured.
    Writeback,
    /// Not used (O_DIRECT); the guest's flushes are honoured.
    None,
    /// Used; each write is flushed.
    Writethrough,
    /// Not used; each write is flushed.
    Directsync,
    /// Used; the guest's flushes are not honoured.
    Unsafe,
}

/// Engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// Linux AIO.
    Native,
    /// Threads.
    Threads,
    /// io_uring.
    IoUring,
}

/// The driver, and the bus that a target's name stands for. Targets are named in `fill::names`.
pub(crate) fn fill(disk: &mut Element) -> Result<(), Error> {
    disk.set_default("type", "file");
    disk.set_default("device", "disk");
    if disk.get("device") == Some("cdrom") {
        disk.child_or_new("readonly");
    }
    let empty = disk.get("device") == Some("cdrom")
        && disk
            .child("source")
            .is_none_or(|source| ["file", "dev"].iter().all(|name| source.get(name) == Some("")));
    if empty {
        disk.remove_elements(|element| element.name == "source");
    }
    let driver = disk.child_or_new("driver");
    driver.set_default("name", "qemu");
    driver.set_default("type", "raw");
    let cdrom = disk.get("device") == Some("cdrom");
    let target = disk.child_or_new("target");
    if target.get("bus").is_none() {
        let dev = target.get("dev").unwrap_or_default();
        let bus = match dev.get(..2) {
            Some("vd") => "virtio",
            Some("sd" | "hd") => "sata",
            None if cdrom => "sata",
            None => "virtio",
            _ => {
                return Err(Error::Xml(format!(
                    "no bus follows from the disk target '{}' (line {})",
                    shorten(dev),
                    target.line
                )));
            }
        };
        target.set("bus", bus);
    }
    Ok(())
}

impl Disk {
    pub(crate) fn read(disk: &Element) -> Result<Self, Error> {
        let target = disk.child_get("target", "dev").unwrap_or_default().to_owned();
        if !is_target(&target) {
            return Err(Error::Xml(format!(
                "Invalid harddisk device name: {} (line {})",
                shorten(&target),
                disk.line
            )));
        }
        let cdrom = disk.get("device") == Some("cdrom");
        let source = DiskSource::read(disk, &target)?;
        if source.is_none() && !cdrom {
            return Err(Error::NoSource(target));
        }
        let driver = disk.child("driver");
        let driver = |name: &str| driver.and_then(|driver| driver.get(name));
        let sata = disk.child_get("target", "bus") == Some("sata");
        if cdrom && !sata {
            return Err(Error::Unsupported(format!(
                "disk '{}': a CD-ROM drive needs the bus sata (line {})",
                target, disk.line
            )));
        }
        let serial = disk.child_text("serial").unwrap_or_default();
        if !serial.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err(Error::Xml(format!(
                "driver serial '{}' contains unsafe characters",
                shorten(&serial)
            )));
        }
        Ok(Self {
            common: Common::read(disk)?,
            device: if cdrom {
                DiskDevice::Cdrom
            } else {
                DiskDevice::Disk
            },
            source,
            bus: if sata {
                DiskBus::Sata { port: port(disk)? }
            } else {
                DiskBus::Virtio
            },
            target,
            readonly: cdrom || disk.child("readonly").is_some(),
            shareable: disk.child("shareable").is_some(),
            serial,
            cache: match driver("cache") {
                Some("none") => Cache::None,
                Some("writethrough") => Cache::Writethrough,
                Some("directsync") => Cache::Directsync,
                Some("unsafe") => Cache::Unsafe,
                _ => Cache::Writeback,
            },
            io: match driver("io") {
                Some("native") => Some(Io::Native),
                Some("threads") => Some(Io::Threads),
                Some("io_uring") => Some(Io::IoUring),
                _ => None,
            },
            discard: driver("discard") == Some("unmap"),
            detect_zeroes: matches!(driver("detect_zeroes"), Some("on" | "unmap")),
            limited: disk
                .child("iotune")
                .is_some_and(|tune| tune.elements().any(|limit| limit.text() != "0")),
        })
    }

    /// Place among what the guest boots from, from 1.
    pub fn boot_order(&self) -> Option<u32> {
        self.common.boot_order
    }
}

impl DiskSource {
    fn read(disk: &Element, target: &str) -> Result<Option<Self>, Error> {
        let Some(source) = disk.child("source") else {
            return Ok(None);
        };
        let part = |name: &str| {
            source
                .get(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let found = match disk.get("type") {
            Some("block") => part("dev").map(Self::Block),
            Some("volume") => {
                let both = part("pool").zip(part("volume"));
                both.map(|(pool, volume)| Self::Volume { pool, volume })
            }
            _ => part("file").map(Self::File),
        };
        found.map(Some).ok_or_else(|| Error::NoSource(target.to_owned()))
    }
}

/// The port of a SATA drive.
fn port(disk: &Element) -> Result<u32, Error> {
    let Some(address) = disk.child("address") else {
        return Ok(0);
    };
    for name in ["controller", "bus", "target"] {
        if value::attribute::<u32>(address, name)?.unwrap_or(0) != 0 {
            return Err(Error::Unsupported(format!(
                "there is one SATA controller: {name} of a drive's address must be 0 (line {})",
                address.line
            )));
        }
    }
    Ok(value::attribute(address, "unit")?.unwrap_or(0))
}

/// Letters before the place of a disk: `vd`, `sd`, `hd`.
fn is_target(name: &str) -> bool {
    let rest = ["vd", "sd", "hd"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    rest.is_some_and(|rest| matches!(rest.len(), 1..=3) && rest.bytes().all(|b| b.is_ascii_lowercase()))
}
