//! The host's own bridges as a back end: the kernel's and those of Open vSwitch.

use std::collections::BTreeMap;

use ostler_hostnet::{
    BackEnd as _, Bridge, Error, Flag, Kernel, Mac, OpenVSwitch, PortCounters, PortSettings, PortVlans,
    Protocol, Source, Subnet,
};

use super::back_end::{BackEnd, ForwardWish, PortWish, Which, Wish};
use super::capture::CaptureArgs;
use super::model::{Counters, Forward, Kind, Network, Port, PortStp, Station, Stations, Stp};
use super::port::Place;
use super::vlans::{VlanList, Vlans};
use crate::failure::Failure;

/// What the user got wrong has another status than what the host refused.
pub fn failure(error: Error) -> Failure {
    match error {
        Error::Refused { .. }
        | Error::Io { .. }
        | Error::Answer { .. }
        | Error::NotUndone { .. }
        | Error::NoNft
        | Error::Firewall { .. } => Failure::failed(error),
        _ => Failure::bad_input(error),
    }
}

enum Host {
    Kernel(Kernel),
    Ovs(OpenVSwitch),
}

/// Bridges of one of both.
pub struct HostBridges(Host);

impl HostBridges {
    pub fn of_kernel(kernel: Kernel) -> Self {
        Self(Host::Kernel(kernel))
    }

    pub fn of_ovs(ovs: OpenVSwitch) -> Self {
        Self(Host::Ovs(ovs))
    }

    fn host(&mut self) -> &mut dyn ostler_hostnet::BackEnd {
        match &mut self.0 {
            Host::Kernel(kernel) => kernel,
            Host::Ovs(ovs) => ovs,
        }
    }

    fn bridge(&mut self, name: &str) -> Result<Bridge, Failure> {
        self.host().bridge(name).map_err(failure)
    }

    /// Networks with rules of the firewall; none where they cannot be seen.
    fn forwards(&mut self) -> BTreeMap<String, Forward> {
        let Host::Kernel(kernel) = &mut self.0 else {
            return BTreeMap::new();
        };
        let networks = kernel.networks().unwrap_or_default().into_iter();
        networks
            .map(|network| (network.name.clone(), forward(&network)))
            .collect()
    }

    fn unsupported(&self, what: &str) -> Failure {
        Failure::bad_input(format!("{} cannot do that: {what}", self.kind()))
    }

    /// Refuses what only others have.
    fn check(&self, wish: &Wish) -> Result<(), Failure> {
        if wish.transmit_hold.is_some() {
            return Err(self.unsupported("only a switch of ours has --transmit-hold"));
        }
        if wish.datapath.is_some() && self.kind() != Kind::Ovs {
            return Err(self.unsupported("only a bridge of Open vSwitch has --datapath"));
        }
        if wish.forward.is_some() && self.kind() == Kind::Ovs {
            return Err(self.unsupported(
                "it has no address and no rules of the firewall; use --kind bridge, or switch",
            ));
        }
        Ok(())
    }

    /// The entries of the table that are meant.
    fn chosen(&mut self, network: &str, which: &Which) -> Result<Vec<Station>, Failure> {
        if let Some(port) = &which.port {
            self.bridge(network)?.port(port).map_err(failure)?;
        }
        let all = self.host().stations(network).map_err(failure)?;
        let wanted = |station: &ostler_hostnet::Station| {
            which.port.as_ref().is_none_or(|port| *port == station.port)
                && which.vlan.is_none_or(|vlan| station.vlan == Some(vlan))
        };
        Ok(all.into_iter().filter(wanted).map(station).collect())
    }
}

fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn forward(network: &ostler_hostnet::Network) -> Forward {
    let nat = network.forward == ostler_hostnet::Forward::Nat;
    Forward {
        mode: network.forward.to_string(),
        address: network.address.to_string(),
        ports: nat.then(|| network.ports.to_string()),
        out: network.out.clone(),
    }
}

fn station(station: ostler_hostnet::Station) -> Station {
    Station {
        mac: station.mac.to_string(),
        vlan: station.vlan,
        port: station.port,
        source: word(station.source),
        age: station.age,
    }
}

