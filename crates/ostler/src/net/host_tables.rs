//! Bridges and what is in them as tables.

use ostler_hostnet::{Bridge, Forward, Kind, Network, Port, PortVlans, Protocol, Station, Tap};

/// Columns as wide as they have to be.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_else(|| "-".into())
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Kernel => "kernel",
        Kind::OpenVSwitch => "open-v-switch",
    }
}

pub(super) fn networks(networks: &[Network]) -> String {
    let row = |network: &Network| {
        let nat = network.forward == Forward::Nat;
        vec![
            network.name.clone(),
            network.forward.to_string(),
            network.address.to_string(),
            or_dash(nat.then_some(network.ports)),
            or_dash(network.out.as_ref()),
        ]
    };
    table(
        &["NETWORK", "FORWARD", "ADDRESS", "PORTS", "OUT"],
        networks.iter().map(row).collect(),
    )
}

pub(super) fn bridges(bridges: &[Bridge]) -> String {
    let row = |bridge: &Bridge| {
        vec![
            bridge.name.clone(),
            kind(bridge.kind).into(),
            if bridge.up { "up" } else { "down" }.into(),
            word(bridge.stp.protocol),
            bridge.ports.len().to_string(),
        ]
    };
    table(
        &["BRIDGE", "BY", "LINK", "STP", "PORTS"],
        bridges.iter().map(row).collect(),
    )
}

pub(super) fn bridge(bridge: &Bridge) -> String {
    let filtering = match bridge.vlan_filtering {
        Some(true) => "filtered",
        Some(false) => "not filtered",
        None => "not here",
    };
    let mut text = format!(
        "{} ({}), {}, address {}, MTU {}, VLANs {filtering}, stations kept {} s\n\n",
        bridge.name,
        kind(bridge.kind),
        if bridge.up { "up" } else { "down" },
        or_dash(bridge.mac),
        or_dash(bridge.mtu),
        or_dash(bridge.ageing),
    );
    text += &tree(bridge);
    text + "\n" + &ports(&bridge.ports)
}

pub(super) fn ports(ports: &[Port]) -> String {
    let row = |port: &Port| {
        let flags: Vec<String> = port.flags.iter().map(ToString::to_string).collect();
        vec![
            port.name.clone(),
            if port.up { "up" } else { "down" }.into(),
            word(port.state),
            or_dash(port.mac),
            or_dash(port.mtu),
            flags.join(","),
        ]
    };
    table(
        &["PORT", "LINK", "STATE", "MAC", "MTU", "FLAGS"],
        ports.iter().map(row).collect(),
    )
}

pub(super) fn tree(bridge: &Bridge) -> String {
    let stp = &bridge.stp;
    if stp.protocol == Protocol::Off {
        return "No spanning tree.\n".into();
    }
    let mut text = format!(
        "{}: bridge {}, root {} by {} at cost {}; max age {} s, hello {} s, forward delay {} s\n",
        word(stp.protocol).to_uppercase(),
        or_dash(stp.bridge_id.as_ref()),
        or_dash(stp.root_id.as_ref()),
        or_dash(stp.root_port.as_ref()),
        or_dash(stp.root_path_cost),
        or_dash(stp.max_age),
        or_dash(stp.hello),
        or_dash(stp.forward_delay),
    );
    let row = |port: &Port| {
        vec![
            port.name.clone(),
            port.role.map_or_else(|| "-".into(), word),
            word(port.state),
            or_dash(port.path_cost),
            or_dash(port.priority),
        ]
    };
    text += &table(
        &["PORT", "ROLE", "STATE", "COST", "PRIORITY"],
        bridge.ports.iter().map(row).collect(),
    );
    text
}

pub(super) fn vlans(ports: &[Port]) -> String {
    let list = |vlans: &[u16]| {
        let numbers: Vec<String> = vlans.iter().map(ToString::to_string).collect();
        if numbers.is_empty() {
            "-".into()
        } else {
            numbers.join(",")
        }
    };
    let row = |port: &Port| match &port.vlans {
        None => vec![port.name.clone(), "-".into(), "all".into(), "-".into()],
        Some(PortVlans {
            pvid,
            tagged,
            untagged,
        }) => vec![port.name.clone(), or_dash(*pvid), list(tagged), list(untagged)],
    };
    table(
        &["PORT", "PVID", "TAGGED", "UNTAGGED"],
        ports.iter().map(row).collect(),
    )
}

pub(super) fn stations(stations: &[Station]) -> String {
    let row = |station: &Station| {
        vec![
            station.mac.to_string(),
            or_dash(station.vlan),
            station.port.clone(),
            word(station.source),
            station
                .age
                .map_or_else(|| "-".into(), |age| format!("{age:.0} s")),
        ]
    };
    table(
        &["MAC", "VLAN", "PORT", "SOURCE", "AGE"],
        stations.iter().map(row).collect(),
    )
}

pub(super) fn taps(taps: &[Tap]) -> String {
    let yes = |on| if on { "yes" } else { "no" }.into();
    let row = |tap: &Tap| {
        vec![
            tap.name.clone(),
            or_dash(tap.owner),
            or_dash(tap.group),
            yes(tap.multi_queue),
            yes(tap.vnet_hdr),
        ]
    };
    table(
        &["TAP", "OWNER", "GROUP", "QUEUES", "VNET-HDR"],
        taps.iter().map(row).collect(),
    )
}
