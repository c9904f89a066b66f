//! Calls about ports of networks: the cards of guests that are connected to them.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    List, MAX_NETWORK_PORTS, Network as WireNetwork, NetworkPort as WirePort, NetworkPortFlagsArgs,
    NetworkPortParametersArgs, NetworkPortsArgs, NetworkPortsRet, Parameters,
};
use ostler_libvirt::{Code, RemoteError};

use super::limits::bandwidth_parameters;
use super::stats::{STRING_OKAY, parameters};
use super::{Context, Dispatcher, check_flags};
use crate::networks::ports::Port;
use crate::uuid;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<NetworkListAllPorts>(list);
    to.on::<NetworkPortLookupByUuid>(|context, port| find(context, &port).map(|_| port));
    to.on::<NetworkPortGetXmlDesc>(|context, args: NetworkPortFlagsArgs| {
        check_flags(args.flags, 0)?;
        Ok(find(context, &args.port)?.xml())
    });
    to.on::<NetworkPortGetParameters>(limits);
}

/// The ports of a network, by their cards.
fn ports(context: &Context<'_>, network: &WireNetwork) -> Result<Vec<Port>, RemoteError> {
    let shared = context.shared;
    let network = shared.networks.get(network)?;
    Ok(shared
        .networks
        .ports(&network, &shared.domains.ports_at(&network.name)))
}

fn find(context: &Context<'_>, port: &WirePort) -> Result<Port, RemoteError> {
    let found = ports(context, &port.network)?
        .into_iter()
        .find(|other| other.uuid == port.uuid);
    found.ok_or_else(|| {
        let why = format!(
            "no network port with matching UUID '{}'",
            uuid::format(&port.uuid)
        );
        RemoteError::network(Code::NoNetworkPort, why)
    })
}

fn list(context: &Context<'_>, args: NetworkPortsArgs) -> Result<NetworkPortsRet, RemoteError> {
    check_flags(args.flags, 0)?;
    let ports = ports(context, &args.network)?;
    let port = |port: &Port| WirePort {
        network: args.network.clone(),
        uuid: port.uuid,
    };
    Ok(NetworkPortsRet {
        count: ports.len() as u32,
        ports: List(match args.need_results {
            0 => Vec::new(),
            _ => ports.iter().map(port).take(MAX_NETWORK_PORTS).collect(),
        }),
    })
}

fn limits(context: &Context<'_>, args: NetworkPortParametersArgs) -> Result<Parameters<16>, RemoteError> {
    check_flags(args.flags, STRING_OKAY)?;
    let port = find(context, &args.port)?;
    Ok(parameters(
        bandwidth_parameters(port.bandwidth),
        args.count.max(0) as usize,
    ))
}
