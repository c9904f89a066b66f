//! Who has which address and which name: leases of DHCP, reservations, and names that are set.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::Subnet;
use crate::time::Millis;
use crate::wire::Mac;

/// Leases at most.
pub const MAX_LEASES: usize = 4096;
/// Reservations, ranges and names at most.
const MAX_HOSTS: usize = 4096;
const MAX_RANGES: usize = 64;
const MAX_NAMES: usize = 4096;
/// How long an address is kept for a client that was offered it and has not asked for it.
const OFFER: Millis = 30_000;
/// How long an address is not given that a client found in use.
const DECLINED: Millis = 600_000;
/// Bytes of a client's identifier that are kept.
const MAX_CLIENT_ID: usize = 64;

/// Who is to get which address, and which names there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// First and last address of ranges for everyone.
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Guests with an address of their own.
    pub hosts: Vec<Host>,
    /// Other names, in small letters.
    pub names: Vec<(String, Ipv4Addr)>,
}

/// A guest with an address of its own, known by its card, or else by the name that it gives itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its card.
    pub mac: Option<Mac>,
    /// Its name, in small letters.
    pub name: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
}

/// An address that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The guest's card.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name.
    pub name: Option<String>,
    /// What it calls itself (RFC 2132, 9.14).
    pub client_id: Option<Vec<u8>>,
    /// Seconds that the lease still lasts.
    pub remaining: u64,
    /// Whether the address is reserved for it.
    pub reserved: bool,
}

/// Checks a name of a host or domain: labels of letters, digits, `-` and `_` with dots between (RFC 1123, 2.1).
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() <= 253 && name.split('.').all(good) {
        Ok(())
    } else {
        let shown: String = name.chars().take(80).collect();
        Err(format!(
            "\"{shown}\" is no name of a host; write letters, digits and hyphens with dots between"
        ))
    }
}

impl Plan {
    /// Says what cannot be in this network, in one sentence.
    pub fn check(&self, subnet: &Subnet) -> Result<(), String> {
        for (what, count, most) in [
            ("ranges", self.ranges.len(), MAX_RANGES),
            ("reservations", self.hosts.len(), MAX_HOSTS),
            ("names", self.names.len(), MAX_NAMES),
        ] {
            if count > most {
                return Err(format!("there are {count} {what}, and {most} can be"));
            }
        }
        for (first, last) in &self.ranges {
            if first > last || !subnet.contains(*first) || !subnet.contains(*last) {
                return Err(format!(
                    "the range {first}-{last} is not one within {}/{}",
                    subnet.gateway, subnet.prefix
                ));
            }
        }
        for host in &self.hosts {
            if !subnet.is_guest(host.address) {
                return Err(format!(
                    "{} cannot be a guest's address within {}/{}",
                    host.address, subnet.gateway, subnet.prefix
                ));
            }
            if host.mac.is_none() && host.name.is_none() {
                return Err(format!(
                    "the reservation of {} names neither a card nor a name",
                    host.address
                ));
            }
            host.name.as_deref().map_or(Ok(()), check_name)?;
        }
        self.names.iter().try_for_each(|(name, _)| check_name(name))
    }

    fn host(&self, client: &Mac, name: Option<&str>) -> Option<&Host> {
        let by_mac = self.hosts.iter().find(|host| host.mac.as_ref() == Some(client));
        by_mac.or_else(|| {
            let named = |host: &&Host| host.mac.is_none() && name.is_some() && host.name.as_deref() == name;
            self.hosts.iter().find(named)
        })
    }
}

/// What is kept of a lease.
#[derive(Debug)]
struct Entry {
    /// None: a client found that someone else uses the address.
    mac: Option<Mac>,
    name: Option<String>,
    client_id: Option<Vec<u8>>,
    expires: Millis,
    /// The client took the address; before that it was only offered.
    bound: bool,
}

/// All of it, for one network.
#[derive(Debug)]
pub struct Directory {
    subnet: Subnet,
    /// Never given: the name server's address.
    dns: Option<Ipv4Addr>,
    lease: Millis,
    plan: Plan,
    reserved: HashSet<Ipv4Addr>,
    leases: BTreeMap<Ipv4Addr, Entry>,
}

impl Directory {
    pub fn new(subnet: Subnet, dns: Option<Ipv4Addr>, lease: Millis, plan: Plan) -> Self {
        let mut directory = Self {
            subnet,
            dns,
            lease,
            plan: Plan::default(),
            reserved: HashSet::new(),
            leases: BTreeMap::new(),
        };
        directory.set_plan(plan);
        directory
    }

    /// Another plan from now on. Leases go on, and are not given again if they do not fit.
    pub fn set_plan(&mut self, plan: Plan) {
        self.reserved = plan.hosts.iter().map(|host| host.address).collect();
        self.plan = plan;
    }

