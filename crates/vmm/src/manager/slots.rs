//! Devices that come and go while the guest runs: virtio devices in the slots of the root ports, by PCIe native hotplug.
//!
//! ```text
//! device_add ─▶ in the slot ─▶ the guest hears "presence changed", switches the slot on, uses the device
//! device_del ─▶ attention button ─▶ the guest lets go and switches the slot off ─▶ out of the slot, DEVICE_DELETED
//! ```
//!
//! A slot without power is emptied at once, as no guest has the device.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_disk::Disk;
use ostler_machine::PciAddress;
use ostler_pci::{Location, PciFunction, SlotPower};
use ostler_virtio::net::NetOptions;
use ostler_virtio::vsock::Door;
use serde_json::json;

use super::cpus::is_cpu;
use super::nodes::is_identifier;
use super::{ClientFds, Manager};
use crate::control::{Arguments, Failure, GUEST_IS_BUSY};
use crate::devices::{self, NamedDevice, OpenDisk, Part};
use crate::driver::State;
use crate::spec::{MacAddress, NetModel, check_cid, check_tag};

/// For so long after a press of the attention button it is not pressed again: the guest would take that for a change of
/// mind (PCIe 4.0, 6.7.1.5; Linux's driver blinks for five seconds).
const UNPLUG_TIME: Duration = Duration::from_secs(6);
/// Longest serial number of a disk, in bytes.
const MAX_SERIAL: usize = 20;
/// The one name of the bus that the guest was built with.
const ROOT_BUS: &str = "pcie.0";

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On bus 0.
    RootBus(Location),
    /// In the slot of this root port, which is one less than what its bus is called.
    Port(u8),
}

impl Place {
    /// The name of the bus.
    pub fn bus(self) -> String {
        match self {
            Place::RootBus(_) => ROOT_BUS.into(),
            Place::Port(port) => port_name(port),
        }
    }
}

/// Root ports are named after what their buses are called, from 1.
pub(crate) fn port_name(port: u8) -> String {
    format!("rp{}", u16::from(port) + 1)
}

/// A device with its place.
pub(crate) struct Device {
    pub named: NamedDevice,
    pub place: Place,
    /// It came while the guest ran.
    pub hotplugged: bool,
    /// When the guest was asked to let it go.
    leaving: Option<Instant>,
}

impl Device {
    /// One of those that the guest was built with.
    pub fn built(named: NamedDevice, address: PciAddress) -> Self {
        let place = match address.bus.checked_sub(1) {
            None => Place::RootBus(address.location()),
            Some(port) => Place::Port(port),
        };
        Self {
            named,
            place,
            hotplugged: false,
            leaving: None,
        }
    }

    pub fn id(&self) -> &str {
        &self.named.name
    }

    /// The name of its kind in `device_add`.
    pub fn model(&self) -> &'static str {
        match self.named.part {
            Part::Disk(_) => "virtio-blk-pci",
            Part::Net(ref part) => match part.control.model() {
                NetModel::Virtio => "virtio-net-pci",
                NetModel::E1000e => "e1000e",
            },
            Part::Console => "virtio-serial-pci",
            Part::Rng => "virtio-rng-pci",
            Part::Balloon(_) => "virtio-balloon-pci",
            Part::Vsock(_) => "vhost-vsock-pci",
            Part::Share(_) => "vhost-user-fs-pci",
            Part::Mem(_) => "virtio-mem-pci",
            Part::Pmem(_) => "virtio-pmem-pci",
        }
    }

    pub fn qom_path(&self) -> String {
        format!("/machine/peripheral/{}", self.id())
    }
}

/// What can be plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Disk,
    Net(NetModel),
    Rng,
    Vsock,
    Share,
}

impl Model {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "virtio-blk-pci" | "virtio-blk-pci-non-transitional" | "virtio-blk" => Some(Self::Disk),
            "virtio-net-pci" | "virtio-net-pci-non-transitional" | "virtio-net" => {
                Some(Self::Net(NetModel::Virtio))
            }
            "e1000e" => Some(Self::Net(NetModel::E1000e)),
            "virtio-rng-pci" | "virtio-rng-pci-non-transitional" | "virtio-rng" => Some(Self::Rng),
            "vhost-vsock-pci" | "vhost-vsock-pci-non-transitional" => Some(Self::Vsock),
            "vhost-user-fs-pci" => Some(Self::Share),
            _ => None,
        }
    }
}

/// The properties of a device to be.
enum Wish {
    Disk {
        drive: String,
        serial: String,
        queues: u16,
    },
    Net {
        model: NetModel,
        netdev: String,
        mac: MacAddress,
    },
    Rng,
    Vsock {
        cid: u32,
        door: Door,
    },
    Share {
        tag: String,
        readonly: bool,
        plug: OwnedFd,
    },
}

