//! Open vSwitch: its database server keeps the configuration, `ovs-vswitchd` does what that says.

mod change;
mod database;
pub(crate) mod fdb;
mod rpc;
pub(crate) mod stream;
mod view;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    BackEnd, Bridge, BridgeSettings, Error, Kernel, Kind, Mac, PortSettings, Source, Station, check_name,
};
use change::Change;
use database::{Database, is};
use view::Tables;

/// Where Debian's package has its sockets.
const RUN: &str = "/var/run/openvswitch";
/// The variable that names another folder, to Open vSwitch's own tools too (ovs-vsctl(8)).
const RUN_VARIABLE: &str = "OVS_RUNDIR";

/// The bridges of an Open vSwitch.
pub struct OpenVSwitch {
    database: Database,
    run: PathBuf,
    datapath: Option<String>,
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported {
        who: Kind::OpenVSwitch,
        what: what.into(),
    }
}

impl OpenVSwitch {
    /// The host's, or the one that the variable `OVS_RUNDIR` leads to.
    pub fn open() -> Result<Self, Error> {
        let run = std::env::var_os(RUN_VARIABLE).filter(|run| !run.is_empty());
        Self::open_at(&run.map_or_else(|| RUN.into(), PathBuf::from))
    }

    /// The one whose sockets are in that folder: `db.sock`, and the control socket that `ovs-vswitchd.pid` leads to.
    pub fn open_at(run: &Path) -> Result<Self, Error> {
        Ok(Self {
            database: Database::connect(&run.join("db.sock"))?,
            run: run.into(),
            datapath: None,
        })
    }

    /// Makes bridges with that data path: `system` (the kernel's module, Open vSwitch's default) or `netdev` (in user space).
    pub fn with_datapath(mut self, datapath: &str) -> Self {
        self.datapath = Some(datapath.into());
        self
    }

    /// The same where it is open already.
    pub fn set_datapath(&mut self, datapath: &str) {
        self.datapath = Some(datapath.into());
    }

    /// Whether the bridge's data path is in user space, where frames have to be whole: nobody computes checksums later.
    pub fn is_in_user_space(&mut self, bridge: &str) -> Result<bool, Error> {
        let tables = self.tables()?;
        Ok(tables.bridge(bridge)?.text("datapath_type") == Some("netdev"))
    }

    fn tables(&mut self) -> Result<Tables, Error> {
        Tables::read(&mut self.database)
    }

    /// Makes a change; if `ovs-vswitchd` does not take it, or finds an error with an interface, it is taken back.
    fn make(&mut self, what: &str, change: Change, interface: Option<&str>) -> Result<(), Error> {
        let number = self.database.begin(what, change.forward)?;
        let done = self.database.wait(what, number);
        let result = done.and_then(|()| match interface {
            None => Ok(()),
            Some(name) => match self.tables()?.interface_error(name) {
                None => Ok(()),
                Some(why) => Err(Error::Database {
                    what: what.into(),
                    why,
                }),
            },
        });
        let Err(cause) = result else { return Ok(()) };
        match self.undo(what, change.backward, &change.made) {
            Ok(()) => Err(cause),
            Err(error) => Err(Error::NotUndone {
                cause: Box::new(cause),
                left: error.to_string(),
            }),
        }
    }

    fn undo(&mut self, what: &str, backward: Vec<Value>, made: &str) -> Result<(), Error> {
        let tables = self.tables()?;
        let backward = change::resolve(backward, &tables, made);
        self.database.transact(&format!("undoing {what}"), backward)?;
        Ok(())
    }
}

impl BackEnd for OpenVSwitch {
    fn kind(&self) -> Kind {
        Kind::OpenVSwitch
    }

