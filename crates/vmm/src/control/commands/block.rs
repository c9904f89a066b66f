//! Disks and block nodes.

use ostler_ahci::{DriveKind, TrayControl};
use ostler_virtio::block::BlockRequest;
use serde_json::{Value, json};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::devices::{DiskPart, SataDrive};
use crate::manager::{Device, Manager, Node, Origin, drive_path};

pub(super) fn add(context: &mut Context, arguments: Arguments) -> Answer {
    let manager = &mut *context.manager;
    manager.nodes.add(arguments, &manager.fdsets)?;
    Ok(Reply::nothing())
}

pub(super) fn remove(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string("node-name")?;
    arguments.finish()?;
    context.manager.nodes.remove(&name)?;
    Ok(Reply::nothing())
}

/// `block_resize`: by the name of a node, or of a device.
pub(super) fn resize(context: &mut Context, mut arguments: Arguments) -> Answer {
    let device = arguments.string_if_given("device")?;
    let node = arguments.string_if_given("node-name")?;
    let size = arguments.integer("size")?;
    arguments.finish()?;
    let manager = &*context.manager;
    let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
    let nodes = &manager.nodes;
    let found = match nodes.get(&node) {
        Some(node) => Some(node),
        None if node.is_empty() => nodes.iter().find(|n| n.device.as_deref() == Some(&*device)),
        None => None,
    };
    let unknown = || Failure::generic(format!("Cannot find device='{device}' nor node-name='{node}'"));
    let node = found.ok_or_else(unknown)?;
    let size = u64::try_from(size).map_err(|_| Failure::expects("size", "a >0 size"))?;
    if manager
        .drives
        .iter()
        .any(|drive| node.device.as_deref() == Some(&*drive.name))
    {
        return Err(Failure::generic(format!(
            "'{}' is a SATA drive, whose size cannot change while the guest runs",
            node.name
        )));
    }
    let failed = |error: ostler_disk::Error| Failure::generic(error.to_string());
    node.disk.resize(size).map_err(failed)?;
    let user = nodes.device_above(&node.name);
    if let Some((_, part)) = manager.disks().find(|(device, _)| Some(device.id()) == user) {
        part.control.capacity_changed();
    }
    Ok(Reply::nothing())
}

/// A node as `query-block` and `query-named-block-nodes` show it (BlockDeviceInfo).
fn node(node: &Node) -> Value {
    let image = json!({
        "filename": node.filename,
        "format": node.driver,
        "virtual-size": node.disk.size(),
    });
    json!({
        "node-name": node.name,
        "drv": node.driver,
        "file": node.filename,
        "image": image,
        "ro": node.disk.features().readonly,
        "encrypted": false,
        "backing_file_depth": 0,
        "cache": { "writeback": true, "direct": node.direct, "no-flush": false },
        "detect_zeroes": "off",
        "write_threshold": 0,
        // There are no limits.
        "bps": 0, "bps_rd": 0, "bps_wr": 0,
        "iops": 0, "iops_rd": 0, "iops_wr": 0,
    })
}

/// The node that a device is on.
fn node_of<'a>(manager: &'a Manager, device: &Device) -> Option<&'a Node> {
    manager.nodes.on(device.id())
}

/// The name of a disk as QEMU's older commands have it: only those have one that the guest was built with.
fn old_name<'a>(manager: &Manager, device: &'a Device) -> &'a str {
    match node_of(manager, device) {
        Some(node) if node.origin == Origin::Built => device.id(),
        _ => "",
    }
}

fn backend_path(device: &Device) -> String {
    format!("{}/virtio-backend", device.qom_path())
}

pub(super) fn query(manager: &Manager) -> Value {
    let disk = |(device, _): (&Device, &DiskPart)| {
        let mut value = json!({
            "device": old_name(manager, device),
            "qdev": backend_path(device),
            "type": "unknown",
            "removable": false,
            "locked": false,
            "io-status": "ok",
        });
        if let Some(inserted) = node_of(manager, device) {
            value["inserted"] = node(inserted);
        }
        value
    };
    let drive = |(port, drive): (usize, &SataDrive)| {
        let tray = drive.tray.as_ref().map(TrayControl::state);
        let mut value = json!({
            "device": drive.name,
            "qdev": drive_path(port),
            "type": "unknown",
            "removable": drive.kind == DriveKind::Cdrom,
            "locked": tray.is_some_and(|tray| tray.locked),
        });
        if let Some(tray) = tray {
            value["tray_open"] = tray.open.into();
        }
        if let Some(inserted) = manager.nodes.on(&drive.name) {
            value["inserted"] = node(inserted);
        }
        value
    };
    let drives = manager.drives.iter().enumerate().map(drive);
    manager.disks().map(disk).chain(drives).collect()
}

pub(super) fn nodes(context: &mut Context, mut arguments: Arguments) -> Answer {
    // Nodes are shown flat in any case: none has a backing image.
    arguments.boolean_if_given("flat")?;
    arguments.finish()?;
    Ok(Reply::Value(context.manager.nodes.iter().map(node).collect()))
}

/// BlockDeviceStats.
fn account(part: &DiskPart) -> Value {
    let account = part.control.account();
    let mut stats = json!({
        "wr_highest_offset": account.highest_write(),
        // Requests go to the host as the guest makes them.
        "rd_merged": 0, "wr_merged": 0, "unmap_merged": 0,
        "account_invalid": false,
        "account_failed": false,
        "timed_stats": [],
    });
    let kinds = [
        ("rd", BlockRequest::Read),
        ("wr", BlockRequest::Write),
        ("flush", BlockRequest::Flush),
        ("unmap", BlockRequest::Discard),
    ];
    for (name, kind) in kinds {
        let counters = account.kind(kind);
        if kind != BlockRequest::Flush {
            stats[format!("{name}_bytes")] = counters.bytes.into();
        }
        stats[format!("{name}_operations")] = counters.done.into();
        stats[format!("{name}_total_time_ns")] = counters.nanoseconds.into();
        stats[format!("failed_{name}_operations")] = counters.failed.into();
        stats[format!("invalid_{name}_operations")] = counters.refused.into();
    }
    stats
}

pub(super) fn statistics(context: &mut Context, mut arguments: Arguments) -> Answer {
    // Only what devices do is counted, so there is nothing to say of nodes by themselves.
    arguments.boolean_if_given("query-nodes")?;
    arguments.finish()?;
    let manager = &*context.manager;
    let disk = |(device, part): (&Device, &DiskPart)| {
        let mut value = json!({
            "device": old_name(manager, device),
            "qdev": backend_path(device),
            "stats": account(part),
        });
        if let Some(node) = node_of(manager, device) {
            value["node-name"] = node.name.as_str().into();
        }
        value
    };
    Ok(Reply::Value(manager.disks().map(disk).collect()))
}