    /// The address that `client` is to have, which is kept for it for a while; `wanted` is the one that it would like.
    pub fn offer(
        &mut self,
        client: Mac,
        name: Option<&str>,
        wanted: Option<Ipv4Addr>,
        now: Millis,
    ) -> Option<Ipv4Addr> {
        let address = self.choose(client, name, wanted, now)?;
        if !self.leases.contains_key(&address) && self.leases.len() >= MAX_LEASES {
            self.leases.retain(|_, entry| entry.expires > now);
            (self.leases.len() < MAX_LEASES).then_some(())?;
        }
        let known = self
            .leases
            .get(&address)
            .is_some_and(|entry| entry.mac == Some(client));
        if !known {
            // What was offered to it before is free again.
            self.leases
                .retain(|_, entry| entry.bound || entry.mac != Some(client));
            let offered = Entry {
                mac: Some(client),
                name: None,
                client_id: None,
                expires: now + OFFER,
                bound: false,
            };
            self.leases.insert(address, offered);
        }
        Some(address)
    }

    fn choose(
        &self,
        client: Mac,
        name: Option<&str>,
        wanted: Option<Ipv4Addr>,
        now: Millis,
    ) -> Option<Ipv4Addr> {
        let free = |address: &Ipv4Addr| match self.leases.get(address) {
            Some(entry) => entry.mac == Some(client) || entry.expires <= now,
            None => true,
        };
        if let Some(host) = self.plan.host(&client, name)
            && free(&host.address)
        {
            return Some(host.address);
        }
        let mine = self.leases.iter().filter(|(_, entry)| entry.mac == Some(client));
        let mine = mine
            .max_by_key(|(_, entry)| entry.expires)
            .map(|(address, _)| *address);
        let fits = |address: &Ipv4Addr| self.is_dynamic(*address) && free(address);
        if let Some(address) = mine.filter(fits).or(wanted.filter(fits)) {
            return Some(address);
        }
        let unused = |address: &Ipv4Addr| self.is_dynamic(*address) && !self.leases.contains_key(address);
        let mut all = self
            .plan
            .ranges
            .iter()
            .flat_map(|(first, last)| (first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits));
        all.find(unused).or_else(|| {
            let over = self.leases.iter().filter(|(address, _)| fits(address));
            over.min_by_key(|(_, entry)| entry.expires)
                .map(|(address, _)| *address)
        })
    }

    /// True if everyone may have `address`.
    fn is_dynamic(&self, address: Ipv4Addr) -> bool {
        let in_range = self
            .plan
            .ranges
            .iter()
            .any(|(first, last)| (first..=last).contains(&&address));
        in_range
            && self.subnet.is_guest(address)
            && self.dns != Some(address)
            && !self.reserved.contains(&address)
    }

    /// `client` takes `address`, which was offered to it.
    pub fn bind(
        &mut self,
        client: Mac,
        address: Ipv4Addr,
        name: Option<String>,
        client_id: Option<&[u8]>,
        now: Millis,
    ) {
        let old = self.leases.get(&address).and_then(|entry| entry.name.clone());
        // Nobody takes another's name.
        let free = |name: &String| self.owner(name, now).is_none_or(|owner| owner == address);
        let mut hosts = self.plan.hosts.iter().filter(|host| host.mac == Some(client));
        // Its reservation has a name for it.
        let is_named = hosts.any(|host| host.address == address && host.name.is_some());
        let name = name.into_iter().chain(old).find(|name| !is_named && free(name));
        let lease = self.lease;
        if let Some(entry) = self
            .leases
            .get_mut(&address)
            .filter(|entry| entry.mac == Some(client))
        {
            entry.name = name;
            entry.client_id = client_id.map(|id| id[..id.len().min(MAX_CLIENT_ID)].to_vec());
            entry.expires = now + lease;
            entry.bound = true;
            // A client has one address.
            self.leases
                .retain(|other, entry| *other == address || entry.mac != Some(client));
        }
    }

    /// `client` gives its address back.
    pub fn release(&mut self, client: Mac, address: Ipv4Addr) {
        if self
            .leases
            .get(&address)
            .is_some_and(|entry| entry.mac == Some(client))
        {
            self.leases.remove(&address);
        }
    }

    /// `client` found that someone else uses what it was given.
    pub fn decline(&mut self, client: Mac, address: Ipv4Addr, now: Millis) {
        if let Some(entry) = self
            .leases
            .get_mut(&address)
            .filter(|entry| entry.mac == Some(client))
        {
            *entry = Entry {
                mac: None,
                name: None,
                client_id: None,
                expires: now + DECLINED,
                bound: true,
            };
        }
    }

