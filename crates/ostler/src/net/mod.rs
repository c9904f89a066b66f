//! `ostler net`: one view of all networks, whether a switch of ours, the kernel's bridge or Open vSwitch has them.
//!
//! | file | idea |
//! |---|---|
//! | `model.rs` | what networks look like: the JSON that scripts rely on |
//! | `back_end.rs` | what every back end does |
//! | `switches.rs`, `created.rs` | our own switches, and the processes that `create` starts |
//! | `host.rs` | the kernel's bridges and those of Open vSwitch |
//! | `places.rs` | which back end has the network of a name |
//! | `tables.rs`, `topology.rs`, `rates.rs` | what people see |
//! | the others | one command each |

mod back_end;
mod capture;
mod created;
mod fdb;
mod host;
mod interface_capture;
mod model;
mod network;
mod only_switches;
mod places;
mod port;
mod rates;
mod stp;
mod switches;
mod tables;
mod tap;
mod topology;
mod uplink;
mod vlan;
mod vlans;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::failure::Failure;

/// Options of `ostler net`.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct NetArgs {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    places: places::Places,
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Subcommand)]
enum NetCommand {
    /// All networks: switches of ours that run, bridges of the kernel and of Open vSwitch.
    List,
    /// One network as it is connected: root, ports with their roles and states, VLANs, and how much passes.
    Show(network::ShowArgs),
    /// Make a network: a switch of ours, which runs in the background, or a bridge of the kernel or of Open vSwitch.
    Create(Box<network::CreateArgs>),
    /// Change a network.
    Set(Box<network::SetArgs>),
    /// End a network that `create` made; ports that are interfaces are left to the host.
    Delete {
        /// The network.
        network: String,
    },
    /// Ports: list, add, set, remove.
    #[command(subcommand)]
    Port(port::PortCommand),
    /// The forwarding table: show, add, remove, flush.
    Fdb(fdb::FdbArgs),
    /// The spanning tree: show, set.
    Stp(stp::StpArgs),
    /// The VLANs of the ports: show, add, remove, set.
    Vlan(vlan::VlanCommandArgs),
    /// What the ports counted, and why frames were dropped.
    Counters {
        /// The network.
        network: String,
        /// Only this port.
        port: Option<String>,
    },
    /// Copy the frames of a port or a VLAN into a pcapng file, until you press Ctrl-C.
    Capture(capture::CaptureArgs),
    /// The host's own way out, with its addresses and routes, as a port of a bridge of the kernel: join, leave.
    #[command(subcommand)]
    Uplink(uplink::UplinkCommand),
    /// Taps of the host for guests: list, add, remove.
    #[command(subcommand)]
    Tap(tap::TapCommand),
    #[command(flatten)]
    Switch(only_switches::SwitchCommand),
}

/// What a command shows, as JSON and as a table for people.
pub struct Shown {
    json: String,
    table: String,
}

/// Both of a value and its table.
fn shown<T: Serialize>(value: &T, table: String) -> Shown {
    Shown {
        json: serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
        table,
    }
}

/// Does what the user asks for.
pub fn run(args: NetArgs) -> Result<ExitCode, Failure> {
    let NetArgs {
        json,
        places,
        command,
    } = args;
    if let Some(shown) = execute(command, &places)? {
        let text = if json { shown.json } else { shown.table };
        // A reader that went away has seen enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
    } else if json {
        let _ = std::io::stdout().write_all(b"{}\n");
    }
    Ok(ExitCode::SUCCESS)
}

fn execute(command: NetCommand, places: &places::Places) -> Result<Option<Shown>, Failure> {
    match command {
        NetCommand::List => {
            let list = places.list()?;
            Ok(Some(shown(&list, tables::list(&list))))
        }
        NetCommand::Show(args) => network::show(&args, places).map(Some),
        NetCommand::Create(args) => network::create(*args, places).map(|()| None),
        NetCommand::Set(args) => network::set(*args, places).map(|()| None),
        NetCommand::Delete { network } => places.find(&network)?.delete(&network).map(|()| None),
        NetCommand::Port(command) => port::run(command, places),
        NetCommand::Fdb(args) => fdb::run(args, places),
        NetCommand::Stp(args) => stp::run(args, places),
        NetCommand::Vlan(args) => vlan::run(args, places),
        NetCommand::Counters { network, port } => {
            network::counters(&network, port.as_deref(), places).map(Some)
        }
        NetCommand::Capture(args) => {
            let (mut back_end, network) = (places.find(&args.network)?, args.network.clone());
            back_end.capture(&network, args)?;
            // Standard output may be the capture itself.
            Ok(Some(Shown::nothing()))
        }
        NetCommand::Uplink(command) => uplink::run(command, places).map(|()| None),
        NetCommand::Tap(command) => tap::run(command, places),
        NetCommand::Switch(command) => only_switches::run(command, places),
    }
}

impl Shown {
    /// Nothing at all.
    fn nothing() -> Self {
        Self {
            json: String::new(),
            table: String::new(),
        }
    }
}
