//! A network as a drawing of characters: the root above, the bridge with its ports below.

use super::model::{Network, Port};
use super::rates::bits;
use super::tables::{clean, columns};

/// The drawing.
pub fn draw(network: &Network) -> String {
    let mut text = head(network);
    let stp = &network.stp;
    let away = stp.root.as_ref().filter(|_| stp.is_root == Some(false));
    if let Some(root) = away {
        let cost = stp
            .root_path_cost
            .map_or_else(String::new, |cost| format!(" cost {cost}"));
        let port = stp
            .root_port
            .as_deref()
            .map_or_else(String::new, |port| format!(" by port {}", clean(port)));
        text += &format!("root {}\n│{port}{cost}\n", clean(root));
    }
    text += &bridge(network);
    let last = network.ports.len().saturating_sub(1);
    let rows: Vec<Vec<String>> = network
        .ports
        .iter()
        .enumerate()
        .map(|(number, port)| {
            let branch = if number == last { "└─" } else { "├─" };
            row(branch, port)
        })
        .collect();
    text += &columns(&rows);
    text + &routers(network)
}

/// What it is, and what is in it.
fn head(network: &Network) -> String {
    let mut parts = vec![
        format!("{} ({})", clean(&network.name), network.kind.word()),
        if network.up { "up" } else { "down" }.into(),
        counted(network.ports.len() as u64, "port"),
    ];
    parts.extend(network.stations.map(|stations| counted(stations, "station")));
    parts.extend(network.forward.as_ref().map(|forward| {
        let mut text = format!("{} {}", forward.mode, clean(&forward.address));
        for (word, value) in [("by ports", &forward.ports), ("out by", &forward.out)] {
            text += &value
                .as_ref()
                .map_or_else(String::new, |value| format!(" {word} {}", clean(value)));
        }
        text
    }));
    parts.extend(network.pid.map(|pid| format!("process {pid}")));
    parts.join(", ") + "\n\n"
}

fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// The bridge itself.
fn bridge(network: &Network) -> String {
    let stp = &network.stp;
    if stp.protocol == "off" {
        return format!("{}, no spanning tree\n", clean(&network.name));
    }
    let number = |value: Option<u32>| value.map_or_else(|| "-".into(), |value| value.to_string());
    format!(
        "{} {}{}, {}: max age {} s, hello {} s, forward delay {} s\n",
        clean(&network.name),
        clean(stp.id.as_deref().unwrap_or("-")),
        if stp.is_root == Some(true) {
            ", the root"
        } else {
            ""
        },
        stp.protocol.to_uppercase(),
        number(stp.max_age),
        number(stp.hello),
        number(stp.forward_delay),
    )
}

fn row(branch: &str, port: &Port) -> Vec<String> {
    let (role, state) = match &port.stp {
        Some(stp) if port.up => (stp.role.clone().unwrap_or_default(), stp.state.clone()),
        _ if !port.up => ("down".into(), String::new()),
        _ => (
            String::new(),
            if port.forwarding {
                "forwarding"
            } else {
                "discarding"
            }
            .into(),
        ),
    };
    let place = port.place.as_deref().filter(|place| *place != port.name);
    let kind = match place {
        Some(place) => format!("{} {}", port.kind, clean(place)),
        None => port.kind.clone(),
    };
    let rates = port.rates.as_ref().map_or_else(String::new, |rates| {
        format!("in {}, out {}", bits(rates.received_bits), bits(rates.sent_bits))
    });
    vec![
        format!("{branch} {}", clean(&port.name)),
        kind,
        role,
        state,
        vlans(port),
        rates,
    ]
}

