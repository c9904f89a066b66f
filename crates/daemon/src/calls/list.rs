//! Calls that list guests and look for them.

use std::sync::Arc;

use ostler_libvirt::RemoteError;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{Domain as WireDomain, List, ListAllArgs, ListAllDomainsRet, MAX_DOMAINS};

use super::{Context, Dispatcher, check_flags};
use crate::domains::domain::{Domain, DomainState, state};

/// Which guests a list has: of each group of two or more flags at least one that holds (`virConnectListAllDomainsFlags`).
mod flag {
    pub const ACTIVE: u32 = 1 << 0;
    pub const INACTIVE: u32 = 1 << 1;
    pub const PERSISTENT: u32 = 1 << 2;
    pub const TRANSIENT: u32 = 1 << 3;
    pub const RUNNING: u32 = 1 << 4;
    pub const PAUSED: u32 = 1 << 5;
    pub const SHUTOFF: u32 = 1 << 6;
    pub const OTHER: u32 = 1 << 7;
    pub const MANAGED_SAVE: u32 = 1 << 8;
    pub const NO_MANAGED_SAVE: u32 = 1 << 9;
    pub const AUTOSTART: u32 = 1 << 10;
    pub const NO_AUTOSTART: u32 = 1 << 11;
    pub const HAS_SNAPSHOT: u32 = 1 << 12;
    pub const NO_SNAPSHOT: u32 = 1 << 13;
    pub const HAS_CHECKPOINT: u32 = 1 << 14;
    pub const NO_CHECKPOINT: u32 = 1 << 15;
    pub const ALL: u32 = (1 << 16) - 1;

    /// Flags of which one is to hold, if any is set.
    pub const GROUPS: [u32; 7] = [
        ACTIVE | INACTIVE,
        PERSISTENT | TRANSIENT,
        RUNNING | PAUSED | SHUTOFF | OTHER,
        MANAGED_SAVE | NO_MANAGED_SAVE,
        AUTOSTART | NO_AUTOSTART,
        HAS_SNAPSHOT | NO_SNAPSHOT,
        HAS_CHECKPOINT | NO_CHECKPOINT,
    ];
}

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<ConnectListAllDomains>(list_all);
    to.on::<ConnectListDomains>(|context, max| {
        let running = shown(context, flag::ACTIVE);
        Ok(List(
            running
                .iter()
                .map(|domain| domain.id)
                .take(max.max(0) as usize)
                .collect(),
        ))
    });
    to.on_quick::<ConnectNumOfDomains>(|context, ()| Ok(shown(context, flag::ACTIVE).len() as i32));
    to.on::<ConnectListDefinedDomains>(|context, max| {
        let off = shown(context, flag::INACTIVE).into_iter();
        Ok(List(
            off.map(|domain| domain.name).take(max.max(0) as usize).collect(),
        ))
    });
    to.on_quick::<ConnectNumOfDefinedDomains>(|context, ()| Ok(shown(context, flag::INACTIVE).len() as i32));
    to.on_quick::<DomainLookupByName>(|context, name| Ok(context.shared.domains.by_name(&name)?.to_wire()));
    to.on_quick::<DomainLookupByUuid>(|context, uuid| Ok(context.shared.domains.by_uuid(&uuid)?.to_wire()));
    to.on_quick::<DomainLookupById>(|context, id| Ok(context.shared.domains.by_id(id)?.to_wire()));
}

/// What holds of a guest, as flags.
fn holds(state: &DomainState) -> u32 {
    let choose = |is, yes, no| if is { yes } else { no };
    let doing = match state.state_and_reason().state {
        state::RUNNING => flag::RUNNING,
        state::PAUSED => flag::PAUSED,
        state::SHUTOFF => flag::SHUTOFF,
        _ => flag::OTHER,
    };
    choose(state.live.is_some(), flag::ACTIVE, flag::INACTIVE)
        | choose(state.persistent.is_some(), flag::PERSISTENT, flag::TRANSIENT)
        | choose(state.autostart, flag::AUTOSTART, flag::NO_AUTOSTART)
        | doing
        | flag::NO_MANAGED_SAVE
        | flag::NO_SNAPSHOT
        | flag::NO_CHECKPOINT
}

/// True if a guest of which `holds` holds is among those that `wanted` asks for.
fn is_wanted(holds: u32, wanted: u32) -> bool {
    flag::GROUPS
        .iter()
        .all(|group| wanted & group == 0 || holds & wanted & group != 0)
}

/// The guests that flags ask for.
pub(super) fn wanted(context: &Context<'_>, flags: u32) -> Vec<Arc<Domain>> {
    let mut all = context.shared.domains.all();
    all.retain(|domain| {
        let state = domain.state();
        // One that is being made or taken away is not there.
        state.current().is_ok() && is_wanted(holds(&state), flags)
    });
    all
}

fn shown(context: &Context<'_>, flags: u32) -> Vec<WireDomain> {
    let mut domains: Vec<_> = wanted(context, flags)
        .iter()
        .map(|domain| domain.to_wire())
        .collect();
    domains.truncate(MAX_DOMAINS);
    domains
}

fn list_all(context: &Context<'_>, args: ListAllArgs) -> Result<ListAllDomainsRet, RemoteError> {
    check_flags(args.flags, flag::ALL)?;
    let domains = shown(context, args.flags);
    let count = domains.len() as u32;
    let domains = if args.need_results != 0 {
        domains
    } else {
        Vec::new()
    };
    Ok(ListAllDomainsRet {
        domains: List(domains),
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_choose_within_their_groups() {
        let running = flag::ACTIVE | flag::PERSISTENT | flag::RUNNING | flag::NO_AUTOSTART;
        assert!(is_wanted(running, 0));
        assert!(is_wanted(running, flag::ACTIVE | flag::INACTIVE));
        assert!(!is_wanted(running, flag::INACTIVE));
        assert!(!is_wanted(running, flag::ACTIVE | flag::TRANSIENT));
        assert!(is_wanted(
            running,
            flag::RUNNING | flag::SHUTOFF | flag::PERSISTENT
        ));
    }
}
