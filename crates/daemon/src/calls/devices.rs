//! Calls that add, take away and change devices.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{BlockResizeArgs, DeviceFlagsArgs, Domain as WireDomain};
use ostler_libvirt::{Code, RemoteError};
use serde_json::json;

use super::stats::find_disk;
use super::{Context, Dispatcher, check_flags};
use crate::domains::Impact;
use crate::domains::definition::Change;
use crate::domains::domain::not_running;

/// Flag of changing a device: even if the guest objects, which it does by locking a tray.
const FORCE: u32 = 4;
/// Flag of resizing a disk: the size is in bytes.
const BYTES: u32 = 1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainAttachDevice>(|context, args| live(context, Change::Attach, &args.domain, &args.xml));
    to.on::<DomainDetachDevice>(|context, args| live(context, Change::Detach, &args.domain, &args.xml));
    to.on::<DomainAttachDeviceFlags>(|context, args| change(context, Change::Attach, &args, 0));
    to.on::<DomainDetachDeviceFlags>(|context, args| change(context, Change::Detach, &args, 0));
    to.on::<DomainDetachDeviceAlias>(|context, args| change(context, Change::DetachAlias, &args, 0));
    to.on::<DomainUpdateDeviceFlags>(|context, args| change(context, Change::Update, &args, FORCE));
    to.on::<DomainBlockResize>(resize);
}

/// The calls without flags are for guests that run.
fn live(context: &Context<'_>, what: Change, domain: &WireDomain, xml: &str) -> Result<(), RemoteError> {
    let domain = context.domain(domain)?;
    if domain.state().live.is_none() {
        return Err(not_running());
    }
    context
        .shared
        .domains
        .change_device(&domain, what, xml, (0, false))
}

fn change(context: &Context<'_>, what: Change, args: &DeviceFlagsArgs, more: u32) -> Result<(), RemoteError> {
    check_flags(args.flags, Impact::FLAGS | more)?;
    let domain = context.domain(&args.domain)?;
    let how = (args.flags & Impact::FLAGS, args.flags & FORCE != 0);
    context
        .shared
        .domains
        .change_device(&domain, what, &args.xml, how)
}

/// Gives a virtio disk of a guest that runs another size.
fn resize(context: &Context<'_>, args: BlockResizeArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, BYTES)?;
    let size = match args.flags & BYTES {
        0 => args.size.checked_mul(1024),
        _ => Some(args.size),
    };
    let size = size.and_then(|size| i64::try_from(size).ok()).ok_or_else(|| {
        RemoteError::new(
            Code::Overflow,
            format!("a disk cannot have the size {}", args.size),
        )
    })?;
    let domain = context.domain(&args.domain)?;
    let (control, id) = domain.with_live(|live| -> Result<_, RemoteError> {
        let disk = find_disk(&live.definition, &args.disk)?;
        let alias = disk.common.alias.as_deref().unwrap_or_default();
        let id = live.devices.get(alias).map(|attached| attached.block_node());
        Ok((live.control.clone(), id.unwrap_or_default()))
    })??;
    let resized = control.execute_with("block_resize", json!({ "node-name": id, "size": size }));
    resized
        .map(drop)
        .map_err(|error| RemoteError::new(Code::OperationFailed, error.to_string()))
}
