//! Connecting network cards: NAT in user mode, bridges of the kernel, taps, macvtaps, back ends of vhost-user; and networks, which
//! others manage.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Child;

use ostler_hostnet::{
    BackEnd, Error as HostError, Kernel, Mac, MacvtapSpec, OpenVSwitch, PortSettings, TapSpec,
};
use ostler_launch::porter::Plugs;
use ostler_libvirt::{Code, RemoteError};
use ostler_netio::OpenTap;
use ostler_usernet::{Config, FIRST_GUEST, name_server};
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::{NetBackend, NetModel};
use serde_json::json;

use super::{Control, NetworkCard, Outside, Place};
use crate::domains::plan::{Card, CardSource};

/// Queue pairs of a card at most.
const MAX_PAIRS: usize = 8;

/// What a card's frames go to, open.
pub enum Connection {
    /// A tap of the host.
    Tap {
        /// Its descriptors.
        tap: OpenTap,
        /// Its name.
        name: String,
        /// Whether it was made for the card, and goes with it.
        made: bool,
        /// The bridge of Open vSwitch whose port it is.
        openvswitch: Option<String>,
    },
    /// A stream of frames.
    Stream {
        /// The guest's end.
        socket: OwnedFd,
        /// Frames have their virtio-net headers.
        headers: bool,
    },
    /// A plug of our own switch: the guest's end of a socket through which connections come.
    Plug(OwnedFd),
    /// The same of a porter that connects back ends of vhost-user.
    VhostUser(OwnedFd),
}

/// Whose card it is, and how it may be connected.
pub struct Surroundings<'a> {
    /// The guest's name.
    pub guest: &'a str,
    /// CPUs of the guest.
    pub cpus: u32,
    /// Whether the kernel's workers may move frames.
    pub vhost: bool,
    /// Who connects cards to networks.
    pub outside: &'a Outside,
}

fn failed(error: impl std::fmt::Display) -> RemoteError {
    RemoteError::new(Code::OperationFailed, error.to_string())
}

/// Connects a card.
pub fn connect(card: &Card, around: &Surroundings<'_>) -> Result<Connection, RemoteError> {
    // Only virtio has several queues, and rings that the kernel's worker understands.
    let (pairs, vhost) = match card.model {
        NetModel::Virtio => {
            let wanted = card.queues.map_or(around.cpus as usize, usize::from);
            (wanted.clamp(1, MAX_PAIRS), around.vhost)
        }
        NetModel::E1000e => (1, false),
    };
    match &card.source {
        CardSource::User { forwards } => {
            let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let config = Config {
                upstream: name_server(&resolver),
                forwards: forwards.clone(),
                ..Config::for_guest(card.mac.0, around.guest, FIRST_GUEST)
            };
            let (child, cable) = ostler_launch::usernet::start(&config).map_err(failed)?;
            reap(child, "usernet");
            Ok(Connection::Stream {
                socket: cable.into(),
                headers: true,
            })
        }
        CardSource::Bridge { bridge, target } => {
            let name = make_tap(target.as_deref(), Some((bridge, PortSettings::default())), pairs)?;
            open_tap(name, true, pairs, vhost)
        }
        CardSource::Ethernet { target, unmanaged } => match target {
            Some(name) if *unmanaged || exists(name) => open_tap(name.clone(), false, pairs, vhost),
            None if *unmanaged => Err(RemoteError::new(
                Code::Xml,
                "an <interface type='ethernet'> that is not managed needs a <target dev>",
            )),
            name => {
                let name = make_tap(name.as_deref(), None, pairs)?;
                open_tap(name, true, pairs, vhost)
            }
        },
        CardSource::Direct { over, mode, target } => {
            let make = |name: &str| {
                let spec = MacvtapSpec {
                    name: name.into(),
                    over: over.clone(),
                    mode: *mode,
                    mac: Mac(card.mac.0),
                    // The daemon keeps their names in files.
                    alias: None,
                };
                Kernel::open()?.create_macvtap(&spec)
            };
            let (name, index) = make_named(target.as_deref(), "macvtap", make)?;
            let opened = ostler_netio::open_macvtap((&name, index), card.mac.0, pairs, vhost);
            opened_tap(opened, name, true)
        }
        // The porter is not ours: it lives as long as the guest's card does.
        CardSource::VhostUser { path, listens } => {
            let mut plugs = Plugs::new();
            let plug = plugs.add_back_end(path, *listens).map_err(failed)?;
            reap(plugs.start().map_err(failed)?, "porter");
            Ok(Connection::VhostUser(plug))
        }
        CardSource::Network(wish) => {
            let place = (around.outside.networks)(&NetworkCard {
                guest: around.guest,
                mac: card.mac.to_string(),
                wish,
                connected: false,
            })?;
            match place {
                Place::Switch(plug) => Ok(Connection::Plug(plug)),
                Place::Bridge { bridge, settings } => {
                    let name = make_tap(wish.target.as_deref(), Some((&bridge, settings)), pairs)?;
                    open_tap(name, true, pairs, vhost)
                }
                Place::OpenVSwitch { bridge, settings } => {
                    let name = make_tap(wish.target.as_deref(), None, pairs)?;
                    at_openvswitch(open_tap(name, true, pairs, vhost)?, bridge, &settings)
                }
            }
        }
    }
}

