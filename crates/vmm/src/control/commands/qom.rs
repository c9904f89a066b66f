//! A small part of QEMU's object tree: what management tools look up of CPUs and devices.
//!
//! ```text
//! /machine/rtc                      the real-time clock
//! /machine/peripheral/ID            each device by its id, and the root ports
//! /machine/unattached/device[N]     the CPUs
//! ```

use ostler_machine::RtcTime;
use serde_json::{Value, json};

use super::{Answer, Context, Reply, balloon};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::devices::Part;
use crate::manager::{Device, Manager, port_name};
use crate::spec::{MacAddress, check_cid};

/// Properties that can be set: seconds between two requests for a balloon's statistics, and the CID of a guest.
const INTERVAL: &str = "guest-stats-polling-interval";
const CID: &str = "guest-cid";
/// How much of a virtio-mem device's memory the guest is to have plugged, in bytes.
const REQUESTED: &str = "requested-size";

/// The real-time clock.
pub(in crate::control) const RTC: &str = "/machine/rtc";
const RTC_TYPE: &str = "mc146818rtc";

/// C's `struct tm`.
fn broken_down(time: RtcTime) -> Value {
    json!({
        "tm_year": time.year as i64 - 1900,
        "tm_mon": time.month as i64 - 1,
        "tm_mday": time.day,
        "tm_hour": time.hour,
        "tm_min": time.minute,
        "tm_sec": time.second,
    })
}

/// A property: its name, its type, and its value or the type of the object that it leads to.
struct Property {
    name: String,
    kind: String,
    value: Option<Value>,
}

fn value(name: &str, kind: &str, value: impl Into<Value>) -> Property {
    Property {
        name: name.into(),
        kind: kind.into(),
        value: Some(value.into()),
    }
}

fn child(name: impl Into<String>, kind: &str) -> Property {
    Property {
        name: name.into(),
        kind: format!("child<{kind}>"),
        value: None,
    }
}

fn device(manager: &Manager, device: &Device) -> Vec<Property> {
    let mut list = vec![
        value("type", "string", device.model()),
        value("realized", "bool", true),
        value("hotplugged", "bool", device.hotplugged),
        value("hotpluggable", "bool", manager.may_go(device)),
        value("parent_bus", "link<bus>", device.place.bus()),
    ];
    match &device.named.part {
        Part::Disk(part) => {
            let mut nodes = manager.nodes.iter();
            let node = nodes.find(|node| node.device.as_deref() == Some(device.id()));
            list.push(value("drive", "str", node.map_or("", |node| &*node.name)));
            list.push(value("serial", "str", &*part.image.serial));
        }
        Part::Net(part) => {
            let mut netdevs = manager.netdevs.iter();
            let netdev = netdevs.find(|netdev| netdev.card.as_deref() == Some(device.id()));
            list.push(value("netdev", "str", netdev.map_or("", |netdev| &*netdev.id)));
            list.push(value("mac", "str", MacAddress(part.control.mac()).to_string()));
        }
        Part::Balloon(control) => {
            list.push(value(
                "guest-stats",
                "guest statistics",
                balloon::statistics(control),
            ));
            list.push(value(INTERVAL, "int", control.interval()));
        }
        Part::Vsock(control) => list.push(value(CID, "uint64", control.cid())),
        Part::Share(tag) => list.push(value("tag", "str", &**tag)),
        Part::Mem(control) => list.extend([
            value(REQUESTED, "size", control.requested()),
            value("size", "size", control.plugged()),
            value("block-size", "size", control.block_size()),
            value("memaddr", "uint64", control.address()),
        ]),
        Part::Pmem(part) => list.extend([
            value("memaddr", "uint64", part.address),
            value("size", "uint64", part.size),
        ]),
        Part::Console | Part::Rng => {}
    }
    list
}

