//! The devices that a specification asks for: those of virtio and other network cards in the order of their slots (disks,
//! network cards, console, entropy, balloon, vsock, shares, memory, persistent memory), and the SATA controller with its drives.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use ostler_ahci::{Ahci, DriveKind, DriveOptions, TrayControl};
use ostler_disk::{Disk, RawDisk};
use ostler_e1000e::{CardOptions, E1000e};
use ostler_memory::persistent_slots;
use ostler_netio::{NetBackend, OpenTap, SocketNet, SwitchNet, Tap};
use ostler_pci::PciFunction;
use ostler_vhost_user::card::CardNet;
use ostler_vhost_user::fs::FsDevice;
use ostler_virtio::balloon::{BalloonControl, BalloonDevice, BalloonOptions};
use ostler_virtio::block::{BlockControl, BlockDevice, BlockOptions};
use ostler_virtio::console::{ConsoleControl, ConsoleDevice, PortOptions, WindowSize};
use ostler_virtio::mem::{MemControl, MemDevice};
use ostler_virtio::net::{NetControl, NetDevice, NetOptions};
use ostler_virtio::pmem::PmemDevice;
use ostler_virtio::rng::RngDevice;
use ostler_virtio::vsock::{Door, VsockControl, VsockDevice};
use ostler_virtio::{DeviceMetrics, Platform, VirtioDevice, VirtioPci};

use crate::Error;
use crate::console::{Console, PortStream};
use crate::guest::Consoles;
use crate::handoff::Descriptors;
use crate::spec::{
    self, AcceleratorSpec, BalloonSpec, ConsoleSpec, DiskBus, DiskDevice, DiskFormat, DiskSpec, GuestSpec,
    NetModel, Slot, VsockSpec, rng_name,
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
    pub device: Function,
    pub part: Part,
}

/// A device as a PCI function.
#[derive(Clone)]
pub(crate) enum Function {
    Virtio(Arc<VirtioPci>),
    E1000e(Arc<E1000e>),
}

impl Function {
    /// The function itself.
    pub fn pci(&self) -> Arc<dyn PciFunction> {
        match self {
            Self::Virtio(device) => device.clone(),
            Self::E1000e(device) => device.clone(),
        }
    }

    /// What it is, for people to read.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Virtio(device) => device.kind().name(),
            Self::E1000e(_) => "e1000e",
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> &DeviceMetrics {
        match self {
            Self::Virtio(device) => device.metrics(),
            Self::E1000e(device) => device.metrics(),
        }
    }
}

/// What management reaches of a device, by its kind.
#[derive(Clone)]
pub(crate) enum Part {
    Disk(DiskPart),
    Net(NetPart),
    Console,
    Rng,
    Balloon(BalloonControl),
    Vsock(VsockControl),
    /// A folder of the host, with its tag.
    Share(String),
    Mem(MemControl),
    Pmem(PmemPart),
}

/// Of persistent memory.
#[derive(Clone, Copy)]
pub(crate) struct PmemPart {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
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
    pub control: CardControl,
    /// "tap", "socket", "vhost-user" or "switch".
    pub kind: &'static str,
}

/// The control side of a network card, by its model.
#[derive(Clone)]
pub(crate) enum CardControl {
    Virtio(NetControl),
    E1000e(ostler_e1000e::CardControl),
}

impl CardControl {
    /// The model.
    pub fn model(&self) -> NetModel {
        match self {
            Self::Virtio(_) => NetModel::Virtio,
            Self::E1000e(_) => NetModel::E1000e,
        }
    }

    /// Puts the card's cable in or takes it out, and tells the guest.
    pub fn set_link(&self, up: bool) {
        match self {
            Self::Virtio(control) => control.set_link(up),
            Self::E1000e(control) => control.set_link(up),
        }
    }

    /// False while the cable is out.
    pub fn is_plugged(&self) -> bool {
        match self {
            Self::Virtio(control) => control.is_plugged(),
            Self::E1000e(control) => control.is_plugged(),
        }
    }

