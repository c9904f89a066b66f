//! The devices that a specification asks for: those of virtio in the order of their slots (disks, network cards, console,
//! entropy), and the SATA controller with its drives.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use ostler_ahci::{Ahci, DriveKind, DriveOptions};
use ostler_disk::{Disk, RawDisk};
use ostler_netio::{NetBackend, OpenTap, SocketNet, Tap};
use ostler_virtio::block::{BlockControl, BlockDevice, BlockOptions};
use ostler_virtio::console::{ConsoleControl, ConsoleDevice, PortOptions, WindowSize};
use ostler_virtio::net::{NetControl, NetDevice, NetOptions};
use ostler_virtio::rng::RngDevice;
use ostler_virtio::{DeviceMetrics, Platform, VirtioDevice, VirtioPci};

use crate::Error;
use crate::console::{Console, PortStream};
use crate::handoff::Descriptors;
use crate::spec::{
    self, AcceleratorSpec, ConsoleSpec, DiskBus, DiskDevice, DiskFormat, DiskSpec, GuestSpec, Slot,
};

/// Most queues of a disk, and most queue pairs of a network card; more than CPUs of the host bring nothing.
const MAX_QUEUES: u32 = 8;
/// Size of a terminal until someone tells a better one.
const DEFAULT_WINDOW: WindowSize = WindowSize {
    columns: 80,
    rows: 24,
};

/// A device with the name that users see.
#[derive(Clone)]
pub(crate) struct NamedDevice {
    pub name: String,
    pub device: Arc<VirtioPci>,
    pub part: Part,
}

/// What management reaches of a device, by its kind.
#[derive(Clone)]
pub(crate) enum Part {
    Disk(DiskPart),
    Net(NetPart),
    Console,
    Rng,
}

/// Of a disk.
#[derive(Clone)]
pub(crate) struct DiskPart {
    pub image: OpenDisk,
    pub control: BlockControl,
}

/// Of a network card.
#[derive(Clone)]
pub(crate) struct NetPart {
    pub backend: Arc<dyn NetBackend>,
    pub control: NetControl,
    /// "tap" or "socket".
    pub kind: &'static str,
}

/// A drive of the SATA controller.
#[derive(Clone)]
pub(crate) struct SataDrive {
    pub name: String,
    pub kind: DriveKind,
    pub image: OpenDisk,
    pub metrics: Arc<DeviceMetrics>,
}

/// The SATA controller and its drives, in the order of its ports.
pub(crate) struct Sata {
    pub controller: Arc<Ahci>,
    pub drives: Vec<SataDrive>,
}

/// All devices of a guest.
pub(crate) struct Devices {
    pub list: Vec<NamedDevice>,
    /// Only where there are drives for it.
    pub sata: Option<Sata>,
    /// Of the virtio console, if there is one.
    pub console: Option<ConsoleControl>,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Makes all devices, not running yet. `console` is what the virtio console is connected to.
pub(crate) fn build(
    spec: &GuestSpec,
    descriptors: &Descriptors,
    platform: &Platform,
    console: &Arc<Console>,
) -> Result<Devices, Error> {
    let mut list = Vec::new();
    let mut console_control = None;
    let mut drives = Vec::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let name = format!("disk{index}");
        let opened = open_disk(disk, descriptors).map_err(|e| Error::part(name.clone(), e))?;
        match (disk.bus, disk.device) {
            (DiskBus::Virtio, _) => list.push(make_disk(name, opened, queues(spec.cpus), platform)?),
            (DiskBus::Sata, DiskDevice::Disk) => drives.push((name, DriveKind::Disk, opened)),
            (DiskBus::Sata, DiskDevice::Cdrom) => drives.push((name, DriveKind::Cdrom, opened)),
        }
    }
    for (index, net) in spec.nets.iter().enumerate() {
        let name = format!("net{index}");
        let back = open_net(&net.backend, &spec.accelerator, descriptors)
            .map_err(|e| Error::part(name.clone(), e))?;
        let kind = match net.backend {
            spec::NetBackend::Tap { .. } => "tap",
            spec::NetBackend::Socket { .. } => "socket",
        };
        let options = NetOptions {
            mac: net.mac.0,
            pairs: queues(spec.cpus),
        };
        list.push(make_net(name, (back, kind), options, platform)?);
    }
    if spec.console != ConsoleSpec::None {
        let (device, control) = open_console(console).map_err(|e| Error::part("the virtio console", e))?;
        list.push(place(
            "console".into(),
            Box::new(device),
            Part::Console,
            platform,
        )?);
        console_control = Some(control);
    }
    if spec.rng {
        list.push(make_rng("rng".into(), platform)?);
    }
    Ok(Devices {
        list,
        sata: make_sata(drives, platform)?,
        console: console_control,
    })
}

/// Queues of a disk, or pairs of a network card, for so many CPUs.
pub(crate) fn queues(cpus: u32) -> u16 {
    cpus.min(MAX_QUEUES) as u16
}

/// Puts `device` behind a PCI function.
fn place(
    name: String,
    device: Box<dyn VirtioDevice>,
    part: Part,
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let device = VirtioPci::new(device, platform).map_err(|e| Error::part(name.clone(), e))?;
    Ok(NamedDevice { name, device, part })
}

