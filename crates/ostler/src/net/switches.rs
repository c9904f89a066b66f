//! Our own switches as a back end, seen and changed by their control sockets.

use std::path::{Path, PathBuf};

use ostler_hostnet::{Kernel, Mac};
use ostler_switchd::client::Client;
use ostler_switchd::config::{Edge, PortSpec};
use ostler_switchd::{control_path_in, switches_in};
use serde_json::{Value, json};

use super::back_end::{BackEnd, PortWish, Which, Wish};
use super::capture::CaptureArgs;
use super::created::Created;
use super::model::{Forward, Kind, Network, Port, Station, Stations, Stp};
use super::port::Place;
use super::vlans::{VlanList, Vlans};
use crate::failure::Failure;

/// The switches whose control sockets are in a folder.
pub struct Switches {
    /// Without one, only those that are named by the path of their socket.
    folder: Option<PathBuf>,
}

fn unsupported(what: &str) -> Failure {
    Failure::bad_input(format!("{} cannot do that: {what}", Kind::Switch))
}

/// A value of an answer, or its absence.
fn member<T: serde::de::DeserializeOwned>(answer: &Value, name: &str) -> Option<T> {
    serde_json::from_value(answer.get(name)?.clone()).ok()
}

/// What an answer should have been.
fn understood<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::failed(format!(
            "what answers at the control socket is no switch: {error}"
        ))
    })
}

impl Switches {
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn control(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = match &self.folder {
            Some(folder) => control_path_in(folder, name),
            None => ostler_switchd::control_path(name),
        };
        path.map_err(Failure::bad_input)
    }

    fn client(&self, name: &str) -> Result<Client, Failure> {
        Client::connect(&self.control(name)?).map_err(Failure::bad_input)
    }

    fn ask(&self, name: &str, command: &str, arguments: Value) -> Result<Value, Failure> {
        let answer = self.client(name)?.execute(command, arguments);
        answer.map_err(Failure::bad_input)
    }

    /// Where switches of that name that we make are.
    fn created(&self, name: &str) -> Option<Created> {
        let folder = self.folder.as_deref().filter(|_| !name.contains('/'))?;
        Some(Created::new(folder, name))
    }

    fn view(&self, name: &str) -> Result<Network, Failure> {
        let mut client = self.client(name)?;
        let mut ask = |command: &str| client.execute(command, Value::Null).map_err(Failure::bad_input);
        let (answer, ports) = (ask("show")?, ask("ports")?);
        network(&answer, understood(ports)?)
    }
}

/// A switch as it answers.
fn network(answer: &Value, ports: Vec<Port>) -> Result<Network, Failure> {
    let stp = match answer.get("stp") {
        Some(Value::Object(_)) => understood(answer["stp"].clone())?,
        _ => Stp {
            protocol: "off".into(),
            ..Stp::default()
        },
    };
    let routers: Vec<Value> = member(answer, "routers").unwrap_or_default();
    let forward = routers.first().map(|router| {
        let isolated = router["restrict"] == true;
        Forward {
            mode: if isolated { "isolated" } else { "nat" }.into(),
            address: member(router, "address").unwrap_or_default(),
            ports: None,
            out: None,
        }
    });
    Ok(Network {
        name: member(answer, "name").unwrap_or_default(),
        kind: Kind::Switch,
        up: true,
        mac: member(answer, "mac"),
        mtu: None,
        vlan_filtering: Some(true),
        ageing: member(answer, "ageing"),
        stations: member(answer, "stations"),
        stp,
        forward,
        ports,
        pid: member(answer, "pid"),
        uptime: member(answer, "uptime"),
        fdb_entries: member(answer, "fdb-entries"),
        fdb_evictions: member(answer, "fdb-evictions"),
        routers,
    })
}

/// VLANs as a switch's configuration says them: of an access port, or of a trunk with its native one.
#[derive(Default)]
struct Said {
    vlan: Option<u16>,
    trunk: Option<String>,
    native: Option<u16>,
}

