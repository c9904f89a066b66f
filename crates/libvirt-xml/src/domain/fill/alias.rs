//! What a guest that runs shows more: its number, aliases, and what was given at the start.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::devices::video;
use crate::tree::Element;

/// What a start has given a guest, for the dump of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Its number.
    pub id: u32,
    /// Terminals of its consoles (`/dev/pts/3`), by alias.
    pub ttys: BTreeMap<String, String>,
    /// The host's interfaces of its cards (`vnet0`), by alias.
    pub ports: BTreeMap<String, String>,
    /// Which ports of channels the guest has open, by alias.
    pub connected: BTreeMap<String, bool>,
    /// The CD-ROM drives whose trays are open, by alias.
    pub open_trays: BTreeSet<String>,
    /// How much the guest has of its memory devices, in bytes, by alias.
    pub plugged: BTreeMap<String, u64>,
    /// Seconds by which the guest has set its clock forward since the start.
    pub clock_moved: i64,
    /// Number of its vsock.
    pub cid: Option<u32>,
}

/// Gives every device of a guest that runs its alias, and adds what the start has given it.
pub(crate) fn live(root: &mut Element, live: &Live) {
    let id = ("id".to_owned(), live.id.to_string());
    let after_type = root.attributes.len().min(1);
    root.attributes.insert(after_type, id);
    aliases(root);
    clock(root, live.clock_moved);
    for device in root
        .child_mut("devices")
        .into_iter()
        .flat_map(Element::elements_mut)
    {
        if let Some(alias) = device.child_get("alias", "name").map(str::to_owned) {
            given(device, &alias, live);
        }
    }
}

/// A variable clock is adjusted by what the guest has set.
fn clock(root: &mut Element, moved: i64) {
    if let Some(clock) = root.child_mut("clock")
        && clock.get("offset") == Some("variable")
        && let Some(adjustment) = clock
            .get("adjustment")
            .and_then(|written| written.parse::<i64>().ok())
    {
        clock.set("adjustment", adjustment.saturating_add(moved).to_string());
    }
}

/// Gives every device that has no alias one that no other has.
pub(crate) fn aliases(root: &mut Element) {
    let Some(devices) = root.child_mut("devices") else {
        return;
    };
    let own = |device: &Element| device.child_get("alias", "name").map(str::to_owned);
    let used: BTreeSet<String> = devices.elements().filter_map(own).collect();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for device in devices.elements_mut() {
        if own(device).is_none()
            && let Some(alias) = alias(device, &used, &mut counts)
        {
            device.child_or_new("alias").set("name", &*alias);
        }
    }
}

fn alias(device: &Element, used: &BTreeSet<String>, counts: &mut BTreeMap<String, u32>) -> Option<String> {
    let mut next = |kind: &str| {
        let count = counts.entry(kind.to_owned()).or_default();
        loop {
            let alias = format!("{kind}{count}");
            *count += 1;
            if !used.contains(&alias) {
                return alias;
            }
        }
    };
    Some(match device.name.as_str() {
        "disk" => match device.child_get("target", "bus") {
            Some("sata") => format!("sata0-0-{}", device.child_get("address", "unit").unwrap_or("0")),
            _ => next("virtio-disk"),
        },
        "interface" => next("net"),
        "serial" => next("serial"),
        "console" if device.child_get("target", "type") == Some("serial") => {
            format!("serial{}", device.child_get("target", "port").unwrap_or("0"))
        }
        "console" => next("console"),
        "channel" => next("channel"),
        "rng" => next("rng"),
        "memballoon" if device.get("model") != Some("none") => next("balloon"),
        "memory" if device.get("model") == Some("virtio-pmem") => next("virtiopmem"),
        "memory" => next("virtiomem"),
        "vsock" => next("vsock"),
        "watchdog" => next("watchdog"),
        "filesystem" => next("fs"),
        "video" if video::is_display(device) => next("video"),
        "controller" => {
            let index = device.get("index").unwrap_or("0");
            match (device.get("type")?, index) {
                ("pci", "0") => "pcie.0".to_owned(),
                ("pci", index) => format!("pci.{index}"),
                ("sata", _) => "ide".to_owned(),
                ("virtio-serial", index) => format!("virtio-serial{index}"),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn given(device: &mut Element, alias: &str, live: &Live) {
    let is_pty = device.get("type") == Some("pty");
    if let Some(tty) = live.ttys.get(alias).filter(|_| is_pty) {
        if device.name == "console" {
            device.set("tty", &**tty);
        }
        device.child_or_new("source").set("path", &**tty);
    }
    if let Some(port) = live.ports.get(alias) {
        device.child_or_new("target").set_default("dev", &**port);
    }
    if device.name == "disk" {
        let target = device.child_or_new("target");
        match live.open_trays.contains(alias) {
            true => target.set("tray", "open"),
            false => target.unset("tray"),
        };
    }
    if let Some(connected) = live.connected.get(alias) {
        let state = if *connected { "connected" } else { "disconnected" };
        device.child_or_new("target").set("state", state);
    }
    if device.name == "memory" && device.get("model") == Some("virtio-mem") {
        let plugged = live.plugged.get(alias).copied().unwrap_or(0);
        let current = device.child_or_new("target").child_or_new("current");
        current.set("unit", "KiB");
        current.set_text((plugged >> 10).to_string());
    }
    if let Some(cid) = live.cid.filter(|_| device.name == "vsock") {
        device.child_or_new("cid").set("address", cid.to_string());
    }
}
