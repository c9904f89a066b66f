//! `ostler net show`, `create`, `set`, `delete` and `counters`: networks as a whole.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use ostler_hostnet::{BridgeSettings, Forward, Ports, Protocol, Subnet};
use serde::Serialize;

use super::back_end::{ForwardWish, Wish};
use super::model::{Counters, Kind};
use super::places::Places;
use super::{Shown, rates, shown, tables, topology};
use crate::failure::Failure;

/// Options of `ostler net show`.
#[derive(Args)]
pub struct ShowArgs {
    /// The network.
    network: String,
    /// How long traffic is watched for its rates, in seconds; 0 shows none.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(0..=60))]
    seconds: u32,
}

/// A network with the rates of its ports.
pub fn show(args: &ShowArgs, places: &Places) -> Result<Shown, Failure> {
    let mut back_end = places.find(&args.network)?;
    let mut network = back_end.network(&args.network)?;
    if args.seconds > 0 {
        let (start, before) = (Instant::now(), network.ports);
        std::thread::sleep(Duration::from_secs(args.seconds.into()));
        network = back_end.network(&args.network)?;
        rates::rate(&before, &mut network.ports, start.elapsed());
    }
    Ok(shown(&network, topology::draw(&network)))
}

/// A port's counters.
#[derive(Serialize)]
pub struct Counted {
    pub name: String,
    pub counters: Option<Counters>,
}

/// What ports counted.
pub fn counters(name: &str, only: Option<&str>, places: &Places) -> Result<Shown, Failure> {
    let network = places.find(name)?.network(name)?;
    if let Some(port) = only.filter(|port| network.port(port).is_none()) {
        return Err(Failure::bad_input(format!(
            "there is no port \"{port}\"; `ostler net port list {name}` shows its ports"
        )));
    }
    let ports = network.ports.into_iter();
    let counted: Vec<Counted> = ports
        .filter(|port| only.is_none_or(|only| only == port.name))
        .map(|port| Counted {
            name: port.name,
            counters: port.counters,
        })
        .collect();
    Ok(shown(&counted, tables::counters(&counted)))
}

#[derive(Clone, Copy, ValueEnum)]
enum Tree {
    Off,
    Stp,
    Rstp,
}

/// Settings of the spanning tree.
#[derive(Args)]
pub struct TreeArgs {
    /// Which spanning-tree protocol it speaks.
    #[arg(long, value_enum)]
    stp: Option<Tree>,
    /// Its priority; the lowest becomes root.
    #[arg(long, value_name = "N")]
    priority: Option<u16>,
    /// Of the spanning tree, in seconds.
    #[arg(long, value_name = "N")]
    max_age: Option<u32>,
    /// Of the spanning tree, in seconds.
    #[arg(long, value_name = "N")]
    hello: Option<u32>,
    /// Of the spanning tree, in seconds.
    #[arg(long, value_name = "N")]
    forward_delay: Option<u32>,
    /// BPDUs that a port of a switch of ours sends in a second, 1 to 10.
    #[arg(long, value_name = "N")]
    transmit_hold: Option<u8>,
}

impl TreeArgs {
    pub fn wish(self) -> Wish {
        Wish {
            settings: BridgeSettings {
                protocol: self.stp.map(|tree| match tree {
                    Tree::Off => Protocol::Off,
                    Tree::Stp => Protocol::Stp,
                    Tree::Rstp => Protocol::Rstp,
                }),
                priority: self.priority,
                max_age: self.max_age,
                hello: self.hello,
                forward_delay: self.forward_delay,
                ..BridgeSettings::default()
            },
            transmit_hold: self.transmit_hold,
            ..Wish::default()
        }
    }
}

/// Settings of a network.
#[derive(Args)]
struct SettingArgs {
    #[command(flatten)]
    tree: TreeArgs,
    /// How long a learned station is kept, in seconds.
    #[arg(long, value_name = "N")]
    ageing: Option<u32>,
    /// Bytes of the longest payload, of a bridge.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Whether ports have VLANs; a bridge of the kernel can be without.
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    vlan_filtering: Option<bool>,
    /// Whom the stations reach. nat: others by the host's address, and only answers come in; route: others, and others them, by their own
    /// addresses; isolated: each other and the host; open: what the host's own rules say. A switch of ours has nat and isolated, by a
    /// router in user mode; a bridge of the kernel has all, by rules of nftables.
    #[arg(long, value_name = "MODE")]
    mode: Option<Forward>,
    /// The host's address there, or the router's, with the bits of the network's part, such as 10.9.0.1/24.
    #[arg(long, value_name = "ADDRESS/BITS", requires = "mode")]
    address: Option<Subnet>,
    /// For nat of a bridge: the host's ports that TCP and UDP leave by. [default: 1024-65535]
    #[arg(long, value_name = "FIRST-LAST", requires = "mode")]
    ports: Option<Ports>,
    /// For nat and route of a bridge: the only interface by which packets leave and come in. [default: as the host's routes say]
    #[arg(long, value_name = "INTERFACE", requires = "mode")]
    out: Option<String>,
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".into()),
    }
}

impl SettingArgs {
    fn wish(self) -> Wish {
        let mut wish = self.tree.wish();
        wish.settings.ageing = self.ageing;
        wish.settings.mtu = self.mtu;
        wish.settings.vlan_filtering = self.vlan_filtering;
        wish.forward = self.mode.map(|mode| ForwardWish {
            mode,
            address: self.address,
            ports: self.ports,
            out: self.out,
        });
        wish
    }
}

/// Options of `ostler net create`. Without `--kind` it makes a switch of ours.
#[derive(Args)]
pub struct CreateArgs {
    /// What it is to be called; a bridge is an interface of that name, too.
    network: String,
    /// Open vSwitch's data path: `system` or `netdev`.
    #[arg(long, value_name = "NAME")]
    datapath: Option<String>,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Makes a network.
pub fn create(args: CreateArgs, places: &Places) -> Result<(), Failure> {
    let kind = places.kind.unwrap_or(Kind::Switch);
    let mut wish = args.settings.wish();
    wish.datapath = args.datapath;
    places.maker(kind)?.create(&args.network, wish)
}

/// Options of `ostler net set`.
#[derive(Args)]
pub struct SetArgs {
    /// The network.
    network: String,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Changes a network.
pub fn set(args: SetArgs, places: &Places) -> Result<(), Failure> {
    let mut back_end = places.find(&args.network)?;
    back_end.set(&args.network, args.settings.wish())
}
