//! Debian's Open vSwitch, in a folder and a network namespace of the test's own.

mod support;

use std::time::{Duration, Instant};

use ostler_hostnet::*;
use support::{OvsDaemons, ip};

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The bridges without what changes by itself.
fn shape(ovs: &mut OpenVSwitch) -> String {
    let mut bridges = ovs.bridges().unwrap();
    for bridge in &mut bridges {
        bridge.stp.root_id = None;
        bridge
            .ports
            .iter_mut()
            .for_each(|port| (port.role, port.state) = (None, State::Discarding));
    }
    format!("{bridges:#?}")
}

#[test]
fn bridges_ports_vlans_and_stations() {
    const NAME: &str = "bridges_ports_vlans_and_stations";
    let Some(daemons) = OvsDaemons::start(NAME) else {
        return;
    };
    let mut ovs = OpenVSwitch::open_at(daemons.run())
        .unwrap()
        .with_datapath("netdev");
    assert_eq!(ovs.bridges().unwrap(), []);
    let settings = BridgeSettings {
        protocol: Some(Protocol::Rstp),
        priority: Some(4096),
        forward_delay: Some(10),
        max_age: Some(16),
        ageing: Some(60),
        ..BridgeSettings::default()
    };
    ovs.create("ovs0", &settings).unwrap();
    let vsctl = |line: &str| daemons.command("ovs-vsctl", line);
    assert_eq!(vsctl("list-br"), "ovs0\n");
    assert!(vsctl("get bridge ovs0 other_config").contains("rstp-priority=\"4096\""));
    let bridge = ovs.bridge("ovs0").unwrap();
    assert_eq!(
        (bridge.stp.protocol, bridge.stp.priority),
        (Protocol::Rstp, Some(4096))
    );
    assert_eq!(
        (bridge.stp.forward_delay, bridge.stp.max_age, bridge.ageing),
        (Some(10), Some(16), Some(60))
    );
    let id = wait("no status of RSTP", || ovs.bridge("ovs0").unwrap().stp.bridge_id);
    assert_eq!(id, format!("1000.{}", bridge.mac.unwrap()));
    assert!(matches!(ovs.create("ovs0", &settings), Err(Error::Exists(_))));

    for port in ["v0", "v1"] {
        ip(&format!("link add {port} type veth peer name {port}x"));
        ip(&format!("link set {port} up"));
        ip(&format!("link set {port}x up"));
    }
    let trunk = PortSettings {
        path_cost: Some(77),
        priority: Some(16),
        flags: vec![(Flag::Isolated, true)],
        vlans: Some(PortVlans::trunk(Some(5), [20, 10])),
        ..PortSettings::default()
    };
    ovs.add_port("ovs0", "v0", &trunk).unwrap();
    ovs.add_port("ovs0", "v1", &PortSettings::default()).unwrap();
    assert_eq!(vsctl("list-ports ovs0"), "v0\nv1\n");
    assert_eq!(vsctl("get port v0 tag"), "5\n");
    assert_eq!(vsctl("get port v0 trunks"), "[10, 20]\n");
    assert_eq!(vsctl("get port v0 vlan_mode"), "native-untagged\n");
    let bridge = ovs.bridge("ovs0").unwrap();
    let port = bridge.port("v0").unwrap();
    assert_eq!(
        (port.path_cost, port.priority, &port.vlans),
        (Some(77), Some(16), &trunk.vlans)
    );
    assert!(port.flags.contains(&Flag::Isolated));
    assert_eq!(bridge.port("v1").unwrap().vlans, None);
    for vlans in [
        PortVlans::access(7),
        PortVlans::trunk(None, [3, 4]),
        PortVlans {
            pvid: Some(9),
            tagged: vec![9, 11],
            untagged: vec![],
        },
    ] {
        let settings = PortSettings {
            vlans: Some(vlans),
            ..PortSettings::default()
        };
        ovs.set_port("ovs0", "v1", &settings).unwrap();
        assert_eq!(
            ovs.bridge("ovs0").unwrap().port("v1").unwrap().vlans,
            settings.vlans
        );
    }
    wait("v0 is no designated port", || {
        let bridge = ovs.bridge("ovs0").unwrap();
        let port = bridge.port("v0").unwrap();
        (port.role == Some(Role::Designated) && port.state == State::Forwarding).then_some(())
    });

    let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
    ovs.add_station("ovs0", "v0", mac, Some(10)).unwrap();
    assert!(daemons.appctl("fdb/show ovs0").contains("52:54:00:00:00:01"));
    let of = |ovs: &mut OpenVSwitch| ovs.stations("ovs0").unwrap().into_iter().find(|s| s.mac == mac);
    let station = of(&mut ovs).unwrap();
    assert_eq!(
        (station.port.as_str(), station.vlan, station.source),
        ("v0", Some(10), Source::Static)
    );
    ovs.flush("ovs0", None).unwrap();
    ovs.flush("ovs0", Some("v0")).unwrap();
    ovs.remove_station("ovs0", "v0", mac, Some(10)).unwrap();
    assert_eq!(of(&mut ovs), None);
    assert!(ovs.remove_station("ovs0", "v0", mac, Some(10)).is_err());

    ovs.remove_port("ovs0", "v1").unwrap();
    assert_eq!(vsctl("list-ports ovs0"), "v0\n");
    assert!(matches!(ovs.remove_port("ovs0", "v1"), Err(Error::NoPort { .. })));
    ovs.delete("ovs0").unwrap();
    assert_eq!(vsctl("list-br"), "");
}

