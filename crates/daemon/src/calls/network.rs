//! Calls about networks.

use std::sync::Arc;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    DhcpLeasesArgs, DhcpLeasesRet, List, ListAllArgs, ListAllNetworksRet, Network as WireNetwork,
    NetworkFlagsArgs, NetworkUpdateArgs, XmlFlagsArgs,
};
use ostler_libvirt::{Code, RemoteError};

use super::{Context, Dispatcher, check_flags};
use crate::networks::network::{Network, NetworkState};

/// Which networks a list has: of each pair of flags at least one that holds (`virConnectListAllNetworksFlags`).
mod flag {
    pub const INACTIVE: u32 = 1 << 0;
    pub const ACTIVE: u32 = 1 << 1;
    pub const PERSISTENT: u32 = 1 << 2;
    pub const TRANSIENT: u32 = 1 << 3;
    pub const AUTOSTART: u32 = 1 << 4;
    pub const NO_AUTOSTART: u32 = 1 << 5;
    pub const ALL: u32 = (1 << 6) - 1;

    /// Flags of which one is to hold, if any is set.
    pub const GROUPS: [u32; 3] = [
        ACTIVE | INACTIVE,
        PERSISTENT | TRANSIENT,
        AUTOSTART | NO_AUTOSTART,
    ];
}

/// Flag of NETWORK_GET_XML_DESC: the definition that lasts.
const XML_INACTIVE: u32 = 1;
/// Flag of NETWORK_DEFINE_XML_FLAGS and NETWORK_CREATE_XML_FLAGS: compare with the schema.
const VALIDATE: u32 = 1;
/// Flags of NETWORK_UPDATE: of the network that runs, of its definition.
const UPDATE_KNOWN: u32 = 3;

impl Context<'_> {
    /// The network that the caller means.
    fn network(&self, network: &WireNetwork) -> Result<Arc<Network>, RemoteError> {
        self.shared.networks.get(network)
    }
}

pub(super) fn add(to: &mut Dispatcher) {
    add_lists(to);
    to.on::<NetworkDefineXml>(|context, xml| context.shared.networks.define(&xml));
    to.on::<NetworkDefineXmlFlags>(|context, args| {
        check_schema(&args)?;
        context.shared.networks.define(&args.xml)
    });
    to.on::<NetworkCreateXml>(|context, xml| create(context, &xml));
    to.on::<NetworkCreateXmlFlags>(|context, args| {
        check_schema(&args)?;
        create(context, &args.xml)
    });
    to.on::<NetworkCreate>(|context, network| {
        let network = context.network(&network)?;
        context.shared.networks.start(&network)?;
        attach_again(context, &network);
        Ok(())
    });
    to.on::<NetworkDestroy>(|context, network| {
        context
            .shared
            .networks
            .destroy(context.network(&network)?.as_ref())
    });
    to.on::<NetworkUndefine>(|context, network| {
        context
            .shared
            .networks
            .undefine(context.network(&network)?.as_ref())
    });
    to.on::<NetworkGetXmlDesc>(xml);
    to.on::<NetworkGetBridgeName>(bridge);
    to.on::<NetworkGetAutostart>(|context, network| Ok(context.network(&network)?.state().autostart.into()));
    to.on::<NetworkSetAutostart>(|context, args| {
        let network = context.network(&args.network)?;
        context
            .shared
            .networks
            .set_autostart(&network, args.autostart != 0)
    });
    to.on::<NetworkIsActive>(|context, network| Ok(context.network(&network)?.state().live.is_some().into()));
    to.on::<NetworkIsPersistent>(|context, network| {
        Ok(context.network(&network)?.state().persistent.is_some().into())
    });
    to.on::<NetworkUpdate>(update);
    to.on::<NetworkGetDhcpLeases>(leases);
    to.on::<NetworkEventRegister>(|context, args| {
        let network = args.network.as_ref();
        let network = network.map(|network| context.network(network)).transpose()?;
        let uuid = network.map(|network| network.uuid);
        let events = &context.shared.networks.events;
        events.subscribe(context.client, args.event, uuid)
    });
    to.on::<NetworkEventDeregister>(|context, callback| {
        context
            .shared
            .networks
            .events
            .unsubscribe(context.client, callback)
    });
}

