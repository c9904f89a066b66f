//! Where networks are looked for, and which one a name means.

use std::path::PathBuf;

use clap::Args;
use ostler_hostnet::{Kernel, OpenVSwitch};
use ostler_switchd::runtime_folder;

use super::back_end::BackEnd;
use super::host::HostBridges;
use super::model::{Kind, Summary};
use super::switches::Switches;
use crate::failure::{Failure, say};

/// Where networks are.
#[derive(Args)]
pub struct Places {
    /// Which back end: needed where several have a network of that name.
    #[arg(long, value_enum, global = true)]
    pub kind: Option<Kind>,
    /// Where switches have their control sockets. [default: /run/ostler for root, ostler in $XDG_RUNTIME_DIR for others]
    #[arg(long, value_name = "FOLDER", global = true)]
    runtime: Option<PathBuf>,
    /// Where Open vSwitch has its sockets.
    #[arg(
        long,
        value_name = "FOLDER",
        global = true,
        default_value = "/var/run/openvswitch"
    )]
    ovs_run: PathBuf,
}

impl Places {
    /// The back end of that kind; `None` if it is not here.
    fn open(&self, kind: Kind) -> Result<Option<Box<dyn BackEnd>>, Failure> {
        Ok(match kind {
            Kind::Switch => {
                let folder = self.runtime.clone().or_else(runtime_folder);
                Some(Box::new(Switches::new(folder)))
            }
            Kind::Bridge => {
                let kernel = Kernel::open().map_err(super::host::failure)?;
                Some(Box::new(HostBridges::of_kernel(kernel)))
            }
            Kind::Ovs if !self.ovs_run.join("db.sock").exists() => None,
            Kind::Ovs => Some(Box::new(HostBridges::of_ovs(self.open_ovs()?))),
        })
    }

    fn open_ovs(&self) -> Result<OpenVSwitch, Failure> {
        OpenVSwitch::open_at(&self.ovs_run).map_err(super::host::failure)
    }

    /// The one that makes networks of that kind.
    pub fn maker(&self, kind: Kind) -> Result<Box<dyn BackEnd>, Failure> {
        match self.open(kind)? {
            Some(back_end) => Ok(back_end),
            // It says what is missing.
            None => Ok(Box::new(HostBridges::of_ovs(self.open_ovs()?))),
        }
    }

    /// All networks. A back end that cannot be asked is said, and is no obstacle to the others.
    pub fn list(&self) -> Result<Vec<Summary>, Failure> {
        let mut all = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| self.wants(*kind)) {
            let networks = self.open(kind).and_then(|back_end| match back_end {
                Some(mut back_end) => back_end.networks(),
                None => Ok(Vec::new()),
            });
            match networks {
                Ok(networks) => all.extend(networks.iter().map(super::model::Network::summary)),
                Err(failure) if self.kind.is_some() => return Err(failure),
                Err(failure) => say(format_args!(
                    "ostler: networks of the kind {} are not listed: {}",
                    kind.word(),
                    failure.message
                )),
            }
        }
        Ok(all)
    }

    fn wants(&self, kind: Kind) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
    }

    /// Who has the network of that name.
    pub fn find(&self, name: &str) -> Result<Box<dyn BackEnd>, Failure> {
        if name.contains('/') && self.wants(Kind::Switch) {
            // The path of a control socket.
            return self.maker(Kind::Switch);
        }
        let mut found: Vec<Box<dyn BackEnd>> = Vec::new();
        let mut failed = None;
        for kind in Kind::ALL.into_iter().filter(|kind| self.wants(*kind)) {
            let looked = self.open(kind).and_then(|back_end| match back_end {
                Some(mut back_end) => Ok(back_end.has(name)?.then_some(back_end)),
                None => Ok(None),
            });
            match looked {
                Ok(back_end) => found.extend(back_end),
                Err(failure) => failed = Some(failure),
            }
        }
        match (found.pop(), found.is_empty(), failed) {
            (Some(back_end), true, _) => Ok(back_end),
            (Some(back_end), false, _) => {
                let kinds: Vec<String> = found.iter().map(|other| other.kind().to_string()).collect();
                Err(Failure::bad_input(format!(
                    "`{name}` is {} and {}; say with --kind which one is meant",
                    kinds.join(" and "),
                    back_end.kind()
                )))
            }
            (None, _, Some(failure)) => Err(failure),
            (None, _, None) => Err(Failure::bad_input(format!(
                "there is no network `{name}`; `ostler net list` shows those that exist"
            ))),
        }
    }
}
