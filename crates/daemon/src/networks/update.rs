//! Changes of a part of a network, while it runs or in its definition.

use std::sync::Arc;

use ostler_libvirt::types::NetworkUpdateArgs;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::network::{Command, Section, Update};
use ostler_switchd::RouterSpec;

use super::definition::{Definition, update_error, with_random};
use super::network::Network;
use super::{Networks, storage_failed, switch};
use crate::files::write_durably;

/// Flags: of the network that runs, and of its definition (`virNetworkUpdateFlags`).
const LIVE: u32 = 1;
const CONFIG: u32 = 2;

/// What a client asks for, in our words.
fn update(args: &NetworkUpdateArgs) -> Result<Update<'_>, RemoteError> {
    let unknown = |what: &str, number: u32| {
        RemoteError::network(Code::InvalidArgument, format!("there is no {what} {number}"))
    };
    let command = match args.command {
        1 => Command::Modify,
        2 => Command::Delete,
        3 => Command::AddLast,
        4 => Command::AddFirst,
        other => return Err(unknown("command", other)),
    };
    let section = match args.section {
        4 => Section::DhcpHost,
        5 => Section::DhcpRange,
        10 => Section::DnsHost,
        1..=12 => {
            let why = "only ip-dhcp-host, ip-dhcp-range and dns-host can be updated; define the network anew";
            return Err(RemoteError::network(Code::OperationUnsupported, why));
        }
        other => return Err(unknown("section", other)),
    };
    Ok(Update {
        command,
        section,
        parent: args.parent,
        xml: &args.xml,
    })
}

fn changed(definition: &Definition, update: &Update<'_>) -> Result<Arc<Definition>, RemoteError> {
    let network = with_random(|random| definition.network.updated(update, random).map_err(update_error))?;
    Definition::of(network).map(Arc::new)
}

impl Networks {
    /// Changes a part of a network: all that is asked for, or nothing.
    pub fn update(&self, network: &Network, args: &NetworkUpdateArgs) -> Result<(), RemoteError> {
        let update = update(args)?;
        let _job = network.job();
        let (live, persistent) = {
            let state = network.state();
            (state.live.clone(), state.persistent.clone())
        };
        let flags = match (args.flags, &live) {
            (0, Some(_)) => LIVE,
            (0, None) => CONFIG,
            (flags, _) => flags,
        };
        let invalid = |why: String| RemoteError::network(Code::OperationInvalid, why);
        let new_live = match (flags & LIVE != 0, &live) {
            (false, _) => None,
            (true, None) => return Err(invalid(format!("network '{}' is not active", network.name))),
            (true, Some(live)) => Some((live, changed(&live.definition, &update)?)),
        };
        let new_config = match (flags & CONFIG != 0, &persistent) {
            (false, _) => None,
            (true, None) => {
                let why = "cannot change persistent config of a transient network";
                return Err(invalid(why.into()));
            }
            (true, Some(definition)) => Some(changed(definition, &update)?),
        };
        if let Some(definition) = &new_config {
            self.store.save(definition).map_err(storage_failed)?;
        }
        if let Some((live, definition)) = &new_live {
            let done = self.change_live(network, live, definition);
            if let Err(error) = done {
                // Both or neither.
                if let (Some(_), Some(old)) = (&new_config, &persistent) {
                    self.store.save(old).map_err(storage_failed)?;
                }
                return Err(error);
            }
        }
        let mut state = network.state();
        if let (Some((old, definition)), Some(live)) = (new_live, &mut state.live)
            && live.run == old.run
        {
            live.definition = definition;
        }
        if let Some(definition) = new_config {
            state.persistent = Some(definition);
        }
        Ok(())
    }

    fn change_live(
        &self,
        network: &Network,
        live: &super::network::Live,
        definition: &Definition,
    ) -> Result<(), RemoteError> {
        let servers = |router: &RouterSpec| (router.dhcp, router.address6.is_some(), router.slaac);
        let (had, router) = (live.definition.way.router(), definition.way.router());
        if had.is_none() && router.is_none() {
            let why = "the network gives no addresses, so there is nothing to change while it runs";
            return Err(RemoteError::network(Code::OperationInvalid, why));
        }
        let (Some(router), Some(had)) = (router, had) else {
            let why = "a DHCP server comes and goes with the network only; change its definition and start it again";
            return Err(RemoteError::network(Code::OperationUnsupported, why));
        };
        if router.address != had.address {
            let why = format!(
                "{} is the address of the network's DHCP server while it runs; choose another, or change the definition and start it again",
                had.address
            );
            return Err(RemoteError::network(Code::OperationInvalid, why));
        }
        if servers(router) != servers(had) {
            let why = "a DHCP server comes and goes with the network only; change its definition and start it again";
            return Err(RemoteError::network(Code::OperationUnsupported, why));
        }
        switch::set_plan(&live.files.control, router)?;
        // Should the daemon be killed, the next one finds the network as it is now.
        let config = self.config(network, definition, &live.files);
        write_durably(&live.files.config(), config.as_bytes()).map_err(storage_failed)?;
        self.keep_live(&live.files, definition)
    }
}
