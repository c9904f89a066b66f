//! Places on PCI Express, as libvirt gives them on q35: each device has a root port of its own, root ports share slots.
//!
//! What has a place keeps it, what only is kept too. Slot 1 is left to a display, 31 is the chipset's.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;
use crate::domain::devices::{PciAddress, video};
use crate::tree::{Element, Node};
use crate::value::attribute;

/// The slot of a display, and the first one for root ports.
const DISPLAY_SLOT: u8 = 1;
const FIRST_SLOT: u8 = 2;
/// The chipset's slot.
const CHIPSET: u8 = 0x1f;
/// The host bridge's slot.
const HOST_BRIDGE: u8 = 0;

pub(super) fn fill(devices: &mut Element) -> Result<(), Error> {
    let mut buses = Buses::read(devices)?;
    buses.add_ports_for_addresses(devices);
    let mut slots = Vec::new();
    for device in devices.elements() {
        slots.push(match PciAddress::read(device)? {
            None if needs_place(device) => Some(buses.place(device)?),
            _ => None,
        });
    }
    for (device, place) in devices.elements_mut().zip(slots) {
        if let Some(place) = place {
            set(device, place);
        }
    }
    for index in buses.new_ports.clone() {
        devices.children.push(Node::Element(root_port(index)));
    }
    if !devices.all("controller").any(is_root) {
        let root = Element::new("controller")
            .with("type", "pci")
            .with("index", "0")
            .with("model", "pcie-root");
        devices.children.push(Node::Element(root));
    }
    buses.place_ports(devices)
}

/// The root ports that would be added next for devices to come, as they are added one by one: so many that `free` ports are without a
/// device, with those that are there. Fewer, where there is no room.
pub(crate) fn spare(devices: &Element, free: usize) -> Vec<(u8, PciAddress)> {
    let mut devices = devices.clone();
    let mut spare = Vec::new();
    while let Ok(buses) = Buses::read(&devices) {
        let used = buses.used_buses();
        if buses.free_ports(&used).count() >= free {
            break;
        }
        let Some(index) = buses.next_index(&used) else {
            break;
        };
        devices.children.push(Node::Element(root_port(index)));
        let Ok(mut buses) = Buses::read(&devices) else {
            break;
        };
        if buses.place_ports(&mut devices).is_err() {
            break;
        }
        let added = devices.children.last().and_then(Node::element);
        match added.map(PciAddress::read) {
            Some(Ok(Some(address))) => spare.push((index, address)),
            _ => break,
        }
    }
    spare
}

fn is_pci(controller: &Element) -> bool {
    controller.name == "controller" && controller.get("type") == Some("pci")
}

fn is_root(controller: &Element) -> bool {
    is_pci(controller) && controller.get("model") == Some("pcie-root")
}

fn root_port(index: u8) -> Element {
    Element::new("controller")
        .with("type", "pci")
        .with("index", index.to_string())
        .with("model", "pcie-root-port")
}

/// Whether a device is on PCI and has to be placed. What is only kept is not.
fn needs_place(device: &Element) -> bool {
    match device.name.as_str() {
        "disk" => device.child_get("target", "bus") == Some("virtio"),
        "interface" | "rng" | "vsock" | "filesystem" | "memory" => true,
        "memballoon" => device.get("model") != Some("none"),
        "watchdog" => device.get("model") == Some("i6300esb"),
        "video" => video::is_display(device),
        "controller" => matches!(device.get("type"), Some("sata" | "virtio-serial")),
        _ => false,
    }
}

fn set(device: &mut Element, place: PciAddress) {
    device.remove_elements(|element| element.name == "address");
    device.children.push(Node::Element(place.element()));
}

/// What is where.
struct Buses {
    used: BTreeSet<PciAddress>,
    /// Root ports by the bus behind them.
    ports: BTreeSet<u8>,
    /// Those of them that nothing comes into while the guest runs. Only who asks for such a place gets it.
    fixed: BTreeSet<u8>,
    new_ports: Vec<u8>,
    /// The place of the last root port. Guests number buses in the order of the ports' places, so others come after it.
    last_port: Option<PciAddress>,
}