fn said(vlans: &Vlans) -> Result<Said, Failure> {
    let native = vlans.pvid;
    if vlans.untagged != VlanList::new(native) {
        return Err(unsupported(
            "its ports send no VLAN without a tag but the PVID, and the PVID always so",
        ));
    }
    match (native, vlans.tagged.0.is_empty()) {
        (None, true) => Err(unsupported("a port is in one VLAN at least")),
        (Some(_), true) => Ok(Said {
            vlan: native,
            ..Said::default()
        }),
        (_, false) => Ok(Said {
            vlan: None,
            trunk: Some(vlans.tagged.to_string()),
            native,
        }),
    }
}

/// The switch's process has a working folder of its own.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::failed(format!("there is no working folder: {error}")))
}

/// Puts where a port leads into its description.
fn lead(spec: &mut PortSpec, place: Place) -> Result<(), Failure> {
    match place {
        Place::Interface(name) => {
            let name = name.unwrap_or_else(|| spec.name.clone());
            let taps = Kernel::open().and_then(|mut kernel| kernel.taps());
            let taps = taps.map_err(super::host::failure)?;
            match taps.iter().any(|tap| tap.name == name) {
                true => spec.tap = Some(name),
                false => spec.packet = Some(name),
            }
        }
        Place::Tap(name) => spec.tap = Some(name),
        Place::Packet(name) => spec.packet = Some(name),
        Place::Listen(path) => spec.listen = Some(absolute(&path)?),
        Place::Connect(path) => spec.connect = Some(absolute(&path)?),
        Place::VhostUser(path) => spec.vhost_user = Some(absolute(&path)?),
        Place::VhostUserConnect(path) => spec.vhost_user_connect = Some(absolute(&path)?),
        Place::Guest => spec.guest = true,
    }
    Ok(())
}

impl BackEnd for Switches {
    fn kind(&self) -> Kind {
        Kind::Switch
    }

    /// Those that answer.
    fn networks(&mut self) -> Result<Vec<Network>, Failure> {
        let names = self.folder.as_deref().map(switches_in).unwrap_or_default();
        Ok(names.iter().filter_map(|name| self.view(name).ok()).collect())
    }

    fn has(&mut self, name: &str) -> Result<bool, Failure> {
        if ostler_switchd::check_name(name).is_err() || self.folder.is_none() {
            return Ok(false);
        }
        let dead = self.created(name).is_some_and(|created| created.is_there());
        Ok(dead || self.control(name)?.exists())
    }

    fn network(&mut self, name: &str) -> Result<Network, Failure> {
        self.view(name)
    }

    fn create(&mut self, name: &str, wish: Wish) -> Result<(), Failure> {
        let control = self.control(name)?;
        let created = self.created(name).ok_or_else(|| {
            Failure::bad_input(format!(
                "`{name}` cannot be made: give a name instead of a path, and have XDG_RUNTIME_DIR or --runtime say where its socket goes"
            ))
        })?;
        created.start(name, &control, &wish)
    }

    fn set(&mut self, name: &str, wish: Wish) -> Result<(), Failure> {
        let settings = &wish.settings;
        if wish.forward.is_some() || wish.datapath.is_some() {
            return Err(unsupported("its router is configured when it starts"));
        }
        if settings.ageing.is_some() || settings.mtu.is_some() || settings.vlan_filtering == Some(false) {
            return Err(unsupported(
                "the ageing time is configured when it starts, each port has an MTU of its own, and VLANs are always known",
            ));
        }
        let version = match settings.protocol {
            None => Value::Null,
            Some(ostler_hostnet::Protocol::Rstp) => "rstp".into(),
            Some(ostler_hostnet::Protocol::Stp) => "stp".into(),
            Some(ostler_hostnet::Protocol::Off) => {
                return Err(unsupported(
                    "whether it has a spanning tree is configured when it starts",
                ));
            }
        };
        let arguments = json!({
            "version": version, "priority": settings.priority, "max-age": settings.max_age, "hello": settings.hello,
            "forward-delay": settings.forward_delay, "transmit-hold": wish.transmit_hold,
        });
        self.ask(name, "stp-set", arguments).map(drop)
    }