    fn bridges(&mut self) -> Result<Vec<Bridge>, Error> {
        let mut bridges = self.tables()?.bridges();
        // The kernel's counters of an interface are those of now; the database's are seconds old.
        let of_now = Kernel::open().and_then(|mut kernel| kernel.counters());
        let of_now = of_now.unwrap_or_default();
        for port in bridges.iter_mut().flat_map(|bridge| &mut bridge.ports) {
            port.counters = of_now.get(&port.name).copied().or(port.counters);
        }
        Ok(bridges)
    }

    fn create(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error> {
        check_name(name)?;
        settings.check()?;
        if self.tables()?.has(name) {
            return Err(Error::Exists(name.into()));
        }
        let change = change::create(name, self.datapath.as_deref(), settings)?;
        self.make(&format!("the bridge {name}"), change, Some(name))
    }

    fn delete(&mut self, name: &str) -> Result<(), Error> {
        let tables = self.tables()?;
        let bridge = tables.bridge(name)?;
        let operation = json!({
            "op": "mutate", "table": "Open_vSwitch", "where": [],
            "mutations": [["bridges", "delete", ["uuid", bridge.id()]]],
        });
        self.database
            .change(&format!("deleting the bridge {name}"), vec![operation])
    }

    fn set_bridge(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error> {
        settings.check()?;
        let tables = self.tables()?;
        let change = change::bridge(&tables, tables.bridge(name)?, settings)?;
        self.make(&format!("settings of {name}"), change, None)
    }

    fn add_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error> {
        check_name(port)?;
        settings.check()?;
        let tables = self.tables()?;
        let found = tables.bridge(bridge)?;
        if let Some(owner) = tables.owner(port) {
            return Err(Error::Taken {
                port: port.into(),
                owner,
            });
        }
        let change = change::add_port(found, port, settings)?;
        self.make(&format!("the port {port}"), change, Some(port))
    }

    fn remove_port(&mut self, bridge: &str, port: &str) -> Result<(), Error> {
        let tables = self.tables()?;
        let (found, row) = tables.port(bridge, port)?;
        let operation = json!({
            "op": "mutate", "table": "Bridge", "where": is(found.id()),
            "mutations": [["ports", "delete", ["uuid", row.id()]]],
        });
        self.database
            .change(&format!("taking {port} out of {bridge}"), vec![operation])
    }

    fn set_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error> {
        settings.check()?;
        let tables = self.tables()?;
        let (found, row) = tables.port(bridge, port)?;
        let change = change::port(&tables, found, row, settings)?;
        self.make(&format!("settings of {port}"), change, None)
    }

    fn stations(&mut self, bridge: &str) -> Result<Vec<Station>, Error> {
        let tables = self.tables()?;
        tables.bridge(bridge)?;
        fdb::stations(&self.run, &tables, bridge)
    }

    fn add_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error> {
        self.tables()?.port(bridge, port)?;
        if !mac.is_station() {
            return Err(Error::Mac(mac.to_string()));
        }
        let vlan = vlan.unwrap_or(0).to_string();
        fdb::call(&self.run, "fdb/add", &[bridge, port, &vlan, &mac.to_string()]).map(drop)
    }

    fn remove_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error> {
        self.tables()?.port(bridge, port)?;
        let station = self
            .stations(bridge)?
            .into_iter()
            .find(|s| s.mac == mac && s.port == port && s.vlan.unwrap_or(0) == vlan.unwrap_or(0));
        let station = station.ok_or_else(|| Error::Database {
            what: format!("removing {mac}"),
            why: format!("it is not at {port}"),
        })?;
        fdb::forget(&self.run, bridge, &station)
    }

    fn flush(&mut self, bridge: &str, port: Option<&str>) -> Result<(), Error> {
        let Some(port) = port else {
            self.tables()?.bridge(bridge)?;
            return fdb::call(&self.run, "fdb/flush", &[bridge]).map(drop);
        };
        self.tables()?.port(bridge, port)?;
        for station in self.stations(bridge)? {
            if station.port == port && station.source == Source::Learned {
                fdb::forget(&self.run, bridge, &station)?;
            }
        }
        Ok(())
    }
}
