//! Changes of a part of a network: what `virNetworkUpdate` takes. Each makes another document, which goes the same way as a whole one.

use std::net::IpAddr;

use thiserror::Error;

use super::Network;
use crate::Error;
use crate::tree::{Element, Node, read, write};
use crate::value::{Mac, Random};

/// What is done with the element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// It takes the place of the one that it is like.
    Modify,
    /// The one that it is like goes.
    Delete,
    /// It becomes the last one.
    AddLast,
    /// It becomes the first one.
    AddFirst,
}

/// Where the element belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `<host>` of `<dhcp>`.
    DhcpHost,
    /// `<range>` of `<dhcp>`.
    DhcpRange,
    /// `<host>` of `<dns>`.
    DnsHost,
}

/// A change.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// What is done.
    pub command: Command,
    /// Where.
    pub section: Section,
    /// Of which `<ip>`, from 0; of the first with `<dhcp>` if it is below 0.
    pub parent: i32,
    /// The element.
    pub xml: &'a str,
}

/// Why a change cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// The element, or the network with it, is none.
    #[error(transparent)]
    Xml(#[from] Error),
    /// It does not fit what is there.
    #[error("{0}")]
    Invalid(String),
    /// Such a change is never made.
    #[error("{0}")]
    Unsupported(String),
}

impl Network {
    /// The network with one part changed.
    pub fn updated(&self, update: &Update<'_>, random: Random<'_>) -> Result<Self, UpdateError> {
        let element = read(update.xml)?;
        let expected = match update.section {
            Section::DhcpRange => "range",
            Section::DhcpHost | Section::DnsHost => "host",
        };
        if element.name != expected {
            return Err(Error::Xml(format!(
                "unexpected element <{}>, expecting <{expected}>, while updating network '{}'",
                crate::error::shorten(&element.name),
                self.name
            ))
            .into());
        }
        let mut tree = self.tree.clone();
        match update.section {
            Section::DhcpHost => self.change_dhcp_host(&mut tree, update, element)?,
            Section::DhcpRange => self.change_range(&mut tree, update, element)?,
            Section::DnsHost => self.change_dns_host(&mut tree, update, element)?,
        }
        tidy(&mut tree);
        // Nothing is missing that would have to be made.
        let bridge = self.bridge.as_ref().map_or("virbr0", |bridge| &bridge.name);
        Ok(Self::define(&write(&tree), bridge, random)?)
    }

    fn change_dhcp_host(
        &self,
        tree: &mut Element,
        update: &Update<'_>,
        element: Element,
    ) -> Result<(), UpdateError> {
        let dhcp = self.dhcp(tree, update.parent)?;
        let wanted = Reservation::read(&element);
        let found = match update.command {
            Command::Delete => position(dhcp, "host", |host| Reservation::read(host).has_all_of(&wanted)),
            _ => position(dhcp, "host", |host| {
                Reservation::read(host).shares_any_of(&wanted)
            }),
        };
        let name = &self.name;
        match (update.command, found) {
            (Command::Delete, Some(at)) => drop(dhcp.children.remove(at)),
            (Command::Delete, None) => {
                return invalid(format!(
                    "couldn't locate a matching dhcp host entry in network '{name}'"
                ));
            }
            (Command::Modify, Some(at)) => dhcp.children[at] = Node::Element(element),
            (Command::Modify, None) => {
                return invalid(format!(
                    "couldn't locate an existing dhcp host entry with {wanted} in network '{name}'"
                ));
            }
            (_, Some(_)) => {
                return invalid(format!(
                    "there is an existing dhcp host entry in network '{name}' that matches {wanted}"
                ));
            }
            (command, None) => add(dhcp, command, element),
        }
        Ok(())
    }

