//! All guests: who they are, and how they are found again after the daemon was killed.
//!
//! Lock order: a guest's job, the list of guests, a guest's state.

mod change;
mod cids;
mod cpus;
pub mod definition;
pub mod domain;
mod found;
mod hotplug;
mod index;
mod lifecycle;
mod limits;
mod media;
pub mod pins;
pub mod plan;
mod store;

pub use change::Impact;
pub use cpus::Wanted;
pub use lifecycle::balloon_period;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::types::{Domain as WireDomain, MAX_DOMAINS, Uuid};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain as xml;
use serde::{Deserialize, Serialize};

use crate::events::{Events, Lifecycle};
use crate::files::make_private_folder;
use crate::groups::Groups;
use crate::guest::{Attached, Outside, RunFiles};
use crate::networks::plug::Tap;
use crate::networks::ports::Connected;
use crate::{Error, OpenKvm, uuid};
use definition::Definition;
use domain::{Domain, RtcState};
use index::Index;
use plan::NetworkPort;
use store::Store;

/// All guests.
pub struct Domains {
    list: Mutex<Index>,
    store: Store,
    /// One folder a guest that runs.
    guests: PathBuf,
    /// Is there once guests were started that start with the host.
    autostarted: PathBuf,
    next_id: AtomicI32,
    kvm: OpenKvm,
    /// Those who have the guests' networks and volumes.
    outside: Outside,
    /// What the host gives guests.
    groups: Groups,
    events: Arc<Events>,
    /// Of guests that run.
    cids: cids::Cids,
}

/// What becomes of the variables of a guest's firmware when its definition is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variables {
    /// Somebody has to say what: the definition stays, if there are any.
    MustNotBe,
    /// They go.
    Delete,
    /// They stay.
    Keep,
}

/// What is kept of a guest that runs.
#[derive(Debug, Serialize, Deserialize)]
struct RunStatus {
    id: i32,
    /// It was started paused, and may wait still.
    paused: bool,
    /// Its devices, by alias.
    #[serde(default)]
    devices: BTreeMap<String, Attached>,
    /// The number of the next device that is plugged in.
    #[serde(default = "first_plug")]
    next_plug: u32,
    /// Its CID, if it has a vsock.
    #[serde(default)]
    cid: Option<u32>,
    /// Its real-time clock.
    #[serde(default)]
    rtc: RtcState,
}

fn first_plug() -> u32 {
    1
}

impl RunStatus {
    /// Of a run that is about to begin.
    fn new(id: i32, paused: bool) -> Self {
        Self {
            id,
            paused,
            devices: BTreeMap::new(),
            next_plug: first_plug(),
            cid: None,
            rtc: RtcState::default(),
        }
    }
}

fn storage_failed(error: io::Error) -> RemoteError {
    RemoteError::new(Code::System, format!("cannot keep the definition: {error}"))
}

impl Domains {
    /// Reads all definitions, and finds the guests that run.
    pub fn open(
        definitions: &Path,
        runtime: &Path,
        kvm: OpenKvm,
        (outside, groups): (Outside, Groups),
        events: Arc<Events>,
    ) -> Result<Arc<Self>, Error> {
        let guests = runtime.join("guests");
        make_private_folder(&guests)?;
        let domains = Arc::new(Self {
            list: Mutex::default(),
            store: Store::open(definitions)?,
            guests,
            autostarted: runtime.join("autostarted"),
            next_id: AtomicI32::new(1),
            kvm,
            outside,
            groups,
            events,
            cids: cids::Cids::default(),
        });
        for (definition, autostart) in domains.store.load()? {
            let definition = Arc::new(definition);
            let domain = Domain::new(&definition, Some(definition.clone()), autostart);
            if let Some(other) = domains.list().insert(domain) {
                let name = other.state().name.clone();
                crate::log::note!(
                    "\"{}\" has the UUID of \"{name}\", which is left out",
                    definition.name
                );
            }
        }
        domains.find_running()?;
        Ok(domains)
    }

    fn list(&self) -> MutexGuard<'_, Index> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every guest, by UUID.
    pub fn all(&self) -> Vec<Arc<Domain>> {
        self.list().values().cloned().collect()
    }

    /// The guest that a client means.
    pub fn get(&self, domain: &WireDomain) -> Result<Arc<Domain>, RemoteError> {
        let found = self.list().get(&domain.uuid).cloned();
        found.ok_or_else(|| domain::no_domain(&domain.uuid, &domain.name))
    }

    /// The guest with this UUID.
    pub fn by_uuid(&self, uuid: &Uuid) -> Result<Arc<Domain>, RemoteError> {
        let found = self.list().get(uuid).cloned();
        found.ok_or_else(|| {
            let text = uuid::format(uuid);
            RemoteError::new(Code::NoDomain, format!("no domain with matching uuid '{text}'"))
        })
    }

