//! The database's tables as bridges and ports.

use super::database::{Database, Row};
use crate::{Bridge, Error, Flag, Kind, Mac, Port, PortCounters, PortVlans, Protocol, Role, State, Stp};

/// All that is read of the database.
pub(super) struct Tables {
    bridges: Vec<Row>,
    ports: Vec<Row>,
    interfaces: Vec<Row>,
}

impl Tables {
    pub(super) fn read(database: &mut Database) -> Result<Self, Error> {
        let [bridges, ports, interfaces] = database.select(["Bridge", "Port", "Interface"])?;
        Ok(Self {
            bridges,
            ports,
            interfaces,
        })
    }

    pub(super) fn bridge(&self, name: &str) -> Result<&Row, Error> {
        let found = self.bridges.iter().find(|row| row.text("name") == Some(name));
        found.ok_or_else(|| Error::NoBridge(Kind::OpenVSwitch, name.into()))
    }

    fn ports_of(&self, bridge: &Row) -> impl Iterator<Item = &Row> {
        let ids = bridge.references("ports");
        let local = bridge.text("name").map(str::to_owned);
        let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
        self.ports.iter().filter(move |row| {
            ids.iter().any(|id| id == row.id()) && row.text("name").map(str::to_owned) != local
        })
    }

    pub(super) fn port(&self, bridge: &str, port: &str) -> Result<(&Row, &Row), Error> {
        let found = self.bridge(bridge)?;
        let row = self.ports_of(found).find(|row| row.text("name") == Some(port));
        let row = row.ok_or_else(|| Error::NoPort {
            bridge: bridge.into(),
            port: port.into(),
        })?;
        Ok((found, row))
    }