    fn change_range(
        &self,
        tree: &mut Element,
        update: &Update<'_>,
        element: Element,
    ) -> Result<(), UpdateError> {
        if update.command == Command::Modify {
            let why = "dhcp ranges cannot be modified, only added or deleted";
            return Err(UpdateError::Unsupported(why.into()));
        }
        let dhcp = self.dhcp(tree, update.parent)?;
        let ends = |range: &Element| [address(range, "start"), address(range, "end")];
        let found = position(dhcp, "range", |range| ends(range) == ends(&element));
        match (update.command, found) {
            (Command::Delete, Some(at)) => drop(dhcp.children.remove(at)),
            (Command::Delete, None) => {
                return invalid(format!(
                    "couldn't locate a matching dhcp range entry in network '{}'",
                    self.name
                ));
            }
            (_, Some(_)) => {
                return invalid(format!(
                    "there is an existing dhcp range entry in network '{}' that matches it",
                    self.name
                ));
            }
            (command, None) => add(dhcp, command, element),
        }
        Ok(())
    }

    fn change_dns_host(
        &self,
        tree: &mut Element,
        update: &Update<'_>,
        element: Element,
    ) -> Result<(), UpdateError> {
        if update.command == Command::Modify {
            let why = "DNS HOST records cannot be modified, only added or deleted";
            return Err(UpdateError::Unsupported(why.into()));
        }
        let dns = tree.child_or_new("dns");
        let names = |host: &Element| -> Vec<String> { host.all("hostname").map(Element::text).collect() };
        let (ip, wanted) = (address(&element, "ip"), names(&element));
        let deletes = update.command == Command::Delete;
        let is_it = |host: &Element| {
            let same = ip.is_some() && address(host, "ip") == ip;
            // One name may have several addresses.
            same || deletes && names(host).iter().any(|name| wanted.contains(name))
        };
        let count = dns.all("host").filter(|host| is_it(host)).count();
        match (update.command, position(dns, "host", is_it)) {
            (Command::Delete, Some(at)) if count == 1 => drop(dns.children.remove(at)),
            (Command::Delete, Some(_)) => {
                return invalid(format!(
                    "multiple matching DNS HOST records were found in network {}",
                    self.name
                ));
            }
            (Command::Delete, None) => {
                return invalid(format!(
                    "couldn't locate a matching DNS HOST record in network {}",
                    self.name
                ));
            }
            (_, Some(_)) => {
                return invalid(format!(
                    "there is already at least one DNS HOST record with a matching field in network {}",
                    self.name
                ));
            }
            (command, None) => add(dns, command, element),
        }
        Ok(())
    }

    /// The `<dhcp>` of the `<ip>` that is meant, made if there is none.
    fn dhcp<'a>(&self, tree: &'a mut Element, parent: i32) -> Result<&'a mut Element, UpdateError> {
        let index = match usize::try_from(parent) {
            Ok(index) => index,
            Err(_) => tree
                .all("ip")
                .position(|ip| ip.child("dhcp").is_some())
                .unwrap_or(0),
        };
        let ip = tree
            .elements_mut()
            .filter(|element| element.name == "ip")
            .nth(index);
        match ip {
            Some(ip) => Ok(ip.child_or_new("dhcp")),
            None => Err(UpdateError::Invalid(format!(
                "couldn't update dhcp entry - no <ip> element found at index {index} in network '{}'",
                self.name
            ))),
        }
    }
}

fn invalid(why: String) -> Result<(), UpdateError> {
    Err(UpdateError::Invalid(why))
}

fn address(element: &Element, name: &str) -> Option<IpAddr> {
    element.get(name)?.parse().ok()
}

/// Where among the children the first element of this name is that is the one.
fn position(parent: &Element, name: &str, is_it: impl Fn(&Element) -> bool) -> Option<usize> {
    let wanted = |node: &Node| node.element().is_some_and(|e| e.name == name && is_it(e));
    parent.children.iter().position(wanted)
}

fn add(parent: &mut Element, command: Command, element: Element) {
    let at = match command {
        Command::AddFirst => 0,
        _ => parent.children.len(),
    };
    parent.children.insert(at, Node::Element(element));
}

/// Takes away what has become empty.
fn tidy(tree: &mut Element) {
    let empty = |element: &Element| element.attributes.is_empty() && element.elements().next().is_none();
    for ip in tree.elements_mut().filter(|element| element.name == "ip") {
        ip.remove_elements(|element| element.name == "dhcp" && empty(element));
    }
    tree.remove_elements(|element| element.name == "dns" && empty(element));
}

/// What tells reservations apart.
struct Reservation {
    mac: Option<Mac>,
    id: Option<String>,
    name: Option<String>,
    ip: Option<IpAddr>,
}