    /// The guest of this name.
    pub fn by_name(&self, name: &str) -> Result<Arc<Domain>, RemoteError> {
        let found = self.list().by_name(name).cloned();
        found
            .ok_or_else(|| RemoteError::new(Code::NoDomain, format!("no domain with matching name '{name}'")))
    }

    /// The guest whose run has this number.
    pub fn by_id(&self, id: i32) -> Result<Arc<Domain>, RemoteError> {
        let runs = |domain: &&Arc<Domain>| domain.state().live.as_ref().is_some_and(|live| live.id == id);
        let found = self.list().values().find(runs).cloned();
        found.ok_or_else(|| RemoteError::new(Code::NoDomain, format!("no domain with matching id {id}")))
    }

    /// Keeps a definition: a new guest's, or another one of a guest that is there.
    pub fn define(&self, xml: &str) -> Result<WireDomain, RemoteError> {
        let definition = Arc::new(Definition::read(xml)?);
        let (domain, is_new) = self.claim(&definition)?;
        let _job = domain.job();
        self.store
            .save(&definition)
            .map_err(storage_failed)
            .inspect_err(|_| {
                if is_new {
                    self.list().remove(&domain.uuid);
                }
            })?;
        let mut state = domain.state();
        let step = match state.persistent.replace(definition) {
            Some(_) => Lifecycle::DefinedUpdated,
            None => Lifecycle::DefinedAdded,
        };
        let wire = domain.wire(&state);
        self.events.lifecycle(&wire, step);
        Ok(wire)
    }

    /// The guest of this name and UUID, made if it is not there; another one of the same name or UUID is an error.
    fn claim(&self, definition: &Definition) -> Result<(Arc<Domain>, bool), RemoteError> {
        let mut list = self.list();
        let taken = |why: String| Err(RemoteError::new(Code::OperationFailed, why));
        if let Some(domain) = list.get(&definition.uuid) {
            let name = domain.state().name.clone();
            if name != definition.name {
                let uuid = uuid::format(&definition.uuid);
                return taken(format!("domain '{name}' is already defined with uuid {uuid}"));
            }
            return Ok((domain.clone(), false));
        }
        if let Some(other) = list.by_name(&definition.name) {
            let (name, uuid) = (&definition.name, uuid::format(&other.uuid));
            return taken(format!("domain '{name}' already exists with uuid {uuid}"));
        }
        if list.len() >= MAX_DOMAINS {
            return taken(format!(
                "there are {MAX_DOMAINS} guests already, which is as many as clients can list"
            ));
        }
        let domain = Domain::new(definition, None, false);
        list.insert(domain.clone());
        Ok((domain, true))
    }