fn network(kind: Kind, bridge: Bridge, forward: Option<Forward>) -> Network {
    let off = bridge.stp.protocol == Protocol::Off;
    let stp = bridge.stp;
    let is_root = stp
        .bridge_id
        .as_ref()
        .zip(stp.root_id.as_ref())
        .map(|(own, root)| own == root);
    Network {
        name: bridge.name,
        kind,
        // Open vSwitch moves frames whether the bridge's own interface is on or off.
        up: bridge.up || kind == Kind::Ovs,
        mac: bridge.mac.map(|mac| mac.to_string()),
        mtu: bridge.mtu,
        vlan_filtering: bridge.vlan_filtering,
        ageing: bridge.ageing,
        stations: None,
        stp: if off {
            Stp {
                protocol: word(stp.protocol),
                ..Stp::default()
            }
        } else {
            Stp {
                protocol: word(stp.protocol),
                priority: stp.priority,
                id: stp.bridge_id,
                root: stp.root_id,
                is_root,
                root_port: stp.root_port,
                root_path_cost: stp.root_path_cost,
                max_age: stp.max_age,
                hello: stp.hello,
                forward_delay: stp.forward_delay,
                topology_change: stp.topology_change,
                topology_changes: None,
            }
        },
        forward,
        ports: bridge.ports.into_iter().map(|port| view(port, off)).collect(),
        pid: None,
        uptime: None,
        fdb_entries: None,
        fdb_evictions: None,
        routers: Vec::new(),
    }
}

fn view(port: ostler_hostnet::Port, no_tree: bool) -> Port {
    let forwarding = port.up && port.state == ostler_hostnet::State::Forwarding;
    Port {
        kind: if port.tap.is_some() { "tap" } else { "interface" }.into(),
        place: Some(port.name.clone()),
        name: port.name,
        up: port.up,
        forwarding,
        why_down: (!port.up).then(|| "the interface is off, or has no link".into()),
        mac: port.mac.map(|mac| mac.to_string()),
        mtu: port.mtu,
        flags: port.flags.iter().map(ToString::to_string).collect(),
        vlans: port.vlans.map(|vlans| Vlans {
            pvid: vlans.pvid,
            tagged: VlanList::new(vlans.tagged),
            untagged: VlanList::new(vlans.untagged),
        }),
        stp: (!no_tree).then(|| PortStp {
            role: port.role.map(word),
            state: word(port.state),
            path_cost: port.path_cost,
            priority: port.priority,
            designated_bridge: port.designated_bridge,
            edge: None,
            rapid: None,
            guarded: None,
        }),
        counters: port.counters.map(counters),
        rates: None,
        tap: port.tap.and_then(|tap| serde_json::to_value(tap).ok()),
        number: None,
        temporary: None,
        lost: None,
        queue_pairs: None,
    }
}

fn counters(counters: PortCounters) -> Counters {
    let reasons = |errors, dropped| {
        let all = [("errors", errors), ("dropped", dropped)].into_iter();
        let some = all.filter(|(_, count)| *count > 0);
        some.map(|(name, count)| (name.to_owned(), count)).collect()
    };
    Counters {
        received: counters.received,
        received_bytes: counters.received_bytes,
        dropped: reasons(counters.received_errors, counters.received_dropped),
        sent: counters.sent,
        sent_bytes: counters.sent_bytes,
        egress_dropped: reasons(counters.sent_errors, counters.sent_dropped),
        ..Counters::default()
    }
}

