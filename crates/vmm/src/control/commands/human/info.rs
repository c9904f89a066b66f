//! What `info` tells.

use std::fmt::Write;

use ostler_ahci::TrayControl;
use ostler_bus::AddressMap;
use ostler_memory::{RamSlot, persistent_slots};
use serde_json::Value;

use super::registers;
use crate::control::commands::{balloon, machine, pci, state, version};
use crate::devices::{DiskPart, NetPart, SataDrive};
use crate::driver::State;
use crate::manager::{Device, Manager, Seat, drive_path};
use crate::spec::MacAddress;

type Tell = fn(&Manager, usize, &[&str]) -> String;

const SUBJECTS: &[(&str, &str, Tell)] = &[
    (
        "balloon",
        "show balloon information",
        |manager, _, _| match balloon::actual(manager) {
            Ok(bytes) => format!("balloon: actual={}\n", bytes >> 20),
            Err(failure) => format!("Error: {}\n", failure.text),
        },
    ),
    ("block", "show info of all block devices", |manager, _, _| {
        disks(manager)
    }),
    ("chardev", "show the character devices", |manager, _, _| {
        chardevs(manager)
    }),
    ("cpus", "show infos for each CPU", cpus),
    (
        "hotpluggable-cpus",
        "show information about hotpluggable CPUs",
        |manager, _, _| cpu_places(manager),
    ),
    ("kvm", "show KVM information", |manager, _, _| kvm(manager)),
    (
        "memory_size_summary",
        "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes.",
        |manager, _, _| memory_summary(manager),
    ),
    ("mtree", "show where memory and devices are", |manager, _, _| {
        memory_tree(manager)
    }),
    ("name", "show the current VM name", |manager, _, _| {
        format!("{}\n", manager.spec.name)
    }),
    ("network", "show the network state", |manager, _, _| {
        network(manager)
    }),
    ("pci", "show PCI info", |manager, _, _| functions(manager)),
    (
        "registers",
        "show the cpu registers (-a: of all cpus)",
        all_registers,
    ),
    (
        "status",
        "show the current VM status (running|paused)",
        |manager, _, _| status(manager),
    ),
    ("uuid", "show the current VM UUID", |_, _, _| {
        format!("{}\n", state::UUID)
    }),
    (
        "vm-generation-id",
        "Show Virtual Machine Generation ID",
        |manager, _, _| match manager.spec.generation_id {
            Some(id) => format!("{id}\n"),
            None => "Error: VM Generation ID device not found\n".into(),
        },
    ),
    ("version", "show the version of this program", |_, _, _| {
        version_line()
    }),
];

pub(super) fn run(manager: &Manager, cpu: usize, words: &[&str]) -> String {
    let Some((subject, rest)) = words.split_first() else {
        let lines = SUBJECTS
            .iter()
            .map(|(name, summary, _)| format!("info {name}  -- {summary}\n"));
        return lines.collect();
    };
    match SUBJECTS.iter().find(|(name, ..)| name == subject) {
        Some((_, _, tell)) => tell(manager, cpu, rest),
        None => format!("unknown command: 'info {subject}'\n"),
    }
}

fn version_line() -> String {
    let version = version();
    let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
    let package = version["package"].as_str().unwrap_or("");
    format!(
        "{}.{}.{} ({package})\n",
        number("major"),
        number("minor"),
        number("micro")
    )
}

fn status(manager: &Manager) -> String {
    let name = state::state_name(manager.state());
    match manager.state() {
        State::Running | State::ShuttingDown | State::Resetting { paused: false } => {
            "VM status: running\n".into()
        }
        State::Paused | State::Resetting { paused: true } => "VM status: paused\n".into(),
        _ => format!("VM status: paused ({name})\n"),
    }
}

fn kvm(manager: &Manager) -> String {
    let enabled = if manager.on_kvm() { "enabled" } else { "disabled" };
    format!("kvm support: {enabled}\n")
}

fn cpus(manager: &Manager, current: usize, _: &[&str]) -> String {
    let line = |(index, seat): (usize, &Seat)| {
        let mark = if index == current { '*' } else { ' ' };
        format!("{mark} CPU #{index}: thread_id={}\n", seat.view.thread_id())
    };
    manager.cpus().map(line).collect()
}

fn chardevs(manager: &Manager) -> String {
    let list = machine::chardevs(manager);
    let line = |chardev: &Value| {
        let member = |name: &str| chardev[name].as_str().unwrap_or("").to_owned();
        format!("{}: filename={}\n", member("label"), member("filename"))
    };
    list.as_array().into_iter().flatten().map(line).collect()
}