    /// Forgets a definition. A guest that runs goes on, and is gone when it ends.
    pub fn undefine(&self, domain: &Domain, variables: Variables) -> Result<(), RemoteError> {
        let _job = domain.job();
        let name = {
            let state = domain.state();
            if state.persistent.is_none() {
                return Err(RemoteError::new(
                    Code::OperationInvalid,
                    "cannot undefine transient domain",
                ));
            }
            state.name.clone()
        };
        let file = self.store.variables(&domain.uuid);
        if variables == Variables::MustNotBe && file.exists() {
            return Err(RemoteError::new(
                Code::OperationInvalid,
                "cannot undefine domain with nvram",
            ));
        }
        self.store.remove(&name).map_err(storage_failed)?;
        if variables == Variables::Delete
            && let Err(error) = fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            crate::log::note!("\"{}\" stays: {error}", file.display());
        }
        let mut state = domain.state();
        self.events.lifecycle(&domain.wire(&state), Lifecycle::Undefined);
        state.persistent = None;
        state.autostart = false;
        let runs = state.live.is_some();
        drop(state);
        if !runs {
            self.list().remove(&domain.uuid);
        }
        Ok(())
    }

    /// Gives a guest that does not run another name.
    pub fn rename(&self, domain: &Domain, name: &str) -> Result<(), RemoteError> {
        let _job = domain.job();
        let mut list = self.list();
        let mut state = domain.state();
        let invalid = |why: &str| Err(RemoteError::new(Code::OperationInvalid, why));
        let Some(persistent) = state.persistent.clone() else {
            return invalid("cannot rename a transient domain");
        };
        if state.live.is_some() {
            return invalid("cannot rename active domain");
        }
        if list.by_name(name).is_some() {
            return invalid(&format!("domain with name '{name}' already exists"));
        }
        let renamed = persistent.edit(|root| root.child_or_new("name").set_text(name))?;
        self.store.rename(&state.name, &renamed).map_err(storage_failed)?;
        self.events
            .lifecycle(&domain.wire(&state), Lifecycle::UndefinedRenamed);
        list.rename(&domain.uuid, &state.name, name);
        state.name = name.into();
        state.persistent = Some(Arc::new(renamed));
        self.events
            .lifecycle(&domain.wire(&state), Lifecycle::DefinedRenamed);
        Ok(())
    }

    /// Has a guest start with the host, or not.
    pub fn set_autostart(&self, domain: &Domain, autostart: bool) -> Result<(), RemoteError> {
        let _job = domain.job();
        let mut state = domain.state();
        if state.persistent.is_none() {
            let why = "cannot set autostart for transient domain";
            return Err(RemoteError::new(Code::OperationInvalid, why));
        }
        self.store
            .set_autostart(&state.name, autostart)
            .map_err(storage_failed)?;
        state.autostart = autostart;
        Ok(())
    }

    /// Has the files of definitions last as they are, at the daemon's end.
    pub fn settle_definitions(&self) {
        if let Err(error) = self.store.settle() {
            crate::log::note!("the next start has something of definitions to do yet: {error}");
        }
    }

    /// Starts the guests that start with the host, once for each time that the host starts.
    pub fn autostart(self: &Arc<Self>) {
        if self.autostarted.exists() {
            return;
        }
        let wanted: Vec<_> = self
            .all()
            .into_iter()
            .filter(|domain| {
                let state = domain.state();
                state.autostart && state.live.is_none()
            })
            .collect();
        let domains = self.clone();
        let start = move || {
            for domain in wanted {
                if let Err(error) = domains.start(&domain, false) {
                    crate::log::note!(
                        "guest {} does not start with the host: {error}",
                        domain.state().name
                    );
                }
            }
            // Last: should we be killed before, the next daemon starts the others.
            if let Err(error) = File::create(&domains.autostarted) {
                crate::log::note!("cannot write \"{}\": {error}", domains.autostarted.display());
            }
        };
        if let Err(error) = std::thread::Builder::new().name("autostart".into()).spawn(start) {
            crate::log::note!("no guest is started with the host: {error}");
        }
    }

    /// How many cards of guests that run are connected to a network.
    pub fn cards_at(&self, network: &str) -> usize {
        let at = |card: &xml::Interface| matches!(&card.source, xml::InterfaceSource::Network { network: at, .. } if at == network);
        let cards = |domain: &Arc<Domain>| {
            let state = domain.state();
            let live = state.live.as_ref();
            live.map_or(0, |live| {
                live.definition
                    .devices
                    .interfaces
                    .iter()
                    .filter(|card| at(card))
                    .count()
            })
        };
        self.all().iter().map(cards).sum()
    }

    /// The cards of guests that run and are connected to a network, in the order of the guests' names.
    pub fn ports_at(&self, network: &str) -> Vec<Connected> {
        let at = |card: &&xml::Interface| matches!(&card.source, xml::InterfaceSource::Network { network: at, .. } if at == network);
        let mut all = Vec::new();
        for domain in self.all() {
            let state = domain.state();
            let Some(live) = &state.live else { continue };
            let cards = live.definition.devices.interfaces.iter().filter(at);
            all.extend(cards.map(|card| Connected {
                guest: state.name.clone(),
                guest_uuid: domain.uuid,
                card: card.clone(),
            }));
        }
        all.sort_by(|a, b| a.guest.cmp(&b.guest));
        all
    }

    /// The taps of guests that run and belong to a network, with what their cards wish of it.
    pub fn taps_at(&self, network: &str) -> Vec<Tap> {
        let mut taps = Vec::new();
        for domain in self.all() {
            let state = domain.state();
            let Some(live) = &state.live else { continue };
            for card in &live.definition.devices.interfaces {
                let xml::InterfaceSource::Network {
                    network: at,
                    portgroup,
                } = &card.source
                else {
                    continue;
                };
                let attached = live.devices.get(card.common.alias.as_deref().unwrap_or_default());
                if at == network
                    && let Some(name) = attached.and_then(|attached| attached.port.clone())
                {
                    taps.push(Tap {
                        name,
                        guest: state.name.clone(),
                        mac: card.mac.to_string(),
                        wish: NetworkPort::of(card, network, portgroup.as_deref()),
                    });
                }
            }
        }
        taps
    }

    /// /dev/kvm, or why guests of the type `kvm` cannot be had.
    pub fn kvm(&self) -> Result<OwnedFd, String> {
        (self.kvm)()
    }

    /// Whether guests of the type `kvm` can be had.
    pub fn offers_kvm(&self) -> bool {
        (self.kvm)().is_ok()
    }

    fn files(&self, uuid: &Uuid) -> RunFiles {
        RunFiles::new(&self.guests.join(uuid::format(uuid)))
    }

    fn new_id(&self) -> i32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}