impl Reservation {
    fn read(host: &Element) -> Self {
        Self {
            mac: host.get("mac").and_then(|mac| mac.parse().ok()),
            id: host.get("id").map(str::to_ascii_lowercase),
            name: host.get("name").map(str::to_owned),
            ip: address(host, "ip"),
        }
    }

    fn shares_any_of(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_some() && a == b
        }
        same(&self.mac, &other.mac)
            || same(&self.id, &other.id)
            || same(&self.name, &other.name)
            || same(&self.ip, &other.ip)
    }

    fn has_all_of(&self, other: &Self) -> bool {
        (other.mac.is_none() || self.mac.is_none() || other.mac == self.mac)
            && (other.id.is_none() || other.id == self.id)
            && (other.name.is_none() || other.name == self.name)
            && (other.ip.is_none() || other.ip == self.ip)
    }
}

impl std::fmt::Display for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = || "unknown".to_owned();
        write!(
            f,
            "\"mac='{}' name='{}' ip='{}'\"",
            self.mac.map_or_else(unknown, |mac| mac.to_string()),
            self.name
                .as_deref()
                .map_or("unknown".into(), crate::error::shorten),
            self.ip.map_or_else(unknown, |ip| ip.to_string()),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const XML: &str = "<network><name>n</name><uuid>0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</uuid>\
        <bridge name='virbr7'/><mac address='52:54:00:00:00:07'/>\
        <ip address='10.1.0.1' netmask='255.255.255.0'/>\
        <ip address='10.2.0.1' prefix='24'><dhcp><range start='10.2.0.2' end='10.2.0.99'/>\
        <host mac='52:54:00:00:00:01' name='a' ip='10.2.0.101'/>\
        <host mac='52:54:00:00:00:02' name='b' ip='10.2.0.102'/></dhcp></ip></network>";

    fn network() -> Network {
        Network::define(XML, "virbr0", &mut |bytes| bytes.fill(7)).unwrap()
    }

    fn update(
        network: &Network,
        command: Command,
        section: Section,
        parent: i32,
        xml: &str,
    ) -> Result<Network, UpdateError> {
        let update = Update {
            command,
            section,
            parent,
            xml,
        };
        network.updated(&update, &mut |bytes| bytes.fill(9))
    }

    #[test]
    fn reservations_come_change_and_go() {
        use Command::*;
        use Section::DhcpHost;
        let network = network();
        let c = "<host mac='52:54:00:00:00:03' name='c' ip='10.2.0.103'/>";
        let with = update(&network, AddFirst, DhcpHost, -1, c).unwrap();
        let names = |network: &Network| -> Vec<String> {
            let hosts = network.ips[1].hosts.iter();
            hosts.filter_map(|host| host.name.clone()).collect()
        };
        assert_eq!(names(&with), ["c", "a", "b"]);
        assert_eq!((with.uuid, &with.bridge), (network.uuid, &network.bridge));
        let moved = "<host mac='52:54:00:00:00:02' name='b' ip='10.2.0.122'/>";
        let with = update(&with, Modify, DhcpHost, 1, moved).unwrap();
        assert_eq!(with.ips[1].hosts[2].ip.to_string(), "10.2.0.122");
        let without = update(&with, Delete, DhcpHost, 1, "<host name='c'/>").unwrap();
        assert_eq!(names(&without), ["a", "b"]);
        for (command, parent, xml, says) in [
            (
                AddLast,
                -1,
                "<host mac='52:54:00:00:00:01' ip='10.2.0.105'/>",
                "existing dhcp host",
            ),
            (
                Modify,
                -1,
                "<host mac='52:54:00:00:00:09' ip='10.2.0.105'/>",
                "couldn't locate",
            ),
            (Delete, -1, "<host name='z'/>", "couldn't locate"),
            (Delete, 7, "<host name='a'/>", "index 7"),
            (AddLast, -1, "<guest/>", "expecting <host>"),
            (AddLast, -1, "<host mac='x' ip='10.2.0.105'/>", "MAC"),
            (AddLast, -1, "<host mac='52:54:00:00:00:09'/>", "ip"),
            (AddLast, -1, "<host", ""),
        ] {
            let said = update(&network, command, DhcpHost, parent, xml).unwrap_err();
            assert!(said.to_string().contains(says), "{xml}: {said}");
        }
    }

    #[test]
    fn reservations_of_ipv6_are_told_apart_by_their_identifiers() {
        use Command::*;
        use Section::DhcpHost;
        let ip = "<ip family='ipv6' address='fd00::1' prefix='64'/></network>";
        let xml = XML.replace("</network>", ip);
        let network = Network::define(&xml, "virbr0", &mut |bytes| bytes.fill(7)).unwrap();
        let host = "<host id='0:3:0:1:aa' name='six' ip='fd00::6'/>";
        let with = update(&network, AddLast, DhcpHost, 2, host).unwrap();
        assert_eq!(with.ips[2].hosts[0].id.as_deref(), Some("0:3:0:1:aa"));
        let same = "<host id='0:3:0:1:AA' ip='fd00::7'/>";
        let said = update(&with, AddLast, DhcpHost, 2, same).unwrap_err();
        assert!(said.to_string().contains("existing dhcp host"), "{said}");
        let other = "<host id='0:3:0:1:bb'/>";
        assert!(update(&with, Delete, DhcpHost, 2, other).is_err());
        assert_eq!(
            update(&with, Delete, DhcpHost, 2, "<host id='0:3:0:1:aa'/>").unwrap(),
            network
        );
    }

    #[test]
    fn ranges_and_names_come_and_go() {
        use Command::*;
        use Section::{DhcpRange, DnsHost};
        let network = network();
        let second = "<range start='10.2.0.200' end='10.2.0.220'/>";
        let with = update(&network, AddLast, DhcpRange, -1, second).unwrap();
        assert_eq!(with.ips[1].ranges.len(), 2);
        assert!(matches!(
            update(&with, AddLast, DhcpRange, -1, second),
            Err(UpdateError::Invalid(_))
        ));
        assert!(matches!(
            update(&with, Modify, DhcpRange, -1, second),
            Err(UpdateError::Unsupported(_))
        ));
        assert_eq!(update(&with, Delete, DhcpRange, 1, second).unwrap(), network);
        let outside = "<range start='10.3.0.1' end='10.3.0.2'/>";
        assert!(update(&network, AddLast, DhcpRange, -1, outside).is_err());

        let host = "<host ip='10.2.0.7'><hostname>one</hostname><hostname>uno</hostname></host>";
        let with = update(&network, AddLast, DnsHost, -1, host).unwrap();
        assert_eq!(with.dns_hosts[0].1, ["one", "uno"]);
        assert!(update(&with, AddLast, DnsHost, -1, host).is_err());
        let other = "<host ip='10.2.0.8'><hostname>one</hostname></host>";
        let both = update(&with, AddFirst, DnsHost, -1, other).unwrap();
        let one = "<host ip='10.2.0.99'><hostname>one</hostname></host>";
        assert!(
            update(&both, Delete, DnsHost, -1, one)
                .unwrap_err()
                .to_string()
                .contains("multiple")
        );
        assert_eq!(update(&with, Delete, DnsHost, -1, one).unwrap(), network);
        // The last range and reservation take <dhcp> with them.
        let mut rest = network.clone();
        for (section, xml) in [
            (DhcpRange, "<range start='10.2.0.2' end='10.2.0.99'/>"),
            (Section::DhcpHost, "<host name='a'/>"),
            (Section::DhcpHost, "<host name='b'/>"),
        ] {
            rest = update(&rest, Delete, section, -1, xml).unwrap();
        }
        assert!(!rest.xml().contains("dhcp"), "{}", rest.xml());
    }

    proptest! {
        #[test]
        fn any_text_is_a_change_or_an_error(text in any::<String>(), name in "[a-z]{0,5}", ip in "[0-9.]{0,12}", parent in -2i32..4) {
            let network = network();
            for section in [Section::DhcpHost, Section::DhcpRange, Section::DnsHost] {
                for command in [Command::Modify, Command::Delete, Command::AddLast, Command::AddFirst] {
                    let _ = update(&network, command, section, parent, &text);
                    let _ = update(&network, command, section, parent, &format!("<host name='{name}' ip='{ip}'/>"));
                }
            }
        }
    }
}