/// The properties of the object at `path`.
fn object(manager: &Manager, path: &str) -> Option<Vec<Property>> {
    let ports = || manager.machine.slots().map(|(port, _)| port_name(port));
    Some(match path {
        "/" => vec![
            value("type", "string", "container"),
            child("machine", &manager.spec.machine),
        ],
        "/machine" => vec![
            value("type", "string", format!("{}-machine", manager.spec.machine)),
            value("rtc-time", "struct tm", broken_down(manager.machine.rtc_time())),
            child("rtc", RTC_TYPE),
            child("peripheral", "container"),
            child("unattached", "container"),
        ],
        RTC => vec![
            value("type", "string", RTC_TYPE),
            value("date", "struct tm", broken_down(manager.machine.rtc_time())),
        ],
        "/machine/peripheral" => {
            let devices = manager
                .devices()
                .iter()
                .map(|device| child(device.id(), device.model()));
            let ports = ports().map(|port| child(port, "pcie-root-port"));
            let cpus = manager.cpus().filter(|(_, seat)| seat.is_hotplugged());
            let cpus = cpus.filter_map(|(cpu, _)| {
                let path = manager.cpu_path(cpu);
                Some(child(path.rsplit('/').next()?, &manager.cpu_type()))
            });
            std::iter::once(value("type", "string", "container"))
                .chain(ports)
                .chain(cpus)
                .chain(devices)
                .collect()
        }
        "/machine/unattached" => {
            let cpus = manager.cpus().filter(|(_, seat)| !seat.is_hotplugged());
            let cpus = cpus.map(|(n, _)| child(format!("device[{n}]"), &manager.cpu_type()));
            std::iter::once(value("type", "string", "container"))
                .chain(cpus)
                .collect()
        }
        _ => {
            if let Some((index, seat)) = manager.cpus().find(|(cpu, _)| manager.cpu_path(*cpu) == path) {
                return Some(vec![
                    value("type", "string", manager.cpu_type()),
                    value("realized", "bool", true),
                    value("hotplugged", "bool", seat.is_hotplugged()),
                    value("socket-id", "int", 0),
                    value("core-id", "int", index),
                    value("thread-id", "int", 0),
                ]);
            }
            let id = path.strip_prefix("/machine/peripheral/")?;
            if ports().any(|port| port == id) {
                return Some(vec![
                    value("type", "string", "pcie-root-port"),
                    value("realized", "bool", true),
                    value("hotplugged", "bool", false),
                    value("parent_bus", "link<bus>", "pcie.0"),
                ]);
            }
            device(manager, manager.device(id)?)
        }
    })
}

fn find(manager: &Manager, path: &str) -> Result<Vec<Property>, Failure> {
    // A relative path is taken as one from the root, of which there is one here.
    // The id of a device is the end of one path only.
    let absolute = if path.starts_with('/') {
        path.to_owned()
    } else if manager.device(path).is_some() {
        format!("/machine/peripheral/{path}")
    } else {
        format!("/{path}")
    };
    let trimmed = match absolute.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    object(manager, trimmed).ok_or_else(|| Failure::no_device(path))
}

pub(super) fn list(context: &mut Context, mut arguments: Arguments) -> Answer {
    let path = arguments.string("path")?;
    arguments.finish()?;
    let found = find(context.manager, &path)?;
    let entry = |property: Property| json!({ "name": property.name, "type": property.kind });
    Ok(Reply::Value(found.into_iter().map(entry).collect()))
}

/// The type of an object.
fn type_of(found: &[Property]) -> String {
    match found.first().and_then(|property| property.value.as_ref()) {
        Some(Value::String(kind)) => kind.clone(),
        _ => String::new(),
    }
}

pub(super) fn set(context: &mut Context, mut arguments: Arguments) -> Answer {
    let path = arguments.string("path")?;
    let name = arguments.string("property")?;
    let value = arguments.any("value")?;
    arguments.finish()?;
    let found = find(context.manager, &path)?;
    if !found.iter().any(|property| property.name == name) {
        let kind = type_of(&found);
        return Err(Failure::generic(format!("Property '{kind}.{name}' not found")));
    }
    let id = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    match context.manager.device(id).map(|device| &device.named.part) {
        Some(Part::Balloon(control)) if name == INTERVAL => {
            let seconds = value.as_i64();
            let seconds = seconds.ok_or_else(|| Failure::wrong_type(INTERVAL, "integer"))?;
            balloon::set_interval(control, seconds)?;
            Ok(Reply::nothing())
        }
        Some(Part::Vsock(control)) if name == CID => {
            let cid = value
                .as_u64()
                .ok_or_else(|| Failure::wrong_type(CID, "integer"))?;
            let cid = check_cid(cid).map_err(|error| Failure::generic(error.to_string()))?;
            control.set_cid(cid);
            Ok(Reply::nothing())
        }
        Some(Part::Mem(control)) if name == REQUESTED => {
            let bytes = value
                .as_u64()
                .ok_or_else(|| Failure::wrong_type(REQUESTED, "integer"))?;
            if control.set_requested(bytes) {
                return Ok(Reply::nothing());
            }
            let (most, block) = (control.most(), control.block_size());
            Err(Failure::generic(if bytes > most {
                format!("'{REQUESTED}' cannot exceed the memory backend size({most:#x})")
            } else {
                format!("'{REQUESTED}' has to be multiples of 'block-size' ({block:#x})")
            }))
        }
        _ => Err(Failure::generic(
            "Insufficient permission to perform this operation",
        )),
    }
}

pub(super) fn get(context: &mut Context, mut arguments: Arguments) -> Answer {
    let path = arguments.string("path")?;
    let name = arguments.string("property")?;
    arguments.finish()?;
    let found = find(context.manager, &path)?;
    let kind = type_of(&found);
    let property = found.into_iter().find(|property| property.name == name);
    let property = property.ok_or_else(|| Failure::generic(format!("Property '{kind}.{name}' not found")))?;
    // A child's value is its path.
    let path = path.trim_end_matches('/');
    Ok(Reply::Value(
        property.value.unwrap_or_else(|| format!("{path}/{name}").into()),
    ))
}
