//! All networks: who they are, and how they are found again after the daemon was killed.
//!
//! A network is a process of `ostler switch`, a bridge of the kernel's that is made for it (with such a process for addresses and names),
//! or a bridge of the host that is there already. The process outlives the daemon, and is known by its control socket alone:
//! `switch-NAME.sock` in the runtime folder, where `ostler net` looks for it too.
//!
//! Lock order: a network's job, the list of networks, a network's state.

pub mod definition;
mod events;
mod kernel;
mod lifecycle;
pub mod network;
pub mod plug;
pub mod ports;
mod router;
mod store;
mod switch;
mod update;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::types::{DhcpLease, MAX_NETWORKS, Network as WireNetwork, Uuid};
use ostler_libvirt::{Code, RemoteError};

use crate::{Error, uuid};
use definition::Definition;
use events::{NetworkEvents, Step};
use network::{Network, no_network};
use store::Store;
use switch::NetworkFiles;

/// The network that every daemon starts with, as libvirt's package has it.
const DEFAULT: &str = "<network>\n  <name>default</name>\n  <forward mode='nat'/>\n  \
    <bridge name='virbr0' stp='on' delay='0'/>\n  <ip address='192.168.122.1' netmask='255.255.255.0'>\n    \
    <dhcp>\n      <range start='192.168.122.2' end='192.168.122.254'/>\n    </dhcp>\n  </ip>\n</network>\n";

/// All networks.
pub struct Networks {
    list: Mutex<BTreeMap<Uuid, Arc<Network>>>,
    store: Store,
    runtime: PathBuf,
    next_run: AtomicU64,
    /// Who is told of changes.
    pub events: NetworkEvents,
}

fn storage_failed(error: io::Error) -> RemoteError {
    RemoteError::network(Code::System, format!("cannot keep the definition: {error}"))
}