    fn delete(&mut self, name: &str) -> Result<(), Failure> {
        let control = self.control(name)?;
        match self.created(name).filter(Created::is_there) {
            Some(created) => created.end(&control),
            None => Err(Failure::bad_input(format!(
                "`ostler net create` did not make `{name}`; end its process where it was started: `ostler switch run`, or a network of \
                 the daemon's"
            ))),
        }
    }

    fn add_port(&mut self, network: &str, port: &str, place: Place, wish: PortWish) -> Result<(), Failure> {
        let mut spec = PortSpec {
            name: port.into(),
            edge: Edge::Auto,
            ..PortSpec::default()
        };
        lead(&mut spec, place)?;
        if let Some(vlans) = &wish.vlans {
            let said = said(vlans)?;
            (spec.vlan, spec.trunk, spec.native) = (said.vlan, said.trunk, said.native);
        }
        let mut arguments = serde_json::to_value(spec).map_err(Failure::failed)?;
        if let Some(all) = arguments.as_object_mut() {
            // The usual value is that of a setting that is left out.
            all.extend(wish.settings.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.ask(network, "port-add", arguments).map(drop)
    }

    fn set_port(&mut self, network: &str, port: &str, wish: PortWish) -> Result<(), Failure> {
        let mut settings = wish.settings;
        if let Some(vlans) = &wish.vlans {
            let Said { vlan, trunk, native } = said(vlans)?;
            settings.insert("vlan".into(), vlan.into());
            settings.insert("trunk".into(), trunk.into());
            settings.insert("native".into(), native.into());
        }
        let arguments = json!({ "port": port, "settings": settings });
        self.ask(network, "port-set", arguments).map(drop)
    }

    fn remove_port(&mut self, network: &str, port: &str) -> Result<(), Failure> {
        self.ask(network, "port-remove", json!({ "port": port }))
            .map(drop)
    }

    fn stations(&mut self, network: &str, which: &Which) -> Result<Stations, Failure> {
        let arguments = json!({ "port": which.port, "vlan": which.vlan });
        let answer = self.ask(network, "fdb", arguments)?;
        let all: Vec<Value> = member(&answer, "stations").unwrap_or_default();
        let station = |entry: &Value| Station {
            mac: member(entry, "mac").unwrap_or_default(),
            vlan: member(entry, "vlan"),
            port: member(entry, "port").unwrap_or_default(),
            source: if entry["static"] == true {
                "static"
            } else {
                "learned"
            }
            .into(),
            age: member(entry, "age"),
        };
        Ok(Stations {
            left_out: member(&answer, "left-out").unwrap_or_default(),
            stations: all.iter().map(station).collect(),
        })
    }

    fn add_station(&mut self, network: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Failure> {
        let arguments = json!({ "mac": mac.to_string(), "port": port, "vlan": vlan.unwrap_or(1) });
        self.ask(network, "fdb-add", arguments).map(drop)
    }

    fn remove_station(&mut self, network: &str, mac: Mac, which: &Which) -> Result<(), Failure> {
        let text = mac.to_string();
        let mut found = self.stations(network, which)?.stations;
        found.retain(|station| station.mac == text);
        let vlan = match found.as_slice() {
            [station] => station.vlan,
            // It says that there is none.
            [] if which.port.is_none() => which.vlan,
            [] => {
                return Err(Failure::bad_input(format!(
                    "{text} is not at that port; `ostler net fdb {network}` shows where stations are"
                )));
            }
            _ => {
                return Err(Failure::bad_input(format!(
                    "{text} is known in several VLANs; say which with --vlan"
                )));
            }
        };
        let arguments = json!({ "mac": text, "vlan": vlan.unwrap_or(1) });
        self.ask(network, "fdb-remove", arguments).map(drop)
    }

    fn flush(&mut self, network: &str, which: &Which) -> Result<(), Failure> {
        let arguments = json!({ "port": which.port, "vlan": which.vlan });
        self.ask(network, "fdb-flush", arguments).map(drop)
    }

    fn execute(&mut self, network: &str, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.ask(network, command, arguments)
    }

    fn capture(&mut self, network: &str, args: CaptureArgs) -> Result<(), Failure> {
        args.of_switch(self.client(network)?)
    }
}
