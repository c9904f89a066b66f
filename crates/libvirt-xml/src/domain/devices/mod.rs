//! `<devices>`: a kind of device a file.

pub(crate) mod audio;
pub(crate) mod character;
pub(crate) mod controller;
pub(crate) mod disk;
pub(crate) mod filesystem;
pub(crate) mod graphics;
pub(crate) mod host;
pub(crate) mod input;
pub(crate) mod interface;
pub(crate) mod memballoon;
pub(crate) mod memory_device;
pub(crate) mod rng;
pub(crate) mod video;
pub(crate) mod vsock;
pub(crate) mod watchdog;

use crate::table::{Family, Row, kept};
use crate::tree::Element;
use crate::{Error, value};

pub use character::{Character, CharacterSource, CharacterTarget};
pub use controller::Controller;
pub use disk::{Cache, Disk, DiskBus, DiskDevice, DiskSource, Io};
pub use filesystem::Filesystem;
pub use interface::{Bandwidth, Interface, InterfaceModel, InterfaceSource, PortForward, Rate, Vlan};
pub use memballoon::Memballoon;
pub use memory_device::{MemoryDevice, MemoryKind};
pub use rng::{Rng, RngRate};
pub use video::{Video, VideoModel};
pub use vsock::Vsock;
pub use watchdog::{Watchdog, WatchdogAction, WatchdogModel};

const ROWS: &[Row] = &[kept(
    "emulator",
    "",
    "never executed: a guest is run by this program",
)];

pub(crate) const FAMILY: Family = Family::of("devices", ROWS);

/// All families in the order of libvirt's output.
pub(crate) const FAMILIES: [&Family; 31] = [
    &FAMILY,
    &disk::FAMILY,
    &controller::FAMILY,
    &host::LEASE,
    &filesystem::FAMILY,
    &interface::FAMILY,
    &host::SMARTCARD,
    &character::SERIAL,
    &character::PARALLEL,
    &character::CONSOLE,
    &character::CHANNEL,
    &input::FAMILY,
    &host::TPM,
    &graphics::FAMILY,
    &audio::SOUND,
    &audio::AUDIO,
    &video::FAMILY,
    &host::HOSTDEV,
    &host::REDIRDEV,
    &host::REDIRFILTER,
    &input::HUB,
    &watchdog::FAMILY,
    &memballoon::FAMILY,
    &rng::FAMILY,
    &host::NVRAM,
    &host::PANIC,
    &host::SHMEM,
    &memory_device::FAMILY,
    &host::IOMMU,
    &vsock::FAMILY,
    &host::CRYPTO,
];

/// The devices that a guest has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Disks and CD-ROM drives.
    pub disks: Vec<Disk>,
    /// Network cards.
    pub interfaces: Vec<Interface>,
    /// File systems of the host.
    pub filesystems: Vec<Filesystem>,
    /// Controllers, those that are only kept among them.
    pub controllers: Vec<Controller>,
    /// Serial ports.
    pub serials: Vec<Character>,
    /// Consoles; the first may be the first serial port once more ([`CharacterTarget::Serial`]).
    pub consoles: Vec<Character>,
    /// Channels of virtio-serial.
    pub channels: Vec<Character>,
    /// Entropy sources.
    pub rngs: Vec<Rng>,
    /// Graphics cards, those that are only kept among them.
    pub videos: Vec<Video>,
    /// The balloon.
    pub memballoon: Option<Memballoon>,
    /// Memory that comes and goes, and files that are memory.
    pub memories: Vec<MemoryDevice>,
    /// The socket to the host.
    pub vsock: Option<Vsock>,
    /// The watchdog.
    pub watchdog: Option<Watchdog>,
}