impl Manager {
    /// `device_add`.
    pub fn plug(&mut self, mut properties: Arguments, fds: &mut ClientFds) -> Result<(), Failure> {
        let driver = properties.string("driver")?;
        if is_cpu(&driver) {
            return self.plug_cpu(&driver, properties);
        }
        let model = Model::from_name(&driver)
            .ok_or_else(|| Failure::generic(format!("'{driver}' is not a valid device model name")))?;
        let id = properties.string_if_given("id")?;
        let id = properties.need("id", id)?;
        if !is_identifier(&id) {
            return Err(Failure::expects("id", "an identifier"));
        }
        self.check_id_is_free(&id)?;
        let bus = properties.string_if_given("bus")?;
        let port = self.free_port(bus.as_deref(), &driver)?;
        if let Some(address) = properties
            .number_if_given("addr")?
            .filter(|address| *address != 0)
        {
            return Err(Failure::generic(format!(
                "PCI: slot {address} is not there: a root port has slot 0"
            )));
        }
        modern_only(&mut properties)?;
        if model == Model::Vsock && self.has_vsock() {
            return Err(Failure::generic(
                "a guest has one vsock device; unplug the other first",
            ));
        }
        let wish = self.read_wish(model, &id, &mut properties, fds)?;
        if let Some(name) = properties.first_left() {
            return Err(Failure::generic(format!("Property '{driver}.{name}' not found")));
        }
        if self.machine.is_asleep() {
            // A driver that finds a device in a slot which it left empty takes the power away from it, when it wakes.
            return Err(Failure::generic(
                "the guest sleeps: nothing can be plugged in before it is woken",
            ));
        }
        match self.state() {
            State::Created | State::Running | State::Paused | State::ShuttingDown => {}
            state => {
                return Err(Failure::generic(format!(
                    "the guest is {}: nothing can be plugged in now",
                    state.name()
                )));
            }
        }
        let named = self.realize(wish, &id).inspect_err(|_| self.forget(&id))?;
        let function: Arc<dyn PciFunction> = named.device.pci();
        if let Err(error) = self.machine.plug(port, function) {
            drop(named);
            self.forget(&id);
            return Err(Failure::generic(error.to_string()));
        }
        self.devices.push(Device {
            named,
            place: Place::Port(port),
            hotplugged: true,
            leaving: None,
        });
        Ok(())
    }

    /// An id is that of one device, CPUs and root ports among them.
    pub(super) fn check_id_is_free(&self, id: &str) -> Result<(), Failure> {
        let is_port = self.machine.slots().any(|(port, _)| port_name(port) == id);
        if is_port || self.device(id).is_some() || self.cpu_at(id).is_some() {
            return Err(Failure::generic(format!("Duplicate device ID '{id}'")));
        }
        Ok(())
    }

    /// The root port that `bus` names, or the free one that was emptied the longest ago: Linux's driver looks at nothing in
    /// a slot for a second after it has switched it off.
    fn free_port(&self, bus: Option<&str>, driver: &str) -> Result<u8, Failure> {
        let user = |port| {
            self.devices
                .iter()
                .find(|device| device.place == Place::Port(port))
        };
        let Some(bus) = bus else {
            let free = self.machine.slots().map(|(port, _)| port);
            let free = free.filter(|port| user(*port).is_none() && self.has_hotplug(*port));
            let free = free.min_by_key(|port| self.emptied.get(port));
            return free.ok_or_else(|| Failure::generic("No root port is free; unplug a device first"));
        };
        if bus == ROOT_BUS {
            return Err(no_hotplug(bus));
        }
        let mut ports = self.machine.slots().map(|(port, _)| port);
        let port = ports.find(|port| port_name(*port) == bus);
        let port = port.ok_or_else(|| Failure::generic(format!("Bus '{bus}' not found")))?;
        match user(port) {
            None if self.has_hotplug(port) => Ok(port),
            None => Err(no_hotplug(bus)),
            Some(device) => Err(Failure::generic(format!(
                "PCI: slot 0 function 0 not available for {driver}, in use by {},id={}",
                device.model(),
                device.id()
            ))),
        }
    }

    fn has_hotplug(&self, port: u8) -> bool {
        self.machine
            .hotplug_port(port)
            .is_ok_and(|port| port.has_hotplug())
    }

    fn has_vsock(&self) -> bool {
        self.devices
            .iter()
            .any(|device| matches!(device.named.part, Part::Vsock(_)))
    }

