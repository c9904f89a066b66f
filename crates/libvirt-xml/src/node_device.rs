//! Devices of the host, for clients to look at: `<device>`. They are only written.

use crate::object::with_text;
use crate::tree::{Element, write};
use crate::value::Mac;

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDevice {
    /// Its name: `pci_0000_00_1f_2`.
    pub name: String,
    /// Its folder in sysfs.
    pub path: Option<String>,
    /// The device that it is on; `computer` for what is on none.
    pub parent: Option<String>,
    /// Name of the kernel's driver.
    pub driver: Option<String>,
    /// What it is.
    pub capability: Capability,
}

/// What a device of the host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// The host itself.
    System {
        /// Vendor, version, serial number of the machine, as far as they are known.
        hardware: [Option<String>; 3],
        /// The machine's UUID.
        uuid: String,
        /// Vendor, version, date of the firmware.
        firmware: [Option<String>; 3],
    },
    /// A device on PCI.
    Pci {
        /// Domain, bus, slot, function.
        address: (u16, u8, u8, u8),
        /// Class, 24 bits.
        class: u32,
        /// Number and name of the product.
        product: (u16, Option<String>),
        /// Number and name of the vendor.
        vendor: (u16, Option<String>),
    },
    /// A device on USB.
    UsbDevice {
        /// The bus.
        bus: u32,
        /// Its address there.
        device: u32,
        /// Number and name of the product.
        product: (u16, Option<String>),
        /// Number and name of the vendor.
        vendor: (u16, Option<String>),
    },
    /// An interface of a device on USB.
    Usb {
        /// Its number in the device.
        number: u32,
        /// Class, subclass and protocol.
        class: (u8, u8, u8),
        /// What it calls itself.
        description: Option<String>,
    },
    /// A network interface.
    Net {
        /// Its name.
        interface: String,
        /// Its address.
        address: Option<Mac>,
    },
    /// A disk.
    Storage {
        /// Path of the block device.
        block: String,
        /// `disk` or `cdrom`.
        drive: String,
        /// Its model.
        model: Option<String>,
        /// Its serial number.
        serial: Option<String>,
        /// Size in bytes.
        size: u64,
    },
}

impl NodeDevice {
    /// The document.
    pub fn xml(&self) -> String {
        let mut device = Element::new("device");
        for (name, text) in [
            ("name", Some(&self.name)),
            ("path", self.path.as_ref()),
            ("parent", self.parent.as_ref()),
        ] {
            device = with_text(device, name, text.map(String::as_str));
        }
        if let Some(driver) = &self.driver {
            device = device.with_child(with_text(Element::new("driver"), "name", Some(driver)));
        }
        write(&device.with_child(self.capability.element()))
    }
}

impl Capability {
    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::System { .. } => "system",
            Self::Pci { .. } => "pci",
            Self::UsbDevice { .. } => "usb_device",
            Self::Usb { .. } => "usb",
            Self::Net { .. } => "net",
            Self::Storage { .. } => "storage",
        }
    }

    fn element(&self) -> Element {
        match self {
            Self::System {
                hardware,
                uuid,
                firmware,
            } => {
                let mut hard = texts("hardware", &["vendor", "version", "serial"], hardware);
                hard = with_text(hard, "uuid", Some(uuid));
                let firm = texts("firmware", &["vendor", "version", "release_date"], firmware);
                // Libvirt's schema wants both, also where nothing is known.
                let system = Element::new("capability").with("type", "system");
                system.with_child(hard).with_child(firm)
            }
            Self::Pci {
                address: (domain, bus, slot, function),
                class,
                product,
                vendor,
            } => {
                let mut pci = Element::new("capability").with("type", "pci");
                let numbers = [
                    ("class", format!("{class:#08x}")),
                    ("domain", domain.to_string()),
                    ("bus", bus.to_string()),
                    ("slot", slot.to_string()),
                    ("function", function.to_string()),
                ];
                for (name, text) in &numbers {
                    pci = with_text(pci, name, Some(text));
                }
                with_ids(pci, product, vendor)
            }
            Self::UsbDevice {
                bus,
                device,
                product,
                vendor,
            } => {
                let mut usb = Element::new("capability").with("type", "usb_device");
                usb = with_text(usb, "bus", Some(&bus.to_string()));
                usb = with_text(usb, "device", Some(&device.to_string()));
                with_ids(usb, product, vendor)
            }
            Self::Usb {
                number,
                class: (class, subclass, protocol),
                description,
            } => {
                let mut usb = Element::new("capability").with("type", "usb");
                let numbers = [
                    ("number", number.to_string()),
                    ("class", class.to_string()),
                    ("subclass", subclass.to_string()),
                    ("protocol", protocol.to_string()),
                ];
                for (name, text) in &numbers {
                    usb = with_text(usb, name, Some(text));
                }
                with_text(usb, "description", description.as_deref())
            }
            Self::Net { interface, address } => {
                let net = with_text(
                    Element::new("capability").with("type", "net"),
                    "interface",
                    Some(interface),
                );
                with_text(
                    net,
                    "address",
                    address.map(|address| address.to_string()).as_deref(),
                )
            }
            Self::Storage {
                block,
                drive,
                model,
                serial,
                size,
            } => {
                let mut disk = Element::new("capability").with("type", "storage");
                let size = size.to_string();
                let texts = [
                    ("block", Some(block)),
                    ("drive_type", Some(drive)),
                    ("model", model.as_ref()),
                    ("serial", serial.as_ref()),
                    ("size", Some(&size)),
                ];
                for (name, text) in texts {
                    disk = with_text(disk, name, text.map(String::as_str));
                }
                disk
            }
        }
    }
}

/// Numbers and names of who made what.
fn with_ids(element: Element, product: &(u16, Option<String>), vendor: &(u16, Option<String>)) -> Element {
    let both = [("product", product), ("vendor", vendor)];
    both.into_iter().fold(element, |element, (name, (number, text))| {
        let id = Element::new(name).with("id", format!("{number:#06x}"));
        element.with_child(match text {
            Some(text) => id.with_text(&**text),
            None => id,
        })
    })
}

fn texts(name: &str, names: &[&str], values: &[Option<String>]) -> Element {
    names
        .iter()
        .zip(values)
        .fold(Element::new(name), |element, (name, value)| {
            with_text(element, name, value.as_deref())
        })
}
