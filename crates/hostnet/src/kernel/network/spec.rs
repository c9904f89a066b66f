//! What a network is to be, and the line in which the firewall's table keeps it.

use std::fmt;
use std::str::FromStr;

use super::{Subnet, Subnet6};
use crate::{Error, check_name};

/// Whom the stations of a network reach beside each other and the host. The words are libvirt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nobody.
    Isolated,
    /// Everybody, by the host's own address; only answers come in.
    Nat,
    /// Everybody, by their own addresses, which others reach too.
    Route,
    /// What the host's own rules say: there is none of ours.
    Open,
}

impl Forward {
    /// All of them.
    pub const ALL: [Forward; 4] = [Forward::Isolated, Forward::Nat, Forward::Route, Forward::Open];
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forward::Isolated => "isolated",
            Forward::Nat => "nat",
            Forward::Route => "route",
            Forward::Open => "open",
        })
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|forward| forward.to_string() == text);
        found.ok_or_else(|| {
            format!("there is no forward mode `{text}`; there are nat, route, open and isolated")
        })
    }
}

/// The host's ports that TCP and UDP of a network with NAT leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first of them.
    pub first: u16,
    /// The last, included.
    pub last: u16,
}

impl Default for Ports {
    /// Those that need no privilege.
    fn default() -> Self {
        Self {
            first: 1024,
            last: u16::MAX,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let range = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Self { first, last })
        });
        range.ok_or_else(|| format!("`{text}` is no range of ports; write FIRST-LAST, such as 1024-65535"))
    }
}

/// A network of the kernel's: a bridge with an address of the host, and rules of the host's firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name, which is the bridge's.
    pub name: String,
    /// Whom its stations reach.
    pub forward: Forward,
    /// The host's address there.
    pub address: Subnet,
    /// Its address of IPv6, if the network has any. Without it, packets of IPv6 pass in an open network only.
    pub address6: Option<Subnet6>,
    /// For NAT.
    pub ports: Ports,
    /// The only interface by which packets leave and come in; `None`: as the host's routes say.
    pub out: Option<String>,
}

impl Network {
    /// Refuses names that mean more than one interface to `nft` (`*`), and those that it writes in another form.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for name in [Some(&self.name), self.out.as_ref()].into_iter().flatten() {
            check_name(name)?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
            if !name.bytes().all(plain) {
                return Err(Error::NetworkName(name.clone()));
            }
        }
        let has_way_out = matches!(self.forward, Forward::Nat | Forward::Route);
        if self.out.is_some() && !has_way_out {
            return Err(Error::NoWayOut(self.forward));
        }
        if self.ports != Ports::default() && self.forward != Forward::Nat {
            return Err(Error::NoPorts(self.forward));
        }
        Ok(())
    }

    /// In lines of at most 128 bytes, which is what a comment of nftables holds.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self {
            name,
            forward,
            address,
            address6,
            ports,
            out,
        } = self;
        let out = out.as_ref().map(|out| format!(" out={out}")).unwrap_or_default();
        let first = format!("name={name} forward={forward} address={address} ports={ports}{out}");
        let second = address6.map(|address| format!("address6={address}"));
        [first].into_iter().chain(second).collect()
    }

    /// The reverse of its lines, joined by blanks; `None` for what is no such line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let word = |name: &str| {
            let mut words = line.split(' ').filter_map(|word| word.split_once('='));
            words.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let network = Self {
            name: word("name")?.into(),
            forward: word("forward")?.parse().ok()?,
            address: word("address")?.parse().ok()?,
            address6: word("address6").map(str::parse).transpose().ok()?,
            ports: word("ports")?.parse().ok()?,
            out: word("out").map(str::to_owned),
        };
        network.check().ok().map(|()| network)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> impl Strategy<Value = Network> {
        let name = "[A-Za-z0-9._@-]{1,15}";
        let out = proptest::option::of(name);
        (
            name,
            0..4usize,
            any::<(u32, u8, u16, u16)>(),
            out,
            any::<Option<u128>>(),
        )
            .prop_filter_map(
                "not a network",
                |(name, forward, (address, prefix, first, last), out, six)| {
                    let forward = Forward::ALL[forward];
                    let nat = forward == Forward::Nat;
                    let network = Network {
                        name,
                        forward,
                        address: Subnet::new(address.into(), 8 + prefix % 23).ok()?,
                        address6: six.and_then(|six| Subnet6::new(six.into()).ok()),
                        ports: match nat {
                            true => Ports {
                                first: first.min(last).max(1),
                                last: last.max(1).max(first),
                            },
                            false => Ports::default(),
                        },
                        out: out.filter(|_| matches!(forward, Forward::Nat | Forward::Route)),
                    };
                    network.check().ok().map(|()| network)
                },
            )
    }

    proptest! {
        #[test]
        fn a_network_survives_its_line(network in network()) {
            let lines = network.lines();
            prop_assert!(lines.iter().all(|line| line.len() <= 128), "{lines:?}");
            prop_assert_eq!(Network::from_line(&lines.join(" ")), Some(network));
        }

        #[test]
        fn any_line_is_a_network_or_none(line in "(( |name=|forward=|address=|address6=|ports=|out=|fd00::1/64|nat|open|10.9.0.1/24|1-2)|.){0,12}") {
            if let Some(network) = Network::from_line(&line) {
                prop_assert_eq!(Network::from_line(&network.lines().join(" ")), Some(network));
            }
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let good = Network {
            name: "br0".into(),
            forward: Forward::Nat,
            address: "10.9.0.1/24".parse().unwrap(),
            address6: None,
            ports: Ports::default(),
            out: Some("eth0".into()),
        };
        good.check().unwrap();
        for name in ["br*", "br\\", "br\"", "", "a b", "sixteen-letters-"] {
            let named = Network {
                name: name.into(),
                ..good.clone()
            };
            assert!(named.check().is_err(), "{name}");
            let out = Network {
                out: Some(name.into()),
                ..good.clone()
            };
            assert!(out.check().is_err(), "{name}");
        }
        let isolated = Network {
            forward: Forward::Isolated,
            ..good.clone()
        };
        assert!(isolated.check().unwrap_err().to_string().contains("isolated"));
        let routed = Network {
            forward: Forward::Route,
            ports: "1-2".parse().unwrap(),
            ..good
        };
        assert!(routed.check().unwrap_err().to_string().contains("route"));
        for ports in ["", "1", "0-5", "7-6", "1-65536", "1-2-3"] {
            assert!(ports.parse::<Ports>().is_err(), "{ports}");
        }
    }
}
