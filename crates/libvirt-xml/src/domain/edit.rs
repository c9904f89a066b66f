//! Devices that come and go: `virsh attach-device`, `detach-device`, `update-device`.

use super::{Domain, SCHEMA};
use crate::table::check;
use crate::tree::{Element, Node, read};
use crate::value::Random;
use crate::{Defaults, Error};

impl Domain {
    /// The same guest with a device more.
    pub fn attach(&self, xml: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let mut device = read_device(xml)?;
        forget_given_name(&mut device);
        let mut tree = self.tree();
        count_memory(&mut tree, &device, u64::saturating_add)?;
        tree.child_or_new("devices").children.push(Node::Element(device));
        Self::from_tree(tree, self.runs, defaults, random)?.check_text("")
    }

    /// The same guest without a device: the one with the target, address of a card, alias or place that is named. What only the
    /// device needed, such as its root port, stays.
    pub fn detach(&self, xml: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let device = self.read_known(xml)?;
        let mut tree = self.tree();
        let place = find(&tree, &device)?;
        let gone = tree.child_or_new("devices").children.remove(place);
        if let Some(gone) = gone.element() {
            count_memory(&mut tree, gone, u64::saturating_sub)?;
        }
        Self::from_tree(tree, self.runs, defaults, random)?.check_text("")
    }

    /// The same guest with a device changed; it keeps its place on PCI.
    pub fn update(&self, xml: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let mut device = self.read_known(xml)?;
        let mut tree = self.tree();
        let place = find(&tree, &device)?;
        let devices = tree.child_or_new("devices");
        // Its place, its name and its card's address are what it is known by.
        for kept in ["address", "alias", "mac"] {
            let old = devices.children[place].element().and_then(|old| old.child(kept));
            if let Some(old) = old.filter(|_| device.child(kept).is_none()) {
                device.children.push(Node::Element(old.clone()));
            }
        }
        let now = device.clone();
        let before = std::mem::replace(&mut devices.children[place], Node::Element(device));
        if let Some(before) = before.element() {
            count_memory(&mut tree, before, u64::saturating_sub)?;
        }
        count_memory(&mut tree, &now, u64::saturating_add)?;
        Self::from_tree(tree, self.runs, defaults, random)?.check_text("")
    }

    /// The same guest without the device of this alias.
    pub fn detach_alias(&self, alias: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let mut tree = self.tree();
        let devices = tree.child_or_new("devices");
        let is_it = |device: &Element| device.child_get("alias", "name") == Some(alias);
        let gone: Vec<Element> = devices
            .elements()
            .filter(|device| is_it(device))
            .cloned()
            .collect();
        devices.remove_elements(is_it);
        if gone.is_empty() {
            let alias = crate::error::shorten(alias);
            return Err(Error::NoDevice(format!(
                "no device of this guest has the alias '{alias}'"
            )));
        }
        for device in &gone {
            count_memory(&mut tree, device, u64::saturating_sub)?;
        }
        Self::from_tree(tree, self.runs, defaults, random)?.check_text("")
    }

    /// Reads a device that is one of this guest's.
    fn read_known(&self, xml: &str) -> Result<Element, Error> {
        let mut device = read_device(xml)?;
        if !self.runs {
            forget_given_name(&mut device);
        }
        Ok(device)
    }
}

/// `<memory>` counts what memory devices can have.
fn count_memory(tree: &mut Element, device: &Element, count: fn(u64, u64) -> u64) -> Result<(), Error> {
    let size = device.child("target").and_then(|target| target.child("size"));
    let (Some(size), Some(total), "memory") = (size, tree.child_mut("memory"), device.name.as_str()) else {
        return Ok(());
    };
    let kib = |element: &Element| crate::value::size(element, 1024).map(|bytes| bytes.div_ceil(1024));
    let counted = count(kib(total)?, kib(size)?);
    total.set("unit", "KiB");
    total.set_text(counted.to_string());
    Ok(())
}

/// A name that a start has given means nothing to another guest, or to a definition.
fn forget_given_name(device: &mut Element) {
    let given = |alias: &Element| !alias.get("name").is_some_and(|name| name.starts_with("ua-"));
    device.remove_elements(|element| element.name == "alias" && given(element));
}

/// Reads one device, which the table has to let pass.
fn read_device(xml: &str) -> Result<Element, Error> {
    let device = read(xml)?;
    let around = Element::new("domain").with_child(Element::new("devices").with_child(device.clone()));
    check(&SCHEMA, &around)?;
    Ok(device)
}

fn find(tree: &Element, wanted: &Element) -> Result<usize, Error> {
    let devices = tree
        .child("devices")
        .map(|devices| devices.children.as_slice())
        .unwrap_or_default();
    let fits = |node: &Node| node.element().is_some_and(|device| is_meant(device, wanted));
    let mut places = devices
        .iter()
        .enumerate()
        .filter(|(_, node)| fits(node))
        .map(|(place, _)| place);
    let none = || {
        Error::NoDevice(format!(
            "no <{}> of this guest matches",
            crate::error::shorten(&wanted.name)
        ))
    };
    let place = places.next().ok_or_else(none)?;
    match places.next() {
        Some(_) => Err(Error::NoDevice(format!(
            "more than one <{}> of this guest matches; name its address or alias",
            wanted.name
        ))),
        None => Ok(place),
    }
}

/// Whether memory is of the same kind, size and file.
fn is_same_memory(device: &Element, wanted: &Element) -> bool {
    let size = |memory: &Element| {
        let size = memory.child("target").and_then(|target| target.child("size"));
        size.and_then(|size| crate::value::size(size, 1024).ok())
    };
    let path = |memory: &Element| {
        memory
            .child("source")
            .and_then(|source| source.child_text("path"))
    };
    device.get("model") == wanted.get("model") && size(device) == size(wanted) && path(device) == path(wanted)
}

/// Whether all that `wanted` says of a device's identity is so.
fn is_meant(device: &Element, wanted: &Element) -> bool {
    let same = |child: &str, attribute: &str| match wanted.child_get(child, attribute) {
        Some(value) => device
            .child_get(child, attribute)
            .is_some_and(|own| own.eq_ignore_ascii_case(value)),
        None => true,
    };
    let address = wanted
        .child("address")
        .map_or(&[][..], |address| &address.attributes);
    device.name == wanted.name
        && same("alias", "name")
        && address
            .iter()
            .all(|(name, _)| name == "multifunction" || same("address", name))
        && match device.name.as_str() {
            "disk" => same("target", "dev"),
            "interface" => same("mac", "address"),
            "channel" => same("target", "name"),
            "filesystem" => same("target", "dir"),
            "memory" => is_same_memory(device, wanted),
            "controller" => ["type", "index"]
                .iter()
                .all(|name| wanted.get(name).is_none_or(|v| device.get(name) == Some(v))),
            _ => true,
        }
}
