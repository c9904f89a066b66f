//! Network cards and their back ends.

use serde_json::{Value, json};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::devices::{CardControl, NetPart};
use crate::manager::Device;
use crate::spec::MacAddress;

pub(super) fn add(context: &mut Context, arguments: Arguments) -> Answer {
    let vhost = context.manager.on_kvm();
    context.manager.netdevs.add(arguments, context.fds, vhost)?;
    Ok(Reply::nothing())
}

pub(super) fn remove(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id = arguments.string("id")?;
    arguments.finish()?;
    context.manager.netdevs.remove(&id)?;
    Ok(Reply::nothing())
}

pub(super) fn set_link(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string("name")?;
    let up = arguments.boolean("up")?;
    arguments.finish()?;
    let card = context
        .manager
        .card(&name)
        .ok_or_else(|| Failure::no_device(&name))?;
    card.control.set_link(up);
    Ok(Reply::nothing())
}

/// `x-ostler-plug`: whoever connected the card to its switch is gone; the caller takes the place, with its own plug.
pub(super) fn plug(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id = arguments.string("id")?;
    let fd = arguments.string("fd")?;
    arguments.finish()?;
    let card = context.manager.card(&id).ok_or_else(|| Failure::no_device(&id))?;
    let backend = card.backend.clone();
    let replugged = backend.replug(context.fds.take(&fd)?);
    replugged.map_err(|error| Failure::generic(error.to_string()))?;
    Ok(Reply::nothing())
}

/// Asks guests' drivers to tell the network where they are. How often and when is up to the driver: QEMU's times are taken
/// and not used.
pub(super) fn announce(context: &mut Context, mut arguments: Arguments) -> Answer {
    for time in ["initial", "max", "rounds", "step"] {
        arguments.integer_if_given(time)?;
    }
    let wanted = arguments.strings_if_given("interfaces")?;
    arguments.string_if_given("id")?;
    arguments.finish()?;
    let all = || {
        context
            .manager
            .cards()
            .map(|(device, _)| device.id().to_owned())
            .collect()
    };
    let cards: Result<Vec<CardControl>, Failure> = wanted
        .unwrap_or_else(all)
        .iter()
        .map(|name| {
            let card = context
                .manager
                .card(name)
                .ok_or_else(|| Failure::no_device(name))?;
            Ok(card.control.clone())
        })
        .collect();
    for card in cards? {
        // A driver that cannot is left alone, as by QEMU.
        card.announce();
    }
    Ok(Reply::nothing())
}

/// Our cards let every frame through, whatever the guest asks for: a filter is allowed to be too generous.
fn filter(device: &Device, part: &NetPart) -> Value {
    json!({
        "name": device.id(),
        "promiscuous": true,
        "multicast": "all",
        "unicast": "all",
        "vlan": "all",
        "broadcast-allowed": true,
        "multicast-overflow": false,
        "unicast-overflow": false,
        "main-mac": MacAddress(part.control.mac()).to_string(),
        "vlan-table": [],
        "unicast-table": [],
        "multicast-table": [],
    })
}

pub(super) fn filters(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string_if_given("name")?;
    arguments.finish()?;
    let cards = context.manager.cards();
    let wanted = cards.filter(|(device, _)| name.as_deref().is_none_or(|name| name == device.id()));
    let list: Vec<Value> = wanted.map(|(device, part)| filter(device, part)).collect();
    match name {
        Some(name) if list.is_empty() => Err(Failure::generic(format!("invalid net client name: {name}"))),
        _ => Ok(Reply::Value(list.into())),
    }
}
