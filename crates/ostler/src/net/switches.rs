//! `ostler net` for our own switches that run, seen and changed by their control sockets.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ostler_switchd::client::Client;
use ostler_switchd::config::{Edge, PortSpec};
use ostler_switchd::{control_path, running_switches};
use serde_json::{Value, json};

use super::tables;
use crate::failure::Failure;

/// What can be asked of a switch.
#[derive(Subcommand)]
pub enum SwitchCommand {
    /// The switches that run.
    List,
    /// One switch as a whole.
    Show,
    /// Ports: list, add, remove.
    #[command(subcommand)]
    Port(PortCommand),
    /// The forwarding table: show, add, remove, flush.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Who is in which multicast group, and who asks.
    Groups {
        /// Only those of this port.
        #[arg(long)]
        port: Option<String>,
        /// Only those in this VLAN.
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// The spanning tree, and changes of it.
    Stp {
        #[command(subcommand)]
        command: Option<StpCommand>,
    },
    /// Copies of some ports' frames for another port: list, add, remove.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// The VLANs of the ports: show, set.
    #[command(subcommand)]
    Vlan(VlanCommand),
    /// The addresses that routers gave to guests.
    Leases {
        /// The switch, as with --switch.
        name: Option<String>,
        /// Only those of the router at this port.
        #[arg(long)]
        port: Option<String>,
    },
    /// What the ports counted, and why frames were dropped.
    Counters {
        /// Only this port.
        port: Option<String>,
    },
    /// Copy the frames of a port or a VLAN into a pcapng file, until you press Ctrl-C.
    Capture(super::capture::CaptureArgs),
}

#[derive(Subcommand)]
pub enum PortCommand {
    /// The ports.
    List,
    /// Add a port. Give exactly one of --tap, --packet, --listen, --connect, --vhost-user, --vhost-user-connect and --guest.
    Add(Box<AddArgs>),
    /// Change a port: mtu=9000 isolated=on edge=auto mac-limit=none ..., by the names in the configuration file.
    Set {
        /// Its name.
        port: String,
        /// What is to be, `none` for the usual value.
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = setting)]
        settings: Vec<(String, Value)>,
    },
    /// Remove a port.
    Remove {
        /// Its name.
        port: String,
    },
    /// Open a port again that BPDU guard has shut.
    ClearGuard {
        /// Its name.
        port: String,
    },
}

#[derive(Subcommand)]
pub enum StpCommand {
    /// Change the bridge: priority=4096 hello=2 max-age=20 forward-delay=15 transmit-hold=6 version=rstp.
    Set {
        /// What is to be.
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = setting)]
        settings: Vec<(String, Value)>,
    },
}

#[derive(Subcommand)]
pub enum MirrorCommand {
    /// The mirrors.
    List,
    /// Copy the frames of ports to another one, which does nothing else from then on.
    Add {
        /// The port that sends the copies.
        to: String,
        /// Copy what these ports receive.
        #[arg(
            long,
            value_name = "PORTS",
            value_delimiter = ',',
            required_unless_present = "egress"
        )]
        ingress: Vec<String>,
        /// Copy what these ports send.
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        egress: Vec<String>,
    },
    /// End the mirror to a port, which is an ordinary one again.
    Remove {
        /// The port.
        to: String,
    },
}

/// A setting as JSON: `none` is null, on and off are a truth where the setting is one.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = match (name, value) {
        (_, "none") => Value::Null,
        ("edge" | "mac" | "trunk" | "version" | "multicast-router", text) => text.into(),
        ("addresses", list) => list.split(',').collect(),
        (_, "on") => true.into(),
        (_, "off") => false.into(),
        (_, text) => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    };
    Ok((name.into(), value))
}