    /// Whether a bridge or port of that name is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.ports.iter().any(|row| row.text("name") == Some(name))
    }

    /// The port's row number, wherever it is.
    pub(super) fn port_id(&self, name: &str) -> Option<&str> {
        let found = self.ports.iter().find(|row| row.text("name") == Some(name));
        found.map(Row::id)
    }

    pub(super) fn bridge_id(&self, name: &str) -> Option<&str> {
        self.bridge(name).ok().map(Row::id)
    }

    /// The bridge that has the port.
    pub(super) fn owner(&self, port: &str) -> Option<String> {
        let id = self.port_id(port)?;
        let owner = self
            .bridges
            .iter()
            .find(|row| row.references("ports").contains(&id));
        Some(owner?.text("name")?.to_owned())
    }

    /// The first interface of a port.
    pub(super) fn interface_of(&self, port: &Row) -> Option<&Row> {
        let ids = port.references("interfaces");
        self.interfaces.iter().find(|row| ids.contains(&row.id()))
    }

    pub(super) fn interface(&self, name: &str) -> Option<&Row> {
        self.interfaces.iter().find(|row| row.text("name") == Some(name))
    }

    /// What `ovs-vswitchd` found wrong with it.
    pub(super) fn interface_error(&self, name: &str) -> Option<String> {
        self.interface(name)?.text("error").map(str::to_owned)
    }

    /// The port with that OpenFlow number.
    pub(super) fn port_of_number(&self, bridge: &str, number: i64) -> Option<&str> {
        let bridge = self.bridge(bridge).ok()?;
        let has = |row: &&Row| self.interface_of(row).and_then(|i| i.number("ofport")) == Some(number);
        self.ports_of(bridge).find(has)?.text("name")
    }

    pub(super) fn bridges(&self) -> Vec<Bridge> {
        let mut bridges: Vec<Bridge> = self.bridges.iter().filter_map(|row| self.view(row)).collect();
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        bridges
    }

    fn view(&self, row: &Row) -> Option<Bridge> {
        let name = row.text("name")?;
        let protocol = protocol(row);
        let mut ports: Vec<(Option<i64>, Port)> = self
            .ports_of(row)
            .filter_map(|port| {
                let number = self.interface_of(port).and_then(|i| i.number("ofport"));
                Some((number, self.port_view(port, protocol)?))
            })
            .collect();
        ports.sort_by_key(|(number, port)| (*number, port.name.clone()));
        let ports: Vec<Port> = ports.into_iter().map(|(_, port)| port).collect();
        let local = self.interface(name);
        let config = row.map("other_config");
        let ageing = config.get("mac-aging-time").map_or(Ok(300), |t| t.parse());
        let root_port = ports.iter().find(|p| p.role == Some(Role::Root));
        Some(Bridge {
            name: name.into(),
            kind: Kind::OpenVSwitch,
            mac: local.and_then(mac),
            mtu: local.and_then(mtu),
            up: local.is_some_and(|i| i.text("admin_state") == Some("up")),
            vlan_filtering: Some(true),
            ageing: ageing.ok(),
            stp: stp(row, protocol, root_port.map(|p| p.name.clone())),
            ports,
        })
    }

    fn port_view(&self, row: &Row, protocol: Protocol) -> Option<Port> {
        let interface = self.interface_of(row);
        let config = row.map("other_config");
        let prefix = prefix(protocol);
        let number = |name: &str| config.get(&*format!("{prefix}-{name}"))?.parse().ok();
        let up = |i: &Row| i.text("admin_state") == Some("up") && i.text("link_state") == Some("up");
        let is_up = interface.is_some_and(up);
        let (role, state) = role_and_state(row, protocol, is_up);
        let mut flags = vec![Flag::Learning, Flag::Flood];
        if row.flag("protected") {
            flags.insert(0, Flag::Isolated);
        }
        Some(Port {
            name: row.text("name")?.into(),
            up: is_up,
            mac: interface.and_then(mac),
            mtu: interface.and_then(mtu),
            role,
            state,
            path_cost: number(if protocol == Protocol::Rstp {
                "port-path-cost"
            } else {
                "path-cost"
            }),
            priority: number("port-priority").and_then(|n| u16::try_from(n).ok()),
            vlans: vlans(row),
            flags,
            tap: None,
            designated_bridge: row
                .map("rstp_status")
                .get("rstp_designated_bridge_id")
                .copied()
                .and_then(id),
            counters: interface.and_then(counters),
        })
    }
}

/// How the settings of the protocol begin.
pub(super) fn prefix(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Rstp => "rstp",
        _ => "stp",
    }
}

pub(super) fn protocol(bridge: &Row) -> Protocol {
    if bridge.flag("rstp_enable") {
        Protocol::Rstp
    } else if bridge.flag("stp_enable") {
        Protocol::Stp
    } else {
        Protocol::Off
    }
}

fn mac(interface: &Row) -> Option<Mac> {
    interface.text("mac_in_use")?.parse().ok()
}

fn mtu(interface: &Row) -> Option<u32> {
    interface.number("mtu")?.try_into().ok()
}

/// What its daemon writes into the database now and then, as long as the interface has counters at all.
fn counters(interface: &Row) -> Option<PortCounters> {
    let all = interface.counts("statistics");
    let count = |name: &str| all.get(name).copied().unwrap_or_default();
    all.contains_key("rx_packets").then(|| PortCounters {
        received: count("rx_packets"),
        received_bytes: count("rx_bytes"),
        received_errors: count("rx_errors"),
        received_dropped: count("rx_dropped"),
        sent: count("tx_packets"),
        sent_bytes: count("tx_bytes"),
        sent_errors: count("tx_errors"),
        sent_dropped: count("tx_dropped"),
    })
}

/// An identifier as Open vSwitch writes it (`8.000.0242ac110002`) as everyone else does.
pub(super) fn id(text: &str) -> Option<String> {
    let mut digits: String = text.chars().filter(|c| *c != '.' && *c != ':').collect();
    digits.make_ascii_lowercase();
    if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mac: Vec<&str> = (4..16).step_by(2).map(|at| &digits[at..at + 2]).collect();
    Some(format!("{}.{}", &digits[..4], mac.join(":")))
}

