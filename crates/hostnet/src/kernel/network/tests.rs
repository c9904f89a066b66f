//! In a network namespace of each test's own.

use super::*;
use crate::kernel::tests::{assert_same, enter, everything, ip};

fn nft(test: &str) -> Option<Nft> {
    let nft = Nft::of_host();
    if matches!(nft.run("looking for it", &[]), Err(Error::NoNft)) {
        eprintln!("SKIPPED {test}: needs nft, which is in Debian's package nftables");
        return None;
    }
    enter(test).then_some(nft)
}

fn network(name: &str, address: &str) -> Network {
    Network {
        name: name.into(),
        forward: Forward::Nat,
        address: address.parse().unwrap(),
        address6: None,
        ports: Ports::default(),
        out: None,
    }
}

fn forwards() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap() == "1\n"
}

#[test]
fn a_network_that_cannot_be_made_leaves_everything_as_it_was() {
    let Some(nft) = nft("a_network_that_cannot_be_made_leaves_everything_as_it_was") else {
        return;
    };
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let mut netlink = Netlink::open().unwrap();
    ip("link add v0 type veth peer name v1");
    ip("address add 10.9.8.7/24 dev v0");
    let before = everything();
    let settings = BridgeSettings::default();
    let mut make = |nft: &Nft, network: &Network| create(&mut netlink, nft, network, &settings).unwrap_err();

    // The firewall refuses, or is not there: the bridge goes again.
    let error = make(&Nft::at("/bin/false"), &network("br0", "10.9.0.1/24"));
    assert!(matches!(&error, Error::Firewall { .. }), "{error}");
    let error = make(&Nft::at("/nonexistent"), &network("br0", "10.9.0.1/24"));
    assert!(error.to_string().contains("apt-get install nftables"), "{error}");
    // The host is in that subnet, the name is taken, or is none.
    let error = make(&nft, &network("br0", "10.9.0.1/16"));
    assert!(
        matches!(&error, Error::AddressTaken { owner, .. } if owner == "v0"),
        "{error}"
    );
    let error = make(&nft, &network("v1", "10.9.0.1/24"));
    assert!(matches!(&error, Error::Exists(_)), "{error}");
    let error = make(&nft, &network("br*", "10.9.0.1/24"));
    assert!(matches!(&error, Error::NetworkName(_)), "{error}");
    assert_same(&before, format_args!("networks that were refused"));
    assert_eq!(list(&nft).unwrap(), []);
    assert!(!forwards());

    // Each message to the kernel fails in turn.
    let wanted = network("br0", "10.9.0.1/24");
    let mut steps = 0;
    loop {
        let mut netlink = Netlink::open().unwrap();
        netlink.fail_after = Some(steps);
        match create(&mut netlink, &nft, &wanted, &settings) {
            Ok(()) => break,
            Err(error) => assert!(error.to_string().contains("injected"), "{error}"),
        }
        assert_same(&before, format_args!("step {steps} failed"));
        assert_eq!(list(&nft).unwrap(), []);
        steps += 1;
    }
    assert!(steps >= 3, "{steps} steps");
    assert_eq!(list(&nft).unwrap(), [wanted]);
    assert!(forwards());
}

#[test]
fn rules_are_replaced_at_once_or_stay() {
    let Some(nft) = nft("rules_are_replaced_at_once_or_stay") else {
        return;
    };
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let mut netlink = Netlink::open().unwrap();
    let isolated = Network {
        forward: Forward::Isolated,
        ..network("br-0", "10.9.0.1/24")
    };
    create(&mut netlink, &nft, &isolated, &BridgeSettings::default()).unwrap();
    assert!(!forwards(), "an isolated network needs no forwarding");
    assert_eq!(address_of(&mut netlink, "br-0").unwrap(), isolated.address);
    let other = network("br_0", "10.8.0.1/24");
    create(&mut netlink, &nft, &other, &BridgeSettings::default()).unwrap();
    assert!(forwards());
    assert_eq!(list(&nft).unwrap(), [isolated.clone(), other.clone()]);

    let nat = Network {
        ports: "2000-2999".parse().unwrap(),
        out: Some("eth0".into()),
        ..network("br-0", "10.9.0.1/24")
    };
    assert!(set(&mut netlink, &Nft::at("/bin/false"), &nat).is_err());
    assert_eq!(list(&nft).unwrap(), [isolated, other.clone()]);
    set(&mut netlink, &nft, &nat).unwrap();
    assert_eq!(list(&nft).unwrap(), [nat, other.clone()]);
    let nobody = network("br1", "10.7.0.1/24");
    assert!(matches!(
        set(&mut netlink, &nft, &nobody),
        Err(Error::NoBridge(..))
    ));

    // Deleted by another, the bridge is no obstacle; nor is a table that looks like ours.
    ip("link delete br-0");
    let odd = serde_json::json!({ "add": { "table": { "family": "inet", "name": "ostler_odd" } } });
    nft.run("testing", &[odd]).unwrap();
    delete(&mut netlink, &nft, "br-0").unwrap();
    assert_eq!(list(&nft).unwrap(), [other]);
    delete(&mut netlink, &nft, "br_0").unwrap();
    assert!(!ip("link").contains("br_0"));
    assert!(matches!(
        delete(&mut netlink, &nft, "br_0"),
        Err(Error::NoNetwork(_))
    ));
}