/// A disk that is open, and how it is to look.
#[derive(Clone)]
pub(crate) struct OpenDisk {
    pub disk: Arc<dyn Disk>,
    pub serial: String,
    /// What the image was called by whoever opened it.
    pub filename: String,
    /// Device and inode of the image, where they are not known otherwise.
    pub inode: Option<(u64, u64)>,
    /// Whether the host's page cache is passed by.
    pub direct: bool,
}

/// A disk as a device.
pub(crate) fn make_disk(
    name: String,
    open: OpenDisk,
    queues: u16,
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let options = BlockOptions {
        serial: open.serial.clone(),
        queues,
    };
    let device = BlockDevice::new(open.disk.clone(), &options);
    let part = Part::Disk(DiskPart {
        control: device.control(),
        image: open,
    });
    place(name, Box::new(device), part, platform)
}

/// The controller of `drives`, if there are any.
fn make_sata(drives: Vec<(String, DriveKind, OpenDisk)>, platform: &Platform) -> Result<Option<Sata>, Error> {
    if drives.is_empty() {
        return Ok(None);
    }
    let options = drives.iter().map(|(_, kind, open)| DriveOptions {
        kind: *kind,
        disk: open.disk.clone(),
        serial: open.serial.clone(),
    });
    let controller = Ahci::new(options.collect(), platform.ram.clone(), platform.msi.clone())
        .map_err(|e| Error::part("the SATA controller", e))?;
    let drives = drives
        .into_iter()
        .enumerate()
        .map(|(port, (name, kind, image))| SataDrive {
            name,
            kind,
            image,
            metrics: controller.metrics(port),
        });
    Ok(Some(Sata {
        drives: drives.collect(),
        controller,
    }))
}

/// A network card as a device, over a back end of some kind.
pub(crate) fn make_net(
    name: String,
    (backend, kind): (Arc<dyn NetBackend>, &'static str),
    options: NetOptions,
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let device = NetDevice::new(backend.clone(), options);
    let part = Part::Net(NetPart {
        control: device.control(),
        backend,
        kind,
    });
    place(name, Box::new(device), part, platform)
}

/// An entropy source as a device.
pub(crate) fn make_rng(name: String, platform: &Platform) -> Result<NamedDevice, Error> {
    place(name, Box::new(RngDevice::new()), Part::Rng, platform)
}

fn open_disk(spec: &DiskSpec, descriptors: &Descriptors) -> Result<OpenDisk, AnyError> {
    let file = File::from(descriptors.duplicate(spec.file)?);
    let meta = file.metadata()?;
    let direct = rustix::fs::fcntl_getfl(&file)?.contains(rustix::fs::OFlags::DIRECT);
    let filename = name_of(&file);
    let disk = match spec.format {
        DiskFormat::Raw => Arc::new(RawDisk::new(file)?),
    };
    Ok(OpenDisk {
        disk,
        serial: spec.serial.clone(),
        filename,
        inode: Some((meta.dev(), meta.ino())),
        direct,
    })
}

/// What the host calls an open file, for people to read.
fn name_of(file: &File) -> String {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).map_or_else(|_| "a file".into(), |path| path.display().to_string())
}

fn open_net(
    spec: &spec::NetBackend,
    accelerator: &AcceleratorSpec,
    descriptors: &Descriptors,
) -> Result<Arc<dyn NetBackend>, AnyError> {
    let files = |slots: &[Slot]| -> Result<Vec<File>, Error> {
        slots
            .iter()
            .map(|&slot| Ok(File::from(descriptors.duplicate(slot)?)))
            .collect()
    };
    Ok(match spec {
        spec::NetBackend::Tap { queues, vhost, mtu } => Arc::new(Tap::new(OpenTap {
            queues: files(queues)?,
            vhost: files(vhost_for(accelerator, vhost))?,
            mtu: *mtu,
        })?),
        spec::NetBackend::Socket { connection } => {
            Arc::new(SocketNet::new(descriptors.duplicate(*connection)?)?)
        }
    })
}

/// The kernel's workers that a guest may use: on the software CPU none, because no page tracker sees what they write, and
/// decoded code would outlive its overwriting.
fn vhost_for<'a>(accelerator: &AcceleratorSpec, vhost: &'a [Slot]) -> &'a [Slot] {
    match accelerator {
        AcceleratorSpec::Kvm { .. } => vhost,
        AcceleratorSpec::Soft { .. } => &[],
    }
}

fn open_console(console: &Arc<Console>) -> Result<(ConsoleDevice, ConsoleControl), AnyError> {
    let stream = Box::new(PortStream::new(console.clone())?);
    let port = PortOptions {
        stream,
        name: String::new(),
        console: true,
    };
    let device = ConsoleDevice::new(vec![port], DEFAULT_WINDOW)?;
    let control = device.control();
    Ok((device, control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SoftEngine;

    #[test]
    fn the_software_cpu_gets_no_worker_whose_writes_it_would_miss() {
        let slots = [Slot(3), Slot(4)];
        let kvm = AcceleratorSpec::Kvm { device: Slot(0) };
        assert_eq!(vhost_for(&kvm, &slots), slots);
        for engine in [SoftEngine::Interpreter, SoftEngine::Translator] {
            assert!(vhost_for(&AcceleratorSpec::Soft { engine }, &slots).is_empty());
        }
    }
}
