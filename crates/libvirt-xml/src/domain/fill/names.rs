//! Names of disks, ports of the SATA controller and of virtio-serial, numbers of controllers.

use std::collections::BTreeSet;

use crate::Error;
use crate::error::shorten;
use crate::tree::{Element, Node};
use crate::value::attribute;

pub(super) fn fill(devices: &mut Element) -> Result<(), Error> {
    targets(devices)?;
    if devices.all("disk").any(|disk| is_on(disk, "sata")) {
        ensure_controller(devices, "sata");
        drives(devices)?;
    }
    if devices.elements().any(is_virtio_port) {
        ensure_controller(devices, "virtio-serial");
        virtio_ports(devices)?;
    }
    controllers(devices)
}

fn is_on(disk: &Element, bus: &str) -> bool {
    disk.child_get("target", "bus") == Some(bus)
}

/// Where a disk's letters are in the order of its bus: `vda` is 0, `vdz` 25, `vdaa` 26.
fn place(name: &str) -> Option<u32> {
    let letters = name.get(2..).filter(|letters| matches!(letters.len(), 1..=3))?;
    letters
        .bytes()
        .try_fold(0, |place, letter| {
            letter
                .is_ascii_lowercase()
                .then(|| place * 26 + u32::from(letter - b'a') + 1)
        })
        .map(|place| place - 1)
}

/// The letters of a place.
fn letters(mut place: u32) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(b'a' + (place % 26) as u8);
        if place < 26 {
            break;
        }
        place = place / 26 - 1;
    }
    letters.iter().rev().map(|&letter| char::from(letter)).collect()
}

/// Gives disks without a name the first free one, and refuses the same name twice.
fn targets(devices: &mut Element) -> Result<(), Error> {
    let mut used = BTreeSet::new();
    for disk in devices.all("disk") {
        if let Some(dev) = disk.child_get("target", "dev")
            && !used.insert(dev.to_owned())
        {
            return Err(Error::Xml(format!(
                "target '{}' duplicated for disk sources (line {})",
                shorten(dev),
                disk.line
            )));
        }
    }
    let mut next = [0, 0];
    for disk in devices.elements_mut().filter(|device| device.name == "disk") {
        let (prefix, next) = match is_on(disk, "sata") {
            true => ("sd", &mut next[0]),
            false => ("vd", &mut next[1]),
        };
        let target = disk.child_or_new("target");
        while target.get("dev").is_none() {
            let name = format!("{prefix}{}", letters(*next));
            *next += 1;
            if used.insert(name.clone()) {
                target.set("dev", name);
            }
        }
    }
    Ok(())
}

fn ensure_controller(devices: &mut Element, kind: &str) {
    if !devices
        .all("controller")
        .any(|controller| controller.get("type") == Some(kind))
    {
        let controller = Element::new("controller").with("type", kind).with("index", "0");
        devices.children.push(Node::Element(controller));
    }
}

/// A SATA drive's port is that of its letters, or the first that is free.
fn drives(devices: &mut Element) -> Result<(), Error> {
    let mut used = BTreeSet::new();
    for disk in devices.all("disk").filter(|disk| is_on(disk, "sata")) {
        let Some(address) = disk.child("address") else {
            continue;
        };
        if let Some(unit) = attribute::<u32>(address, "unit")?
            && !used.insert(unit)
        {
            return Err(Error::Xml(format!(
                "Found duplicate drive address for disk with target name '{}' controller='0' bus='0' target='0' unit='{unit}'",
                shorten(disk.child_get("target", "dev").unwrap_or(""))
            )));
        }
    }
    for disk in devices
        .elements_mut()
        .filter(|device| device.name == "disk" && is_on(device, "sata"))
    {
        if disk.child_get("address", "unit").is_some() {
            continue;
        }
        let wanted = disk.child_get("target", "dev").and_then(place);
        let unit = wanted
            .filter(|unit| !used.contains(unit))
            .or_else(|| (0..).find(|unit| !used.contains(unit)));
        let unit = unit.unwrap_or(0);
        used.insert(unit);
        let address = disk.child_or_new("address");
        address.set("type", "drive");
        for name in ["controller", "bus", "target"] {
            address.set_default(name, "0");
        }
        address.set("unit", unit.to_string());
    }
    Ok(())
}

fn is_virtio_port(device: &Element) -> bool {
    matches!(device.name.as_str(), "channel" | "console")
        && device.child_get("target", "type") == Some("virtio")
}

/// Ports of virtio-serial; port 0 is left to a console.
fn virtio_ports(devices: &mut Element) -> Result<(), Error> {
    let mut used = BTreeSet::new();
    for device in devices.elements().filter(|device| is_virtio_port(device)) {
        let Some(address) = device.child("address") else {
            continue;
        };
        if attribute::<u32>(address, "controller")?.unwrap_or(0) != 0 {
            return Err(Error::Unsupported(format!(
                "ports are on the first virtio-serial controller only (line {})",
                address.line
            )));
        }
        if let Some(port) = attribute::<u32>(address, "port")?
            && !used.insert(port)
        {
            return Err(Error::Xml(format!(
                "virtio serial port {port} on controller 0 is already occupied"
            )));
        }
    }
    for device in devices.elements_mut().filter(|device| is_virtio_port(device)) {
        if device.child_get("address", "port").is_some() {
            continue;
        }
        let first = u32::from(device.name == "channel");
        let port = (first..).find(|port| !used.contains(port)).unwrap_or(first);
        used.insert(port);
        let address = device.child_or_new("address");
        address.set("type", "virtio-serial");
        address.set_default("controller", "0");
        address.set_default("bus", "0");
        address.set("port", port.to_string());
    }
    Ok(())
}

/// Numbers of controllers, each kind from 0 on; those of USB that share one (`<master>`) keep together.
fn controllers(devices: &mut Element) -> Result<(), Error> {
    let mut used: BTreeSet<(String, u32)> = BTreeSet::new();
    for controller in devices.all("controller") {
        let kind = controller.get("type").unwrap_or_default();
        let Some(index) = attribute::<u32>(controller, "index")? else {
            continue;
        };
        if !used.insert((kind.to_owned(), index)) && kind != "usb" {
            return Err(Error::Xml(format!(
                "Multiple '{}' controllers with index '{index}' (line {})",
                shorten(kind),
                controller.line
            )));
        }
    }
    if used.contains(&("sata".to_owned(), 1)) {
        return Err(Error::Unsupported("there is one SATA controller".into()));
    }
    for controller in devices
        .elements_mut()
        .filter(|device| device.name == "controller")
    {
        if controller.get("index").is_some() {
            continue;
        }
        let kind = controller.get("type").unwrap_or_default().to_owned();
        let root = kind == "pci" && controller.get("model") == Some("pcie-root");
        let first = u32::from(kind == "pci" && !root);
        let index = if kind == "usb" && controller.child("master").is_some() {
            0
        } else {
            (first..)
                .find(|&index| !used.contains(&(kind.clone(), index)))
                .unwrap_or(first)
        };
        used.insert((kind, index));
        controller.set("index", index.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_count_on_after_z() {
        for (place, name) in [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")] {
            assert_eq!(letters(place), name);
            assert_eq!(super::place(&format!("vd{name}")), Some(place));
        }
    }
}