impl Buses {
    fn read(devices: &Element) -> Result<Self, Error> {
        let mut buses = Self {
            used: BTreeSet::new(),
            ports: BTreeSet::new(),
            fixed: BTreeSet::new(),
            new_ports: Vec::new(),
            last_port: None,
        };
        for controller in devices.elements().filter(|device| is_pci(device)) {
            let index: u32 = attribute(controller, "index")?.unwrap_or(0);
            let index = u8::try_from(index).map_err(|_| {
                Error::Xml(format!(
                    "a PCI controller's index is at most 255 (line {})",
                    controller.line
                ))
            })?;
            match controller.get("model") {
                Some("pcie-root-port") if index > 0 => {
                    buses.ports.insert(index);
                    if controller.child_get("target", "hotplug") == Some("off") {
                        buses.fixed.insert(index);
                    }
                }
                Some("pcie-root") if index == 0 => {}
                model => {
                    return Err(Error::Unsupported(format!(
                        "PCI controller {index} cannot be '{}': the root is number 0, others are root ports (line {})",
                        crate::error::shorten(model.unwrap_or("")),
                        controller.line
                    )));
                }
            }
        }
        for device in devices.elements() {
            let Some(address) = PciAddress::read(device)? else {
                continue;
            };
            buses.check(device, address)?;
            if is_pci(device) {
                buses.last_port = buses.last_port.max(Some(address));
            }
            if !buses.used.insert(address) {
                return Err(Error::Xml(format!(
                    "Attempted double use of PCI Address {address} (line {})",
                    device.line
                )));
            }
        }
        Ok(buses)
    }

    /// Behind a root port there is one slot, and on the root two are taken.
    fn check(&self, device: &Element, address: PciAddress) -> Result<(), Error> {
        let line = device.line;
        if address.bus > 0 && address.slot > 0 {
            return Err(Error::Xml(format!(
                "Invalid PCI address {address}. slot must be <= 0 (line {line})"
            )));
        }
        if address.bus > 0 && is_pci(device) {
            return Err(Error::Unsupported(format!(
                "a root port has to be on bus 0, not at {address} (line {line})"
            )));
        }
        let sata = device.get("type") == Some("sata");
        if sata && (address.bus, address.slot, address.function) != (0, CHIPSET, 2) {
            return Err(Error::Unsupported(format!(
                "Primary SATA controller must have PCI address 0:0:1f.2 (line {line})"
            )));
        }
        if address.bus == 0 && address.slot == HOST_BRIDGE || address.slot == CHIPSET && !sata {
            return Err(Error::Xml(format!(
                "PCI address {address} is the platform's own (line {line})"
            )));
        }
        Ok(())
    }

    /// A place behind a root port that is not there makes it, and those before it.
    fn add_ports_for_addresses(&mut self, devices: &Element) {
        let kept = |device: &&Element| needs_place(device);
        let addresses = devices
            .elements()
            .filter(kept)
            .filter_map(|device| PciAddress::read(device).ok()?);
        let last = addresses.map(|address| address.bus).max().unwrap_or(0);
        for index in 1..=last {
            self.add_port(index);
        }
    }

    fn add_port(&mut self, index: u8) {
        if self.ports.insert(index) {
            self.new_ports.push(index);
        }
    }

    /// The place for a device.
    fn place(&mut self, device: &Element) -> Result<PciAddress, Error> {
        let address = if device.get("type") == Some("sata") {
            PciAddress {
                bus: 0,
                slot: CHIPSET,
                function: 2,
            }
        } else if device.name == "watchdog" {
            // A conventional card: it cannot be behind a root port.
            self.on_root(FIRST_SLOT)?
        } else if device.name == "video" {
            self.on_root(DISPLAY_SLOT)?
        } else {
            self.behind_port()?
        };
        self.used.insert(address);
        Ok(address)
    }

    fn used_buses(&self) -> BTreeSet<u8> {
        self.used.iter().map(|address| address.bus).collect()
    }