impl Networks {
    /// No network yet; definitions are in the folder `definitions`, what belongs to those that run in `runtime`.
    pub fn open(definitions: &Path, runtime: &Path) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            list: Mutex::default(),
            store: Store::open(definitions)?,
            runtime: runtime.into(),
            next_run: AtomicU64::new(0),
            events: NetworkEvents::default(),
        }))
    }

    /// Reads all definitions, and finds the networks that run. The first time there is one called `default`.
    pub fn load(self: &Arc<Self>) -> Result<(), Error> {
        for (definition, autostart) in self.store.load()? {
            let network = Network::new(&definition);
            let mut state = network.state();
            state.persistent = Some(Arc::new(definition));
            state.autostart = autostart;
            drop(state);
            if let Some(other) = self.list().insert(network.uuid, network.clone()) {
                crate::log::note!(
                    "\"{}\" has the UUID of \"{}\", which is left out",
                    network.name,
                    other.name
                );
            }
        }
        if self.store.is_first_start() {
            self.add_default();
        }
        self.find_running()
    }

    /// What goes wrong here leaves the host without this network, as its owner may want.
    fn add_default(&self) {
        let made = if self.by_name("default").is_err() {
            self.define_default()
        } else {
            Ok(())
        };
        let noted = made.and_then(|()| self.store.note_first_start().map_err(storage_failed));
        if let Err(error) = noted {
            crate::log::note!("there is no network \"default\": {error}");
        }
    }

    fn define_default(&self) -> Result<(), RemoteError> {
        // First that it starts with the host: should we be killed in between, there is none yet.
        self.store
            .set_autostart("default", true)
            .map_err(storage_failed)?;
        let network = self.define(DEFAULT).inspect_err(|_| {
            let _ = self.store.set_autostart("default", false);
        })?;
        self.get(&network)?.state().autostart = true;
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Network>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every network, by UUID.
    pub fn all(&self) -> Vec<Arc<Network>> {
        self.list().values().cloned().collect()
    }

    /// The network that a client means.
    pub fn get(&self, network: &WireNetwork) -> Result<Arc<Network>, RemoteError> {
        let found = self.list().get(&network.uuid).cloned();
        found.ok_or_else(|| no_network(&network.uuid, &network.name))
    }

    /// The network with this UUID.
    pub fn by_uuid(&self, uuid: &Uuid) -> Result<Arc<Network>, RemoteError> {
        let found = self.list().get(uuid).cloned();
        found.ok_or_else(|| {
            let why = format!("no network with matching uuid '{}'", uuid::format(uuid));
            RemoteError::network(Code::NoNetwork, why)
        })
    }

    /// The network of this name.
    pub fn by_name(&self, name: &str) -> Result<Arc<Network>, RemoteError> {
        let found = self.list().values().find(|network| network.name == name).cloned();
        found.ok_or_else(|| {
            RemoteError::network(Code::NoNetwork, format!("no network with matching name '{name}'"))
        })
    }

    /// Reads a definition. A bridge that it does not name is called as no other one is.
    fn read(&self, xml: &str) -> Result<Definition, RemoteError> {
        let taken: Vec<String> = self.bridges().map(|(_, bridge)| bridge).collect();
        let interfaces = Path::new("/sys/class/net");
        let mut names = (0..).map(|number| format!("virbr{number}"));
        let is_free = |name: &String| !taken.contains(name) && !interfaces.join(name).exists();
        let free = names.find(is_free).unwrap_or_default();
        let definition = Definition::read(xml, &free)?;
        let uuid = definition.network.uuid.0;
        if self
            .by_name(&definition.network.name)
            .is_ok_and(|other| other.uuid != uuid)
        {
            // That name is taken, which is said first.
            return Ok(definition);
        }
        let other = self
            .bridges()
            .find(|(other, bridge)| *other != uuid && Some(bridge.as_str()) == definition.bridge());
        match (definition.way.owns_bridge(), other) {
            (true, Some((_, bridge))) => Err(RemoteError::network(
                Code::Internal,
                format!("bridge name '{bridge}' already in use."),
            )),
            _ => Ok(definition),
        }
    }

    /// The names of bridges of our own, and whose they are.
    fn bridges(&self) -> impl Iterator<Item = (Uuid, String)> {
        let bridge = |network: Arc<Network>| {
            let state = network.state();
            let definitions = state.live.iter().map(|live| live.definition.clone());
            let definitions = definitions.chain(state.persistent.clone());
            let own = definitions.filter(|definition| definition.way.owns_bridge());
            let names = own.filter_map(|definition| definition.bridge().map(str::to_owned));
            names.map(|name| (network.uuid, name)).collect::<Vec<_>>()
        };
        self.all().into_iter().flat_map(bridge)
    }

    /// Keeps a definition: a new network's, or another one of a network that is there.
    pub fn define(&self, xml: &str) -> Result<WireNetwork, RemoteError> {
        let definition = Arc::new(self.read(xml)?);
        let (network, is_new) = self.claim(&definition)?;
        let _job = network.job();
        self.store
            .save(&definition)
            .map_err(storage_failed)
            .inspect_err(|_| {
                if is_new {
                    self.list().remove(&network.uuid);
                }
            })?;
        let mut state = network.state();
        state.persistent = Some(definition);
        let wire = network.to_wire();
        self.events.tell(&wire, Step::Defined);
        Ok(wire)
    }

    /// The network of this name and UUID, made if it is not there; another one of the same name or UUID is an error.
    fn claim(&self, definition: &Definition) -> Result<(Arc<Network>, bool), RemoteError> {
        let (name, uuid) = (&definition.network.name, definition.network.uuid.0);
        let mut list = self.list();
        let taken = |why: String| Err(RemoteError::network(Code::OperationFailed, why));
        if let Some(network) = list.get(&uuid) {
            if network.name != *name {
                let uuid = uuid::format(&uuid);
                return taken(format!(
                    "network '{}' is already defined with uuid {uuid}",
                    network.name
                ));
            }
            return Ok((network.clone(), false));
        }
        if let Some(other) = list.values().find(|network| network.name == *name) {
            let uuid = uuid::format(&other.uuid);
            return taken(format!("network '{name}' already exists with uuid {uuid}"));
        }
        if list.len() >= MAX_NETWORKS {
            return taken(format!(
                "there are {MAX_NETWORKS} networks already, which is as many as clients can list"
            ));
        }
        let network = Network::new(definition);
        list.insert(network.uuid, network.clone());
        Ok((network, true))
    }

    /// Forgets a definition. A network that runs goes on, and is gone when it ends.
    pub fn undefine(&self, network: &Network) -> Result<(), RemoteError> {
        let _job = network.job();
        if network.state().persistent.is_none() {
            let why = "can't undefine transient network";
            return Err(RemoteError::network(Code::OperationInvalid, why));
        }
        self.store.remove(&network.name).map_err(storage_failed)?;
        let mut state = network.state();
        self.events.tell(&network.to_wire(), Step::Undefined);
        state.persistent = None;
        state.autostart = false;
        let runs = state.live.is_some();
        drop(state);
        if !runs {
            self.list().remove(&network.uuid);
        }
        Ok(())
    }

    /// Has a network start with the host, or not.
    pub fn set_autostart(&self, network: &Network, autostart: bool) -> Result<(), RemoteError> {
        let _job = network.job();
        let mut state = network.state();
        if state.persistent.is_none() {
            let why = "cannot set autostart for transient network";
            return Err(RemoteError::network(Code::OperationInvalid, why));
        }
        self.store
            .set_autostart(&network.name, autostart)
            .map_err(storage_failed)?;
        state.autostart = autostart;
        Ok(())
    }

    /// The addresses that guests got, of all cards or one.
    pub fn leases(&self, network: &Network, mac: Option<&str>) -> Result<Vec<DhcpLease>, RemoteError> {
        let live = network.live()?;
        let Some(router) = live.definition.way.router() else {
            return Ok(Vec::new());
        };
        let only = mac.map(|mac| mac.parse::<ostler_libvirt_xml::Mac>()).transpose();
        let only = only.map_err(|()| {
            let mac = mac.unwrap_or_default();
            RemoteError::network(Code::InvalidArgument, format!("'{mac}' is no MAC address"))
        })?;
        let prefix = |address: Option<&str>| {
            let bits = address.and_then(|address| address.split_once('/'));
            bits.and_then(|(_, bits)| bits.parse().ok())
        };
        let prefixes = [
            prefix(Some(&router.address)).unwrap_or(24),
            prefix(router.address6.as_deref()).unwrap_or(64),
        ];
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let answer = switch::execute(&live.files.control, "leases", serde_json::json!({}))?;
        let text = |lease: &serde_json::Value, field: &str| lease[field].as_str().map(str::to_owned);
        let mut leases = Vec::new();
        for lease in answer.as_array().into_iter().flatten() {
            let mac = text(lease, "mac");
            if only.is_some() && mac.as_deref().and_then(|mac| mac.parse().ok()) != only {
                continue;
            }
            let address = text(lease, "address").unwrap_or_default();
            let is_v6 = address.contains(':');
            leases.push(DhcpLease {
                interface: live.definition.bridge().unwrap_or_default().to_owned(),
                expires: now + lease["remaining"].as_i64().unwrap_or(0),
                kind: is_v6.into(),
                mac,
                iaid: None,
                address,
                prefix: prefixes[usize::from(is_v6)],
                hostname: text(lease, "name"),
                client_id: text(lease, "client-id"),
            });
        }
        Ok(leases)
    }

    /// The files of a network that runs, or will.
    fn files(&self, uuid: &Uuid, name: &str) -> NetworkFiles {
        let folder = self.runtime.join("networks").join(uuid::format(uuid));
        let control = self
            .runtime
            .join(format!("switch-{}.sock", switch_name(uuid, name)));
        NetworkFiles { folder, control }
    }
}

/// What the network's switch is called: as the network, if switches may be called so.
fn switch_name(uuid: &Uuid, name: &str) -> String {
    match ostler_switchd::check_name(name) {
        Ok(()) => name.into(),
        Err(_) => format!("net-{}", uuid::format(uuid)),
    }
}
