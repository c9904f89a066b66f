//! A guest's card at a network: its place at the network's switch, or at a bridge of the host.

use ostler_hostnet::{BackEnd, Flag, Kernel, PortSettings, PortVlans};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Bandwidth, Vlan};
use ostler_libvirt_xml::network::PortGroup;
use ostler_switchd::cable::{Cable, port_name};
use ostler_switchd::config::{Edge, PortSpec};

use super::Networks;
use super::definition::{Definition, Way};
use super::network::Network;
use crate::domains::plan::NetworkPort;
use crate::guest::{NetworkCard, Place};

fn unsupported(why: String) -> RemoteError {
    RemoteError::network(Code::ConfigUnsupported, why)
}

impl Networks {
    /// Finds a card's place at a network, which has to run if the card is to be connected. A port of a switch goes with the guest by
    /// itself; while this daemon runs, the card is connected again if the switch was started anew.
    pub fn place(&self, card: &NetworkCard<'_>) -> Result<Place, RemoteError> {
        let network = self.by_name(&card.wish.network)?;
        let (definition, control) = match card.connected {
            true => {
                let definition = network.state().current()?.clone();
                (definition, self.files(&network.uuid, &network.name).control)
            }
            false => {
                let live = network.live()?;
                (live.definition, live.files.control)
            }
        };
        let port = port(&definition, card)?;
        match &definition.way {
            Way::Switch(_) => {
                let failed = |why: String| RemoteError::network(Code::OperationFailed, why);
                let laid = match card.connected {
                    true => Cable::spare(control, port),
                    false => Cable::lay(control, port),
                };
                let (cable, plug) = laid.map_err(|error| failed(error.to_string()))?;
                cable
                    .mind()
                    .map_err(|error| failed(format!("no thread for a cable: {error}")))?;
                Ok(Place::Switch(plug))
            }
            Way::Kernel(wish) => checked(at_bridge(&wish.network.name, &port)?),
            Way::Bridge(bridge) => checked(at_bridge(bridge, &port)?),
            Way::OpenVSwitch(bridge) => at_openvswitch(bridge, &port),
        }
    }
}

/// A tap of a guest that runs, which belongs to a network.
pub struct Tap {
    /// The interface.
    pub name: String,
    /// The guest's name.
    pub guest: String,
    /// The card's address.
    pub mac: String,
    /// What the card wishes of the network.
    pub wish: NetworkPort,
}

impl Networks {
    /// Makes the taps of guests that run ports of their network's bridge, which was made anew. What fails is noted: the network runs.
    pub fn attach_again(&self, network: &Network, taps: &[Tap]) {
        let Ok(live) = network.live() else { return };
        let Way::Kernel(made) = &live.definition.way else {
            return;
        };
        for tap in taps {
            let card = NetworkCard {
                guest: &tap.guest,
                mac: tap.mac.clone(),
                wish: &tap.wish,
                connected: true,
            };
            let place = port(&live.definition, &card).and_then(|port| at_bridge(&made.network.name, &port));
            let attached = place.and_then(|place| match place {
                Place::Bridge { bridge, settings } => Kernel::open()
                    .and_then(|mut kernel| kernel.add_port(&bridge, &tap.name, &settings))
                    .map_err(|error| RemoteError::network(Code::OperationFailed, error.to_string())),
                Place::Switch(_) | Place::OpenVSwitch { .. } => Ok(()),
            });
            if let Err(error) = attached {
                crate::log::note!(
                    "{} of guest {} is not connected again: {error}",
                    tap.name,
                    tap.guest
                );
            }
        }
    }
}

/// The card's port, as its definition and the network's say it together.
fn port(definition: &Definition, card: &NetworkCard<'_>) -> Result<PortSpec, RemoteError> {
    let (network, wish) = (&definition.network, card.wish);
    let groups = &network.port_groups;
    let group = match &wish.portgroup {
        Some(wanted) => {
            let found = groups.iter().find(|group| group.name == *wanted);
            found.ok_or_else(|| {
                let why = format!("network '{}' has no portgroup '{wanted}'", wish.network);
                RemoteError::network(Code::Internal, why)
            })?
        }
        None => groups.iter().find(|group| group.default).unwrap_or(&network.port),
    };
    let mut port = PortSpec {
        name: port_name(card.guest, &card.mac),
        mtu: network.mtu.map(u32::from),
        isolated: wish.isolated || group.isolated || network.port.isolated,
        // A guest that bridges makes itself known by its BPDUs.
        edge: Edge::On,
        ..PortSpec::default()
    };
    if let Some(vlan) = wish
        .vlan
        .as_ref()
        .or(group.vlan.as_ref())
        .or(network.port.vlan.as_ref())
    {
        set_vlan(&mut port, vlan).map_err(unsupported)?;
    }
    set_bandwidth(&mut port, &wish.bandwidth, group);
    Ok(port)
}