    fn read_wish(
        &self,
        model: Model,
        id: &str,
        properties: &mut Arguments,
        fds: &mut ClientFds,
    ) -> Result<Wish, Failure> {
        Ok(match model {
            Model::Rng => Wish::Rng,
            Model::Vsock => read_vsock(properties, fds)?,
            Model::Share => self.read_share(properties, fds)?,
            Model::Disk => {
                let drive = properties.string_if_given("drive")?;
                let serial = properties.string_if_given("serial")?.unwrap_or_default();
                if serial.len() > MAX_SERIAL || !serial.is_ascii() {
                    return Err(Failure::expects("serial", "at most 20 ASCII characters"));
                }
                let most = devices::queues(self.spec.cpus);
                let queues = match properties.number_if_given("num-queues")? {
                    None => most,
                    Some(count) => u16::try_from(count)
                        .ok()
                        .filter(|count| (1..=most).contains(count))
                        .ok_or_else(|| {
                            Failure::expects("num-queues", &format!("a number from 1 to {most}"))
                        })?,
                };
                let drive = drive.ok_or_else(|| Failure::generic("drive property not set"))?;
                Wish::Disk {
                    drive,
                    serial,
                    queues,
                }
            }
            Model::Net(model) => {
                let netdev = properties.string_if_given("netdev")?;
                let mac = properties.string_if_given("mac")?;
                // There are as many queues as the back end has, and vectors for all of them.
                properties.switch_if_given("mq")?;
                properties.number_if_given("vectors")?;
                let mac = match mac {
                    Some(text) => text.parse().map_err(Failure::generic)?,
                    None => MacAddress::derived(&format!("{}/{id}", self.spec.name)),
                };
                Wish::Net {
                    model,
                    netdev: netdev.ok_or_else(|| Failure::generic("netdev property not set"))?,
                    mac,
                }
            }
        })
    }

    /// QEMU's tag, and in place of its chardev the way to whoever connects a virtiofsd.
    fn read_share(&self, properties: &mut Arguments, fds: &mut ClientFds) -> Result<Wish, Failure> {
        let tag = properties.string_if_given("tag")?;
        let tag = tag.ok_or_else(|| Failure::generic("tag property must be set"))?;
        check_tag(&tag).map_err(|error| Failure::generic(error.to_string()))?;
        let mut others = self.devices.iter();
        if others.any(|device| matches!(&device.named.part, Part::Share(other) if *other == tag)) {
            return Err(Failure::generic(format!("another share has the tag {tag:?}")));
        }
        let plug = properties.string_if_given("plugfd")?;
        let readonly = properties.switch_if_given("x-ostler-readonly")?.unwrap_or(false);
        if let Some(name) = properties.first_left() {
            return Err(Failure::generic(format!(
                "Property 'vhost-user-fs-pci.{name}' not found"
            )));
        }
        let plug = plug.ok_or_else(|| {
            Failure::generic("this process opens no sockets: give the plug by plugfd=, named by getfd")
        })?;
        let plug = fds.take(&plug)?;
        Ok(Wish::Share { tag, readonly, plug })
    }

    /// Makes the device. After an error [`Manager::forget`] frees what it took.
    fn realize(&mut self, wish: Wish, id: &str) -> Result<NamedDevice, Failure> {
        let failed = |error: crate::Error| Failure::generic(error.to_string());
        match wish {
            Wish::Rng => devices::make_rng(id.into(), &self.platform).map_err(failed),
            Wish::Vsock { cid, door } => {
                devices::make_vsock(id.into(), cid, door, &self.platform).map_err(failed)
            }
            Wish::Share { tag, readonly, plug } => {
                devices::make_share(id.into(), (&tag, readonly), plug, &self.platform).map_err(failed)
            }
            Wish::Disk {
                drive,
                serial,
                queues,
            } => {
                let disk: Arc<dyn Disk> = self.nodes.attach(&drive, id, "virtio-blk-device.drive")?;
                let (filename, direct) = self
                    .nodes
                    .get(&drive)
                    .map_or_else(Default::default, |node| (node.filename.clone(), node.direct));
                let open = OpenDisk {
                    disk,
                    serial,
                    filename,
                    inode: None,
                    direct,
                };
                devices::make_disk(id.into(), open, queues, &self.platform).map_err(failed)
            }
            Wish::Net { model, netdev, mac } => {
                let backend = self.netdevs.attach(&netdev, id)?;
                let kind = self.netdevs.get(&netdev).map_or("", |netdev| netdev.kind);
                let options = NetOptions {
                    mac: mac.0,
                    pairs: u16::try_from(backend.queue_pairs()).unwrap_or(1),
                };
                devices::make_net(id.into(), (backend, kind), (model, options), &self.platform)
                    .map_err(failed)
            }
        }
    }

    /// Whether a device may go while the guest runs.
    pub fn may_go(&self, device: &Device) -> bool {
        matches!(device.place, Place::Port(port) if self.has_hotplug(port))
    }

