//! What follows when a guest powers off, resets or crashes.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::LifecycleActionArgs;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::Element;
use serde_json::json;

use super::{Context, Dispatcher, check_flags};
use crate::domains::Impact;

/// The elements, in the order of `virDomainLifecycle`.
const KINDS: [&str; 3] = ["on_poweroff", "on_reboot", "on_crash"];
/// What follows, in the order of `virDomainLifecycleAction`.
const ACTIONS: [&str; 6] = [
    "destroy",
    "restart",
    "rename-restart",
    "preserve",
    "coredump-destroy",
    "coredump-restart",
];

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainSetLifecycleAction>(set);
}

/// The name of one of `names`.
fn name(names: &[&'static str], number: u32, what: &str) -> Result<&'static str, RemoteError> {
    let found = names.get(number as usize).copied();
    found.ok_or_else(|| RemoteError::new(Code::InvalidArgument, format!("there is no {what} {number}")))
}

fn set(context: &Context<'_>, args: LifecycleActionArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, Impact::FLAGS)?;
    let kind = name(&KINDS, args.kind, "kind of end")?;
    let action = name(&ACTIONS, args.action, "lifecycle action")?;
    if action.starts_with("coredump") && kind != "on_crash" {
        let why = format!("invalid lifecycle action '{action}' for <{kind}>");
        return Err(RemoteError::new(Code::InvalidArgument, why));
    }
    let domain = context.domain(&args.domain)?;
    let check = |impact: Impact| {
        if !impact.live {
            return Ok(());
        }
        if !matches!(action, "destroy" | "restart") {
            let why = format!("<{kind}> of a guest that runs is 'destroy' or 'restart', not '{action}'");
            return Err(RemoteError::new(Code::OperationUnsupported, why));
        }
        if kind == "on_reboot" {
            // A reset is the guest's process's own matter; the other ends are ours.
            let reboot = if action == "destroy" { "shutdown" } else { "reset" };
            let control = domain.control()?;
            let told = control.execute_with("set-action", json!({ "reboot": reboot }));
            told.map_err(|error| RemoteError::new(Code::OperationFailed, error.to_string()))?;
        }
        Ok(())
    };
    let change = |root: &mut Element| root.child_or_new(kind).set_text(action);
    context.shared.domains.edit(&domain, args.flags, check, change)
}
