//! What is shown of a switch, as JSON. These names are what scripts rely on.

use ostler_switch::rstp::{PortState, Role, Version};
use ostler_switch::{Drop, EgressDrop, Member, PortConfig, PortCounters, PortIndex, Station, Switch};
use serde_json::{Map, Value, json};

use crate::ports::Lost;

const DROPS: [(&str, Drop); 22] = [
    ("port-down", Drop::PortDown),
    ("runt", Drop::Runt),
    ("oversize", Drop::Oversize),
    ("bad-source", Drop::BadSource),
    ("mirror-port", Drop::MirrorPort),
    ("rate-limit", Drop::RateLimit),
    ("reserved", Drop::Reserved),
    ("bad-bpdu", Drop::BadBpdu),
    ("not-admitted", Drop::NotAdmitted),
    ("reserved-vlan", Drop::ReservedVlan),
    ("double-tag", Drop::DoubleTag),
    ("not-a-member", Drop::NotAMember),
    ("blocked", Drop::Blocked),
    ("spoofed-mac", Drop::SpoofedMac),
    ("spoofed-ip", Drop::SpoofedIp),
    ("rogue", Drop::Rogue),
    ("mac-limit", Drop::MacLimit),
    ("storm", Drop::Storm),
    ("same-port", Drop::SamePort),
    ("no-destination", Drop::NoDestination),
    ("bad-offload", Drop::BadOffload),
    ("bad-group-message", Drop::BadGroupMessage),
];
const EGRESS_DROPS: [(&str, EgressDrop); 4] = [
    ("too-long", EgressDrop::TooLong),
    ("double-tag", EgressDrop::DoubleTag),
    ("rate-limit", EgressDrop::RateLimit),
    ("queue-full", EgressDrop::QueueFull),
];

/// Counters; of the reasons for drops only those that happened.
pub(crate) fn counters(counters: &PortCounters) -> Value {
    let some = |count: (&str, u64)| (count.1 > 0).then(|| (count.0.to_owned(), json!(count.1)));
    let dropped: Map<_, _> = DROPS
        .iter()
        .filter_map(|&(name, reason)| some((name, counters.dropped.get(reason))))
        .collect();
    let egress: Map<_, _> = EGRESS_DROPS
        .iter()
        .filter_map(|&(name, reason)| some((name, counters.egress_dropped.get(reason))))
        .collect();
    json!({
        "received": counters.received,
        "received-bytes": counters.received_bytes,
        "forwarded": counters.forwarded,
        "consumed": counters.consumed,
        "dropped": dropped,
        "offered": counters.offered,
        "sent": counters.sent,
        "sent-bytes": counters.sent_bytes,
        "egress-dropped": egress,
        "originated": counters.originated,
        "mirrored": counters.mirrored,
        "moves": counters.moves,
        "static-conflicts": counters.static_conflicts,
    })
}

/// Frames that were lost between a port and the other side.
pub(crate) fn lost(lost: Lost) -> Value {
    json!({ "received": lost.received, "sent": lost.sent })
}

pub(crate) fn vlans(config: &PortConfig) -> Value {
    json!({
        "pvid": config.vlans.pvid.map(|vlan| vlan.get()),
        "tagged": config.vlans.tagged.to_string(),
        "untagged": config.vlans.untagged.to_string(),
    })
}

/// What is switched on at a port.
pub(crate) fn flags(config: &PortConfig) -> Vec<&'static str> {
    let all = [
        ("isolated", config.isolated),
        ("bpdu-guard", config.stp.bpdu_guard),
        ("root-guard", config.stp.root_guard),
        ("learning", config.learning),
        ("flood", config.flood.unknown),
    ];
    all.into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect()
}

/// A port's membership in a group.
pub(crate) fn member(member: &Member, port: &str) -> Value {
    json!({
        "group": member.group,
        "vlan": member.vlan.get(),
        "port": port,
        "left": member.left,
    })
}

pub(crate) fn station(station: &Station, port: &str) -> Value {
    json!({
        "mac": station.mac.to_string(),
        "vlan": station.vlan.get(),
        "port": port,
        "age": station.age,
        "static": station.age.is_none(),
    })
}

/// The bridge's part in the spanning tree; null without one. `name` tells a port's name.
pub(crate) fn bridge(core: &Switch, name: impl Fn(PortIndex) -> String) -> Value {
    let Some(tree) = core.tree() else {
        return Value::Null;
    };
    let config = tree.config();
    json!({
        "protocol": match config.version {
            Version::Rstp => "rstp",
            Version::Stp => "stp",
        },
        "priority": config.priority,
        "id": tree.id().to_string(),
        "root": tree.root().to_string(),
        "is-root": tree.root() == tree.id(),
        "root-port": tree.root_port().map(name),
        "root-path-cost": tree.root_path_cost(),
        "max-age": config.max_age,
        "hello": config.hello,
        "forward-delay": config.forward_delay,
        "topology-changes": tree.topology_changes(),
    })
}

/// A port's part in the spanning tree; null without one.
pub(crate) fn tree_port(core: &Switch, port: PortIndex) -> Value {
    let Some(view) = core.tree().and_then(|tree| tree.view(port)) else {
        return Value::Null;
    };
    let role = match view.role {
        Role::Disabled => "disabled",
        Role::Root => "root",
        Role::Designated => "designated",
        Role::Alternate => "alternate",
        Role::Backup => "backup",
    };
    let state = match view.state {
        PortState::Discarding => "discarding",
        PortState::Learning => "learning",
        PortState::Forwarding => "forwarding",
    };
    json!({
        "role": role,
        "state": state,
        "edge": view.edge,
        "rapid": view.rapid,
        "path-cost": view.path_cost,
        "priority": core.port(port).map(|config| config.stp.priority),
        "guarded": core.is_guarded(port),
        "designated-bridge": view.designated.bridge.to_string(),
    })
}
