//! Finding the devices: each has a folder below /sys/devices, and is on the next one above it that is a device, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ostler_libvirt::types::MAX_NODE_DEVICES;
use ostler_libvirt_xml::Mac;
use ostler_libvirt_xml::node_device::{Capability, NodeDevice};

use super::dmi::{COMPUTER, computer, line};

/// Where an installation has its number.
const MACHINE_ID: &str = "/etc/machine-id";
/// Bytes of a sector of /sys/block/*/size, whatever the disk has.
const SECTOR: u64 = 512;
/// The type of a SCSI device that is a CD-ROM drive.
const SCSI_CDROM: &str = "5";

/// Where devices of one kind are listed, and what makes one of a folder there.
type Kind = (&'static str, fn(&Path) -> Option<(String, Capability)>);

const KINDS: &[Kind] = &[
    ("bus/pci/devices", pci),
    ("bus/usb/devices", usb),
    ("class/net", net),
    ("block", block),
];

/// All devices below `sys`, the host first.
pub fn devices(sys: &Path) -> Vec<NodeDevice> {
    let mut found: BTreeMap<PathBuf, (String, Capability)> = BTreeMap::new();
    for (folder, look) in KINDS {
        let entries = fs::read_dir(sys.join(folder)).into_iter().flatten().flatten();
        for entry in entries {
            // The real folder says what the device is on.
            let Ok(path) = fs::canonicalize(entry.path()) else {
                continue;
            };
            if found.len() + 1 < MAX_NODE_DEVICES
                && let Some(device) = look(&path)
            {
                found.insert(path, device);
            }
        }
    }
    let parent = |path: &Path| {
        let above = path.ancestors().skip(1).find_map(|above| found.get(above));
        above.map_or(COMPUTER, |(name, _)| name.as_str()).to_owned()
    };
    let device = |(path, (name, capability)): (&PathBuf, &(String, Capability))| NodeDevice {
        name: name.clone(),
        path: Some(path.to_string_lossy().into_owned()),
        parent: Some(parent(path)),
        driver: driver(path),
        capability: capability.clone(),
    };
    let host = computer(sys, Path::new(MACHINE_ID));
    std::iter::once(host).chain(found.iter().map(device)).collect()
}

fn driver(path: &Path) -> Option<String> {
    let target = fs::read_link(path.join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// A name with everything but letters, digits and underscores replaced.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(plain).collect()
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// A number in hexadecimal, with `0x` before it or not.
fn hex(path: &Path) -> Option<u32> {
    let text = line(path)?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

fn decimal<T: std::str::FromStr>(path: &Path) -> Option<T> {
    line(path)?.parse().ok()
}

fn pci(path: &Path) -> Option<(String, Capability)> {
    // 0000:00:1f.2
    let address = file_name(path)?;
    let (rest, function) = address.rsplit_once('.')?;
    let mut parts = rest.splitn(3, ':').map(|part| u16::from_str_radix(part, 16).ok());
    let (domain, bus, slot) = (parts.next()??, parts.next()??, parts.next()??);
    let id = |file: &str| u16::try_from(hex(&path.join(file))?).ok();
    let capability = Capability::Pci {
        address: (
            domain,
            bus.try_into().ok()?,
            slot.try_into().ok()?,
            function.parse().ok()?,
        ),
        class: hex(&path.join("class"))?,
        product: (id("device")?, None),
        vendor: (id("vendor")?, None),
    };
    Some((format!("pci_{}", plain(address)), capability))
}

fn usb(path: &Path) -> Option<(String, Capability)> {
    let name = format!("usb_{}", plain(file_name(path)?));
    let number = |file: &str| hex(&path.join(file));
    let id = |file: &str| u16::try_from(number(file)?).ok();
    let byte = |file: &str| u8::try_from(number(file)?).ok();
    // An interface has a number of its own, a device an address.
    if let Some(interface) = number("bInterfaceNumber") {
        let class = (
            byte("bInterfaceClass")?,
            byte("bInterfaceSubClass")?,
            byte("bInterfaceProtocol")?,
        );
        let capability = Capability::Usb {
            number: interface,
            class,
            description: line(&path.join("interface")),
        };
        return Some((name, capability));
    }
    let capability = Capability::UsbDevice {
        bus: decimal(&path.join("busnum"))?,
        device: decimal(&path.join("devnum"))?,
        product: (id("idProduct")?, line(&path.join("product"))),
        vendor: (id("idVendor")?, line(&path.join("manufacturer"))),
    };
    Some((name, capability))
}

fn net(path: &Path) -> Option<(String, Capability)> {
    let interface = file_name(path)?;
    let address: Option<Mac> = line(&path.join("address")).and_then(|text| text.parse().ok());
    let suffix = address.map_or(String::new(), |address| format!("_{address}"));
    let capability = Capability::Net {
        interface: interface.into(),
        address,
    };
    Some((plain(&format!("net_{interface}{suffix}")), capability))
}

fn block(path: &Path) -> Option<(String, Capability)> {
    // What is made of files or of other disks is on no device.
    if !path.join("device").exists() {
        return None;
    }
    let name = file_name(path)?;
    let device = |file: &str| line(&path.join("device").join(file));
    let serial = device("serial").or_else(|| line(&path.join("serial")));
    let sectors: u64 = decimal(&path.join("size"))?;
    let drive = match device("type").as_deref() {
        Some(SCSI_CDROM) => "cdrom",
        _ => "disk",
    };
    let suffix = serial
        .as_ref()
        .map_or(String::new(), |serial| format!("_{serial}"));
    let capability = Capability::Storage {
        // Slashes of a name are exclamation marks there.
        block: format!("/dev/{}", name.replace('!', "/")),
        drive: drive.into(),
        model: device("model"),
        serial,
        size: sectors.saturating_mul(SECTOR),
    };
    Some((plain(&format!("block_{name}{suffix}")), capability))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A host with a controller of USB, a stick on it, a card and a disk of a virtual machine.
    fn host() -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = host.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let pci = "devices/pci0000:00/0000:00:14.0";
        for (file, text) in [
            ("class", "0x0c0330\n"),
            ("vendor", "0x8086\n"),
            ("device", "0x9d2f\n"),
        ] {
            write(&format!("{pci}/{file}"), text);
            write(&format!("devices/pci0000:00/0000:00:03.0/{file}"), text);
        }
        let stick = format!("{pci}/usb1/1-2");
        for (file, text) in [
            ("busnum", "1\n"),
            ("devnum", "7\n"),
            ("idVendor", "0781\n"),
            ("idProduct", "5583\n"),
            ("product", "Ultra\u{1} <Fit>\n"),
        ] {
            write(&format!("{stick}/{file}"), text);
        }
        for (file, text) in [
            ("bInterfaceNumber", "00\n"),
            ("bInterfaceClass", "08\n"),
            ("bInterfaceSubClass", "06\n"),
            ("bInterfaceProtocol", "50\n"),
        ] {
            write(&format!("{stick}/1-2:1.0/{file}"), text);
        }
        let card = "devices/pci0000:00/0000:00:03.0/virtio0/net/eth0";
        write(&format!("{card}/address"), "52:54:00:12:34:56\n");
        let disk = "devices/pci0000:00/0000:00:03.0/virtio0/block/vda";
        write(&format!("{disk}/size"), "2048\n");
        write(&format!("{disk}/serial"), "a b\n");
        write(&format!("{disk}/device/vendor"), "0x1af4\n");
        write("devices/virtual/block/loop0/size", "8\n");
        write("class/dmi/id/sys_vendor", "Somebody & Sons\n");
        write(
            "class/dmi/id/product_uuid",
            "4CD00C81-4A85-11CB-88EC-A5A7A8F13986\n",
        );
        write("class/dmi/id/bios_version", "\n");
        for (folder, target) in [
            ("bus/pci/devices", pci),
            ("bus/pci/devices", "devices/pci0000:00/0000:00:03.0"),
            ("bus/usb/devices", stick.as_str()),
            ("bus/usb/devices", &format!("{stick}/1-2:1.0")),
            ("class/net", card),
            ("block", disk),
            ("block", "devices/virtual/block/loop0"),
        ] {
            let folder = host.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let target = host.path().join(target);
            symlink(&target, folder.join(target.file_name().unwrap())).unwrap();
        }
        symlink(
            "../../../bus/pci/drivers/xhci_hcd",
            host.path().join(pci).join("driver"),
        )
        .unwrap();
        host
    }

    #[test]
    fn devices_are_on_each_other() {
        let host = host();
        let found = devices(host.path());
        let parents: BTreeMap<&str, Option<&str>> = found
            .iter()
            .map(|device| (device.name.as_str(), device.parent.as_deref()))
            .collect();
        let expected = [
            ("computer", None),
            ("pci_0000_00_14_0", Some("computer")),
            ("pci_0000_00_03_0", Some("computer")),
            ("usb_1_2", Some("pci_0000_00_14_0")),
            ("usb_1_2_1_0", Some("usb_1_2")),
            ("net_eth0_52_54_00_12_34_56", Some("pci_0000_00_03_0")),
            ("block_vda_a_b", Some("pci_0000_00_03_0")),
        ];
        assert_eq!(parents, BTreeMap::from(expected));
        let xml = |name: &str| found.iter().find(|device| device.name == name).unwrap().xml();
        let controller = xml("pci_0000_00_14_0");
        assert!(controller.contains("<class>0x0c0330</class>"), "{controller}");
        assert!(controller.contains("<name>xhci_hcd</name>"), "{controller}");
        assert!(xml("usb_1_2").contains("Ultra &lt;Fit&gt;"), "{}", xml("usb_1_2"));
        assert!(xml("usb_1_2_1_0").contains("<protocol>80</protocol>"));
        assert!(xml("block_vda_a_b").contains("<size>1048576</size>"));
        let computer = xml("computer");
        assert!(
            computer.contains("4cd00c81-4a85-11cb-88ec-a5a7a8f13986"),
            "{computer}"
        );
    }

    #[test]
    fn what_the_firmware_says() {
        let host = host();
        let text = super::super::dmi::sysinfo(host.path()).unwrap();
        let vendor = "<entry name='manufacturer'>Somebody &amp; Sons</entry>";
        assert!(text.contains(vendor), "{text}");
        assert!(!text.contains("<bios>"), "{text}");
        assert_eq!(super::super::dmi::sysinfo(&host.path().join("nothing")), None);
    }
}
