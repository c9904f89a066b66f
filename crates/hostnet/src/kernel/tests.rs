//! In a network namespace of each test's own; `ip` and `bridge` are the foreign checkers.

use std::process::Command;

use rustix::thread::UnshareFlags;

use super::*;
use crate::{Flag, PortVlans, Protocol, Role, Source, State};

/// Moves this thread into a network namespace of its own, which ends with the thread.
pub(super) fn enter(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root for a network namespace");
        return false;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    ip("link set lo up");
    true
}

fn command(name: &str, line: &str) -> String {
    let output = Command::new(name).args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{name} {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn ip(line: &str) -> String {
    command("ip", line)
}

/// What of a namespace must be as it was after a change that failed: interfaces, addresses, routes, VLANs. Timers and addresses that
/// the kernel adds by itself (link-local ones) are left out.
pub(super) fn everything() -> String {
    let volatile = [
        "hello_timer",
        "tcn_timer",
        "topology_change_timer",
        "gc_timer",
        "hold_timer",
    ];
    let volatile = [
        &volatile[..],
        &[
            "message_age_timer",
            "forward_delay_timer",
            "stats64",
            "tso_max_size",
            "qdisc",
        ],
    ]
    .concat();
    let mut all = String::new();
    for line in [
        "-details -json link",
        "-json address",
        "-json route show table all",
        "-json -6 route",
    ] {
        let mut value: serde_json::Value = serde_json::from_str(&ip(line)).unwrap_or_default();
        strip(&mut value, &volatile);
        all += &format!("{line}\n{value:#}\n");
    }
    all
}

/// Fails with the lines that differ from now.
#[track_caller]
pub(super) fn assert_same(before: &str, when: std::fmt::Arguments) {
    let now = everything();
    let only = |a: &str, b: &str| -> Vec<String> {
        let mut other: Vec<&str> = b.lines().collect();
        let mut mine: Vec<&str> = a.lines().collect();
        mine.retain(|line| match other.iter().position(|o| o == line) {
            Some(at) => {
                other.remove(at);
                false
            }
            None => true,
        });
        mine.into_iter().map(|line| line.trim().to_owned()).collect()
    };
    assert!(
        now == before,
        "{when}: before {:?}, now {:?}",
        only(before, &now),
        only(&now, before)
    );
}

fn strip(value: &mut serde_json::Value, names: &[&str]) {
    match value {
        serde_json::Value::Array(items) => {
            items.retain(|item| {
                let own = |name| {
                    item.get(name)
                        .and_then(|v| v.as_str())
                        .unwrap_or_default()
                        .to_owned()
                };
                let (local, dst, kind) = (own("local"), own("dst"), own("type"));
                let link_local = |text: &str| text.starts_with("fe80::") || text.starts_with("ff00::");
                !link_local(&local) && !link_local(&dst) && kind != "multicast" && kind != "anycast"
            });
            items.iter_mut().for_each(|item| strip(item, names));
        }
        serde_json::Value::Object(map) => {
            map.retain(|name, _| !names.contains(&name.as_str()));
            // An interface that is going up has states in between.
            map.retain(|name, _| {
                !["operstate", "state", "flags", "cache", "addr_info_ll"].contains(&name.as_str())
            });
            map.values_mut().for_each(|item| strip(item, names));
        }
        _ => {}
    }
}

#[test]
fn a_bridge_is_made_shown_changed_and_deleted() {
    if !enter("a_bridge_is_made_shown_changed_and_deleted") {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    let settings = BridgeSettings {
        protocol: Some(Protocol::Stp),
        priority: Some(4096),
        hello: Some(1),
        max_age: Some(10),
        forward_delay: Some(8),
        ageing: Some(100),
        mtu: Some(1400),
        vlan_filtering: None,
    };
    kernel.create("br0", &settings).unwrap();
    let shown = ip("-details -json link show br0");
    for part in [
        "\"stp_state\":1",
        "\"priority\":4096",
        "\"hello_time\":100",
        "\"max_age\":1000",
        "\"forward_delay\":800",
        "\"ageing_time\":10000",
        "\"mtu\":1400",
        "\"UP\"",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let bridge = kernel.bridge("br0").unwrap();
    assert!(bridge.up && bridge.ports.is_empty());
    assert_eq!((bridge.mtu, bridge.ageing), (Some(1400), Some(100)));
    let stp = &bridge.stp;
    assert_eq!((stp.protocol, stp.priority), (Protocol::Stp, Some(4096)));
    assert_eq!(
        (stp.max_age, stp.hello, stp.forward_delay),
        (Some(10), Some(1), Some(8))
    );
    assert_eq!(stp.bridge_id, Some(format!("1000.{}", bridge.mac.unwrap())));
    assert_eq!(stp.root_id, stp.bridge_id);

    let change = BridgeSettings {
        protocol: Some(Protocol::Off),
        mtu: Some(1500),
        ..BridgeSettings::default()
    };
    kernel.set_bridge("br0", &change).unwrap();
    let bridge = kernel.bridge("br0").unwrap();
    assert_eq!((bridge.stp.protocol, bridge.mtu), (Protocol::Off, Some(1500)));

    assert!(matches!(kernel.create("br0", &settings), Err(Error::Exists(_))));
    assert!(matches!(kernel.create("lo", &settings), Err(Error::Exists(_))));
    assert!(matches!(kernel.delete("lo"), Err(Error::NoBridge(..))));
    kernel.delete("br0").unwrap();
    assert_eq!(kernel.bridges().unwrap(), []);
    assert!(!ip("link").contains("br0"));
}

#[test]
fn what_does_not_fit_is_said_and_changes_nothing() {
    if !enter("what_does_not_fit_is_said_and_changes_nothing") {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    ip("link add v0 type veth peer name v1");
    kernel.add_port("br0", "v0", &PortSettings::default()).unwrap();
    let before = everything();
    let rstp = BridgeSettings {
        protocol: Some(Protocol::Rstp),
        ..BridgeSettings::default()
    };
    assert!(matches!(
        kernel.create("br1", &rstp),
        Err(Error::Unsupported { .. })
    ));
    let ages = BridgeSettings {
        max_age: Some(40),
        ..BridgeSettings::default()
    };
    assert!(matches!(kernel.create("br1", &ages), Err(Error::Range { .. })));
    assert!(matches!(
        kernel.set_bridge("br0", &ages),
        Err(Error::Range { .. })
    ));
    assert!(matches!(
        kernel.add_port("br0", "v0", &PortSettings::default()),
        Err(Error::Taken { .. })
    ));
    assert!(matches!(
        kernel.add_port("br0", "nobody", &PortSettings::default()),
        Err(Error::NoInterface(_))
    ));
    // The kernel refuses these itself: a loopback, and costs and priorities that are too large.
    for (port, settings) in [
        ("lo", PortSettings::default()),
        (
            "v1",
            PortSettings {
                priority: Some(64),
                flags: vec![(Flag::Isolated, true)],
                ..PortSettings::default()
            },
        ),
        (
            "v1",
            PortSettings {
                mtu: Some(1300),
                path_cost: Some(70_000),
                ..PortSettings::default()
            },
        ),
    ] {
        let error = kernel.add_port("br0", port, &settings).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
    assert_same(&before, format_args!("a change that was refused"));
}

#[test]
fn ports_have_flags_costs_and_roles() {
    if !enter("ports_have_flags_costs_and_roles") {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    ip("link add v0 type veth peer name v1");
    ip("link set v1 up");
    let all = |on| Flag::ALL.into_iter().map(|flag| (flag, on)).collect();
    let settings = PortSettings {
        mtu: Some(1400),
        path_cost: Some(77),
        priority: Some(5),
        flags: all(true),
        vlans: None,
    };
    kernel.add_port("br0", "v0", &settings).unwrap();
    let shown = command("bridge", "-details link show dev v0");
    for part in [
        "isolated on",
        "guard on",
        "root_block on",
        "learning on",
        " flood on",
        "hairpin on",
        "locked on",
        "cost 77",
        "priority 5",
        "mtu 1400",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let bridge = kernel.bridge("br0").unwrap();
    let port = bridge.port("v0").unwrap();
    assert_eq!(port.flags, Flag::ALL);
    assert_eq!(
        (port.path_cost, port.priority, port.mtu),
        (Some(77), Some(5), Some(1400))
    );
    assert_eq!((port.role, port.state), (None, State::Forwarding));

    let off = PortSettings {
        flags: all(false),
        ..PortSettings::default()
    };
    kernel.set_port("br0", "v0", &off).unwrap();
    assert!(kernel.bridge("br0").unwrap().port("v0").unwrap().flags.is_empty());
    let stp = BridgeSettings {
        protocol: Some(Protocol::Stp),
        ..BridgeSettings::default()
    };
    kernel.set_bridge("br0", &stp).unwrap();
    let role = |kernel: &mut Kernel| kernel.bridge("br0").unwrap().port("v0").unwrap().role;
    assert_eq!(role(&mut kernel), Some(Role::Designated));
    ip("link set v1 down");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while role(&mut kernel) != Some(Role::Disabled) {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kernel.remove_port("br0", "v0").unwrap();
    assert!(kernel.bridge("br0").unwrap().ports.is_empty());
    assert!(matches!(
        kernel.remove_port("br0", "v0"),
        Err(Error::NoPort { .. })
    ));
}

#[test]
fn stations_are_listed_entered_removed_and_flushed() {
    if !enter("stations_are_listed_entered_removed_and_flushed") {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    for port in ["v0", "w0"] {
        ip(&format!("link add {port} type veth peer name {port}x"));
        ip(&format!("link set {port}x up"));
        kernel.add_port("br0", port, &PortSettings::default()).unwrap();
    }
    let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
    let learned: Mac = "52:54:00:00:00:02".parse().unwrap();
    kernel.add_station("br0", "v0", mac, None).unwrap();
    let shown = command("bridge", "fdb show br br0");
    assert!(
        shown.contains("52:54:00:00:00:01 dev v0 master br0 static"),
        "{shown}"
    );
    // A static entry moves.
    kernel.add_station("br0", "w0", mac, None).unwrap();
    command("bridge", "fdb add 52:54:00:00:00:02 dev v0 master dynamic");
    let of = |kernel: &mut Kernel, mac: Mac| {
        let all = kernel.stations("br0").unwrap();
        all.into_iter().find(|s| s.mac == mac)
    };
    let station = of(&mut kernel, mac).unwrap();
    assert_eq!(
        (station.port.as_str(), station.source, station.age),
        ("w0", Source::Static, None)
    );
    let station = of(&mut kernel, learned).unwrap();
    assert_eq!((station.port.as_str(), station.source), ("v0", Source::Learned));
    assert!(station.age.is_some_and(|age| age < 100.0));
    let own = kernel.bridge("br0").unwrap().mac.unwrap();
    assert_eq!(of(&mut kernel, own).unwrap().source, Source::Own);

    kernel.flush("br0", Some("w0")).unwrap();
    assert!(of(&mut kernel, learned).is_some());
    kernel.flush("br0", None).unwrap();
    assert_eq!(of(&mut kernel, learned), None);
    assert!(of(&mut kernel, mac).is_some(), "what somebody entered stays");
    kernel.remove_station("br0", "w0", mac, None).unwrap();
    assert_eq!(of(&mut kernel, mac), None);
    let error = kernel.remove_station("br0", "w0", mac, None).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT));
    assert!(kernel.add_station("br0", "v0", Mac([0xff; 6]), None).is_err());
}

#[test]
fn vlans_are_filtered_where_the_kernel_can() {
    if !enter("vlans_are_filtered_where_the_kernel_can") {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    let filtering = BridgeSettings {
        vlan_filtering: Some(true),
        ..BridgeSettings::default()
    };
    let before = everything();
    match kernel.create("br0", &filtering) {
        Err(Error::Unsupported { what, .. }) => {
            // It said so, and left nothing behind; a port says the same.
            assert_same(&before, format_args!("{what}"));
            kernel.create("br0", &BridgeSettings::default()).unwrap();
            assert_eq!(kernel.bridge("br0").unwrap().vlan_filtering, None);
            ip("link add v0 type veth peer name v1");
            let before = everything();
            let access = PortSettings {
                vlans: Some(PortVlans::access(10)),
                ..PortSettings::default()
            };
            let refused = kernel.add_port("br0", "v0", &access);
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            kernel.add_port("br0", "v0", &PortSettings::default()).unwrap();
            assert!(kernel.add_station("br0", "v0", mac, Some(10)).is_err());
            kernel.remove_port("br0", "v0").unwrap();
            ip("link set v0 down");
            assert_same(&before, format_args!("a change that was refused"));
            eprintln!(
                "SKIPPED vlans_are_filtered_where_the_kernel_can: this kernel's bridge has no VLAN filtering"
            );
            return;
        }
        other => other.unwrap(),
    }
    ip("link add v0 type veth peer name v1");
    let trunk = PortSettings {
        vlans: Some(PortVlans::trunk(Some(5), [20, 10])),
        ..PortSettings::default()
    };
    kernel.add_port("br0", "v0", &trunk).unwrap();
    let vlans = |kernel: &mut Kernel| kernel.bridge("br0").unwrap().port("v0").unwrap().vlans.clone();
    assert_eq!(vlans(&mut kernel), trunk.vlans);
    let access = PortSettings {
        vlans: Some(PortVlans::access(10)),
        ..PortSettings::default()
    };
    kernel.set_port("br0", "v0", &access).unwrap();
    assert_eq!(vlans(&mut kernel), access.vlans);
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    kernel.add_station("br0", "v0", mac, Some(10)).unwrap();
    assert!(
        kernel
            .stations("br0")
            .unwrap()
            .iter()
            .any(|s| s.mac == mac && s.vlan == Some(10))
    );
}

#[test]
fn taps_belong_to_their_users() {
    const NAME: &str = "taps_belong_to_their_users";
    if !enter(NAME) {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {NAME}: needs /dev/net/tun");
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    let spec = TapSpec {
        name: "tap0".into(),
        owner: Some(1234),
        group: Some(77),
        multi_queue: true,
        bridge: Some(("br0".into(), PortSettings::default())),
    };
    kernel.create_tap(&spec).unwrap();
    let shown = ip("-details link show tap0");
    for part in [
        "type tap",
        "multi_queue",
        "vnet_hdr on",
        "persist on",
        "user 1234",
        "group 77",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let tap = Tap {
        name: "tap0".into(),
        owner: Some(1234),
        group: Some(77),
        multi_queue: true,
        vnet_hdr: true,
    };
    assert_eq!(kernel.taps().unwrap(), std::slice::from_ref(&tap));
    assert_eq!(kernel.bridge("br0").unwrap().ports[0].tap, Some(tap));
    let before = everything();
    assert!(matches!(kernel.create_tap(&spec), Err(Error::Exists(_))));
    // What fails at the bridge leaves no tap.
    for (bridge, priority) in [("br1", 1), ("br0", 64)] {
        let settings = PortSettings {
            priority: Some(priority),
            ..PortSettings::default()
        };
        let spec = TapSpec {
            name: "tap1".into(),
            bridge: Some((bridge.into(), settings)),
            ..TapSpec::default()
        };
        assert!(kernel.create_tap(&spec).is_err());
        assert_same(&before, format_args!("a change that was refused"));
    }
    assert!(matches!(kernel.delete_tap("br0"), Err(Error::Unsupported { .. })));
    kernel.delete_tap("tap0").unwrap();
    assert_eq!(kernel.taps().unwrap(), []);
}

/// An interface with addresses of both families, an alias, a secondary address, and routes by gateways.
fn uplink() {
    ip("link add eth0 type veth peer name far");
    ip("link set far up");
    ip("link set eth0 up");
    ip("address add 10.1.0.2/24 brd + dev eth0");
    ip("address add 10.1.0.3/24 dev eth0 label eth0:1");
    ip("address add 192.0.2.9/32 dev eth0");
    ip("address add 2001:db8::2/64 dev eth0 nodad");
    ip("route add default via 10.1.0.1 dev eth0 proto static metric 50");
    ip("route add 198.51.100.0/24 dev eth0 scope link");
    ip("route add 203.0.113.0/24 via 198.51.100.7 dev eth0 src 10.1.0.2 table 7");
    ip("-6 route add default via 2001:db8::1 dev eth0");
}

fn routes_of(name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        for line in ip(&format!("{family} route show table all dev {name}")).lines() {
            let ours = ["proto kernel", "fe80", "ff00", "table local"]
                .iter()
                .all(|part| !line.contains(part));
            if ours {
                lines.push(line.trim().replace(" linkdown", ""));
            }
        }
    }
    lines.sort();
    lines
}

fn addresses_of(name: &str) -> Vec<String> {
    let shown = ip(&format!("-o address show dev {name} scope global"));
    let word = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
    shown.lines().map(word).collect()
}

#[test]
fn an_uplink_joins_with_its_addresses_and_is_undone_unless_confirmed() {
    if !enter("an_uplink_joins_with_its_addresses_and_is_undone_unless_confirmed") {
        return;
    }
    uplink();
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    let before = everything();
    let (routes, addresses) = (routes_of("eth0"), addresses_of("eth0"));
    assert_eq!(
        (routes.len(), addresses.len()),
        (4, 4),
        "{routes:?} {addresses:?}"
    );
    let mac = ip("-json link show eth0");

    let joined = kernel.join_uplink("br0", "eth0").unwrap();
    assert_eq!(routes_of("br0"), routes);
    assert_eq!(addresses_of("br0"), addresses);
    assert!(routes_of("eth0").is_empty() && addresses_of("eth0").is_empty());
    let bridge = kernel.bridge("br0").unwrap();
    assert!(
        mac.contains(&bridge.mac.unwrap().to_string()),
        "the host keeps its MAC address"
    );
    drop(joined);
    assert_same(&before, format_args!("a change that was refused"));
    assert_eq!(routes_of("eth0"), routes);

    // Silence, the end of input, and a word that is not `yes` undo it.
    for input in [
        None,
        Some(&b""[..]),
        Some(b"no\n"),
        Some(b"y"),
        Some(&[b'y'; 100]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut writer = Some(writer);
        if let Some(bytes) = input {
            std::io::Write::write_all(&mut writer.take().unwrap(), bytes).unwrap();
        }
        let joined = kernel.join_uplink("br0", "eth0").unwrap();
        let within = std::time::Duration::from_millis(if input.is_none() { 50 } else { 60_000 });
        assert!(!joined.confirm_by(&reader, within).unwrap());
        assert_same(&before, format_args!("{input:?}"));
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"yes\n").unwrap();
    let joined = kernel.join_uplink("br0", "eth0").unwrap();
    assert!(
        joined
            .confirm_by(&reader, std::time::Duration::from_secs(60))
            .unwrap()
    );
    assert_eq!(addresses_of("br0"), addresses);

    kernel.leave_uplink("br0", "eth0").unwrap();
    assert_eq!(routes_of("eth0"), routes);
    assert_eq!(addresses_of("eth0"), addresses);
    assert!(addresses_of("br0").is_empty());
}

#[test]
fn a_route_with_several_next_hops_is_refused_before_anything_changes() {
    if !enter("a_route_with_several_next_hops_is_refused_before_anything_changes") {
        return;
    }
    uplink();
    ip("route add 10.9.0.0/16 nexthop via 10.1.0.8 dev eth0 nexthop via 10.1.0.9 dev eth0");
    let mut kernel = Kernel::open().unwrap();
    kernel.create("br0", &BridgeSettings::default()).unwrap();
    let before = everything();
    let Err(error) = kernel.join_uplink("br0", "eth0") else {
        panic!("it joined")
    };
    assert!(error.to_string().contains("10.9.0.0/16"), "{error}");
    assert_same(&before, format_args!("a change that was refused"));
}

/// Lets each step of `change` fail once, the first, the second, and so on, until it has none left; after each failure everything is as
/// it was. Returns how many steps there were.
fn fails_whole(kernel: &mut Kernel, mut change: impl FnMut(&mut Kernel) -> Result<(), Error>) -> usize {
    let before = everything();
    for step in 0.. {
        kernel.netlink.fail_after = Some(step);
        let result = change(kernel);
        match result {
            Ok(()) => {
                assert!(
                    kernel.netlink.fail_after.take().is_some(),
                    "a failure was swallowed"
                );
                return step;
            }
            Err(error) => {
                assert!(kernel.netlink.fail_after.is_none(), "{error}");
                assert!(error.to_string().ends_with("failed: injected"), "{error}");
                assert!(!matches!(error, Error::NotUndone { .. }), "{error}");
                assert_same(&before, format_args!("after a failure of step {step}"));
            }
        }
    }
    unreachable!()
}

#[test]
fn a_change_that_fails_at_any_step_leaves_everything_as_it_was() {
    const NAME: &str = "a_change_that_fails_at_any_step_leaves_everything_as_it_was";
    if !enter(NAME) {
        return;
    }
    uplink();
    let mut kernel = Kernel::open().unwrap();
    let settings = BridgeSettings {
        protocol: Some(Protocol::Stp),
        priority: Some(4096),
        hello: Some(1),
        max_age: Some(10),
        forward_delay: Some(8),
        ageing: Some(100),
        mtu: Some(1400),
        vlan_filtering: Some(false),
    };
    let steps = fails_whole(&mut kernel, |kernel| kernel.create("br0", &settings));
    assert!(steps >= 9, "{steps}");
    let other = BridgeSettings {
        protocol: Some(Protocol::Off),
        priority: Some(8192),
        mtu: Some(1450),
        hello: Some(2),
        max_age: Some(12),
        forward_delay: Some(10),
        ..settings
    };
    assert!(fails_whole(&mut kernel, |kernel| kernel.set_bridge("br0", &other)) >= 7);

    ip("link add v0 type veth peer name v1");
    let port = PortSettings {
        mtu: Some(1400),
        path_cost: Some(77),
        priority: Some(5),
        flags: vec![(Flag::Isolated, true), (Flag::Hairpin, true)],
        vlans: None,
    };
    assert!(fails_whole(&mut kernel, |kernel| kernel.add_port("br0", "v0", &port)) >= 7);
    let other = PortSettings {
        mtu: Some(1300),
        path_cost: Some(78),
        priority: Some(6),
        flags: vec![(Flag::Isolated, false), (Flag::Hairpin, false)],
        vlans: None,
    };
    assert!(fails_whole(&mut kernel, |kernel| kernel.set_port("br0", "v0", &other)) >= 5);

    let mut joined = Vec::new();
    let steps = fails_whole(&mut kernel, |kernel| {
        joined = uplink::join_by(&mut kernel.netlink, "br0", "eth0")?;
        Ok(())
    });
    // Port, MAC, four addresses and four routes, each taken and given.
    assert!(steps >= 18, "{steps}");
    assert_eq!(addresses_of("br0").len(), 4);
    assert!(fails_whole(&mut kernel, |kernel| kernel.leave_uplink("br0", "eth0")) >= 17);
    assert_eq!(addresses_of("eth0").len(), 4);

    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {NAME}: the steps of a tap need /dev/net/tun");
        return;
    }
    let spec = TapSpec {
        name: "tap0".into(),
        bridge: Some(("br0".into(), port)),
        ..TapSpec::default()
    };
    assert!(fails_whole(&mut kernel, |kernel| kernel.create_tap(&spec)) >= 6);
}
