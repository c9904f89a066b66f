//! Leases, reservations and names without a network.

use proptest::prelude::*;

use super::plan::MAX_RANGES;
use super::table::{DECLINED, MAX_LEASES, OFFER};
use super::*;

fn at(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 9, host)
}

fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

fn card(mac: Mac) -> Client<'static> {
    Client {
        mac,
        id: None,
        name: None,
    }
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
        names: vec![("printer".into(), at(9).into())],
        ..Plan::default()
    };
    let subnet = Subnet {
        gateway: at(1),
        prefix: 24,
    };
    plan.check(&subnet, None).unwrap();
    Directory::new(subnet, None, None, 3_600_000, plan)
}

/// What a client does: asks, and takes what it is offered.
fn take(directory: &mut Directory, client: Mac, name: Option<&str>, now: Millis) -> Option<Ipv4Addr> {
    let client = Client {
        mac: client,
        id: Some(&[1, 2]),
        name,
    };
    let address = directory.offer(&client, None, now)?;
    directory.bind(&client, address, now);
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
    assert_eq!(shown, [at(2), at(4), at(5)].map(IpAddr::from));
}

#[test]
fn an_offer_is_kept_for_a_moment_and_a_declined_address_is_not_given() {
    let mut directory = directory(4, 5);
    assert_eq!(directory.offer(&card(mac(1)), Some(at(5)), 0), Some(at(5)));
    assert_eq!(directory.offer(&card(mac(2)), Some(at(5)), 0), Some(at(4)));
    assert_eq!(directory.offer(&card(mac(3)), None, 0), None);
    assert_eq!(directory.leases(0), [], "nobody took one");
    assert_eq!(directory.offer(&card(mac(3)), None, OFFER), Some(at(4)));
    directory.bind(&card(mac(3)), at(4), OFFER);
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
        ..Plan::default()
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
            names: vec![("a".repeat(64), at(5).into())],
            ..Plan::default()
        },
        Plan {
            ranges: vec![(at(2), at(3)); MAX_RANGES + 1],
            ..Plan::default()
        },
    ] {
        assert!(bad.check(&subnet, None).is_err(), "{bad:?}");
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
                0 => drop(directory.offer(&card(client), Some(at(host)), now)),
                1 => directory.release(client, at(host)),
                2 => directory.decline(client, at(host), now),
                _ => drop(take(&mut directory, client, Some(&format!("vm{}", host % 3)), now)),
            }
            let leases = directory.leases(now);
            for (index, lease) in leases.iter().enumerate() {
                let IpAddr::V4(address) = lease.address else { unreachable!() };
                prop_assert!(directory.subnet.is_guest(address));
                prop_assert!(leases[..index].iter().all(|other| other.address != lease.address));
                if let Some(name) = lease.name.as_ref().filter(|_| !lease.reserved) {
                    prop_assert!(leases[..index].iter().all(|other| other.name.as_ref() != Some(name)));
                }
            }
            prop_assert!(directory.v4.len() <= MAX_LEASES);
            now += step;
        }
    }
}

fn at6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 9, 0, 0, 0, host)
}

/// A network of both families.
fn both() -> Directory {
    let subnet = Subnet {
        gateway: at(1),
        prefix: 24,
    };
    let ipv6 = Ipv6::of(at6(1));
    let reserved = |duid: Option<&[u8]>, mac, name: Option<&str>, host| Host6 {
        duid: duid.map(<[u8]>::to_vec),
        mac,
        name: name.map(str::to_owned),
        address: at6(host),
    };
    let plan = Plan {
        ranges: vec![(at(10), at(20))],
        ranges6: vec![(
            at6(1),
            Ipv6Addr::from_bits(at6(0).to_bits() | u128::from(u64::MAX)),
        )],
        hosts6: vec![
            reserved(Some(&[0, 3, 0, 1, 9]), None, Some("duid"), 0x100),
            reserved(None, Some(mac(60)), Some("card"), 0x101),
            reserved(None, None, Some("named"), 0x102),
        ],
        names: vec![("printer".into(), at6(9).into())],
        ..Plan::default()
    };
    plan.check(&subnet, Some(&ipv6)).unwrap();
    Directory::new(subnet, None, Some(ipv6), 3_600_000, plan)
}

fn take6(directory: &mut Directory, client: Client<'_>, now: Millis) -> Option<Ipv6Addr> {
    let address = directory.offer6(&client, None, now)?;
    directory.bind6(&client, address, now);
    Some(address)
}

