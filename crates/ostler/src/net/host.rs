//! `ostler net host`: the kernel's bridges and those of Open vSwitch.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ostler_hostnet::{
    BackEnd, Bridge, BridgeSettings, Error, Flag, Kernel, Kind, Mac, OpenVSwitch, PortSettings, PortVlans,
    Protocol, TapSpec,
};
use serde::Serialize;

use super::host_networks::{self, NetworkCommand};
use super::host_tables as tables;
use crate::failure::{Failure, say};

/// How long a user has to confirm that he is not cut off.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `ostler net host`.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct HostArgs {
    /// Where Open vSwitch has its sockets.
    #[arg(
        long,
        value_name = "FOLDER",
        global = true,
        default_value = "/var/run/openvswitch"
    )]
    ovs_run: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The bridges.
    List,
    /// One bridge as a whole.
    Show { bridge: String },
    /// Make a bridge.
    Create {
        bridge: String,
        /// By Open vSwitch, not the kernel.
        #[arg(long)]
        ovs: bool,
        /// Open vSwitch's data path: `system` or `netdev`.
        #[arg(long, value_name = "NAME", requires = "ovs")]
        datapath: Option<String>,
        #[command(flatten)]
        settings: BridgeArgs,
    },
    /// Change a bridge.
    Set {
        bridge: String,
        #[command(flatten)]
        settings: BridgeArgs,
    },
    /// End a bridge.
    Delete { bridge: String },
    /// Ports: list, add, set, remove.
    #[command(subcommand)]
    Port(PortCommand),
    /// Networks: bridges with the host's address and rules of its firewall: list, create, set, delete.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// The host's own way out, with its addresses and routes: join, leave.
    #[command(subcommand)]
    Uplink(UplinkCommand),
    /// Taps for guests: list, add, remove.
    #[command(subcommand)]
    Tap(TapCommand),
    /// The forwarding table: show, add, remove, flush.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// The spanning tree.
    Stp { bridge: String },
    /// The VLANs of the ports.
    Vlan { bridge: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Tree {
    Off,
    Stp,
    Rstp,
}

/// Settings of a bridge.
#[derive(Args)]
pub struct BridgeArgs {
    /// Which spanning-tree protocol it speaks.
    #[arg(long, value_enum)]
    stp: Option<Tree>,
    /// Its priority; the lowest becomes root.
    #[arg(long)]
    priority: Option<u16>,
    /// Of the spanning tree, in seconds.
    #[arg(long)]
    max_age: Option<u32>,
    /// Of the spanning tree, in seconds.
    #[arg(long)]
    hello: Option<u32>,
    /// Of the spanning tree, in seconds.
    #[arg(long)]
    forward_delay: Option<u32>,
    /// How long a learned station is kept, in seconds.
    #[arg(long)]
    ageing: Option<u32>,
    /// Bytes of the longest payload.
    #[arg(long)]
    mtu: Option<u32>,
    /// Whether ports have VLANs.
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    vlan_filtering: Option<bool>,
}

impl BridgeArgs {
    /// What a back end is told.
    pub fn settings(self) -> BridgeSettings {
        BridgeSettings {
            protocol: self.stp.map(|tree| match tree {
                Tree::Off => Protocol::Off,
                Tree::Stp => Protocol::Stp,
                Tree::Rstp => Protocol::Rstp,
            }),
            priority: self.priority,
            max_age: self.max_age,
            hello: self.hello,
            forward_delay: self.forward_delay,
            ageing: self.ageing,
            mtu: self.mtu,
            vlan_filtering: self.vlan_filtering,
        }
    }
}

#[derive(Args)]
struct PortArgs {
    /// The VLAN of an access port.
    #[arg(long, value_name = "N", conflicts_with = "trunk")]
    vlan: Option<u16>,
    /// The VLANs of a trunk, such as 1,10,20.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    trunk: Option<Vec<u16>>,
    /// The VLAN of a trunk's untagged frames.
    #[arg(long, value_name = "N", requires = "trunk")]
    native: Option<u16>,
    /// Bytes of the longest payload.
    #[arg(long)]
    mtu: Option<u32>,
    /// For the spanning tree.
    #[arg(long)]
    cost: Option<u32>,
    /// For the spanning tree.
    #[arg(long)]
    priority: Option<u16>,
    /// Switch something on or off, such as isolated=on; isolated, bpdu-guard, root-guard, learning, flood, hairpin, locked.
    #[arg(long = "flag", value_name = "NAME=on|off", value_parser = flag)]
    flags: Vec<(Flag, bool)>,
}

impl PortArgs {
    fn settings(self) -> PortSettings {
        let trunk = self.trunk.map(|tagged| PortVlans::trunk(self.native, tagged));
        PortSettings {
            mtu: self.mtu,
            path_cost: self.cost,
            priority: self.priority,
            flags: self.flags,
            vlans: trunk.or(self.vlan.map(PortVlans::access)),
        }
    }
}

#[derive(Subcommand)]
enum PortCommand {
    /// The ports of a bridge.
    List { bridge: String },
    /// Make an interface a port.
    Add {
        bridge: String,
        port: String,
        #[command(flatten)]
        settings: PortArgs,
    },
    /// Change a port.
    Set {
        bridge: String,
        port: String,
        #[command(flatten)]
        settings: PortArgs,
    },
    /// Take a port out.
    Remove { bridge: String, port: String },
}

#[derive(Subcommand)]
enum UplinkCommand {
    /// Make the host's interface a port, with its addresses and routes moved to the bridge. It is undone after a minute unless you
    /// type `yes`.
    Join { bridge: String, interface: String },
    /// Take it out again, with the bridge's addresses and routes.
    Leave { bridge: String, interface: String },
}

#[derive(Subcommand)]
enum TapCommand {
    /// All taps.
    List,
    /// Make a tap that stays.
    Add {
        name: String,
        /// The bridge that it becomes a port of.
        #[arg(long)]
        bridge: Option<String>,
        /// The number of the user who may open it.
        #[arg(long, value_name = "UID")]
        owner: Option<u32>,
        /// The number of the group that may.
        #[arg(long, value_name = "GID")]
        group: Option<u32>,
        /// Several queue pairs.
        #[arg(long)]
        multi_queue: bool,
    },
    /// End a tap.
    Remove { name: String },
}

#[derive(Subcommand)]
enum FdbCommand {
    /// The stations that are known.
    Show { bridge: String },
    /// Enter a station that does not age.
    Add {
        bridge: String,
        mac: Mac,
        #[arg(long)]
        port: String,
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// Take a station out.
    Remove {
        bridge: String,
        mac: Mac,
        #[arg(long)]
        port: String,
        #[arg(long)]
        vlan: Option<u16>,
    },
    /// Forget what was learned.
    Flush {
        bridge: String,
        /// Only on this port.
        #[arg(long)]
        port: Option<String>,
    },
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".into()),
    }
}

fn flag(text: &str) -> Result<(Flag, bool), String> {
    let (name, on) = text.split_once('=').unwrap_or((text, "on"));
    let flag = Flag::ALL.into_iter().find(|flag| flag.to_string() == name);
    Ok((flag.ok_or("there is no such switch")?, on_off(on)?))
}

/// What the user got wrong has another status than what the host refused.
fn failure(error: Error) -> Failure {
    match error {
        Error::Refused { .. }
        | Error::Io { .. }
        | Error::Answer { .. }
        | Error::NotUndone { .. }
        | Error::NoNft
        | Error::Firewall { .. } => Failure::failed(error),
        _ => Failure::bad_input(error),
    }
}

struct Session {
    json: bool,
    ovs_run: PathBuf,
}

/// Does what the user asks for; `json` is how it is told.
pub fn run(args: HostArgs, json: bool) -> Result<ExitCode, Failure> {
    let session = Session {
        json,
        ovs_run: args.ovs_run,
    };
    session.execute(args.command).map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}

impl Session {
    /// Open vSwitch, if it runs.
    fn ovs(&self) -> Result<Option<OpenVSwitch>, Error> {
        if !self.ovs_run.join("db.sock").exists() {
            return Ok(None);
        }
        OpenVSwitch::open_at(&self.ovs_run).map(Some)
    }

    /// Who has the bridge of that name.
    fn of(&self, bridge: &str) -> Result<Box<dyn BackEnd>, Error> {
        let mut kernel = Kernel::open()?;
        match kernel.bridge(bridge) {
            Err(Error::NoBridge(..)) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Box::new(kernel)),
        }
        if let Some(mut ovs) = self.ovs()?
            && ovs.bridges()?.iter().any(|b| b.name == bridge)
        {
            return Ok(Box::new(ovs));
        }
        Err(Error::NoBridge(Kind::Kernel, bridge.into()))
    }

    fn show<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) {
        let text = if self.json {
            serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
        } else {
            table(value)
        };
        // A reader that went away has seen enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    fn bridge(&self, name: &str) -> Result<Bridge, Error> {
        self.of(name)?.bridge(name)
    }

    fn execute(&self, command: Command) -> Result<(), Error> {
        match command {
            Command::List => {
                let mut bridges = Kernel::open()?.bridges()?;
                if let Some(mut ovs) = self.ovs()? {
                    bridges.extend(ovs.bridges()?);
                }
                self.show(&bridges, |b| tables::bridges(b));
            }
            Command::Show { bridge } => self.show(&self.bridge(&bridge)?, tables::bridge),
            Command::Create {
                bridge,
                ovs,
                datapath,
                settings,
            } => self.create(&bridge, ovs, datapath, &settings.settings())?,
            Command::Set { bridge, settings } => {
                self.of(&bridge)?.set_bridge(&bridge, &settings.settings())?
            }
            Command::Delete { bridge } => self.of(&bridge)?.delete(&bridge)?,
            Command::Port(command) => self.port(command)?,
            Command::Network(command) => {
                if let Some(networks) = host_networks::execute(command)? {
                    self.show(&networks, |n| tables::networks(n));
                }
            }
            Command::Uplink(command) => uplink(command)?,
            Command::Tap(command) => self.tap(command)?,
            Command::Fdb(command) => self.fdb(command)?,
            Command::Stp { bridge } => self.show(&self.bridge(&bridge)?, tables::tree),
            Command::Vlan { bridge } => self.show(&self.bridge(&bridge)?.ports, |p| tables::vlans(p)),
        }
        Ok(())
    }

    fn create(
        &self,
        bridge: &str,
        ovs: bool,
        datapath: Option<String>,
        settings: &BridgeSettings,
    ) -> Result<(), Error> {
        if !ovs {
            return Kernel::open()?.create(bridge, settings);
        }
        let mut back_end = OpenVSwitch::open_at(&self.ovs_run)?;
        if let Some(datapath) = datapath {
            back_end = back_end.with_datapath(&datapath);
        }
        back_end.create(bridge, settings)
    }

    fn port(&self, command: PortCommand) -> Result<(), Error> {
        match command {
            PortCommand::List { bridge } => self.show(&self.bridge(&bridge)?.ports, |p| tables::ports(p)),
            PortCommand::Add {
                bridge,
                port,
                settings,
            } => self.of(&bridge)?.add_port(&bridge, &port, &settings.settings())?,
            PortCommand::Set {
                bridge,
                port,
                settings,
            } => self.of(&bridge)?.set_port(&bridge, &port, &settings.settings())?,
            PortCommand::Remove { bridge, port } => self.of(&bridge)?.remove_port(&bridge, &port)?,
        }
        Ok(())
    }

    fn tap(&self, command: TapCommand) -> Result<(), Error> {
        let mut kernel = Kernel::open()?;
        match command {
            TapCommand::List => self.show(&kernel.taps()?, |t| tables::taps(t)),
            TapCommand::Add {
                name,
                bridge,
                owner,
                group,
                multi_queue,
            } => kernel.create_tap(&TapSpec {
                name,
                owner,
                group,
                multi_queue,
                bridge: bridge.map(|bridge| (bridge, PortSettings::default())),
            })?,
            TapCommand::Remove { name } => kernel.delete_tap(&name)?,
        }
        Ok(())
    }

    fn fdb(&self, command: FdbCommand) -> Result<(), Error> {
        match command {
            FdbCommand::Show { bridge } => {
                self.show(&self.of(&bridge)?.stations(&bridge)?, |s| tables::stations(s));
            }
            FdbCommand::Add {
                bridge,
                mac,
                port,
                vlan,
            } => self.of(&bridge)?.add_station(&bridge, &port, mac, vlan)?,
            FdbCommand::Remove {
                bridge,
                mac,
                port,
                vlan,
            } => self.of(&bridge)?.remove_station(&bridge, &port, mac, vlan)?,
            FdbCommand::Flush { bridge, port } => self.of(&bridge)?.flush(&bridge, port.as_deref())?,
        }
        Ok(())
    }
}

fn uplink(command: UplinkCommand) -> Result<(), Error> {
    match command {
        UplinkCommand::Leave { bridge, interface } => Kernel::open()?.leave_uplink(&bridge, &interface),
        UplinkCommand::Join { bridge, interface } => {
            // A connection that breaks must not end us before the change is undone: the end of input tells.
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
                // SAFETY: ignoring a signal installs no handler.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            let joined = Kernel::open()?.join_uplink(&bridge, &interface)?;
            say(format_args!(
                "{interface} is a port of {bridge} now; type yes within {} seconds to keep that",
                PATIENCE.as_secs()
            ));
            if joined.confirm_by(std::io::stdin().as_fd(), PATIENCE)? {
                return Ok(());
            }
            Err(Error::Unsupported {
                who: Kind::Kernel,
                what: format!("nobody confirmed, so {interface} has its addresses and routes back"),
            })
        }
    }
}