#[derive(Args)]
pub struct AddArgs {
    /// What it is to be called.
    name: String,
    /// A tap of the host.
    #[arg(long, value_name = "TAP")]
    tap: Option<String>,
    /// An interface of the host, which is the switch's alone from then on.
    #[arg(long, value_name = "INTERFACE")]
    packet: Option<String>,
    /// A unix socket where a peer with QEMU's framing (-netdev stream) may connect.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// A unix socket to connect to, with that framing.
    #[arg(long, value_name = "PATH")]
    connect: Option<PathBuf>,
    /// A unix socket where the front end of a foreign guest (QEMU's -netdev vhost-user) may connect.
    #[arg(long, value_name = "PATH")]
    vhost_user: Option<PathBuf>,
    /// A unix socket to connect to, where such a front end listens.
    #[arg(long, value_name = "PATH")]
    vhost_user_connect: Option<PathBuf>,
    /// Kept for a guest, which comes with --net switch=...,port=NAME.
    #[arg(long)]
    guest: bool,
    #[command(flatten)]
    vlans: VlanArgs,
    /// Bytes of the longest payload.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Isolated ports do not reach each other.
    #[arg(long)]
    isolated: bool,
    /// No bridge is behind it: it forwards at once.
    #[arg(long)]
    edge: bool,
}

#[derive(Args)]
pub struct VlanArgs {
    /// The VLAN of an access port.
    #[arg(long, value_name = "N", conflicts_with = "trunk")]
    vlan: Option<u16>,
    /// The VLANs of a trunk, such as 1,10-20.
    #[arg(long, value_name = "LIST")]
    trunk: Option<String>,
    /// The VLAN of a trunk's untagged frames.
    #[arg(long, value_name = "N", requires = "trunk")]
    native: Option<u16>,
}

