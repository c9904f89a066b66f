//! Networks and what is in them as tables for people.

use serde_json::Value;

use super::model::{Port, Stations, Summary};
use super::network::Counted;
use super::stp::Tree;
use super::vlan::Table as VlanTable;

/// Cells in columns as wide as they need.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Rows of cells below a heading.
fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut all = vec![heading.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    columns(&all)
}

/// Text without what could drive a terminal.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A value of JSON as a cell: text without its quotes.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    };
    or_dash(Some(text))
}

/// A cell, or a dash where there is nothing.
fn or_dash(value: Option<impl ToString>) -> String {
    let text = value.map(|value| clean(&value.to_string()));
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into())
}

fn yes(on: bool) -> String {
    if on { "yes" } else { "no" }.into()
}

fn rows(list: &Value, names: &[&str]) -> Vec<Vec<String>> {
    let cells = |item: &Value| {
        let cell_of = |name: &&str| cell(item.get(*name).unwrap_or(&Value::Null));
        names.iter().map(cell_of).collect()
    };
    list.as_array().into_iter().flatten().map(cells).collect()
}

pub fn list(networks: &[Summary]) -> String {
    let row = |network: &Summary| {
        let forward = network.forward.as_ref();
        vec![
            clean(&network.name),
            network.kind.word().into(),
            if network.up { "up" } else { "down" }.into(),
            network.ports.to_string(),
            network.protocol.clone(),
            or_dash(network.root.as_ref()),
            or_dash(forward.map(|forward| format!("{} {}", forward.mode, forward.address))),
        ]
    };
    table(
        &["NETWORK", "KIND", "LINK", "PORTS", "STP", "ROOT", "FORWARD"],
        networks.iter().map(row),
    )
}

pub fn ports(ports: &[Port]) -> String {
    let row = |port: &Port| {
        let counters = port.counters.as_ref();
        vec![
            clean(&port.name),
            port.kind.clone(),
            or_dash(port.place.as_ref()),
            if port.up { "up" } else { "down" }.into(),
            yes(port.forwarding),
            or_dash(port.mtu),
            or_dash(counters.map(|counters| counters.received)),
            or_dash(counters.map(|counters| counters.sent)),
            or_dash(Some(port.flags.join(","))),
            or_dash(port.why_down.as_ref()),
        ]
    };
    table(
        &[
            "PORT", "KIND", "PLACE", "LINK", "FORWARDS", "MTU", "RECEIVED", "SENT", "FLAGS", "WHY DOWN",
        ],
        ports.iter().map(row),
    )
}

pub fn tree(tree: &Tree) -> String {
    let stp = &tree.stp;
    if stp.protocol == "off" {
        return "No spanning tree.\n".into();
    }
    let mut text = format!(
        "{}: bridge {} of priority {}, root {} by {} at cost {}; max age {} s, hello {} s, forward delay {} s\n",
        stp.protocol.to_uppercase(),
        or_dash(stp.id.as_ref()),
        or_dash(stp.priority),
        or_dash(stp.root.as_ref()),
        or_dash(stp.root_port.as_ref()),
        or_dash(stp.root_path_cost),
        or_dash(stp.max_age),
        or_dash(stp.hello),
        or_dash(stp.forward_delay),
    );
    let rows = tree.ports.iter().map(|port| {
        let stp = port.stp.as_ref();
        let on = |value: Option<bool>| or_dash(value.map(yes));
        vec![
            clean(&port.name),
            or_dash(stp.and_then(|stp| stp.role.as_ref())),
            or_dash(stp.map(|stp| &stp.state)),
            or_dash(stp.and_then(|stp| stp.path_cost)),
            or_dash(stp.and_then(|stp| stp.priority)),
            on(stp.and_then(|stp| stp.edge)),
            on(stp.and_then(|stp| stp.guarded)),
            or_dash(stp.and_then(|stp| stp.designated_bridge.as_ref())),
        ]
    });
    text += &table(
        &[
            "PORT",
            "ROLE",
            "STATE",
            "COST",
            "PRIORITY",
            "EDGE",
            "GUARDED",
            "DESIGNATED BRIDGE",
        ],
        rows,
    );
    text
}