/// Makes a tap that is open a port of a bridge of Open vSwitch.
fn at_openvswitch(
    connection: Connection,
    bridge: String,
    settings: &PortSettings,
) -> Result<Connection, RemoteError> {
    let Connection::Tap {
        mut tap, name, made, ..
    } = connection
    else {
        return Ok(connection);
    };
    let added = OpenVSwitch::open().and_then(|mut switch| {
        let in_user_space = switch.is_in_user_space(&bridge)?;
        switch.add_port(&bridge, &name, settings).map(|()| in_user_space)
    });
    match added {
        Ok(in_user_space) => {
            tap.whole = in_user_space;
            Ok(Connection::Tap {
                tap,
                name,
                made,
                openvswitch: Some(bridge),
            })
        }
        Err(error) => {
            delete_tap(&name);
            Err(failed(error))
        }
    }
}

/// Takes the port of a guest out of a bridge of Open vSwitch, which else looks for its interface for ever.
pub fn leave_openvswitch(bridge: &str, port: &str) {
    let left = OpenVSwitch::open().and_then(|mut switch| switch.remove_port(bridge, port));
    if let Err(error) = left {
        crate::log::note!("the port {port} of {bridge} stays: {error}");
    }
}

/// Takes the place of the daemon that connected a card of a guest that runs: when the card loses its switch, it asks us.
pub fn take_over(
    card: &Card,
    id: &str,
    guest: &str,
    outside: &Outside,
    control: &Control,
) -> Result<(), RemoteError> {
    let CardSource::Network(wish) = &card.source else {
        return Ok(());
    };
    let place = (outside.networks)(&NetworkCard {
        guest,
        mac: card.mac.to_string(),
        wish,
        connected: true,
    })?;
    let Place::Switch(plug) = place else {
        return Ok(());
    };
    let name = format!("{id}-plug");
    let named = control.execute_with_fd("getfd", json!({ "fdname": name }), plug.as_fd());
    let taken = named.and_then(|_| control.execute_with("x-ostler-plug", json!({ "id": id, "fd": name })));
    taken.map(drop).map_err(failed)
}

/// Nobody else waits for a process that ends with the guest.
pub fn reap(mut child: Child, name: &str) {
    let wait = move || drop(child.wait());
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(wait) {
        crate::log::note!("a guest's {name} stays listed after its end: {error}");
    }
}

fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

/// Makes a tap of this name, or of the first free one, and a port of a bridge of it.
fn make_tap(
    name: Option<&str>,
    bridge: Option<(&str, PortSettings)>,
    pairs: usize,
) -> Result<String, RemoteError> {
    let make = |name: &str| {
        Kernel::open()?.create_tap(&TapSpec {
            name: name.into(),
            multi_queue: pairs > 1,
            bridge: bridge
                .as_ref()
                .map(|(bridge, settings)| ((*bridge).into(), settings.clone())),
            ..TapSpec::default()
        })
    };
    make_named(name, "vnet", make).map(|(name, ())| name)
}

/// Makes an interface of this name, or of the first free one that begins so; returns its name and what `make` does.
fn make_named<T>(
    name: Option<&str>,
    prefix: &str,
    make: impl Fn(&str) -> Result<T, HostError>,
) -> Result<(String, T), RemoteError> {
    let made = match name {
        Some(name) => make(name).map(|made| (name.into(), made)),
        None => ostler_hostnet::make_numbered(prefix, make),
    };
    made.map_err(failed)
}

fn open_tap(name: String, made: bool, pairs: usize, vhost: bool) -> Result<Connection, RemoteError> {
    let opened = ostler_netio::open_tap(&name, pairs, vhost);
    opened_tap(opened, name, made)
}

fn opened_tap(
    opened: Result<OpenTap, ostler_netio::Error>,
    name: String,
    made: bool,
) -> Result<Connection, RemoteError> {
    match opened {
        Ok(tap) => Ok(Connection::Tap {
            tap,
            name,
            made,
            openvswitch: None,
        }),
        Err(error) => {
            if made {
                delete_tap(&name);
            }
            Err(failed(error))
        }
    }
}

/// Deletes a tap that was made for a guest.
pub fn delete_tap(name: &str) {
    let deleted = Kernel::open().and_then(|mut kernel| kernel.delete_tap(name));
    if let Err(error) = deleted {
        crate::log::note!("the tap {name} stays: {error}");
    }
}

impl Connection {
    /// The host's interface, and whether it goes with the card.
    pub fn port(&self) -> Option<(&str, bool)> {
        match self {
            Self::Tap { name, made, .. } => Some((name, *made)),
            Self::Stream { .. } | Self::Plug(_) | Self::VhostUser(_) => None,
        }
    }

    /// The bridge of Open vSwitch whose port it is.
    pub fn openvswitch(&self) -> Option<&str> {
        match self {
            Self::Tap { openvswitch, .. } => openvswitch.as_deref(),
            Self::Stream { .. } | Self::Plug(_) | Self::VhostUser(_) => None,
        }
    }

    /// As a guest is started with it.
    pub fn into_backend(self, descriptors: &mut Descriptors) -> NetBackend {
        match self {
            Self::Tap { tap, .. } => NetBackend::Tap {
                queues: tap
                    .queues
                    .into_iter()
                    .map(|file| descriptors.push(file))
                    .collect(),
                vhost: tap.vhost.into_iter().map(|file| descriptors.push(file)).collect(),
                mtu: tap.mtu,
                whole: tap.whole,
            },
            Self::Stream { socket, headers } => NetBackend::Socket {
                connection: descriptors.push(socket),
                headers,
            },
            Self::VhostUser(plug) => NetBackend::VhostUser {
                plug: descriptors.push(plug),
            },
            Self::Plug(plug) => NetBackend::Switch {
                plug: descriptors.push(plug),
            },
        }
    }
}