/// `VLAN 10` of an access port; of a trunk its list, with the native one.
fn vlans(port: &Port) -> String {
    let Some(vlans) = &port.vlans else {
        return "all VLANs".into();
    };
    let mut parts = Vec::new();
    if !vlans.tagged.0.is_empty() {
        parts.push(format!("tagged {}", vlans.tagged));
    }
    if !vlans.untagged.0.is_empty() {
        parts.push(format!("untagged {}", vlans.untagged));
    }
    if vlans.untagged.0 != vlans.pvid.into_iter().collect::<Vec<_>>() {
        parts.push(
            vlans
                .pvid
                .map_or_else(|| "no PVID".into(), |pvid| format!("PVID {pvid}")),
        );
    }
    match (vlans.pvid, parts.is_empty(), vlans.tagged.0.is_empty()) {
        (_, true, _) => "no VLAN".into(),
        (Some(pvid), _, true) if vlans.untagged.0 == [pvid] => format!("VLAN {pvid}"),
        _ => format!("VLANs {}", parts.join(", ")),
    }
}

fn routers(network: &Network) -> String {
    let line = |router: &serde_json::Value| {
        let of = |name: &str| super::tables::cell(router.get(name).unwrap_or(&serde_json::Value::Null));
        let outside = match router["restrict"].as_bool() {
            Some(true) => "isolated",
            _ => "NAT",
        };
        let address6 = router["address6"].as_str();
        let address6 = address6.map_or_else(String::new, |address| format!(" and {}", clean(address)));
        format!(
            "router at {}: {}{address6}, {outside}; {} leases, {} reservations\n",
            of("port"),
            of("address"),
            of("leases"),
            of("reservations")
        )
    };
    let lines: String = network.routers.iter().map(line).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::model::{Kind, PortStp, Rates, Stp};
    use crate::net::vlans::Vlans;

    fn port(name: &str, role: &str, state: &str, vlans: Option<Vlans>) -> Port {
        Port {
            name: name.into(),
            kind: "tap".into(),
            place: Some("tap0".into()),
            up: role != "down",
            forwarding: state == "forwarding",
            why_down: None,
            mac: None,
            mtu: Some(1500),
            flags: Vec::new(),
            vlans,
            stp: Some(PortStp {
                role: Some(role.into()),
                state: state.into(),
                path_cost: None,
                priority: None,
                designated_bridge: None,
                edge: None,
                rapid: None,
                guarded: None,
            }),
            counters: None,
            rates: None,
            tap: None,
            number: None,
            temporary: None,
            lost: None,
            queue_pairs: None,
        }
    }

    #[test]
    fn the_root_is_above_and_ports_below() {
        let mut up = port(
            "up",
            "root",
            "forwarding",
            Some(Vlans::trunk(&"1,10-20".parse().unwrap(), Some(1))),
        );
        up.rates = Some(Rates {
            received: 10.0,
            received_bits: 1_500_000.0,
            sent: 0.0,
            sent_bits: 0.0,
        });
        let network = Network {
            name: "lan".into(),
            kind: Kind::Ovs,
            up: true,
            mac: None,
            mtu: None,
            vlan_filtering: Some(true),
            ageing: None,
            stations: Some(1),
            stp: Stp {
                protocol: "rstp".into(),
                id: Some("8000.aa".into()),
                root: Some("1000.bb\u{1b}".into()),
                is_root: Some(false),
                root_port: Some("up".into()),
                root_path_cost: Some(2000),
                max_age: Some(20),
                hello: Some(2),
                forward_delay: Some(15),
                ..Stp::default()
            },
            forward: None,
            ports: vec![
                up,
                port("vm", "designated", "learning", Some(Vlans::access(10))),
                port("gone", "down", "discarding", None),
            ],
            pid: None,
            uptime: None,
            fdb_entries: None,
            fdb_evictions: None,
            routers: Vec::new(),
        };
        assert_eq!(
            draw(&network),
            "lan (ovs), up, 3 ports, 1 station\n\n\
             root 1000.bb\n\
             │ by port up cost 2000\n\
             lan 8000.aa, RSTP: max age 20 s, hello 2 s, forward delay 15 s\n\
             ├─ up    tap tap0  root        forwarding  VLANs tagged 10-20, untagged 1  in 1.5 Mbit/s, out 0 bit/s\n\
             ├─ vm    tap tap0  designated  learning    VLAN 10\n\
             └─ gone  tap tap0  down                    all VLANs\n"
        );
    }
}
