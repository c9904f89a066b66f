//! Serial ports and consoles: the first console is the first serial port by another name, as libvirt has it.

use std::collections::BTreeSet;

use crate::Error;
use crate::tree::{Element, Node};
use crate::value::attribute;

pub(super) fn fill(devices: &mut Element) -> Result<(), Error> {
    for console in devices.elements_mut().filter(|device| device.name == "console") {
        console.set_default("type", "pty");
        console.child_or_new("target").set_default("type", "serial");
    }
    for serial in devices.elements_mut().filter(|device| device.name == "serial") {
        serial.set_default("type", "pty");
        let target = serial.child_or_new("target");
        target.set("type", "isa-serial");
        target.child_or_new("model").set_default("name", "isa-serial");
    }
    for channel in devices.elements_mut().filter(|device| device.name == "channel") {
        channel.set_default("type", "pty");
        channel.child_or_new("target").set_default("type", "virtio");
    }
    mirror(devices);
    ports(devices)
}

/// A console that is a serial port makes one where there is none; a serial port has a console.
fn mirror(devices: &mut Element) {
    let is_serial = |console: &&Element| console.child_get("target", "type") == Some("serial");
    let serial = devices.child("serial").cloned();
    let console = devices.all("console").find(is_serial).cloned();
    match (serial, console) {
        (None, Some(console)) => {
            let mut serial = console;
            serial.name = "serial".into();
            serial.remove_elements(|element| element.name == "target" || element.name == "address");
            let model = Element::new("model").with("name", "isa-serial");
            let target = Element::new("target")
                .with("type", "isa-serial")
                .with("port", "0");
            serial.children.push(Node::Element(target.with_child(model)));
            devices.children.push(Node::Element(serial));
        }
        (Some(mut console), None) if devices.child("console").is_none() => {
            console.name = "console".into();
            console
                .remove_elements(|element| matches!(element.name.as_str(), "target" | "address" | "alias"));
            let target = Element::new("target").with("type", "serial").with("port", "0");
            console.children.push(Node::Element(target));
            devices.children.push(Node::Element(console));
        }
        _ => {}
    }
}

/// Gives ports without a number the first free ones.
fn ports(devices: &mut Element) -> Result<(), Error> {
    for name in ["serial", "console"] {
        let mut used = BTreeSet::new();
        for device in devices.all(name) {
            let port = device
                .child("target")
                .map(|target| attribute::<u32>(target, "port"))
                .transpose()?
                .flatten();
            if let Some(port) = port
                && !used.insert(port)
                && name == "serial"
            {
                return Err(Error::Xml(format!("two serial ports have the number {port}")));
            }
        }
        let mut next = 0;
        for device in devices.elements_mut().filter(|device| device.name == name) {
            let target = device.child_or_new("target");
            while target.get("port").is_none() {
                if used.insert(next) {
                    target.set("port", next.to_string());
                }
                next += 1;
            }
        }
        if name == "serial" && used.last().is_some_and(|&port| port > 3) {
            return Err(Error::Unsupported(
                "a guest has at most 4 serial ports, COM1 to COM4".into(),
            ));
        }
    }
    Ok(())
}