fn set_vlan(port: &mut PortSpec, vlan: &Vlan) -> Result<(), String> {
    match (vlan.trunk, &vlan.tags[..], vlan.native) {
        (false, [tag], None) => port.vlan = Some(*tag),
        (_, _, Some((native, true))) => {
            return Err(format!(
                "VLAN {native} cannot be that of frames without a tag, and be sent with one"
            ));
        }
        (_, [], None) => {}
        (_, tags, native) => {
            let tags: Vec<String> = tags.iter().map(u16::to_string).collect();
            port.trunk = Some(tags.join(","));
            port.native = native.map(|(native, _)| native);
        }
    }
    Ok(())
}

/// Limits: what a guest receives goes out of its port.
fn set_bandwidth(port: &mut PortSpec, own: &Bandwidth, group: &PortGroup) {
    let kbit = |rate: ostler_libvirt_xml::domain::Rate| rate.average.saturating_mul(8192) / 1000;
    port.egress_kbit = own.inbound.or(group.bandwidth.inbound).map(kbit);
    port.ingress_kbit = own.outbound.or(group.bandwidth.outbound).map(kbit);
}

/// The VLANs of a port of the host's bridges, if it is to have some.
fn vlans_of(port: &PortSpec) -> Result<Option<PortVlans>, RemoteError> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>();
        number.map_err(|_| unsupported(format!("'{text}' is no VLAN")))
    };
    Ok(match (port.vlan, &port.trunk) {
        (Some(vlan), _) => Some(PortVlans::access(vlan)),
        (None, Some(trunk)) => {
            let tagged: Vec<u16> = trunk.split(',').map(number).collect::<Result<_, _>>()?;
            Some(PortVlans::trunk(port.native, tagged))
        }
        (None, None) => None,
    })
}

fn checked(place: Place) -> Result<Place, RemoteError> {
    check_filtering(&place).map(|()| place)
}

fn at_bridge(bridge: &str, port: &PortSpec) -> Result<Place, RemoteError> {
    if port.ingress_kbit.is_some() || port.egress_kbit.is_some() {
        let why = format!("a card at the bridge '{bridge}' has no limits of its own");
        return Err(unsupported(why));
    }
    Ok(Place::Bridge {
        bridge: bridge.into(),
        settings: PortSettings {
            mtu: port.mtu,
            vlans: vlans_of(port)?,
            flags: port
                .isolated
                .then_some((Flag::Isolated, true))
                .into_iter()
                .collect(),
            ..PortSettings::default()
        },
    })
}

/// Refuses VLANs at a bridge of the kernel's that does not look at tags: frames would pass from one to another.
fn check_filtering(place: &Place) -> Result<(), RemoteError> {
    let Place::Bridge { bridge, settings } = place else {
        return Ok(());
    };
    if settings.vlans.is_none() {
        return Ok(());
    }
    let found = Kernel::open().and_then(|mut kernel| kernel.bridge(bridge));
    let found = found.map_err(|error| RemoteError::network(Code::OperationFailed, error.to_string()))?;
    match found.vlan_filtering {
        Some(true) => Ok(()),
        Some(false) => Err(unsupported(format!(
            "the bridge '{bridge}' filters no VLANs, so a card there has none; `ostler net set {bridge} --vlan-filtering on` has it filter them"
        ))),
        None => Err(unsupported(format!(
            "this kernel's bridges filter no VLANs (CONFIG_BRIDGE_VLAN_FILTERING), so a card at '{bridge}' has none"
        ))),
    }
}

