//! What a definition does not say: defaults, names, addresses. What is given once is kept, so that a guest sees the same hardware
//! after every edit and restart.

mod alias;
mod names;
mod order;
mod pci;
mod runtime;
mod streams;

pub use alias::Live;
pub(crate) use alias::{aliases, live};
pub(crate) use order::sort;
pub(crate) use pci::spare;
pub(crate) use runtime::strip;

use super::devices::{disk, filesystem, interface, memory_device, rng, video, vsock, watchdog};
use super::{clock, cpu, general, life, memory, os, vcpu};
use crate::tree::{Element, Node};
use crate::value::{Random, fill_uuid, object_name};
use crate::{Defaults, Error};

/// Most devices of a document; what follows takes time that grows with its square.
const MAX_DEVICES: usize = 2000;

/// Fills a document that the table has let pass.
pub(crate) fn fill(root: &mut Element, defaults: &Defaults, random: Random<'_>) -> Result<(), Error> {
    object_name(root)?;
    root.set_default("type", "kvm");
    fill_uuid(root, random)?;
    general::fill(root, random);
    memory::fill(root)?;
    vcpu::fill(root);
    os::fill(root, defaults);
    cpu::fill(root, &defaults.cpu_model);
    clock::fill(root);
    life::fill(root);
    devices(root.child_or_new("devices"), defaults, random)
}

fn devices(devices: &mut Element, defaults: &Defaults, random: Random<'_>) -> Result<(), Error> {
    if devices.children.len() > MAX_DEVICES {
        return Err(Error::Unsupported(format!(
            "a guest has at most {MAX_DEVICES} devices"
        )));
    }
    for device in devices.elements_mut() {
        match device.name.as_str() {
            "disk" => disk::fill(device)?,
            "interface" => interface::fill(device, random),
            "memory" => memory_device::fill(device)?,
            "rng" => rng::fill(device),
            "vsock" => vsock::fill(device),
            "watchdog" => watchdog::fill(device),
            "filesystem" => filesystem::fill(device),
            "video" => video::fill(device),
            _ => {}
        }
    }
    if defaults.memballoon && devices.child("memballoon").is_none() {
        let balloon = Element::new("memballoon").with("model", "virtio");
        devices.children.push(Node::Element(balloon));
    }
    streams::fill(devices)?;
    names::fill(devices)?;
    pci::fill(devices)
}
