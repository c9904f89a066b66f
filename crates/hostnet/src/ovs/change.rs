//! Changes as operations on the database, each with those that take it back.

use serde_json::{Map, Value, json};

use super::database::{Row, is, set};
use super::unsupported;
use super::view::{Tables, prefix, protocol};
use crate::{BridgeSettings, Error, Flag, PortSettings, PortVlans, Protocol};

/// Operations there and back.
#[derive(Default)]
pub(super) struct Change {
    pub(super) forward: Vec<Value>,
    pub(super) backward: Vec<Value>,
    /// The name of what is new, which the way back has to find: its row's number is the database's.
    pub(super) made: String,
}

/// Stands for the row of what is new.
const NEW_PORT: &str = "@port";
const NEW_BRIDGE: &str = "@bridge";

/// Puts the numbers of rows that exist by now in their places.
pub(super) fn resolve(operations: Vec<Value>, tables: &Tables, made: &str) -> Vec<Value> {
    let port = tables.port_id(made).unwrap_or_default();
    let bridge = tables.bridge_id(made).unwrap_or_default();
    fn put(value: &mut Value, port: &str, bridge: &str) {
        match value {
            Value::String(text) if text == NEW_PORT => *text = port.into(),
            Value::String(text) if text == NEW_BRIDGE => *text = bridge.into(),
            Value::Array(items) => items.iter_mut().for_each(|item| put(item, port, bridge)),
            Value::Object(map) => map.values_mut().for_each(|item| put(item, port, bridge)),
            _ => {}
        }
    }
    let mut operations = Value::Array(operations);
    put(&mut operations, port, bridge);
    match operations {
        Value::Array(operations) => operations,
        _ => Vec::new(),
    }
}

/// Columns of one row, and keys of its `other_config`.
#[derive(Default)]
struct Columns {
    columns: Map<String, Value>,
    config: Vec<(String, String)>,
}

impl Columns {
    fn column(&mut self, name: &str, value: Value) {
        self.columns.insert(name.into(), value);
    }

    fn config(&mut self, key: String, value: impl ToString) {
        self.config.push((key, value.to_string()));
    }

    /// The whole of a new row.
    fn row(mut self) -> Value {
        let pairs: Vec<Value> = self.config.iter().map(|(k, v)| json!([k, v])).collect();
        self.columns.insert("other_config".into(), json!(["map", pairs]));
        Value::Object(self.columns)
    }

    /// A change of a row that exists.
    fn change(self, change: &mut Change, table: &str, row: &Row) {
        let place = is(row.id());
        if !self.columns.is_empty() {
            let had: Map<String, Value> = self
                .columns
                .keys()
                .map(|name| (name.clone(), row.raw(name)))
                .collect();
            let update = |row| json!({"op": "update", "table": table, "where": place, "row": row});
            change.forward.push(update(Value::Object(self.columns)));
            change.backward.push(update(Value::Object(had)));
        }
        if self.config.is_empty() {
            return;
        }
        let config = row.map("other_config");
        let keys = set(self.config.iter().map(|(key, _)| json!(key)));
        let new: Vec<Value> = self.config.iter().map(|(k, v)| json!([k, v])).collect();
        let had = self
            .config
            .iter()
            .filter_map(|(k, _)| Some(json!([k, config.get(k.as_str())?])));
        let had: Vec<Value> = had.collect();
        let mutate = |pairs| {
            json!({
                "op": "mutate", "table": table, "where": place,
                "mutations": [["other_config", "delete", keys], ["other_config", "insert", ["map", pairs]]],
            })
        };
        change.forward.push(mutate(new));
        change.backward.push(mutate(had));
    }
}

fn bridge_columns(settings: &BridgeSettings, now: Protocol) -> Result<Columns, Error> {
    if settings.vlan_filtering == Some(false) {
        return Err(unsupported(
            "its bridges always know VLANs; leave ports without any",
        ));
    }
    let mut columns = Columns::default();
    let protocol = settings.protocol.unwrap_or(now);
    if let Some(protocol) = settings.protocol {
        columns.column("stp_enable", json!(protocol == Protocol::Stp));
        columns.column("rstp_enable", json!(protocol == Protocol::Rstp));
    }
    let prefix = prefix(protocol);
    if protocol == Protocol::Rstp && settings.hello.is_some_and(|hello| hello != 2) {
        return Err(unsupported("the hello time of its RSTP is 2 s and cannot be set"));
    }
    let hello = settings.hello.filter(|_| protocol != Protocol::Rstp);
    for (name, value) in [
        ("priority", settings.priority.map(u32::from)),
        ("max-age", settings.max_age),
        ("hello-time", hello),
        ("forward-delay", settings.forward_delay),
    ] {
        if let Some(value) = value {
            columns.config(format!("{prefix}-{name}"), value);
        }
    }
    if let Some(ageing) = settings.ageing {
        // Open vSwitch takes others for the nearest of these, and says nothing.
        if !(15..=3600).contains(&ageing) {
            return Err(Error::Range {
                what: "the ageing time of Open vSwitch",
                value: ageing.into(),
                range: "15 to 3600 s",
            });
        }
        columns.config("mac-aging-time".into(), ageing);
    }
    Ok(columns)
}