pub fn vlans(vlans: &VlanTable) -> String {
    let rows = vlans.ports.iter().map(|port| match &port.vlans {
        None => vec![clean(&port.name), "-".into(), "-".into(), "all".into()],
        Some(vlans) => vec![
            clean(&port.name),
            or_dash(vlans.pvid),
            or_dash(Some(&vlans.untagged)),
            or_dash(Some(&vlans.tagged)),
        ],
    });
    table(&["PORT", "PVID", "UNTAGGED", "TAGGED"], rows)
}

pub fn counters(ports: &[Counted]) -> String {
    let row = |port: &Counted| {
        let counters = port.counters.as_ref();
        let reasons = |all: &std::collections::BTreeMap<String, u64>| {
            let parts: Vec<String> = all
                .iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect();
            parts.join(", ")
        };
        vec![
            clean(&port.name),
            or_dash(counters.map(|counters| counters.received)),
            or_dash(counters.map(|counters| counters.received_bytes)),
            or_dash(counters.map(|counters| reasons(&counters.dropped))),
            or_dash(counters.map(|counters| counters.sent)),
            or_dash(counters.map(|counters| counters.sent_bytes)),
            or_dash(counters.map(|counters| reasons(&counters.egress_dropped))),
        ]
    };
    table(
        &[
            "PORT", "RECEIVED", "BYTES", "DROPPED", "SENT", "BYTES", "NOT SENT",
        ],
        ports.iter().map(row),
    )
}

pub fn stations(answer: &Stations) -> String {
    let rows = answer.stations.iter().map(|station| {
        vec![
            clean(&station.mac),
            or_dash(station.vlan),
            clean(&station.port),
            station.source.clone(),
            or_dash(station.age.map(|age| format!("{age:.0} s"))),
        ]
    });
    let mut text = table(&["STATION", "VLAN", "PORT", "SOURCE", "AGE"], rows);
    if answer.left_out > 0 {
        text += &format!("and {} more; ask for one port or VLAN\n", answer.left_out);
    }
    text
}

pub fn taps(taps: &[ostler_hostnet::Tap]) -> String {
    let row = |tap: &ostler_hostnet::Tap| {
        vec![
            clean(&tap.name),
            or_dash(tap.owner),
            or_dash(tap.group),
            yes(tap.multi_queue),
            yes(tap.vnet_hdr),
        ]
    };
    table(
        &["TAP", "OWNER", "GROUP", "QUEUES", "VNET-HDR"],
        taps.iter().map(row),
    )
}

pub fn leases(list: &Value) -> String {
    table(
        &["ADDRESS", "MAC", "NAME", "SECONDS LEFT", "RESERVED", "PORT"],
        rows(list, &["address", "mac", "name", "remaining", "reserved", "port"]),
    )
}

pub fn groups(answer: &Value) -> String {
    let of = |name| answer.get(name).unwrap_or(&Value::Null);
    let members = table(
        &["GROUP", "VLAN", "PORT", "LEFT"],
        rows(of("members"), &["group", "vlan", "port", "left"]),
    );
    let queriers = table(
        &["QUERIER", "VLAN", "OWN", "ROUTER PORTS"],
        rows(of("queriers"), &["address", "vlan", "own", "router-ports"]),
    );
    format!("{members}\n{queriers}")
}

pub fn mirrors(list: &Value) -> String {
    table(
        &["TO", "INGRESS", "EGRESS"],
        rows(list, &["to", "ingress", "egress"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::model::Station;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let station = |port: &str, vlan| Station {
            mac: "02:00:00:00:00:01".into(),
            vlan,
            port: port.into(),
            source: "learned".into(),
            age: Some(3.2),
        };
        let answer = Stations {
            left_out: 2,
            stations: vec![station("a\u{1b}", None), station("trunk", Some(4094))],
        };
        let expected = "STATION            VLAN  PORT   SOURCE   AGE\n\
                        02:00:00:00:00:01  -     a      learned  3 s\n\
                        02:00:00:00:00:01  4094  trunk  learned  3 s\n\
                        and 2 more; ask for one port or VLAN\n";
        assert_eq!(stations(&answer), expected);
    }
}