fn cpu_places(manager: &Manager) -> String {
    let places = machine::cpu_places(manager);
    let mut shown = String::from("Hotpluggable CPUs:\n");
    for place in places.as_array().into_iter().flatten() {
        let text = |name: &str| place[name].as_str().unwrap_or("").to_owned();
        // Writing to a text does not fail.
        let _ = writeln!(shown, "  type: \"{}\"", text("type"));
        let _ = writeln!(shown, "  vcpus_count: \"{}\"", place["vcpus-count"]);
        if place.get("qom-path").is_some() {
            let _ = writeln!(shown, "  qom_path: \"{}\"", text("qom-path"));
        }
        let _ = writeln!(shown, "  CPUInstance Properties:");
        for name in ["socket-id", "core-id", "thread-id"] {
            let _ = writeln!(shown, "    {name}: \"{}\"", place["props"][name]);
        }
    }
    shown
}

fn memory_summary(manager: &Manager) -> String {
    let memory = machine::memory(manager);
    format!(
        "base memory: {}\nplugged memory: {}\n",
        memory["base-memory"], memory["plugged-memory"]
    )
}

fn all_registers(manager: &Manager, current: usize, words: &[&str]) -> String {
    let list: Vec<usize> = match words {
        ["-a"] => manager.cpus().map(|(cpu, _)| cpu).collect(),
        [number] => match number.parse() {
            Ok(cpu) if manager.cpu(cpu).is_some() => vec![cpu],
            _ => return format!("CPU#{number} not available\n"),
        },
        _ => vec![current],
    };
    let mut shown = String::new();
    for cpu in list {
        let Some(state) = manager.registers(cpu) else {
            // Nor would the others, and each may take its time for that.
            return shown + &format!("\nCPU#{cpu}\nit does not answer\n");
        };
        shown += &format!("\nCPU#{cpu}\n{}", registers::show(&state));
    }
    shown
}

fn disks(manager: &Manager) -> String {
    let disk = |(device, part): (&Device, &DiskPart)| {
        let mut nodes = manager.nodes.iter();
        let node = nodes.find(|node| node.device.as_deref() == Some(device.id()));
        let (name, driver, image) = match node {
            Some(node) => (&*node.name, node.driver, &*node.filename),
            None => ("", "", ""),
        };
        let readonly = if part.image.disk.features().readonly {
            ", read-only"
        } else {
            ""
        };
        let caching = if part.image.direct {
            "writeback, direct"
        } else {
            "writeback"
        };
        format!(
            "{name}: {image} ({driver}{readonly})\n    Attached to:      {}/virtio-backend\n    Cache mode:       {caching}\n\n",
            device.qom_path()
        )
    };
    let drives = manager.drives.iter().enumerate();
    let drives = drives.map(|(port, drive)| show_drive(manager, port, drive));
    let list: String = manager.disks().map(disk).chain(drives).collect();
    list.trim_end_matches('\n').to_owned() + if list.is_empty() { "" } else { "\n" }
}

/// A SATA drive, with or without a medium.
fn show_drive(manager: &Manager, port: usize, drive: &SataDrive) -> String {
    let node = manager.nodes.on(&drive.name);
    let mut shown = match node {
        Some(node) => {
            let readonly = if node.disk.features().readonly {
                ", read-only"
            } else {
                ""
            };
            format!("{}: {} ({}{readonly})\n", drive.name, node.filename, node.driver)
        }
        None => format!("{}: [not inserted]\n", drive.name),
    };
    let mut line = |name: &str, value: &str| {
        // Writing to a text does not fail.
        let _ = writeln!(shown, "    {name:<17} {value}");
    };
    line("Attached to:", &drive_path(port));
    if let Some(tray) = drive.tray.as_ref().map(TrayControl::state) {
        let locked = if tray.locked { "locked" } else { "not locked" };
        let open = if tray.open { "open" } else { "closed" };
        line("Removable device:", &format!("{locked}, tray {open}"));
    }
    if let Some(node) = node {
        let direct = if node.direct { ", direct" } else { "" };
        line("Cache mode:", &format!("writeback{direct}"));
    }
    shown.push('\n');
    shown
}

fn network(manager: &Manager) -> String {
    let mut shown = String::new();
    let card = |(device, part): (&Device, &NetPart)| {
        let mut netdevs = manager.netdevs.iter();
        let netdev = netdevs.find(|netdev| netdev.card.as_deref() == Some(device.id()));
        let (id, kind) = netdev.map_or(("", ""), |netdev| (&*netdev.id, netdev.kind));
        let link = if part.control.is_plugged() {
            ""
        } else {
            ",link=down"
        };
        format!(
            "{}: index=0,type=nic,model={},macaddr={}{link}\n \\ {id}: index=0,type={kind}\n",
            device.id(),
            device.model(),
            MacAddress(part.control.mac()),
        )
    };
    shown.extend(manager.cards().map(card));
    for free in manager.netdevs.iter().filter(|netdev| netdev.card.is_none()) {
        // Writing to a text does not fail.
        let _ = writeln!(shown, "{}: index=0,type={}", free.id, free.kind);
    }
    shown
}