    /// Device `id` uses nothing any more.
    fn forget(&mut self, id: &str) {
        self.nodes.release(id);
        self.netdevs.detach(id);
    }

    /// `device_del`, by id or by path: asks the guest to let the device go.
    pub fn unplug(&mut self, id: &str) -> Result<(), Failure> {
        if let Some(cpu) = self.cpu_at(id) {
            return self.unplug_cpu(cpu);
        }
        let short = id.strip_prefix("/machine/peripheral/").unwrap_or(id);
        let found = self.devices.iter_mut().find(|device| device.id() == short);
        let device = found.ok_or_else(|| Failure::no_device(id))?;
        let place = device.place;
        let failed = |error: ostler_machine::Error| Failure::generic(error.to_string());
        let Place::Port(port) = place else {
            return Err(no_hotplug(&place.bus()));
        };
        let slot = self.machine.hotplug_port(port).map_err(failed)?;
        if !slot.has_hotplug() {
            return Err(no_hotplug(&place.bus()));
        }
        match slot.power() {
            SlotPower::Off => {
                self.machine.pull(port).map_err(failed)?;
                self.collect_ejected();
            }
            SlotPower::Changing => {
                return Err(Failure::generic(GUEST_IS_BUSY));
            }
            SlotPower::On if device.leaving.is_some_and(|asked| asked.elapsed() < UNPLUG_TIME) => {
                return Err(Failure::generic(format!(
                    "Device {short} is already in the process of unplug"
                )));
            }
            SlotPower::On => {
                device.leaving = Some(Instant::now());
                self.machine.request_unplug(port).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A reset, or a sleep, makes a guest forget that it was asked to let devices go.
    pub fn forget_requests(&mut self) {
        for device in &mut self.devices {
            device.leaving = None;
        }
    }

    /// Takes leave of the devices that are in no slot any more.
    pub fn collect_ejected(&mut self) {
        let machine = self.machine.clone();
        let is_there = |device: &Device| match device.place {
            Place::RootBus(_) => true,
            Place::Port(port) => {
                let child = machine.hotplug_port(port).ok().and_then(|port| port.child());
                let function: Arc<dyn PciFunction> = device.named.device.pci();
                child.is_some_and(|child| Arc::ptr_eq(&child, &function))
            }
        };
        let (there, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.devices).into_iter().partition(is_there);
        self.devices = there;
        if gone.is_empty() {
            return;
        }
        // The CPU that switched the slot off may not be done with the map of addresses, which holds the device too.
        self.machine.pci().settle();
        for device in gone {
            let (id, path) = (device.id().to_owned(), device.qom_path());
            if let Place::Port(port) = device.place {
                self.emptied.insert(port, Instant::now());
            }
            // Stops it, if its driver has not.
            drop(device);
            self.forget(&id);
            self.tell("DEVICE_DELETED", json!({ "device": id, "path": path }));
        }
    }
}

fn no_hotplug(bus: &str) -> Failure {
    Failure::generic(format!("Bus '{bus}' does not support hotplugging"))
}

/// QEMU's properties, whose descriptor is the socket here at which the host's clients come in; and one for the guest's own wishes.
fn read_vsock(properties: &mut Arguments, fds: &mut ClientFds) -> Result<Wish, Failure> {
    let cid = properties.number_if_given("guest-cid")?;
    let cid = cid.ok_or_else(|| Failure::generic("guest-cid property must be greater than 2"))?;
    let cid = check_cid(cid).map_err(|error| Failure::generic(error.to_string()))?;
    let listener = properties.string_if_given("vhostfd")?;
    let plug = properties.string_if_given("plugfd")?;
    if let Some(name) = properties.first_left() {
        return Err(Failure::generic(format!(
            "Property 'vhost-vsock-pci.{name}' not found"
        )));
    }
    let listener = listener.ok_or_else(|| {
        Failure::generic("this process opens no sockets: give the listening one by vhostfd=, named by getfd")
    })?;
    let listener = fds.take(&listener)?;
    let plug = plug.map(|name| fds.take(&name)).transpose()?;
    let door = Door::new(listener, plug);
    let door = door.map_err(|error| Failure::generic(format!("vhostfd cannot be used: {error}")))?;
    Ok(Wish::Vsock { cid, door })
}

/// The options of other PCI devices that say what ours are anyway.
fn modern_only(properties: &mut Arguments) -> Result<(), Failure> {
    if properties.switch_if_given("disable-legacy")? == Some(false) {
        return Err(Failure::not_accepted("disable-legacy", "off"));
    }
    if properties.switch_if_given("disable-modern")? == Some(true) {
        return Err(Failure::not_accepted("disable-modern", "on"));
    }
    Ok(())
}