/// A port's settings, by their names in a switch's configuration.
fn port_settings(kind: Kind, wish: PortWish) -> Result<PortSettings, Failure> {
    let mut settings = PortSettings {
        vlans: wish.vlans.map(|vlans| PortVlans {
            pvid: vlans.pvid,
            tagged: vlans.tagged.0,
            untagged: vlans.untagged.0,
        }),
        ..PortSettings::default()
    };
    for (name, value) in wish.settings {
        let wrong = |what: &str| Failure::bad_input(format!("{name} of a port of {kind} is {what}"));
        let number = || value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = || number().ok_or_else(|| wrong("a number"));
        match name.as_str() {
            "mtu" => settings.mtu = Some(number()?),
            "path-cost" => settings.path_cost = Some(number()?),
            "priority" => {
                let priority = u16::try_from(number()?).map_err(|_| wrong("a smaller number"))?;
                settings.priority = Some(priority);
            }
            _ => {
                let flag = Flag::ALL.into_iter().find(|flag| flag.to_string() == name);
                let flag = flag.ok_or_else(|| {
                    Failure::bad_input(format!(
                        "a port of {kind} has no setting `{name}`; there are mtu, path-cost, priority, isolated, bpdu-guard, root-guard, \
                         learning, flood, hairpin and locked"
                    ))
                })?;
                let on = value.as_bool().ok_or_else(|| wrong("on or off"))?;
                settings.flags.push((flag, on));
            }
        }
    }
    Ok(settings)
}

/// The rules that are wished, for a bridge with that address.
fn rules(name: &str, wish: &ForwardWish, address: Subnet) -> ostler_hostnet::Network {
    ostler_hostnet::Network {
        name: name.into(),
        forward: wish.mode,
        address,
        address6: None,
        ports: wish.ports.unwrap_or_default(),
        out: wish.out.clone(),
    }
}

impl BackEnd for HostBridges {
    fn kind(&self) -> Kind {
        match &self.0 {
            Host::Kernel(_) => Kind::Bridge,
            Host::Ovs(_) => Kind::Ovs,
        }
    }

    fn networks(&mut self) -> Result<Vec<Network>, Failure> {
        let kind = self.kind();
        let bridges = self.host().bridges().map_err(failure)?;
        // nft is a program: it is not started where there is nothing to ask about.
        let mut forwards = match bridges.is_empty() {
            true => BTreeMap::new(),
            false => self.forwards(),
        };
        let view = |bridge: Bridge| {
            let forward = forwards.remove(&bridge.name);
            network(kind, bridge, forward)
        };
        Ok(bridges.into_iter().map(view).collect())
    }

    fn has(&mut self, name: &str) -> Result<bool, Failure> {
        let bridges = self.host().bridges().map_err(failure)?;
        if bridges.iter().any(|bridge| bridge.name == name) {
            return Ok(true);
        }
        // Rules may be left where somebody else ended the bridge.
        Ok(self.forwards().contains_key(name))
    }

    fn network(&mut self, name: &str) -> Result<Network, Failure> {
        let kind = self.kind();
        let bridge = self.bridge(name)?;
        let forward = self.forwards().remove(name);
        let mut network = network(kind, bridge, forward);
        let stations = self.host().stations(name).map_err(failure)?;
        let others = stations.iter().filter(|station| station.source != Source::Own);
        network.stations = Some(others.count() as u64);
        Ok(network)
    }

    fn create(&mut self, name: &str, wish: Wish) -> Result<(), Failure> {
        self.check(&wish)?;
        let made = match (&mut self.0, &wish.forward) {
            (Host::Kernel(kernel), Some(forward)) => {
                let address = forward.address.ok_or_else(|| {
                    Failure::bad_input("a network with --mode needs the host's address at it; give --address")
                })?;
                kernel.create_network(&rules(name, forward, address), &wish.settings)
            }
            (Host::Kernel(kernel), None) => kernel.create(name, &wish.settings),
            (Host::Ovs(ovs), _) => {
                if let Some(datapath) = &wish.datapath {
                    ovs.set_datapath(datapath);
                }
                ovs.create(name, &wish.settings)
            }
        };
        made.map_err(failure)
    }