fn add_lists(to: &mut Dispatcher) {
    to.on::<ConnectListAllNetworks>(list_all);
    to.on::<ConnectNumOfNetworks>(|context, ()| Ok(shown(context, flag::ACTIVE).len() as i32));
    to.on::<ConnectNumOfDefinedNetworks>(|context, ()| Ok(shown(context, flag::INACTIVE).len() as i32));
    to.on::<ConnectListNetworks>(|context, max| Ok(names(context, flag::ACTIVE, max)));
    to.on::<ConnectListDefinedNetworks>(|context, max| Ok(names(context, flag::INACTIVE, max)));
    to.on::<NetworkLookupByName>(|context, name| Ok(context.shared.networks.by_name(&name)?.to_wire()));
    to.on::<NetworkLookupByUuid>(|context, uuid| Ok(context.shared.networks.by_uuid(&uuid)?.to_wire()));
}

/// What holds of a network, as flags.
fn holds(state: &NetworkState) -> u32 {
    let choose = |is, yes, no| if is { yes } else { no };
    choose(state.live.is_some(), flag::ACTIVE, flag::INACTIVE)
        | choose(state.persistent.is_some(), flag::PERSISTENT, flag::TRANSIENT)
        | choose(state.autostart, flag::AUTOSTART, flag::NO_AUTOSTART)
}

/// The networks of which the flags hold, by name.
fn shown(context: &Context<'_>, flags: u32) -> Vec<WireNetwork> {
    let wanted = |network: &Arc<Network>| {
        let holds = holds(&network.state());
        let mut groups = flag::GROUPS.iter().map(|group| group & flags);
        groups.all(|group| group == 0 || group & holds != 0)
    };
    let all = context.shared.networks.all();
    let mut shown: Vec<_> = all.iter().filter(|n| wanted(n)).map(|n| n.to_wire()).collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    shown
}

fn names<const MAX: usize>(context: &Context<'_>, flags: u32, max: i32) -> List<String, MAX> {
    let names = shown(context, flags).into_iter().map(|network| network.name);
    List(names.take(max.max(0) as usize).collect())
}

fn list_all(context: &Context<'_>, args: ListAllArgs) -> Result<ListAllNetworksRet, RemoteError> {
    check_flags(args.flags, flag::ALL)?;
    let shown = shown(context, args.flags);
    Ok(ListAllNetworksRet {
        count: shown.len() as u32,
        networks: List(if args.need_results != 0 { shown } else { Vec::new() }),
    })
}

fn check_schema(args: &XmlFlagsArgs) -> Result<(), RemoteError> {
    if args.flags & VALIDATE != 0 {
        let why = "definitions cannot be compared with the schema; leave --validate out";
        return Err(RemoteError::network(Code::OperationUnsupported, why));
    }
    check_flags(args.flags, 0)
}

fn xml(context: &Context<'_>, args: NetworkFlagsArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, XML_INACTIVE)?;
    let network = context.network(&args.network)?;
    let state = network.state();
    Ok(match (&state.live, &state.persistent) {
        (Some(live), _) if args.flags & XML_INACTIVE == 0 => {
            let connections = context.shared.domains.cards_at(&network.name);
            live.definition.network.live_xml(connections)
        }
        (_, Some(persistent)) => persistent.network.xml(),
        (_, None) => state.current()?.network.xml(),
    })
}

fn bridge(context: &Context<'_>, network: WireNetwork) -> Result<String, RemoteError> {
    let network = context.network(&network)?;
    let state = network.state();
    let bridge = state.current()?.bridge().map(str::to_owned);
    bridge.ok_or_else(|| {
        let why = format!("network '{}' does not have a bridge name.", network.name);
        RemoteError::network(Code::Internal, why)
    })
}

fn create(context: &Context<'_>, xml: &str) -> Result<WireNetwork, RemoteError> {
    let created = context.shared.networks.create(xml)?;
    attach_again(context, context.network(&created)?.as_ref());
    Ok(created)
}

/// Guests that run have a network again that was ended and started.
fn attach_again(context: &Context<'_>, network: &Network) {
    let taps = context.shared.domains.taps_at(&network.name);
    context.shared.networks.attach_again(network, &taps);
}

fn update(context: &Context<'_>, args: NetworkUpdateArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, UPDATE_KNOWN)?;
    let network = context.network(&args.network)?;
    context.shared.networks.update(&network, &args)
}

fn leases(context: &Context<'_>, args: DhcpLeasesArgs) -> Result<DhcpLeasesRet, RemoteError> {
    check_flags(args.flags, 0)?;
    let network = context.network(&args.network)?;
    let leases = context.shared.networks.leases(&network, args.mac.as_deref())?;
    Ok(DhcpLeasesRet {
        count: leases.len() as u32,
        leases: List(if args.need_results != 0 {
            leases
        } else {
            Vec::new()
        }),
    })
}