fn at_openvswitch(bridge: &str, port: &PortSpec) -> Result<Place, RemoteError> {
    if port.ingress_kbit.is_some() || port.egress_kbit.is_some() || port.isolated {
        let why = format!("a card at the bridge '{bridge}' has no limits of its own and is not isolated");
        return Err(unsupported(why));
    }
    Ok(Place::OpenVSwitch {
        bridge: bridge.into(),
        settings: PortSettings {
            mtu: port.mtu,
            vlans: vlans_of(port)?,
            ..PortSettings::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use ostler_netio::{NetBackend, SwitchNet};
    use ostler_switchd::Engine;
    use ostler_switchd::config::Config;
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::networks::network::Live;
    use crate::networks::switch::{self, NetworkFiles};

    const XML: &str = "<network><name>lan</name><bridge name='virbr7'/><mtu size='9000'/>\
        <portgroup name='web'><vlan><tag id='10'/></vlan><bandwidth><inbound average='1000'/></bandwidth></portgroup>\
        <portgroup name='all' default='yes'><vlan trunk='yes'><tag id='10'/><tag id='20' nativeMode='untagged'/></vlan>\
        <port isolated='yes'/></portgroup></network>";

    fn wish(portgroup: Option<&str>, vlan: Option<Vlan>) -> NetworkPort {
        NetworkPort {
            network: "lan".into(),
            portgroup: portgroup.map(str::to_owned),
            vlan,
            isolated: false,
            bandwidth: Bandwidth::default(),
            target: None,
        }
    }

    fn card(wish: &NetworkPort) -> NetworkCard<'_> {
        NetworkCard {
            guest: "a guest",
            mac: "52:54:00:00:00:01".into(),
            wish,
            connected: false,
        }
    }

    /// A network that runs, whose switch is a thread of this process.
    fn networks(folder: &Path) -> Arc<Networks> {
        let networks = Networks::open(&folder.join("networks"), folder).unwrap();
        let control = folder.join("control");
        let listener = std::os::unix::net::UnixListener::bind(&control).unwrap();
        let config = switch::config("lan", &control, None, None, None);
        let config = Config::parse(&config).unwrap();
        std::thread::spawn(move || {
            let never = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            Engine::new(config, listener).unwrap().run(&never)
        });
        let definition = Arc::new(Definition::read(XML, "virbr0").unwrap());
        let (network, _) = networks.claim(&definition).unwrap();
        network.state().live = Some(Live {
            run: 0,
            definition,
            files: NetworkFiles {
                folder: folder.join("lan"),
                control,
            },
        });
        networks
    }

    #[test]
    fn a_card_is_connected_to_the_networks_switch_and_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let networks = networks(folder.path());
        let place = networks.place(&card(&wish(Some("web"), None))).unwrap();
        let Place::Switch(plug) = place else {
            panic!("{place:?}");
        };
        // This is what the guest's process does with it.
        let guest = SwitchNet::new(plug).unwrap();
        assert!(guest.link_up());
        let control = folder.path().join("control");
        let ports = switch::execute(&control, "ports", serde_json::Value::Null).unwrap();
        assert_eq!(ports[0]["name"], "a_guest/52:54:00:00:00:01");
        assert_eq!((&ports[0]["up"], &ports[0]["mtu"]), (&true.into(), &9000.into()));
        assert_eq!(ports[0]["vlans"]["pvid"], 10);
        // The port goes with the guest.
        drop(guest);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while switch::execute(&control, "ports", serde_json::Value::Null).unwrap() != serde_json::json!([]) {
            assert!(std::time::Instant::now() < end, "the port stays");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        switch::quit(&control);
    }

    #[test]
    fn what_the_network_and_the_card_say_of_the_port() {
        let definition = Definition::read(XML, "virbr0").unwrap();
        let port = |wish: &NetworkPort| port(&definition, &card(wish));
        let web = port(&wish(Some("web"), None)).unwrap();
        assert_eq!((web.vlan, web.isolated), (Some(10), false));
        assert_eq!((web.egress_kbit, web.ingress_kbit), (Some(8192), None));
        let usual = port(&wish(None, None)).unwrap();
        assert_eq!((usual.trunk.as_deref(), usual.native), (Some("10,20"), Some(20)));
        assert!(usual.isolated);
        let own = Vlan {
            trunk: false,
            tags: vec![30],
            native: None,
        };
        assert_eq!(port(&wish(Some("web"), Some(own))).unwrap().vlan, Some(30));
        let said = port(&wish(Some("none"), None)).unwrap_err();
        assert!(said.detail.contains("no portgroup 'none'"), "{said}");
    }

    #[test]
    fn a_network_that_does_not_run_has_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let networks = Networks::open(&folder.path().join("networks"), folder.path()).unwrap();
        let said = networks.place(&card(&wish(None, None))).unwrap_err();
        assert_eq!(said.code, Code::NoNetwork);
        let definition = Definition::read(XML, "virbr0").unwrap();
        networks.claim(&definition).unwrap();
        let said = networks.place(&card(&wish(None, None))).unwrap_err();
        assert!(said.detail.contains("is not active"), "{said}");
    }

    #[test]
    fn a_bridge_of_the_kernel_has_vlans_and_no_limits() {
        let plain = at_bridge("br0", &PortSpec::default()).unwrap();
        assert!(
            matches!(&plain, Place::Bridge { bridge, settings } if bridge == "br0" && *settings == PortSettings::default())
        );
        check_filtering(&plain).unwrap();
        let tagged = PortSpec {
            vlan: Some(3),
            ..PortSpec::default()
        };
        let place = at_bridge("no-such-br9", &tagged).unwrap();
        let Place::Bridge { settings, .. } = &place else {
            panic!("{place:?}");
        };
        assert_eq!(settings.vlans, Some(PortVlans::access(3)));
        // A bridge that is not there filters nothing.
        assert!(check_filtering(&place).is_err());
        let limited = PortSpec {
            ingress_kbit: Some(1),
            ..PortSpec::default()
        };
        let said = at_bridge("br0", &limited).unwrap_err();
        assert_eq!(said.code, Code::ConfigUnsupported);
    }

    #[test]
    fn a_bridge_of_open_vswitch_has_vlans() {
        let trunk = PortSpec {
            trunk: Some("10,20".into()),
            native: Some(20),
            ..PortSpec::default()
        };
        let Place::OpenVSwitch { bridge, settings } = at_openvswitch("ovs0", &trunk).unwrap() else {
            panic!();
        };
        assert_eq!(bridge, "ovs0");
        assert_eq!(settings.vlans, Some(PortVlans::trunk(Some(20), [10])));
        let limited = PortSpec {
            egress_kbit: Some(1),
            ..PortSpec::default()
        };
        assert!(at_openvswitch("ovs0", &limited).is_err());
    }
}