#[test]
fn guests_of_ipv6_are_known_by_duid_card_and_name() {
    let mut directory = both();
    let client = |number, id: &'static [u8], name| Client {
        mac: mac(number),
        id: Some(id),
        name,
    };
    // A range of 2^64 addresses is no harm; the router's is left out.
    assert_eq!(take6(&mut directory, client(1, &[1], None), 0), Some(at6(2)));
    let nobody = |_: &Mac| None;
    assert_eq!(
        take6(&mut directory, client(2, &[0, 3, 0, 1, 9], Some("other")), 0),
        Some(at6(0x100))
    );
    assert_eq!(directory.lookup6("other", nobody, 1), None, "it has a name");
    assert_eq!(directory.lookup6("duid", nobody, 1), Some(at6(0x100)));
    assert_eq!(take6(&mut directory, client(60, &[2], None), 0), Some(at6(0x101)));
    assert_eq!(
        take6(&mut directory, client(3, &[3], Some("named")), 0),
        Some(at6(0x102))
    );
    assert_eq!(directory.lookup6("printer", nobody, 1), Some(at6(9)));
    assert_eq!(directory.lookup("printer", 1), None);
    let leases = directory.leases(1);
    let reserved: Vec<bool> = leases.iter().map(|lease| lease.reserved).collect();
    assert_eq!(reserved, [false, true, true, true]);
    assert_eq!(leases[1].client_id.as_deref(), Some(&[0, 3, 0, 1, 9][..]));
    // Only its own is given back or declined.
    assert!(!directory.release6(mac(2), at6(2)) && directory.release6(mac(1), at6(2)));
}

#[test]
fn a_name_is_one_guests_in_both_families() {
    let mut directory = both();
    assert_eq!(take(&mut directory, mac(1), Some("vm"), 0), Some(at(10)));
    let named = |number| Client {
        mac: mac(number),
        id: None,
        name: Some("vm"),
    };
    let nobody = |_: &Mac| None;
    take6(&mut directory, named(2), 0);
    assert_eq!(directory.lookup6("vm", nobody, 1), None, "another's name");
    // It made an address by itself, and then it was given one.
    let seen = |card: &Mac| (*card == mac(1)).then(|| at6(0x999));
    assert_eq!(directory.lookup6("vm", seen, 1), Some(at6(0x999)));
    let address = take6(&mut directory, named(1), 0);
    assert_eq!(directory.lookup6("vm", seen, 1), address);
    // A reservation is told also before its guest came; what the guest uses is better known.
    assert_eq!(directory.lookup6("card", nobody, 1), Some(at6(0x101)));
    let seen = |card: &Mac| (*card == mac(60)).then(|| at6(0x888));
    assert_eq!(directory.lookup6("card", seen, 1), Some(at6(0x888)));
}

#[test]
fn one_client_does_not_decline_every_address() {
    let mut directory = both();
    for _ in 0..1000 {
        let address = directory.offer6(&card(mac(1)), None, 1).unwrap();
        directory.decline6(mac(1), address, 1);
    }
    assert_eq!(directory.v6.len(), 16);
}

#[test]
fn plans_of_ipv6_that_cannot_be_are_refused() {
    let subnet = Subnet {
        gateway: at(1),
        prefix: 24,
    };
    let ipv6 = Ipv6::of(at6(1));
    let host = |address, duid: Option<Vec<u8>>| Plan {
        hosts6: vec![Host6 {
            duid,
            mac: None,
            name: None,
            address,
        }],
        ..Plan::default()
    };
    let range = |first, last| Plan {
        ranges6: vec![(first, last)],
        ..Plan::default()
    };
    assert_eq!(range(at6(1), at6(2)).check(&subnet, Some(&ipv6)), Ok(()));
    assert_eq!(
        host(at6(5), Some(vec![0, 3, 0, 1])).check(&subnet, Some(&ipv6)),
        Ok(())
    );
    assert!(range(at6(1), at6(2)).check(&subnet, None).is_err());
    for bad in [
        range(at6(3), at6(2)),
        range(at6(3), Ipv6Addr::LOCALHOST),
        host(at6(1), Some(vec![0, 3, 0, 1])),
        host(at6(0), Some(vec![0, 3, 0, 1])),
        host(at6(5), None),
        host(at6(5), Some(vec![1])),
        host(at6(5), Some(vec![1; 200])),
    ] {
        assert!(bad.check(&subnet, Some(&ipv6)).is_err(), "{bad:?}");
    }
}
