//! Calls that start, hold and end guests.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{Domain as WireDomain, DomainFlagsArgs, XmlFlagsArgs};
use ostler_libvirt::{Code, RemoteError};

use super::{Context, Dispatcher, check_flags};
use crate::domains::domain::not_running;

/// Flag of starting: the CPUs are held.
const START_PAUSED: u32 = 1;
/// Flags of starting that ask for what is done anyway: no saved image is there to be passed by or dropped.
const START_NOTHING: u32 = 4 | 8;
/// Flags of rebooting and shutting down: by the power button, or by whatever there is.
const BY_ACPI: u32 = 1;
/// Flag of ending at once: nothing worse than asking.
const GRACEFUL: u32 = 1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainCreate>(|context, domain| {
        let domain = context.domain(&domain)?;
        context.shared.domains.start(&domain, false).map(drop)
    });
    to.on::<DomainCreateWithFlags>(start);
    to.on::<DomainCreateXml>(create);
    to.on::<DomainShutdown>(|context, domain| press(context, &domain, 0, false));
    to.on::<DomainShutdownFlags>(|context, args| press(context, &args.domain, args.flags, false));
    to.on::<DomainReboot>(|context, args| press(context, &args.domain, args.flags, true));
    to.on::<DomainReset>(|context, args| command(context, &args, "system_reset"));
    to.on::<DomainPmWakeup>(|context, args| command(context, &args, "system_wakeup"));
    to.on::<DomainInjectNmi>(|context, args| command(context, &args, "inject-nmi"));
    to.on::<DomainDestroy>(|context, domain| {
        context.shared.domains.destroy(context.domain(&domain)?.as_ref())
    });
    to.on::<DomainDestroyFlags>(destroy);
    to.on::<DomainSuspend>(|context, domain| {
        context
            .shared
            .domains
            .set_paused(context.domain(&domain)?.as_ref(), true)
    });
    to.on::<DomainResume>(|context, domain| {
        context
            .shared
            .domains
            .set_paused(context.domain(&domain)?.as_ref(), false)
    });
}

fn start(context: &Context<'_>, args: DomainFlagsArgs) -> Result<WireDomain, RemoteError> {
    check_flags(args.flags, START_PAUSED | START_NOTHING)?;
    let domain = context.domain(&args.domain)?;
    context
        .shared
        .domains
        .start(&domain, args.flags & START_PAUSED != 0)
}

fn create(context: &Context<'_>, args: XmlFlagsArgs) -> Result<WireDomain, RemoteError> {
    check_flags(args.flags, START_PAUSED | START_NOTHING)?;
    context
        .shared
        .domains
        .create(&args.xml, args.flags & START_PAUSED != 0)
}

/// Presses the power button; with `again` for a reboot.
fn press(context: &Context<'_>, domain: &WireDomain, flags: u32, again: bool) -> Result<(), RemoteError> {
    if flags & !BY_ACPI != 0 {
        let why = "a guest is asked by its power button only: there is no agent, signal or console for it";
        return Err(RemoteError::new(Code::ArgumentUnsupported, why));
    }
    context
        .shared
        .domains
        .press_power_button(context.domain(domain)?.as_ref(), again)
}

fn command(context: &Context<'_>, args: &DomainFlagsArgs, command: &str) -> Result<(), RemoteError> {
    check_flags(args.flags, 0)?;
    context
        .shared
        .domains
        .command(context.domain(&args.domain)?.as_ref(), command)
}

fn destroy(context: &Context<'_>, args: DomainFlagsArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, GRACEFUL)?;
    let domain = context.domain(&args.domain)?;
    if domain.state().live.is_none() {
        return Err(not_running());
    }
    context.shared.domains.destroy(&domain)
}