    /// Whose name it is: small letters, without a domain.
    fn owner(&self, name: &str, now: Millis) -> Option<Ipv4Addr> {
        let reserved = self
            .plan
            .hosts
            .iter()
            .find(|host| host.name.as_deref() == Some(name));
        if let Some(host) = reserved {
            return Some(host.address);
        }
        let named = |entry: &Entry| entry.bound && entry.expires > now && entry.name.as_deref() == Some(name);
        let leased = self.leases.iter().find(|(_, entry)| named(entry));
        leased.map(|(address, _)| *address)
    }

    /// The address behind a name: small letters, without a domain.
    pub fn lookup(&self, name: &str, now: Millis) -> Option<Ipv4Addr> {
        let set = self.plan.names.iter().find(|(known, _)| known == name);
        set.map(|(_, address)| *address).or_else(|| self.owner(name, now))
    }

    fn leases(&self, now: Millis) -> Vec<Lease> {
        let lasting = self
            .leases
            .iter()
            .filter(|(_, entry)| entry.bound && entry.expires > now);
        let shown = lasting.filter_map(|(address, entry)| {
            let mac = entry.mac?;
            let host = self.plan.host(&mac, entry.name.as_deref());
            let host = host.filter(|host| host.address == *address);
            let reserved_name = host.and_then(|host| host.name.clone());
            Some(Lease {
                mac,
                address: *address,
                name: reserved_name.or_else(|| entry.name.clone()),
                client_id: entry.client_id.clone(),
                remaining: (entry.expires - now) / 1000,
                reserved: host.is_some(),
            })
        });
        shown.collect()
    }
}

/// A network's directory for others than the network.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) directory: Arc<Mutex<Directory>>,
    pub(crate) start: Instant,
}