    /// The current MAC address.
    pub fn mac(&self) -> [u8; 6] {
        match self {
            Self::Virtio(control) => control.mac(),
            Self::E1000e(control) => control.mac(),
        }
    }

    /// Asks the guest to announce itself on the network. False if it cannot be asked.
    pub fn announce(&self) -> bool {
        match self {
            Self::Virtio(control) => control.announce(),
            Self::E1000e(_) => false,
        }
    }
}

/// A drive of the SATA controller.
#[derive(Clone)]
pub(crate) struct SataDrive {
    pub name: String,
    pub kind: DriveKind,
    /// What was in it when the guest was built, until management takes that over.
    pub built_with: Arc<Mutex<Option<OpenDisk>>>,
    /// Of a CD-ROM drive.
    pub tray: Option<TrayControl>,
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

impl Devices {
    /// The memory that comes and goes, if there is any.
    pub fn memory(&self) -> Option<&MemControl> {
        self.list.iter().find_map(|device| match &device.part {
            Part::Mem(control) => Some(control),
            _ => None,
        })
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Makes all devices, not running yet. `consoles` is what the virtio console and its ports are connected to.
pub(crate) fn build(
    spec: &GuestSpec,
    descriptors: &Descriptors,
    platform: &Platform,
    consoles: &Consoles,
) -> Result<Devices, Error> {
    let mut list = Vec::new();
    let mut console_control = None;
    let mut drives = Vec::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let name = format!("disk{index}");
        let opened = disk.file.map(|file| open_disk(disk, file, descriptors));
        let opened = opened.transpose().map_err(|e| Error::part(name.clone(), e))?;
        let kind = match disk.device {
            DiskDevice::Disk => DriveKind::Disk,
            DiskDevice::Cdrom => DriveKind::Cdrom,
        };
        match (disk.bus, opened) {
            (DiskBus::Virtio, Some(opened)) => {
                list.push(make_disk(name, opened, queues(spec.cpus), platform)?)
            }
            (DiskBus::Virtio, None) => return Err(Error::part(name, "it has no image")),
            (DiskBus::Sata, opened) => drives.push((name, kind, opened, disk.serial.clone())),
        }
    }
    for (index, net) in spec.nets.iter().enumerate() {
        let name = format!("net{index}");
        let back = open_net(&net.backend, may_use_kernel_workers(spec), descriptors)
            .map_err(|e| Error::part(name.clone(), e))?;
        let kind = match net.backend {
            spec::NetBackend::Tap { .. } => "tap",
            spec::NetBackend::Socket { .. } => "socket",
            spec::NetBackend::VhostUser { .. } => "vhost-user",
            spec::NetBackend::Switch { .. } => "switch",
        };
        let options = NetOptions {
            mac: net.mac.0,
            pairs: queues(spec.cpus),
        };
        list.push(make_net(name, (back, kind), (net.model, options), platform)?);
    }
    if spec.has_virtio_console() {
        let (device, control) =
            open_console(spec, consoles).map_err(|e| Error::part("the virtio console", e))?;
        list.push(place(
            "console".into(),
            Box::new(device),
            Part::Console,
            platform,
        )?);
        console_control = Some(control);
    }
    for index in 0..spec.rngs {
        list.push(make_rng(rng_name(index), platform)?);
    }
    if let Some(balloon) = &spec.balloon {
        list.push(make_balloon("balloon".into(), balloon, platform)?);
    }
    if let Some(vsock) = &spec.vsock {
        let door = open_door(vsock, descriptors).map_err(|e| Error::part("vsock", e))?;
        list.push(make_vsock("vsock".into(), vsock.cid, door, platform)?);
    }
    for (index, share) in spec.shares.iter().enumerate() {
        let name = format!("fs{index}");
        let plug = descriptors.duplicate(share.plug)?;
        list.push(make_share(name, (&share.tag, share.readonly), plug, platform)?);
    }
    if let Some(device) = MemDevice::new(platform.ram.clone()) {
        let part = Part::Mem(device.control());
        list.push(place("vmem0".into(), Box::new(device), part, platform)?);
    }
    for (index, (pmem, slot)) in spec.pmem.iter().zip(persistent_slots(&platform.ram)).enumerate() {
        let file = File::from(descriptors.duplicate(pmem.file)?);
        let device = PmemDevice::new(file, slot.gpa, slot.len);
        let part = Part::Pmem(PmemPart {
            address: slot.gpa,
            size: slot.len,
        });
        list.push(place(format!("pmem{index}"), Box::new(device), part, platform)?);
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
    let device = Function::Virtio(device);
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

/// Name, kind, image and serial number of a SATA drive.
type SataParts = (String, DriveKind, Option<OpenDisk>, String);

/// The controller of `drives`, if there are any.
fn make_sata(drives: Vec<SataParts>, platform: &Platform) -> Result<Option<Sata>, Error> {
    if drives.is_empty() {
        return Ok(None);
    }
    let options = drives.iter().map(|(_, kind, open, serial)| DriveOptions {
        kind: *kind,
        disk: open.as_ref().map(|open| open.disk.clone()),
        serial: serial.clone(),
    });
    let controller = Ahci::new(options.collect(), platform.ram.clone(), platform.msi.clone())
        .map_err(|e| Error::part("the SATA controller", e))?;
    let drives = drives
        .into_iter()
        .enumerate()
        .map(|(port, (name, kind, image, _))| SataDrive {
            name,
            kind,
            built_with: Arc::new(Mutex::new(image)),
            tray: controller.tray(port),
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
    (model, options): (NetModel, NetOptions),
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let part = |control| {
        Part::Net(NetPart {
            control,
            backend: backend.clone(),
            kind,
        })
    };
    match model {
        NetModel::Virtio => {
            let device = NetDevice::new(backend.clone(), options);
            let part = part(CardControl::Virtio(device.control()));
            place(name, Box::new(device), part, platform)
        }
        NetModel::E1000e => {
            let options = CardOptions {
                mac: options.mac,
                backend: backend.clone(),
            };
            let device = E1000e::new(options, platform.ram.clone(), platform.msi.clone())
                .map_err(|e| Error::part(name.clone(), e))?;
            let part = part(CardControl::E1000e(device.control()));
            let device = Function::E1000e(device);
            Ok(NamedDevice { name, device, part })
        }
    }
}

/// An entropy source as a device.
pub(crate) fn make_rng(name: String, platform: &Platform) -> Result<NamedDevice, Error> {
    place(name, Box::new(RngDevice::new()), Part::Rng, platform)
}

fn make_balloon(name: String, spec: &BalloonSpec, platform: &Platform) -> Result<NamedDevice, Error> {
    let options = BalloonOptions {
        deflate_on_oom: spec.deflate_on_oom,
        free_page_reporting: spec.free_page_reporting,
    };
    let device = BalloonDevice::new(options).map_err(|e| Error::part(name.clone(), e))?;
    let part = Part::Balloon(device.control());
    place(name, Box::new(device), part, platform)
}

/// Sockets between guest and host as a device.
pub(crate) fn make_vsock(
    name: String,
    cid: u32,
    door: Door,
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let device = VsockDevice::new(cid, door).map_err(|e| Error::part(name.clone(), e))?;
    let part = Part::Vsock(device.control());
    place(name, Box::new(device), part, platform)
}

/// A folder of the host as a device, with its tag and whether it is only read; through `plug` it is connected to a virtiofsd.
pub(crate) fn make_share(
    name: String,
    (tag, readonly): (&str, bool),
    plug: OwnedFd,
    platform: &Platform,
) -> Result<NamedDevice, Error> {
    let device = FsDevice::new(tag, readonly, plug).map_err(|e| Error::part(name.clone(), e))?;
    place(name, Box::new(device), Part::Share(tag.into()), platform)
}

fn open_door(spec: &VsockSpec, descriptors: &Descriptors) -> Result<Door, AnyError> {
    let listener = descriptors.duplicate(spec.listener)?;
    let plug = spec.plug.map(|slot| descriptors.duplicate(slot)).transpose()?;
    Ok(Door::new(listener, plug)?)
}

fn open_disk(spec: &DiskSpec, file: Slot, descriptors: &Descriptors) -> Result<OpenDisk, AnyError> {
    let file = File::from(descriptors.duplicate(file)?);
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
pub(crate) fn name_of(file: &File) -> String {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).map_or_else(|_| "a file".into(), |path| path.display().to_string())
}

fn open_net(
    spec: &spec::NetBackend,
    kernel_workers: bool,
    descriptors: &Descriptors,
) -> Result<Arc<dyn NetBackend>, AnyError> {
    let files = |slots: &[Slot]| -> Result<Vec<File>, Error> {
        slots
            .iter()
            .map(|&slot| Ok(File::from(descriptors.duplicate(slot)?)))
            .collect()
    };
    Ok(match spec {
        spec::NetBackend::Tap {
            queues,
            vhost,
            mtu,
            whole,
        } => Arc::new(Tap::new(OpenTap {
            queues: files(queues)?,
            vhost: files(if kernel_workers { vhost } else { &[] })?,
            mtu: *mtu,
            whole: *whole,
        })?),
        spec::NetBackend::Socket { connection, headers } => {
            let socket = descriptors.duplicate(*connection)?;
            Arc::new(match headers {
                true => SocketNet::with_headers(socket)?,
                false => SocketNet::new(socket)?,
            })
        }
        spec::NetBackend::VhostUser { plug } => Arc::new(CardNet::new(descriptors.duplicate(*plug)?)?),
        spec::NetBackend::Switch { plug } => Arc::new(SwitchNet::new(descriptors.duplicate(*plug)?)?),
    })
}

/// Whether the kernel's workers may serve a guest's cards. On the software CPU they may not, because no page tracker sees what they
/// write, and decoded code would outlive its overwriting; nor where memory comes and goes or must not be written, which they know
/// nothing of.
pub(crate) fn may_use_kernel_workers(spec: &GuestSpec) -> bool {
    let plain = spec.max_memory.is_none() && spec.pmem.iter().all(|pmem| !pmem.readonly);
    matches!(spec.accelerator, AcceleratorSpec::Kvm { .. }) && plain
}

/// The console, where there is one, and named ports after it.
fn open_console(spec: &GuestSpec, consoles: &Consoles) -> Result<(ConsoleDevice, ConsoleControl), AnyError> {
    let port = |console: &Arc<Console>, name: &str| -> Result<PortOptions, AnyError> {
        Ok(PortOptions {
            stream: Box::new(PortStream::new(console.clone())?),
            name: name.into(),
            console: name.is_empty(),
        })
    };
    let mut ports = Vec::new();
    if spec.console != ConsoleSpec::None {
        ports.push(port(&consoles.virtio, "")?);
    }
    for (channel, console) in spec.channels.iter().zip(&consoles.channels) {
        ports.push(port(console, &channel.name)?);
    }
    let device = ConsoleDevice::new(ports, DEFAULT_WINDOW)?;
    let control = device.control();
    Ok((device, control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SoftEngine;

    #[test]
    fn no_worker_of_the_kernels_writes_where_that_would_be_missed() {
        let mut spec = crate::spec::tests::spec();
        for engine in [SoftEngine::Interpreter, SoftEngine::Translator] {
            spec.accelerator = AcceleratorSpec::Soft { engine };
            assert!(!may_use_kernel_workers(&spec));
        }
        spec.accelerator = AcceleratorSpec::Kvm { device: Slot(0) };
        assert!(may_use_kernel_workers(&spec));
        spec.max_memory = Some(2 << 30);
        assert!(!may_use_kernel_workers(&spec));
        spec.max_memory = None;
        let mut pmem = spec::PmemSpec {
            file: Slot(0),
            size: 2 << 20,
            readonly: false,
        };
        spec.pmem = vec![pmem];
        assert!(may_use_kernel_workers(&spec));
        pmem.readonly = true;
        spec.pmem.push(pmem);
        assert!(!may_use_kernel_workers(&spec));
    }
}
