//! The PCI functions, as the guest has configured them.

use ostler_bus::Space;
use ostler_pci::{BarKind, ConfigSpace, Location, PciFunction, regs};
use serde_json::{Value, json};

use crate::manager::{Manager, Place, port_name};

/// What a class code stands for, as QEMU says it.
fn class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "SCSI controller",
        0x0106 => "SATA controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0380 => "Display controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0780 => "Communication controller",
        _ => return None,
    })
}

fn regions(config: &ConfigSpace) -> Vec<Value> {
    let bars = config.bars().iter().enumerate();
    bars.filter_map(|(index, bar)| {
        let bar = bar.as_ref()?;
        // QEMU's -1 stands for "not decoded".
        let address = config.decoded_bar(index).map_or(json!(-1), Value::from);
        let mut region = json!({ "bar": index, "size": bar.size, "address": address });
        match bar.space() {
            Space::Port => region["type"] = "io".into(),
            Space::Memory => {
                region["type"] = "memory".into();
                let prefetch = matches!(bar.kind, BarKind::Memory64 { prefetchable: true });
                region["prefetch"] = prefetch.into();
                region["mem_type_64"] = bar.is_64bit().into();
            }
        }
        Some(region)
    })
    .collect()
}

/// The numbers and windows of a bridge (PCI-to-PCI Bridge 1.2, 3.2.5).
fn bridge(config: &ConfigSpace) -> Value {
    let io = |offset: u16| {
        u64::from(config.u8(offset) & 0xf0) << 8
            | u64::from(config.u16(regs::IO_BASE_UPPER + 2 * (offset - regs::IO_BASE))) << 16
    };
    let memory = |offset: u16| u64::from(config.u16(offset) & 0xfff0) << 16;
    let upper = |offset: u16| u64::from(config.u32(offset)) << 32;
    json!({
        "number": config.u8(regs::PRIMARY_BUS),
        "secondary": config.u8(regs::SECONDARY_BUS),
        "subordinate": config.u8(regs::SUBORDINATE_BUS),
        "io_range": { "base": io(regs::IO_BASE), "limit": io(regs::IO_BASE + 1) | 0xfff },
        "memory_range": { "base": memory(regs::MEMORY_BASE), "limit": memory(regs::MEMORY_BASE + 2) | 0xf_ffff },
        "prefetchable_range": {
            "base": memory(regs::PREFETCH_BASE) | upper(regs::PREFETCH_BASE_UPPER),
            "limit": memory(regs::PREFETCH_BASE + 2) | upper(regs::PREFETCH_BASE_UPPER + 4) | 0xf_ffff,
        },
    })
}

fn function(bus: u8, at: Location, function: &dyn PciFunction, id: &str) -> Value {
    let config = function.config();
    let class = config.u16(regs::REVISION + 2);
    let mut class_info = json!({ "class": class });
    if let Some(name) = class_name(class) {
        class_info["desc"] = name.into();
    }
    let mut ids = json!({ "vendor": config.u16(regs::VENDOR_ID), "device": config.u16(regs::DEVICE_ID) });
    if !config.is_bridge() {
        ids["subsystem-vendor"] = config.u16(regs::SUBSYSTEM_VENDOR_ID).into();
        ids["subsystem"] = config.u16(regs::SUBSYSTEM_VENDOR_ID + 2).into();
    }
    let pin = config.u8(regs::INTERRUPT_PIN);
    let mut value = json!({
        "bus": bus,
        "slot": at.device,
        "function": at.function,
        "class_info": class_info,
        "id": ids,
        "irq_pin": pin,
        "qdev_id": id,
        "regions": regions(config),
    });
    if pin != 0 {
        value["irq"] = config.u8(regs::INTERRUPT_LINE).into();
    }
    value
}

/// Id of what is at `place`, if it has one.
fn id_at(manager: &Manager, place: Place) -> &str {
    let device = manager.devices().iter().find(|device| device.place == place);
    device.map_or("", |device| device.id())
}

pub(super) fn query(manager: &Manager) -> Value {
    let mut devices = Vec::new();
    for (at, found) in manager.machine.pci().functions() {
        let port = manager.machine.slots().find(|(_, place)| at == *place);
        let Some((port, _)) = port else {
            let id = id_at(manager, Place::RootBus(at));
            devices.push(function(0, at, &*found, id));
            continue;
        };
        let mut value = function(0, at, &*found, &port_name(port));
        let config = found.config();
        value["pci_bridge"] = json!({ "bus": bridge(config) });
        let child = manager
            .machine
            .hotplug_port(port)
            .ok()
            .and_then(|port| port.child());
        let secondary = config.u8(regs::SECONDARY_BUS);
        // Before the guest, or firmware, has numbered the buses nothing behind them can be named.
        if let Some(child) = child.filter(|_| secondary != 0) {
            let id = id_at(manager, Place::Port(port));
            value["pci_bridge"]["devices"] = json!([function(secondary, Location::device(0), &*child, id)]);
        }
        devices.push(value);
    }
    json!([{ "bus": 0, "devices": devices }])
}