fn stp(row: &Row, protocol: Protocol, root_port: Option<String>) -> Stp {
    let config = row.map("other_config");
    let prefix = prefix(protocol);
    let set = |name: &str, default: u32| {
        let value = config
            .get(&*format!("{prefix}-{name}"))
            .map_or(Ok(default), |text| text.parse());
        (protocol != Protocol::Off).then_some(value.ok()).flatten()
    };
    let (status, names) = match protocol {
        Protocol::Rstp => (
            "rstp_status",
            ["rstp_bridge_id", "rstp_root_id", "rstp_root_path_cost"],
        ),
        _ => (
            "status",
            ["stp_bridge_id", "stp_designated_root", "stp_root_path_cost"],
        ),
    };
    let status = row.map(status);
    let told = |at: usize| status.get(names[at]).copied();
    Stp {
        protocol,
        priority: set("priority", 32_768).and_then(|p| u16::try_from(p).ok()),
        bridge_id: told(0).and_then(id),
        root_id: told(1).and_then(id),
        root_port,
        root_path_cost: told(2).and_then(|text| text.parse().ok()),
        max_age: set("max-age", 20),
        hello: set("hello-time", 2),
        forward_delay: set("forward-delay", 15),
        topology_change: None,
    }
}

fn role_and_state(port: &Row, protocol: Protocol, up: bool) -> (Option<Role>, State) {
    let without = if up { State::Forwarding } else { State::Discarding };
    let (column, role, state) = match protocol {
        Protocol::Off => return (None, without),
        Protocol::Stp => ("status", "stp_role", "stp_state"),
        Protocol::Rstp => ("rstp_status", "rstp_port_role", "rstp_port_state"),
    };
    let status = port.map(column);
    let word = |key| status.get(key).map(|text| text.to_ascii_lowercase());
    let Some(state) = word(state) else {
        return (None, without);
    };
    let role = word(role).and_then(|word| match word.as_str() {
        "root" => Some(Role::Root),
        "designated" => Some(Role::Designated),
        "alternate" => Some(Role::Alternate),
        "backup" => Some(Role::Backup),
        "disabled" => Some(Role::Disabled),
        _ => None,
    });
    let state = match state.as_str() {
        "forwarding" | "forward" => State::Forwarding,
        "learning" | "learn" => State::Learning,
        _ => State::Discarding,
    };
    (role, state)
}

/// `None` for a port that carries all VLANs as they are.
fn vlans(port: &Row) -> Option<PortVlans> {
    let tag = port.number("tag").and_then(|tag| u16::try_from(tag).ok());
    let trunks: Vec<u16> = port.numbers("trunks");
    let mode = port.text("vlan_mode");
    match (
        mode.unwrap_or(if tag.is_some() { "access" } else { "trunk" }),
        tag,
    ) {
        ("access", tag) => Some(PortVlans::access(tag.unwrap_or(0))),
        ("native-untagged", native) => Some(PortVlans::trunk(native, trunks)),
        ("native-tagged", native) => {
            let mut vlans = PortVlans::trunk(None, trunks.into_iter().chain(native));
            vlans.pvid = native;
            Some(vlans)
        }
        _ if trunks.is_empty() => None,
        _ => Some(PortVlans::trunk(None, trunks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_written_as_everyone_does() {
        assert_eq!(
            id("8.000.0242ac110002").as_deref(),
            Some("8000.02:42:ac:11:00:02")
        );
        assert_eq!(
            id("1.005.0242AC110002").as_deref(),
            Some("1005.02:42:ac:11:00:02")
        );
        for bad in ["", "8.000.0242ac1100", "8.000.0242ac11000g", "ééééé"] {
            assert_eq!(id(bad), None);
        }
    }
}
