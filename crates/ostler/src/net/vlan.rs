//! `ostler net vlan`: the VLANs of a network's ports.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::back_end::{BackEnd, PortWish};
use super::model::{Kind, Network};
use super::places::Places;
use super::vlans::{VlanArgs, VlanList, Vlans};
use super::{Shown, shown, tables};
use crate::failure::Failure;

/// Options of `ostler net vlan`.
#[derive(Args)]
pub struct VlanCommandArgs {
    /// The network.
    network: String,
    #[command(subcommand)]
    command: Option<VlanCommand>,
}

#[derive(Subcommand)]
enum VlanCommand {
    /// The VLANs of each port.
    Show,
    /// Put a port into VLANs, beside those that it is in.
    Add {
        /// The port.
        port: String,
        /// The VLANs, such as 10,20-30.
        vlans: VlanList,
        /// Frames of these VLANs leave without a tag.
        #[arg(long)]
        untagged: bool,
        /// Untagged frames that come in belong there; it is one VLAN then.
        #[arg(long)]
        pvid: bool,
    },
    /// Take a port out of VLANs.
    Remove {
        /// The port.
        port: String,
        /// The VLANs, such as 10,20-30.
        vlans: VlanList,
    },
    /// Put a port into these VLANs and no others.
    Set {
        /// The port.
        port: String,
        #[command(flatten)]
        vlans: VlanArgs,
    },
}

/// The VLANs of a network.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Table {
    pub name: String,
    pub kind: Kind,
    pub vlan_filtering: Option<bool>,
    pub ports: Vec<Row>,
}

/// Those of a port.
#[derive(Serialize)]
pub struct Row {
    pub name: String,
    pub vlans: Option<Vlans>,
}

impl From<Network> for Table {
    fn from(network: Network) -> Self {
        let row = |port: super::model::Port| Row {
            name: port.name,
            vlans: port.vlans,
        };
        Self {
            name: network.name,
            kind: network.kind,
            vlan_filtering: network.vlan_filtering,
            ports: network.ports.into_iter().map(row).collect(),
        }
    }
}

/// What a port is in now.
fn now(back_end: &mut dyn BackEnd, network: &str, port: &str) -> Result<Vlans, Failure> {
    let view = back_end.network(network)?;
    let found = view.port(port).ok_or_else(|| {
        Failure::bad_input(format!(
            "there is no port \"{port}\"; `ostler net port list {network}` shows its ports"
        ))
    })?;
    found.vlans.clone().ok_or_else(|| {
        Failure::bad_input(format!(
            "`{port}` passes frames of all VLANs as they are; say which it is to be in with `ostler net vlan {network} set {port}`"
        ))
    })
}

/// Does what the user asks for.
pub fn run(args: VlanCommandArgs, places: &Places) -> Result<Option<Shown>, Failure> {
    let network = args.network;
    let mut back_end = places.find(&network)?;
    let (port, vlans) = match args.command.unwrap_or(VlanCommand::Show) {
        VlanCommand::Show => {
            let table = Table::from(back_end.network(&network)?);
            return Ok(Some(shown(&table, tables::vlans(&table))));
        }
        VlanCommand::Add {
            port,
            vlans,
            untagged,
            pvid,
        } => {
            if pvid && vlans.0.len() != 1 {
                return Err(Failure::bad_input(
                    "a port has one PVID; give one VLAN with --pvid",
                ));
            }
            let had = now(&mut *back_end, &network, &port)?;
            (port, had.add(&vlans, untagged, pvid))
        }
        VlanCommand::Remove { port, vlans } => {
            let had = now(&mut *back_end, &network, &port)?;
            if let Some(vlan) = vlans.0.iter().find(|vlan| !had.contains(**vlan)) {
                return Err(Failure::bad_input(format!("`{port}` is not in VLAN {vlan}")));
            }
            (port, had.remove(&vlans))
        }
        VlanCommand::Set { port, vlans } => {
            let all = vlans.vlans();
            (
                port,
                all.ok_or_else(|| Failure::bad_input("give --vlan or --trunk"))?,
            )
        }
    };
    let wish = PortWish {
        vlans: Some(vlans),
        ..PortWish::default()
    };
    back_end.set_port(&network, &port, wish)?;
    Ok(None)
}