pub(crate) fn locked(directory: &Mutex<Directory>) -> MutexGuard<'_, Directory> {
    directory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// The leases that last, by address.
    pub fn leases(&self) -> Vec<Lease> {
        locked(&self.directory).leases(self.start.elapsed().as_millis() as Millis)
    }

    /// Has the network follow another plan from now on, if it can be.
    pub fn set_plan(&self, plan: Plan) -> Result<(), String> {
        let mut directory = locked(&self.directory);
        plan.check(&directory.subnet)?;
        directory.set_plan(plan);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 9, host)
    }

    fn mac(number: u8) -> Mac {
        [2, 0, 0, 0, 0, number]
    }

    fn directory(first: u8, last: u8) -> Directory {
        let plan = Plan {
            ranges: vec![(at(first), at(last))],
            hosts: vec![
                Host {
                    mac: Some(mac(50)),
                    name: Some("web".into()),
                    address: at(3),
                },
                Host {
                    mac: None,
                    name: Some("db".into()),
                    address: at(200),
                },
            ],
            names: vec![("printer".into(), at(9))],
        };
        let subnet = Subnet {
            gateway: at(1),
            prefix: 24,
        };
        plan.check(&subnet).unwrap();
        Directory::new(subnet, None, 3_600_000, plan)
    }

    /// What a client does: asks, and takes what it is offered.
    fn take(directory: &mut Directory, client: Mac, name: Option<&str>, now: Millis) -> Option<Ipv4Addr> {
        let address = directory.offer(client, name, None, now)?;
        directory.bind(client, address, name.map(str::to_owned), Some(&[1, 2]), now);
        Some(address)
    }

    #[test]
    fn guests_get_addresses_of_their_own() {
        let mut directory = directory(1, 5);
        // Neither the router's (1) nor the reserved one (3).
        let given: Vec<_> = (0..4)
            .map(|number| take(&mut directory, mac(number), None, 0))
            .collect();
        assert_eq!(given, [Some(at(2)), Some(at(4)), Some(at(5)), None]);
        assert_eq!(
            take(&mut directory, mac(1), None, 9),
            Some(at(4)),
            "it keeps its own"
        );
        assert_eq!(take(&mut directory, mac(50), Some("other"), 0), Some(at(3)));
        assert_eq!(
            take(&mut directory, mac(51), Some("db"), 0),
            Some(at(200)),
            "by its name"
        );
        // Given back, and over: what ended first is given first.
        directory.release(mac(9), at(5));
        assert_eq!(
            take(&mut directory, mac(3), None, 10),
            None,
            "another's is not given back"
        );
        directory.release(mac(2), at(5));
        assert_eq!(take(&mut directory, mac(3), None, 10), Some(at(5)));
        assert_eq!(take(&mut directory, mac(4), None, 3_600_005), Some(at(2)));
        let shown: Vec<_> = directory
            .leases(3_600_006)
            .iter()
            .map(|lease| lease.address)
            .collect();
        assert_eq!(shown, [at(2), at(4), at(5)]);
    }

    #[test]
    fn an_offer_is_kept_for_a_moment_and_a_declined_address_is_not_given() {
        let mut directory = directory(4, 5);
        assert_eq!(directory.offer(mac(1), None, Some(at(5)), 0), Some(at(5)));
        assert_eq!(directory.offer(mac(2), None, Some(at(5)), 0), Some(at(4)));
        assert_eq!(directory.offer(mac(3), None, None, 0), None);
        assert_eq!(directory.leases(0), [], "nobody took one");
        assert_eq!(directory.offer(mac(3), None, None, OFFER), Some(at(4)));
        directory.bind(mac(3), at(4), None, None, OFFER);
        directory.decline(mac(3), at(4), OFFER);
        directory.decline(mac(3), at(5), OFFER);
        assert_eq!(take(&mut directory, mac(3), None, OFFER + 1), Some(at(5)));
        assert_eq!(take(&mut directory, mac(6), None, OFFER + 1), None);
        assert_eq!(take(&mut directory, mac(6), None, OFFER + DECLINED), Some(at(4)));
    }

    #[test]
    fn names_belong_to_the_first_who_has_them() {
        let mut directory = directory(10, 20);
        let first = take(&mut directory, mac(1), Some("vm"), 0);
        take(&mut directory, mac(2), Some("vm"), 0);
        take(&mut directory, mac(3), Some("web"), 0);
        assert_eq!(directory.lookup("vm", 1), first);
        assert_eq!(directory.lookup("web", 1), Some(at(3)), "the reservation's");
        assert_eq!(directory.lookup("printer", 1), Some(at(9)));
        assert_eq!(directory.lookup("vm", 3_600_000), None, "the lease is over");
        let leases = directory.leases(1);
        assert_eq!(leases[0].client_id, Some(vec![1, 2]));
        assert_eq!((leases[0].remaining, leases[0].reserved), (3599, false));
        assert_eq!(leases[1].name, None);
    }

    #[test]
    fn another_plan_does_not_take_addresses_away() {
        let mut directory = directory(10, 20);
        assert_eq!(take(&mut directory, mac(1), None, 0), Some(at(10)));
        let plan = Plan {
            ranges: vec![(at(30), at(40))],
            hosts: vec![Host {
                mac: Some(mac(2)),
                name: None,
                address: at(10),
            }],
            names: Vec::new(),
        };
        directory.set_plan(plan);
        assert_eq!(directory.leases(1).len(), 1);
        assert_eq!(
            take(&mut directory, mac(2), None, 1),
            Some(at(30)),
            "its address is another's for now"
        );
        assert_eq!(
            take(&mut directory, mac(1), None, 2),
            Some(at(31)),
            "and that one moves on"
        );
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        let subnet = Subnet {
            gateway: at(1),
            prefix: 24,
        };
        let host = |address, mac: Option<Mac>, name: Option<&str>| Plan {
            hosts: vec![Host {
                mac,
                name: name.map(str::to_owned),
                address,
            }],
            ..Plan::default()
        };
        let ranges = |first, last| Plan {
            ranges: vec![(first, last)],
            ..Plan::default()
        };
        for bad in [
            ranges(at(9), at(8)),
            ranges(at(9), Ipv4Addr::new(192, 168, 10, 1)),
            host(at(1), Some(mac(1)), None),
            host(at(0), Some(mac(1)), None),
            host(at(255), Some(mac(1)), None),
            host(at(5), None, None),
            host(at(5), None, Some("a b")),
            Plan {
                names: vec![("a".repeat(64), at(5))],
                ..Plan::default()
            },
            Plan {
                ranges: vec![(at(2), at(3)); MAX_RANGES + 1],
                ..Plan::default()
            },
        ] {
            assert!(bad.check(&subnet).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever clients ask: nobody gets another's address, and the table has its bounds.
        #[test]
        fn addresses_stay_apart(steps in prop::collection::vec((0u8..12, 0u8..5, 0u8..30, 0u64..2_000_000), 1..200)) {
            let mut directory = directory(2, 8);
            let mut now = 0;
            for (client, what, host, step) in steps {
                let client = mac(client);
                match what {
                    0 => drop(directory.offer(client, None, Some(at(host)), now)),
                    1 => directory.release(client, at(host)),
                    2 => directory.decline(client, at(host), now),
                    _ => drop(take(&mut directory, client, Some(&format!("vm{}", host % 3)), now)),
                }
                let leases = directory.leases(now);
                for (index, lease) in leases.iter().enumerate() {
                    prop_assert!(directory.subnet.is_guest(lease.address));
                    prop_assert!(leases[..index].iter().all(|other| other.address != lease.address));
                    if let Some(name) = lease.name.as_ref().filter(|_| !lease.reserved) {
                        prop_assert!(leases[..index].iter().all(|other| other.name.as_ref() != Some(name)));
                    }
                }
                prop_assert!(directory.leases.len() <= MAX_LEASES);
                now += step;
            }
        }
    }
}
