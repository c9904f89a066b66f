//! The rules of a network. What passes is what passes in libvirt's networks of that mode (<https://libvirt.org/firewall.html>).
//!
//! | mode | from the network | to the network |
//! |---|---|---|
//! | nat | from its subnet, by the host's address | what belongs to a connection of its own |
//! | route | from its subnet | to its subnet |
//! | isolated | nothing | nothing |
//! | open | as other tables say | as other tables say |
//!
//! Between stations of the network everything passes; what they say to the host itself is for the host's own rules.

use serde_json::{Value, json};

use super::{FAMILY, table_of};
use crate::{Forward, Network};

/// A chain through which no packet goes. The comment of its only rule says what the network is.
pub(super) const MARK: &str = "network";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

/// `<linux/netfilter_ipv4.h>`: NF_IP_PRI_FILTER and NF_IP_PRI_NAT_SRC.
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// The commands that make a network's table, in place of one that may be there: it is added so that it can be deleted.
pub(super) fn replacement(network: &Network) -> Vec<Value> {
    let table = json!({ "family": FAMILY, "name": table_of(&network.name) });
    let mut rules = Rules {
        table: table_of(&network.name),
        commands: vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
        ],
    };
    rules.chain(json!({ "name": MARK }));
    for line in network.lines() {
        rules.rule(MARK, Some(line), vec![json!({ "return": null })]);
    }
    if network.forward != Forward::Open {
        rules.forward(network);
    }
    if network.forward == Forward::Nat {
        rules.masquerade(network);
    }
    rules.commands
}

struct Rules {
    table: String,
    commands: Vec<Value>,
}

impl Rules {
    fn chain(&mut self, mut chain: Value) {
        chain["family"] = FAMILY.into();
        chain["table"] = self.table.clone().into();
        self.commands.push(json!({ "add": { "chain": chain } }));
    }

    fn rule(&mut self, chain: &str, comment: Option<String>, expr: Vec<Value>) {
        let mut rule = json!({ "family": FAMILY, "table": self.table, "chain": chain, "expr": expr });
        if let Some(comment) = comment {
            rule["comment"] = comment.into();
        }
        self.commands.push(json!({ "add": { "rule": rule } }));
    }

    /// What is passed on between the network and others. What is not allowed is answered, so that nobody waits in vain.
    fn forward(&mut self, network: &Network) {
        self.chain(json!({
            "name": FORWARD, "type": "filter", "hook": "forward", "prio": PRIORITY_FILTER, "policy": "accept"
        }));
        let (comes, goes) = (
            interface("iifname", &network.name),
            interface("oifname", &network.name),
        );
        self.rule(
            FORWARD,
            None,
            vec![comes.clone(), goes.clone(), json!({ "accept": null })],
        );
        for part in parts(network) {
            self.forward_part(network, &part, (&comes, &goes));
        }
        for rest in [goes, comes] {
            let reject = json!({ "reject": { "type": "icmpx", "expr": "port-unreachable" } });
            self.rule(FORWARD, None, vec![rest, reject]);
        }
    }

    /// What is allowed of one family.
    fn forward_part(&mut self, network: &Network, part: &Part, (comes, goes): (&Value, &Value)) {
        let mut to_it = vec![goes.clone()];
        let mut from_it = vec![comes.clone()];
        if let Some(out) = &network.out {
            to_it.push(interface("iifname", out));
            from_it.push(interface("oifname", out));
        }
        to_it.push(part.belongs("daddr", "=="));
        from_it.push(part.belongs("saddr", "=="));
        match network.forward {
            Forward::Nat => {
                let state = json!({ "ct": { "key": "state" } });
                to_it.push(json!({
                    "match": { "op": "in", "left": state, "right": ["established", "related"] }
                }));
            }
            Forward::Route => {}
            Forward::Isolated | Forward::Open => (to_it, from_it) = (Vec::new(), Vec::new()),
        }
        for mut allowed in [to_it, from_it] {
            if !allowed.is_empty() {
                allowed.push(json!({ "accept": null }));
                self.rule(FORWARD, None, allowed);
            }
        }
    }

    /// Packets from the network to others leave with the host's address, TCP and UDP by the ports that are theirs.
    fn masquerade(&mut self, network: &Network) {
        self.chain(json!({
            "name": POSTROUTING, "type": "nat", "hook": "postrouting", "prio": PRIORITY_SOURCE_NAT, "policy": "accept"
        }));
        for part in parts(network) {
            self.masquerade_part(network, &part);
        }
    }

    fn masquerade_part(&mut self, network: &Network, part: &Part) {
        let from_it = part.belongs("saddr", "==");
        for to in part.of_one_link() {
            let stays = equal(part.payload("daddr"), to);
            self.rule(
                POSTROUTING,
                None,
                vec![from_it.clone(), stays, json!({ "return": null })],
            );
        }
        let mut leaves = vec![from_it, part.belongs("daddr", "!=")];
        if let Some(out) = &network.out {
            leaves.push(interface("oifname", out));
        }
        let has_ports = equal(
            json!({ "meta": { "key": "l4proto" } }),
            json!({ "set": ["tcp", "udp"] }),
        );
        let ports = json!({ "range": [network.ports.first, network.ports.last] });
        let mut by_ports = leaves.clone();
        by_ports.extend([has_ports, json!({ "masquerade": { "port": ports } })]);
        self.rule(POSTROUTING, None, by_ports);
        leaves.push(json!({ "masquerade": null }));
        self.rule(POSTROUTING, None, leaves);
    }
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn equal(left: Value, right: Value) -> Value {
    matches("==", left, right)
}

fn interface(key: &str, name: &str) -> Value {
    equal(json!({ "meta": { "key": key } }), name.into())
}

/// A network's addresses of one family.
struct Part {
    /// As nftables calls the family's header.
    protocol: &'static str,
    network: String,
    prefix: u8,
}

fn parts(network: &Network) -> Vec<Part> {
    let part = |protocol, network: String, prefix| Part {
        protocol,
        network,
        prefix,
    };
    let v4 = network.address;
    let mut parts = vec![part("ip", v4.network().to_string(), v4.prefix())];
    parts.extend(
        network
            .address6
            .map(|v6| part("ip6", v6.network().to_string(), v6.prefix())),
    );
    parts
}

impl Part {
    fn payload(&self, field: &str) -> Value {
        json!({ "payload": { "protocol": self.protocol, "field": field } })
    }

    /// Whether an address is one of the network's.
    fn belongs(&self, field: &str, op: &str) -> Value {
        let prefix = json!({ "prefix": { "addr": self.network, "len": self.prefix } });
        matches(op, self.payload(field), prefix)
    }

    /// Where packets go that keep their sender.
    fn of_one_link(&self) -> Vec<Value> {
        let prefix = |addr: &str, len: u8| json!({ "prefix": { "addr": addr, "len": len } });
        match self.protocol {
            "ip" => vec![prefix("224.0.0.0", 24), json!("255.255.255.255")],
            _ => vec![prefix("ff00::", 8)],
        }
    }
}