#[test]
fn what_open_vswitch_cannot_do_is_said_and_changes_nothing() {
    const NAME: &str = "what_open_vswitch_cannot_do_is_said_and_changes_nothing";
    let Some(daemons) = OvsDaemons::start(NAME) else {
        return;
    };
    let mut ovs = OpenVSwitch::open_at(daemons.run())
        .unwrap()
        .with_datapath("netdev");
    ovs.create("ovs0", &BridgeSettings::default()).unwrap();
    ip("link add v0 type veth peer name v1");
    ovs.add_port("ovs0", "v0", &PortSettings::default()).unwrap();
    let before = shape(&mut ovs);
    // No such interface: only the daemon finds that out, and then the port is taken out again.
    let error = ovs
        .add_port("ovs0", "nobody", &PortSettings::default())
        .unwrap_err();
    assert!(
        matches!(&error, Error::Database { why, .. } if why.contains("No such device")),
        "{error}"
    );
    let twice = ovs.add_port("ovs0", "v0", &PortSettings::default());
    assert!(matches!(twice, Err(Error::Taken { .. })));
    let hairpin = PortSettings {
        flags: vec![(Flag::Isolated, true), (Flag::Hairpin, true)],
        ..PortSettings::default()
    };
    assert!(matches!(
        ovs.set_port("ovs0", "v0", &hairpin),
        Err(Error::Unsupported { .. })
    ));
    let hello = BridgeSettings {
        protocol: Some(Protocol::Rstp),
        hello: Some(1),
        ..BridgeSettings::default()
    };
    assert!(matches!(
        ovs.create("ovs1", &hello),
        Err(Error::Unsupported { .. })
    ));
    assert!(matches!(ovs.delete("ovs1"), Err(Error::NoBridge(..))));
    assert_eq!(shape(&mut ovs), before);

    // A daemon that is gone: the database takes the change, nobody does it, and it is taken back.
    daemons.stop_vswitchd();
    let change = BridgeSettings {
        priority: Some(4096),
        protocol: Some(Protocol::Stp),
        ..BridgeSettings::default()
    };
    for error in [
        ovs.set_bridge("ovs0", &change).unwrap_err(),
        ovs.create("ovs1", &BridgeSettings::default()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("is it running"), "{error}");
    }
    assert_eq!(daemons.command("ovs-vsctl", "--no-wait list-br"), "ovs0\n");
    assert_eq!(
        daemons.command("ovs-vsctl", "--no-wait get bridge ovs0 stp_enable"),
        "false\n"
    );
    assert_eq!(
        daemons.command("ovs-vsctl", "--no-wait get bridge ovs0 other_config"),
        "{}\n"
    );
}

#[test]
fn without_open_vswitch_the_error_says_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = OpenVSwitch::open_at(folder.path()) else {
        panic!("it opened")
    };
    assert!(error.to_string().contains("db.sock"), "{error}");
}