impl Devices {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let empty = Element::new("devices");
        let devices = root.child("devices").unwrap_or(&empty);
        for single in ["memballoon", "vsock", "watchdog", "emulator", "iommu"] {
            if let Some(second) = devices.all(single).nth(1) {
                return Err(Error::Xml(format!(
                    "only a single {single} device is supported (line {})",
                    second.line
                )));
            }
        }
        Ok(Self {
            disks: each(devices, "disk", Disk::read)?,
            interfaces: each(devices, "interface", Interface::read)?,
            filesystems: each(devices, "filesystem", Filesystem::read)?,
            controllers: each(devices, "controller", Controller::read)?,
            serials: each(devices, "serial", Character::read)?,
            consoles: each(devices, "console", Character::read)?,
            channels: each(devices, "channel", Character::read)?,
            rngs: each(devices, "rng", Rng::read)?,
            videos: each(devices, "video", Video::read)?,
            memballoon: each(devices, "memballoon", Memballoon::read)?.pop(),
            memories: each(devices, "memory", MemoryDevice::read)?,
            vsock: each(devices, "vsock", Vsock::read)?.pop(),
            watchdog: each(devices, "watchdog", Watchdog::read)?.pop(),
        })
    }
}

fn each<T>(devices: &Element, name: &str, read: fn(&Element) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    devices.all(name).map(read).collect()
}

/// A place on the guest's PCI buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Bus: the index of the controller that it belongs to.
    pub bus: u8,
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0000:{:02x}:{:02x}.{}", self.bus, self.slot, self.function)
    }
}

impl PciAddress {
    /// The address of a device, if it has one on PCI.
    pub(crate) fn read(device: &Element) -> Result<Option<Self>, Error> {
        let Some(address) = device
            .child("address")
            .filter(|address| address.get("type") == Some("pci"))
        else {
            return Ok(None);
        };
        let part = |name: &str, limit: u16| -> Result<Option<u8>, Error> {
            let value: Option<u16> = value::attribute(address, name)?;
            if value.is_some_and(|value| value > limit) {
                return Err(Error::Xml(format!(
                    "Invalid PCI address {name}='{}', must be <= {limit:#x} (line {})",
                    crate::error::shorten(address.get(name).unwrap_or("")),
                    address.line
                )));
            }
            Ok(value.map(|value| value as u8))
        };
        part("domain", 0)?;
        let (bus, slot, function) = (part("bus", 0xff)?, part("slot", 0x1f)?, part("function", 7)?);
        // `<address type='pci'/>` asks for PCI, and leaves the place to us.
        Ok((bus.is_some() || slot.is_some()).then(|| Self {
            bus: bus.unwrap_or(0),
            slot: slot.unwrap_or(0),
            function: function.unwrap_or(0),
        }))
    }

    /// The element that says so.
    pub(crate) fn element(self) -> Element {
        Element::new("address")
            .with("type", "pci")
            .with("domain", "0x0000")
            .with("bus", format!("{:#04x}", self.bus))
            .with("slot", format!("{:#04x}", self.slot))
            .with("function", format!("{:#x}", self.function))
    }
}

/// What all models of devices have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// The name by which clients know the device of a running guest (`net0`): its owner's (`ua-...`), or one that follows from
    /// its kind and number. [`crate::domain::Live`] goes by it.
    pub alias: Option<String>,
    /// Place on PCI.
    pub address: Option<PciAddress>,
    /// Place among what the guest boots from, from 1.
    pub boot_order: Option<u32>,
}

impl Common {
    pub(crate) fn read(device: &Element) -> Result<Self, Error> {
        let boot_order = match device.child("boot") {
            Some(boot) => {
                let order = value::attribute(boot, "order")?.filter(|&order: &u32| order > 0);
                Some(order.ok_or_else(|| {
                    Error::attribute(boot.line, "boot", "order", boot.get("order").unwrap_or(""))
                })?)
            }
            None => None,
        };
        Ok(Self {
            alias: device.child_get("alias", "name").map(str::to_owned),
            address: PciAddress::read(device)?,
            boot_order,
        })
    }
}