fn functions(manager: &Manager) -> String {
    let tree = pci::query(manager);
    let mut shown = String::new();
    for device in tree[0]["devices"].as_array().into_iter().flatten() {
        show_function(device, &mut shown);
        for child in device["pci_bridge"]["devices"].as_array().into_iter().flatten() {
            show_function(child, &mut shown);
        }
    }
    shown
}

/// One function in QEMU's layout. Writing to a text does not fail.
fn show_function(device: &Value, shown: &mut String) {
    let number = |at: &str| device.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let _ = writeln!(
        shown,
        "  Bus {:>2}, device {:>3}, function {}:",
        number("/bus"),
        number("/slot"),
        number("/function")
    );
    match device["class_info"]["desc"].as_str() {
        Some(name) => _ = write!(shown, "    {name}"),
        None => _ = write!(shown, "    Class {:04x}", number("/class_info/class")),
    }
    let _ = writeln!(
        shown,
        ": PCI device {:04x}:{:04x}",
        number("/id/vendor"),
        number("/id/device")
    );
    if number("/irq_pin") != 0 {
        let pin = char::from(b'A' + (number("/irq_pin") as u8).saturating_sub(1) % 4);
        let _ = writeln!(shown, "      IRQ {}, pin {pin}", number("/irq"));
    }
    if let Some(bridge) = device.pointer("/pci_bridge/bus") {
        let number = |at: &str| bridge.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        let _ = writeln!(shown, "      BUS {}.", number("/number"));
        let _ = writeln!(shown, "      secondary bus {}.", number("/secondary"));
        let _ = writeln!(shown, "      subordinate bus {}.", number("/subordinate"));
        for (name, range) in [
            ("IO", "io_range"),
            ("memory", "memory_range"),
            ("prefetchable memory", "prefetchable_range"),
        ] {
            let (base, limit) = (
                number(&format!("/{range}/base")),
                number(&format!("/{range}/limit")),
            );
            let _ = writeln!(shown, "      {name} range [{base:#06x}, {limit:#06x}]");
        }
    }
    for region in device["regions"].as_array().into_iter().flatten() {
        let size = region["size"].as_u64().unwrap_or(1);
        let place = match region["address"].as_u64() {
            Some(base) => format!("at {base:#x} [{:#x}]", base + (size - 1)),
            None => "not decoded".into(),
        };
        let kind = match (region["type"].as_str(), region["mem_type_64"].as_bool()) {
            (Some("io"), _) => "I/O",
            (_, Some(true)) => "64 bit memory",
            _ => "32 bit memory",
        };
        let _ = writeln!(shown, "      BAR{}: {kind} {place}.", region["bar"]);
    }
    let _ = writeln!(shown, "      id {}", device["qdev_id"]);
}

/// What is behind an address, if it is a BAR: as "disk0 BAR 4".
fn bar_at(tree: &Value, base: u64, kind: &str) -> Option<String> {
    let devices = tree[0]["devices"].as_array()?.iter();
    let children = devices
        .clone()
        .filter_map(|device| device.pointer("/pci_bridge/devices/0"));
    devices.chain(children).find_map(|device| {
        let mut regions = device["regions"].as_array()?.iter();
        let region =
            regions.find(|region| region["address"].as_u64() == Some(base) && region["type"] == kind)?;
        Some(format!("{} BAR {}", device["qdev_id"].as_str()?, region["bar"]))
    })
}

fn memory_tree(manager: &Manager) -> String {
    let tree = pci::query(manager);
    let mut shown = String::from("memory\n");
    let ram = RamSlot::all_of(manager.ram())
        .into_iter()
        .map(|slot| (slot, "ram"));
    let persistent = persistent_slots(manager.ram()).into_iter();
    for (slot, kind) in ram.chain(persistent.map(|slot| (slot, "persistent"))) {
        let end = slot.gpa + (slot.len - 1);
        let _ = writeln!(shown, "  {:016x}-{end:016x}: {kind}", slot.gpa);
    }
    show_ranges(
        &mut shown,
        manager.machine.memory(),
        |base| bar_at(&tree, base, "memory"),
        16,
    );
    shown.push_str("I/O\n");
    show_ranges(
        &mut shown,
        manager.machine.ports(),
        |base| bar_at(&tree, base, "io"),
        4,
    );
    shown
}

fn show_ranges(shown: &mut String, map: &AddressMap, name: impl Fn(u64) -> Option<String>, digits: usize) {
    for range in map.ranges() {
        let name = name(range.base).unwrap_or_else(|| "device".into());
        let last = range.base + (range.len - 1);
        let _ = writeln!(shown, "  {:0digits$x}-{last:0digits$x}: {name}", range.base);
    }
}