    /// The root ports without a device, for one that has no place.
    fn free_ports(&self, used: &BTreeSet<u8>) -> impl Iterator<Item = u8> {
        let ports = self.ports.iter().copied();
        ports.filter(|port| !used.contains(port) && !self.fixed.contains(port))
    }

    /// The index of a root port to be.
    fn next_index(&self, used: &BTreeSet<u8>) -> Option<u8> {
        (1..=u8::MAX).find(|bus| !used.contains(bus) && !self.ports.contains(bus))
    }

    fn behind_port(&mut self) -> Result<PciAddress, Error> {
        let used = self.used_buses();
        let free = self.free_ports(&used).next();
        let bus = match free.or_else(|| self.next_index(&used)) {
            Some(bus) => bus,
            None => return Err(Error::Xml("No more available PCI slots".into())),
        };
        self.add_port(bus);
        Ok(PciAddress {
            bus,
            slot: 0,
            function: 0,
        })
    }

    /// A slot of the root of its own, `first` or one after it.
    fn on_root(&self, first: u8) -> Result<PciAddress, Error> {
        let taken = |slot: u8| self.used.iter().any(|used| used.bus == 0 && used.slot == slot);
        match (first..CHIPSET).find(|&slot| !taken(slot)) {
            Some(slot) => Ok(PciAddress {
                bus: 0,
                slot,
                function: 0,
            }),
            None => Err(Error::Xml("No more available PCI slots".into())),
        }
    }

    /// Gives root ports their places, and what the guest reads of them.
    fn place_ports(&mut self, devices: &mut Element) -> Result<(), Error> {
        let mut shared = self.shared_slots(devices)?;
        let mut ports: BTreeMap<u32, &mut Element> = BTreeMap::new();
        for port in devices
            .elements_mut()
            .filter(|device| is_pci(device) && !is_root(device))
        {
            ports.insert(attribute(port, "index")?.unwrap_or(0), port);
        }
        for (index, port) in ports {
            if PciAddress::read(port)?.is_none() {
                let place = self.port_place(&mut shared)?;
                self.used.insert(place);
                self.last_port = self.last_port.max(Some(place));
                set(port, place);
                if place.function == 0 {
                    port.child_or_new("address").set("multifunction", "on");
                }
            }
            port.child_or_new("model").set_default("name", "pcie-root-port");
            let place = PciAddress::read(port)?;
            let target = port.child_or_new("target");
            target.set_default("chassis", index.to_string());
            let number = place.map_or(0, |place| place.slot << 3 | place.function);
            target.set_default("port", format!("{number:#x}"));
        }
        Ok(())
    }

    /// Slots of the root whose function 0 is a root port that lets others beside it.
    fn shared_slots(&self, devices: &Element) -> Result<BTreeSet<u8>, Error> {
        let mut slots = BTreeSet::new();
        for port in devices
            .elements()
            .filter(|device| is_pci(device) && !is_root(device))
        {
            if let Some(place) = PciAddress::read(port)?
                && place.function == 0
                && port.child_get("address", "multifunction") == Some("on")
            {
                slots.insert(place.slot);
            }
        }
        Ok(slots)
    }

    /// The place of a root port to be: after all others, where there is one.
    fn port_place(&self, shared: &mut BTreeSet<u8>) -> Result<PciAddress, Error> {
        let functions = |&slot: &u8| {
            (1..8).map(move |function| PciAddress {
                bus: 0,
                slot,
                function,
            })
        };
        let mut beside = shared
            .iter()
            .flat_map(functions)
            .filter(|place| !self.used.contains(place));
        let first = beside.clone().next();
        if let Some(place) = beside.find(|place| Some(*place) > self.last_port) {
            return Ok(place);
        }
        let after = self
            .last_port
            .map_or(FIRST_SLOT, |last| FIRST_SLOT.max(last.slot + 1));
        let place = match (self.on_root(after), first) {
            (Ok(place), _) => place,
            (Err(_), Some(place)) => return Ok(place),
            (Err(_), None) => self.on_root(FIRST_SLOT)?,
        };
        shared.insert(place.slot);
        Ok(place)
    }
}