    fn set(&mut self, name: &str, wish: Wish) -> Result<(), Failure> {
        self.check(&wish)?;
        if wish.datapath.is_some() {
            return Err(self.unsupported("the data path of a bridge cannot be changed; make it anew"));
        }
        match (&mut self.0, &wish.forward) {
            (Host::Kernel(kernel), Some(forward)) => {
                if wish.settings != ostler_hostnet::BridgeSettings::default() {
                    return Err(self.unsupported("rules and other settings are changed by a command each"));
                }
                if forward.address.is_some() {
                    return Err(self.unsupported("the address of a network stays as it is"));
                }
                let address = kernel.address_of(name).map_err(failure)?;
                let had = kernel.networks().map_err(failure)?;
                let had = had.into_iter().find(|network| network.name == name);
                let network = ostler_hostnet::Network {
                    // A network of the daemon's keeps its IPv6.
                    address6: had.and_then(|network| network.address6),
                    ..rules(name, forward, address)
                };
                kernel.set_network(&network).map_err(failure)
            }
            _ => self.host().set_bridge(name, &wish.settings).map_err(failure),
        }
    }

    fn delete(&mut self, name: &str) -> Result<(), Failure> {
        if let Host::Kernel(kernel) = &mut self.0 {
            match kernel.networks() {
                Ok(networks) if networks.iter().any(|network| network.name == name) => {
                    return kernel.delete_network(name).map_err(failure);
                }
                // Without nft there are no rules of ours.
                Ok(_) | Err(Error::NoNft) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        self.host().delete(name).map_err(failure)
    }

    fn add_port(&mut self, network: &str, port: &str, place: Place, wish: PortWish) -> Result<(), Failure> {
        let kind = self.kind();
        match place {
            Place::Interface(None) => {}
            Place::Interface(Some(name)) if name == port => {}
            _ => {
                return Err(self.unsupported("its ports are interfaces of the host, and called as these are"));
            }
        }
        let settings = port_settings(kind, wish)?;
        self.host().add_port(network, port, &settings).map_err(failure)
    }

    fn set_port(&mut self, network: &str, port: &str, wish: PortWish) -> Result<(), Failure> {
        let settings = port_settings(self.kind(), wish)?;
        self.host().set_port(network, port, &settings).map_err(failure)
    }

    fn remove_port(&mut self, network: &str, port: &str) -> Result<(), Failure> {
        self.host().remove_port(network, port).map_err(failure)
    }

    fn stations(&mut self, network: &str, which: &Which) -> Result<Stations, Failure> {
        Ok(Stations {
            left_out: 0,
            stations: self.chosen(network, which)?,
        })
    }

    fn add_station(&mut self, network: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Failure> {
        self.host().add_station(network, port, mac, vlan).map_err(failure)
    }

    fn remove_station(&mut self, network: &str, mac: Mac, which: &Which) -> Result<(), Failure> {
        let text = mac.to_string();
        let mut found = self.chosen(network, which)?;
        found.retain(|station| station.mac == text);
        match found.as_slice() {
            [] => Err(Failure::bad_input(format!(
                "{text} is not in the forwarding table of `{network}`; `ostler net fdb {network}` shows it"
            ))),
            [station] => {
                let removed = self
                    .host()
                    .remove_station(network, &station.port, mac, station.vlan);
                removed.map_err(failure)
            }
            _ => Err(Failure::bad_input(format!(
                "{text} is known in several VLANs or at several ports; say which with --vlan and --port"
            ))),
        }
    }

    fn flush(&mut self, network: &str, which: &Which) -> Result<(), Failure> {
        if which.vlan.is_none() {
            return self.host().flush(network, which.port.as_deref()).map_err(failure);
        }
        // Neither back end flushes a VLAN by itself. What is gone by itself meanwhile is no matter.
        for station in self.chosen(network, which)? {
            if station.source == word(Source::Learned) {
                let mac: Mac = station.mac.parse().map_err(failure)?;
                let removed = self
                    .host()
                    .remove_station(network, &station.port, mac, station.vlan);
                match removed {
                    Err(Error::Database { .. }) | Ok(()) => {}
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(failure(error)),
                }
            }
        }
        Ok(())
    }

    fn capture(&mut self, network: &str, args: CaptureArgs) -> Result<(), Failure> {
        let view = self.network(network)?;
        args.of_interfaces(&view)
    }
}
