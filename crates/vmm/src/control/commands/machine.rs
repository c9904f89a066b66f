//! What the machine is made of: CPUs, memory, consoles.

use ostler_machine::{MAX_CPUS, MachineType};
use ostler_virtio::mem::MemControl;
use serde_json::{Value, json};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::devices::PmemPart;
use crate::driver::Request;
use crate::manager::{Manager, Seat};
use crate::spec::{Guid, OnReset, WatchdogAction};

/// Where CPU `index` is: one socket, a core for each.
fn place(index: usize) -> Value {
    json!({ "socket-id": 0, "core-id": index, "thread-id": 0 })
}

pub(super) fn cpus(manager: &Manager) -> Value {
    let cpu = |(index, seat): (usize, &Seat)| {
        json!({
            "cpu-index": index,
            "thread-id": seat.view.thread_id(),
            "target": "x86_64",
            "qom-path": manager.cpu_path(index),
            "props": place(index),
        })
    };
    manager.cpus().map(cpu).collect()
}

/// Every CPU that there can be; those that are there have a path.
pub(super) fn cpu_places(manager: &Manager) -> Value {
    let cpu = |(index, _): (usize, &Seat)| {
        let mut value = json!({
            "type": manager.cpu_type(),
            "vcpus-count": 1,
            "props": place(index),
        });
        if manager.cpu(index).is_some() {
            value["qom-path"] = manager.cpu_path(index).into();
        }
        value
    };
    manager.seats().map(cpu).collect()
}

pub(super) fn types(_: &Manager) -> Value {
    let describe = |machine: MachineType| {
        let mut value = json!({
            "name": machine.name(),
            "cpu-max": MAX_CPUS,
            "hotpluggable-cpus": true,
            "numa-mem-supported": false,
            "deprecated": false,
            "default-cpu-type": "max-x86_64-cpu",
        });
        if machine == MachineType::default() {
            value["is-default"] = true.into();
        }
        value
    };
    MachineType::ALL.into_iter().map(describe).collect()
}

pub(super) fn current(manager: &Manager) -> Value {
    json!({ "wakeup-suspend-support": manager.machine.can_suspend() })
}

pub(super) fn memory(manager: &Manager) -> Value {
    json!({ "base-memory": manager.spec.memory, "plugged-memory": manager.plugged_memory() })
}

/// `query-memory-devices`.
pub(super) fn memory_devices(manager: &Manager) -> Value {
    let device = |(id, memory): (&str, &MemControl)| {
        let data = json!({
            "id": id,
            "memaddr": memory.address(),
            "requested-size": memory.requested(),
            "size": memory.plugged(),
            "max-size": memory.most(),
            "block-size": memory.block_size(),
            "node": 0,
            "memdev": format!("/objects/{id}"),
        });
        json!({ "type": "virtio-mem", "data": data })
    };
    let persistent = |(id, part): (&str, PmemPart)| {
        let data = json!({
            "id": id,
            "memaddr": part.address,
            "size": part.size,
            "memdev": format!("/objects/{id}"),
        });
        json!({ "type": "virtio-pmem", "data": data })
    };
    let pluggable = manager.memory().into_iter().map(device);
    pluggable
        .chain(manager.persistent_memory().map(persistent))
        .collect()
}

pub(super) fn chardevs(manager: &Manager) -> Value {
    let chardev =
        |label: &str, filename: &str| json!({ "label": label, "filename": filename, "frontend-open": true });
    let mut list: Vec<Value> = manager
        .consoles
        .iter()
        .filter(|console| console.leads_to != "null")
        .map(|console| chardev(console.name, console.leads_to))
        .collect();
    list.push(chardev("control", "unix"));
    list.into()
}

/// `watchdog-set-action`.
pub(super) fn set_watchdog_action(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string("action")?;
    arguments.finish()?;
    let action = WatchdogAction::from_name(&name);
    let action = action.ok_or_else(|| Failure::not_accepted("action", &name))?;
    context.manager.watchdog.set(action);
    Ok(Reply::nothing())
}

/// `set-action`: what follows a reset, and the end of the watchdog's patience. What follows a power-off and a panic cannot be chosen,
/// and is accepted where it is what follows anyway.
pub(super) fn set_action(context: &mut Context, mut arguments: Arguments) -> Answer {
    let reboot = arguments.string_if_given("reboot")?;
    let watchdog = arguments.string_if_given("watchdog")?;
    let others = [("shutdown", "poweroff"), ("panic", "shutdown")];
    for (name, only) in others {
        if let Some(other) = arguments.string_if_given(name)?.filter(|action| action != only) {
            return Err(Failure::not_accepted(name, &other));
        }
    }
    arguments.finish()?;
    let on_reset = match reboot.as_deref() {
        None => None,
        Some("reset") => Some(OnReset::Restart),
        Some("shutdown") => Some(OnReset::End),
        Some(other) => return Err(Failure::not_accepted("reboot", other)),
    };
    if let Some(name) = watchdog {
        let action = WatchdogAction::from_name(&name);
        let action = action.ok_or_else(|| Failure::not_accepted("watchdog", &name))?;
        context.manager.watchdog.set(action);
    }
    Ok(match on_reset {
        Some(on_reset) => Reply::Ask(Request::SetOnReset(on_reset), json!({})),
        None => Reply::nothing(),
    })
}

fn no_generation_id() -> Failure {
    Failure::generic("VM Generation ID device not found")
}

/// `query-vm-generation-id`.
pub(super) fn generation_id(context: &mut Context, arguments: Arguments) -> Answer {
    arguments.finish()?;
    let id = context.manager.spec.generation_id.ok_or_else(no_generation_id)?;
    Ok(Reply::Value(json!({ "guid": id.to_string() })))
}

/// `x-ostler-set-vm-generation-id`: for whoever made a copy of the guest, or of its disks, behind our back.
pub(super) fn set_generation_id(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id: Guid = arguments.string("guid")?.parse().map_err(Failure::generic)?;
    arguments.finish()?;
    if !context.manager.machine.set_generation_id(id.in_memory()) {
        return Err(no_generation_id());
    }
    context.manager.spec.generation_id = Some(id);
    Ok(Reply::nothing())
}

pub(super) fn wake_up(context: &mut Context, arguments: Arguments) -> Answer {
    arguments.finish()?;
    let machine = &context.manager.machine;
    if !machine.can_suspend() {
        let text = "wake-up from suspend is not supported by this guest";
        return Err(Failure::generic(text));
    }
    if !machine.is_asleep() {
        let text = "Unable to wake up: guest is not in suspended state";
        return Err(Failure::generic(text));
    }
    Ok(Reply::Ask(Request::WakeUp, json!({})))
}

pub(super) fn inject_nmi(context: &mut Context, arguments: Arguments) -> Answer {
    arguments.finish()?;
    if context.manager.state().is_final() {
        return Err(Failure::generic("the guest is over"));
    }
    context.manager.inject_nmi();
    Ok(Reply::nothing())
}