/// A new bridge with its own interface.
pub(super) fn create(name: &str, datapath: Option<&str>, settings: &BridgeSettings) -> Result<Change, Error> {
    let mut columns = bridge_columns(settings, Protocol::Off)?;
    columns.column("name", json!(name));
    columns.column("ports", set([json!(["named-uuid", "port"])]));
    if let Some(datapath) = datapath {
        columns.column("datapath_type", json!(datapath));
    }
    let mut interface = json!({"name": name, "type": "internal"});
    if let Some(mtu) = settings.mtu {
        interface["mtu_request"] = json!(mtu);
    }
    let port = json!({"name": name, "interfaces": ["named-uuid", "interface"]});
    Ok(Change {
        forward: vec![
            insert("Interface", "interface", interface),
            insert("Port", "port", port),
            insert("Bridge", "bridge", columns.row()),
            json!({
                "op": "mutate", "table": "Open_vSwitch", "where": [],
                "mutations": [["bridges", "insert", ["named-uuid", "bridge"]]],
            }),
        ],
        backward: vec![json!({
            "op": "mutate", "table": "Open_vSwitch", "where": [],
            "mutations": [["bridges", "delete", ["uuid", NEW_BRIDGE]]],
        })],
        made: name.into(),
    })
}

fn insert(table: &str, name: &str, row: Value) -> Value {
    json!({"op": "insert", "table": table, "row": row, "uuid-name": name})
}

pub(super) fn bridge(tables: &Tables, bridge: &Row, settings: &BridgeSettings) -> Result<Change, Error> {
    let mut change = Change::default();
    bridge_columns(settings, protocol(bridge))?.change(&mut change, "Bridge", bridge);
    let local = bridge.text("name").and_then(|name| tables.interface(name));
    if let (Some(mtu), Some(local)) = (settings.mtu, local) {
        mtu_request(&mut change, local, mtu);
    }
    Ok(change)
}

fn mtu_request(change: &mut Change, interface: &Row, mtu: u32) {
    let mut columns = Columns::default();
    columns.column("mtu_request", json!(mtu));
    columns.change(change, "Interface", interface);
}

fn port_columns(settings: &PortSettings, protocol: Protocol) -> Result<Columns, Error> {
    let mut columns = Columns::default();
    for &(flag, on) in &settings.flags {
        match flag {
            Flag::Isolated => columns.column("protected", json!(on)),
            Flag::Learning | Flag::Flood if on => {}
            _ if !on && !matches!(flag, Flag::Learning | Flag::Flood) => {}
            _ => return Err(unsupported(format!("its ports have no switch for `{flag}`"))),
        }
    }
    let prefix = prefix(protocol);
    if let Some(cost) = settings.path_cost {
        let name = if protocol == Protocol::Rstp {
            "port-path-cost"
        } else {
            "path-cost"
        };
        columns.config(format!("{prefix}-{name}"), cost);
    }
    if let Some(priority) = settings.priority {
        if priority > 240 || priority % 16 != 0 {
            return Err(Error::Range {
                what: "the port priority of Open vSwitch",
                value: priority.into(),
                range: "0 to 240 in steps of 16",
            });
        }
        columns.config(format!("{prefix}-port-priority"), priority);
    }
    if let Some(vlans) = &settings.vlans {
        vlan_columns(&mut columns, vlans)?;
    }
    Ok(columns)
}

fn vlan_columns(columns: &mut Columns, vlans: &PortVlans) -> Result<(), Error> {
    let tagged: Vec<u16> = vlans
        .tagged
        .iter()
        .copied()
        .filter(|v| Some(*v) != vlans.pvid)
        .collect();
    let native_is_tagged = vlans.pvid.is_some_and(|pvid| vlans.tagged.contains(&pvid));
    let others = vlans.untagged.iter().any(|v| Some(*v) != vlans.pvid);
    if others || native_is_tagged && !vlans.untagged.is_empty() {
        return Err(unsupported(
            "its ports send one VLAN at most without a tag, and that is the PVID",
        ));
    }
    let mode = match vlans.pvid {
        Some(_) if native_is_tagged => "native-tagged",
        Some(_) if tagged.is_empty() => "access",
        Some(_) => "native-untagged",
        None if tagged.is_empty() => {
            return Err(unsupported("a port without any VLAN; switch it off instead"));
        }
        None => "trunk",
    };
    columns.column("vlan_mode", json!(mode));
    columns.column("tag", set(vlans.pvid.map(|pvid| json!(pvid))));
    columns.column("trunks", set(tagged.into_iter().map(|vlan| json!(vlan))));
    Ok(())
}

/// A new port for an interface that exists.
pub(super) fn add_port(bridge: &Row, name: &str, settings: &PortSettings) -> Result<Change, Error> {
    let mut columns = port_columns(settings, protocol(bridge))?;
    columns.column("name", json!(name));
    columns.column("interfaces", json!(["named-uuid", "interface"]));
    let mut interface = json!({"name": name});
    if let Some(mtu) = settings.mtu {
        interface["mtu_request"] = json!(mtu);
    }
    Ok(Change {
        forward: vec![
            insert("Interface", "interface", interface),
            insert("Port", "port", columns.row()),
            json!({
                "op": "mutate", "table": "Bridge", "where": is(bridge.id()),
                "mutations": [["ports", "insert", ["named-uuid", "port"]]],
            }),
        ],
        backward: vec![json!({
            "op": "mutate", "table": "Bridge", "where": is(bridge.id()),
            "mutations": [["ports", "delete", ["uuid", NEW_PORT]]],
        })],
        made: name.into(),
    })
}

pub(super) fn port(
    tables: &Tables,
    bridge: &Row,
    port: &Row,
    settings: &PortSettings,
) -> Result<Change, Error> {
    let mut change = Change::default();
    port_columns(settings, protocol(bridge))?.change(&mut change, "Port", port);
    if let (Some(mtu), Some(interface)) = (settings.mtu, tables.interface_of(port)) {
        mtu_request(&mut change, interface, mtu);
    }
    Ok(change)
}
