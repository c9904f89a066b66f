//! The rules of networks in the host's firewall, nftables: a table for each network, which is replaced as a whole by one transaction of
//! the kernel's.
//!
//! What a packet may do is said by all tables of the host together: a table of ours takes away, and gives nothing back that another
//! table drops.

mod nft;
mod rules;

pub(crate) use nft::Nft;
use serde_json::{Value, json};

use crate::{Error, Network};

/// What the names of our tables begin with.
const PREFIX: &str = "ostler_";
/// Of both IPv4 and IPv6, so that neither passes beside the rules of the other.
const FAMILY: &str = "inet";

/// The table of a network. Names of interfaces have letters that names of tables have not; no two become the same.
fn table_of(name: &str) -> String {
    let letter = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("_{b:02x}"),
    };
    let name: String = name.bytes().map(letter).collect();
    format!("{PREFIX}{name}")
}

/// Gives a network its rules, all at once, in place of those that it has.
pub(crate) fn replace(nft: &Nft, network: &Network) -> Result<(), Error> {
    let what = format!("giving {} its rules", network.name);
    nft.run(&what, &rules::replacement(network)).map(drop)
}

/// Takes a network's rules away.
pub(crate) fn remove(nft: &Nft, name: &str) -> Result<(), Error> {
    let table = json!({ "family": FAMILY, "name": table_of(name) });
    let what = format!("taking the rules of {name} away");
    nft.run(&what, &[json!({ "delete": { "table": table } })])
        .map(drop)
}

/// The networks whose rules are there.
pub(crate) fn networks(nft: &Nft) -> Result<Vec<Network>, Error> {
    let what = "listing tables";
    let tables = nft.run(what, &[json!({ "list": { "tables": { "family": FAMILY } } })])?;
    let mut networks = Vec::new();
    for table in objects(&tables, "table") {
        let name = table["name"].as_str().unwrap_or_default();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let chain = json!({ "family": FAMILY, "table": name, "name": rules::MARK });
        match nft.run(what, &[json!({ "list": { "chain": chain } })]) {
            Ok(said) => networks.extend(network_of(&said, name)),
            // Somebody else's table, or one that was deleted meanwhile.
            Err(Error::Firewall { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(networks)
}

/// The objects of a kind in an answer.
fn objects<'a>(said: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = said["nftables"].as_array().into_iter().flatten();
    all.filter_map(move |object| object.get(kind))
}

/// What the chain of a table says of its network.
fn network_of(said: &Value, table: &str) -> Option<Network> {
    let lines: Vec<&str> = objects(said, "rule")
        .filter_map(|rule| rule["comment"].as_str())
        .collect();
    Network::from_line(&lines.join(" ")).filter(|network| table_of(&network.name) == table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_are_named_apart(a in "[A-Za-z0-9._@-]{1,4}", b in "[A-Za-z0-9._@-]{1,4}") {
            prop_assert_eq!(table_of(&a) == table_of(&b), a == b);
            prop_assert!(table_of(&a).bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }
    }

    #[test]
    fn a_table_of_another_is_no_network() {
        let said = |line: &str| json!({ "nftables": [{ "metainfo": {} }, { "rule": { "comment": line } }] });
        let line = "name=br0 forward=open address=10.9.0.1/24 ports=1024-65535";
        assert_eq!(network_of(&said(line), "ostler_br0").unwrap().name, "br0");
        assert_eq!(network_of(&said(line), "ostler_br1"), None);
        assert_eq!(network_of(&said("hello"), "ostler_br0"), None);
        assert_eq!(network_of(&Value::Null, "ostler_br0"), None);
    }
}
