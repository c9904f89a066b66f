//! Calls that subscribe to events.

use ostler_libvirt::procedures::*;

use super::Dispatcher;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainEventRegister>(|context, args| {
        let domain = match &args.domain {
            Some(domain) => Some(context.domain(domain)?.uuid),
            None => None,
        };
        context
            .shared
            .events
            .subscribe(context.client, args.event, domain)
    });
    to.on::<DomainEventDeregister>(|context, callback| {
        context.shared.events.unsubscribe(context.client, callback)
    });
}