#[derive(Subcommand)]
pub enum FdbCommand {
    /// The stations that are known.
    Show {
        /// Only those of this port.
        #[arg(long)]
        port: Option<String>,
        /// Only those in this VLAN.
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// Add a static entry.
    Add {
        /// The station's address.
        mac: String,
        /// Its port.
        #[arg(long)]
        port: String,
        /// Its VLAN.
        #[arg(long, default_value = "1")]
        vlan: u16,
    },
    /// Remove a static entry.
    Remove {
        /// The station's address.
        mac: String,
        /// Its VLAN.
        #[arg(long, default_value = "1")]
        vlan: u16,
    },
    /// Forget the stations that were learned.
    Flush {
        /// Only those of this port.
        #[arg(long, conflicts_with = "vlan")]
        port: Option<String>,
        /// Only those in this VLAN.
        #[arg(long)]
        vlan: Option<u16>,
    },
}

#[derive(Subcommand)]
pub enum VlanCommand {
    /// The VLANs of each port.
    Show,
    /// Change a port's VLANs.
    Set {
        /// The port.
        port: String,
        #[command(flatten)]
        vlans: VlanArgs,
    },
}

/// How an answer is shown where it is not JSON.
type Table = fn(&Value) -> String;

/// A command of the switch, its arguments, and how its answer is shown.
type Call = (&'static str, Value, Table);

/// Does what the user asks of `switch`, or of the only one that runs.
pub fn run(command: SwitchCommand, switch: Option<String>, as_json: bool) -> Result<ExitCode, Failure> {
    let mut switch = switch;
    let call = match command {
        SwitchCommand::Capture(args) => return super::capture::run(args, connect(switch)?),
        SwitchCommand::Leases { name, port } => {
            switch = name.or(switch);
            ("leases", json!({ "port": port }), tables::leases as Table)
        }
        SwitchCommand::List => return print(as_json, &list(), tables::switches),
        SwitchCommand::Show => ("show", Value::Null, tables::switch as Table),
        SwitchCommand::Port(command) => port_call(command)?,
        SwitchCommand::Fdb(command) => fdb_call(command),
        SwitchCommand::Groups { port, vlan } => (
            "groups",
            json!({ "port": port, "vlan": vlan }),
            tables::groups as Table,
        ),
        SwitchCommand::Stp { command: None } => ("ports", Value::Null, tables::tree as Table),
        SwitchCommand::Stp {
            command: Some(StpCommand::Set { settings }),
        } => (
            "stp-set",
            settings.into_iter().collect(),
            tables::nothing as Table,
        ),
        SwitchCommand::Mirror(command) => mirror_call(command),
        SwitchCommand::Vlan(command) => vlan_call(command),
        SwitchCommand::Counters { port } => ("ports", json!({ "port": port }), tables::counters as Table),
    };
    let (command, arguments, table) = call;
    let mut client = connect(switch)?;
    let answer = client.execute(command, arguments).map_err(Failure::bad_input)?;
    print(as_json, &answer, table)
}

/// A client of `switch`, or of the only one that runs.
fn connect(switch: Option<String>) -> Result<Client, Failure> {
    let name = match switch {
        Some(name) => name,
        None => the_only_one()?,
    };
    let path = control_path(&name).map_err(Failure::bad_input)?;
    Client::connect(&path).map_err(Failure::bad_input)
}

fn port_call(command: PortCommand) -> Result<Call, Failure> {
    Ok(match command {
        PortCommand::List => ("ports", Value::Null, tables::ports),
        PortCommand::Add(add) => {
            let spec = PortSpec {
                name: add.name,
                tap: add.tap,
                packet: add.packet,
                listen: absolute(add.listen)?,
                connect: absolute(add.connect)?,
                vhost_user: absolute(add.vhost_user)?,
                vhost_user_connect: absolute(add.vhost_user_connect)?,
                guest: add.guest,
                vlan: add.vlans.vlan,
                trunk: add.vlans.trunk,
                native: add.vlans.native,
                mtu: add.mtu,
                isolated: add.isolated,
                edge: if add.edge { Edge::On } else { Edge::Auto },
                ..PortSpec::default()
            };
            let arguments = serde_json::to_value(spec).map_err(Failure::failed)?;
            ("port-add", arguments, tables::nothing)
        }
        PortCommand::Set { port, settings } => {
            let settings: Value = settings.into_iter().collect();
            (
                "port-set",
                json!({ "port": port, "settings": settings }),
                tables::nothing,
            )
        }
        PortCommand::Remove { port } => ("port-remove", json!({ "port": port }), tables::nothing),
        PortCommand::ClearGuard { port } => ("port-clear-guard", json!({ "port": port }), tables::nothing),
    })
}

/// The switch's process has a working folder of its own.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    path.map(std::path::absolute)
        .transpose()
        .map_err(|error| Failure::failed(format!("there is no working folder: {error}")))
}

fn fdb_call(command: FdbCommand) -> Call {
    match command {
        FdbCommand::Show { port, vlan } => ("fdb", json!({ "port": port, "vlan": vlan }), tables::stations),
        FdbCommand::Add { mac, port, vlan } => (
            "fdb-add",
            json!({ "mac": mac, "port": port, "vlan": vlan }),
            tables::nothing,
        ),
        FdbCommand::Remove { mac, vlan } => {
            ("fdb-remove", json!({ "mac": mac, "vlan": vlan }), tables::nothing)
        }
        FdbCommand::Flush { port, vlan } => (
            "fdb-flush",
            json!({ "port": port, "vlan": vlan }),
            tables::nothing,
        ),
    }
}

fn mirror_call(command: MirrorCommand) -> Call {
    match command {
        MirrorCommand::List => ("mirrors", Value::Null, tables::mirrors),
        MirrorCommand::Add { to, ingress, egress } => {
            let arguments = json!({ "to": to, "ingress": ingress, "egress": egress });
            ("mirror-set", arguments, tables::nothing)
        }
        MirrorCommand::Remove { to } => ("mirror-clear", json!({ "port": to }), tables::nothing),
    }
}

fn vlan_call(command: VlanCommand) -> Call {
    match command {
        VlanCommand::Show => ("ports", Value::Null, tables::vlans),
        VlanCommand::Set { port, vlans } => {
            let VlanArgs { vlan, trunk, native } = vlans;
            let arguments = json!({ "port": port, "vlan": vlan, "trunk": trunk, "native": native });
            ("vlan-set", arguments, tables::nothing)
        }
    }
}

/// What the switches that answer say of themselves.
fn list() -> Value {
    let shown = running_switches().into_iter().filter_map(|name| {
        let mut client = Client::connect(&control_path(&name).ok()?).ok()?;
        client.execute("show", Value::Null).ok()
    });
    shown.collect()
}

fn the_only_one() -> Result<String, Failure> {
    let mut names = running_switches();
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        (None, _) => Err(Failure::bad_input(
            "no switch runs here; start one with `ostler switch run`, or name one with --switch",
        )),
        (Some(_), false) => Err(Failure::bad_input("several switches run; name one with --switch")),
    }
}

fn print(as_json: bool, answer: &Value, table: Table) -> Result<ExitCode, Failure> {
    let text = if as_json {
        format!("{answer:#}\n")
    } else {
        table(answer)
    };
    // A reader that went away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
