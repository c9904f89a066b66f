//! `ostler net port`: the ports of a network.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::back_end::PortWish;
use super::places::Places;
use super::tables;
use super::vlans::VlanArgs;
use super::{Shown, shown};
use crate::failure::Failure;

/// Where a port leads.
pub enum Place {
    /// An interface of the host, which is called as the port is if it has no name here.
    Interface(Option<String>),
    Tap(String),
    Packet(String),
    Listen(PathBuf),
    Connect(PathBuf),
    VhostUser(PathBuf),
    VhostUserConnect(PathBuf),
    Guest,
}

/// What can be asked of ports.
#[derive(Subcommand)]
pub enum PortCommand {
    /// The ports of a network.
    List {
        /// The network.
        network: String,
    },
    /// Add a port: the host's interface of that name, if nothing else is said.
    Add(Box<AddArgs>),
    /// Change a port.
    Set {
        /// The network.
        network: String,
        /// The port.
        port: String,
        #[command(flatten)]
        vlans: VlanArgs,
        /// What is to be, such as mtu=9000 isolated=on path-cost=100. At a switch of ours all names of its configuration file, `none` for
        /// the usual value; elsewhere mtu, path-cost, priority, isolated, bpdu-guard, root-guard, learning, flood, hairpin, locked.
        #[arg(value_name = "NAME=VALUE", value_parser = setting, required_unless_present_any = ["vlan", "trunk"])]
        settings: Vec<(String, Value)>,
    },
    /// Take a port out.
    Remove {
        /// The network.
        network: String,
        /// The port.
        port: String,
    },
    /// Open a port of a switch again that BPDU guard has shut.
    ClearGuard {
        /// The network.
        network: String,
        /// The port.
        port: String,
    },
}

#[derive(Args)]
pub struct AddArgs {
    /// The network.
    network: String,
    /// What the port is to be called.
    port: String,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    vlans: VlanArgs,
    /// What else is to be, as with `set`.
    #[arg(value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
}

/// Where a port of a switch of ours leads.
#[derive(Args)]
#[group(multiple = false)]
struct PlaceArgs {
    /// An interface of the host that is called otherwise.
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// Of a switch: a tap of the host, which need not be there yet.
    #[arg(long, value_name = "TAP")]
    tap: Option<String>,
    /// Of a switch: an interface of the host, which need not be there yet, and is the switch's alone.
    #[arg(long, value_name = "INTERFACE")]
    packet: Option<String>,
    /// Of a switch: a unix socket where a peer with QEMU's framing (-netdev stream) may connect.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// Of a switch: a unix socket to connect to, with that framing.
    #[arg(long, value_name = "PATH")]
    connect: Option<PathBuf>,
    /// Of a switch: a unix socket where the front end of a foreign guest (QEMU's -netdev vhost-user) may connect.
    #[arg(long, value_name = "PATH")]
    vhost_user: Option<PathBuf>,
    /// Of a switch: a unix socket to connect to, where such a front end listens.
    #[arg(long, value_name = "PATH")]
    vhost_user_connect: Option<PathBuf>,
    /// Of a switch: kept for a guest, which comes with --net switch=...,port=NAME.
    #[arg(long)]
    guest: bool,
}

impl PlaceArgs {
    fn place(self) -> Place {
        let given = [
            self.tap.map(Place::Tap),
            self.packet.map(Place::Packet),
            self.listen.map(Place::Listen),
            self.connect.map(Place::Connect),
            self.vhost_user.map(Place::VhostUser),
            self.vhost_user_connect.map(Place::VhostUserConnect),
            self.guest.then_some(Place::Guest),
        ];
        let given = given.into_iter().flatten().next();
        given.unwrap_or(Place::Interface(self.interface))
    }
}

/// A setting as JSON: `none` is null, on and off are a truth where the setting is one.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = match (name, value) {
        ("vlan" | "trunk" | "native", _) => return Err("give VLANs with --vlan, --trunk and --native".into()),
        (_, "none") => Value::Null,
        ("edge" | "mac" | "multicast-router", text) => text.into(),
        ("addresses", list) => list.split(',').collect(),
        (_, "on") => true.into(),
        (_, "off") => false.into(),
        (_, text) => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    };
    Ok((name.into(), value))
}

fn wish(vlans: &VlanArgs, settings: Vec<(String, Value)>) -> PortWish {
    PortWish {
        vlans: vlans.vlans(),
        settings: settings.into_iter().collect::<Map<_, _>>(),
    }
}

/// Does what the user asks for.
pub fn run(command: PortCommand, places: &Places) -> Result<Option<Shown>, Failure> {
    match command {
        PortCommand::List { network } => {
            let ports = places.find(&network)?.network(&network)?.ports;
            return Ok(Some(shown(&ports, tables::ports(&ports))));
        }
        PortCommand::Add(add) => {
            let AddArgs {
                network,
                port,
                place,
                vlans,
                settings,
            } = *add;
            let mut back_end = places.find(&network)?;
            back_end.add_port(&network, &port, place.place(), wish(&vlans, settings))?;
        }
        PortCommand::Set {
            network,
            port,
            vlans,
            settings,
        } => places
            .find(&network)?
            .set_port(&network, &port, wish(&vlans, settings))?,
        PortCommand::Remove { network, port } => places.find(&network)?.remove_port(&network, &port)?,
        PortCommand::ClearGuard { network, port } => {
            let arguments = json!({ "port": port });
            places
                .find(&network)?
                .execute(&network, "port-clear-guard", arguments)?;
        }
    }
    Ok(None)
}
