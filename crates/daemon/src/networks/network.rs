//! One network: its definition, and what runs of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ostler_libvirt::types::{Network as WireNetwork, Uuid};
use ostler_libvirt::{Code, RemoteError};

use super::definition::Definition;
use super::switch::NetworkFiles;
use crate::uuid;

/// A network. Where both are needed, [`Network::job`] is taken before the state.
pub struct Network {
    /// What identifies it.
    pub uuid: Uuid,
    /// What it is called.
    pub name: String,
    job: Mutex<()>,
    state: Mutex<NetworkState>,
    /// It runs no more.
    ended: Condvar,
}

/// What there is to know of a network.
#[derive(Default)]
pub struct NetworkState {
    /// The definition that lasts; none for a network that is there while it runs only.
    pub persistent: Option<Arc<Definition>>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// It runs.
    pub live: Option<Live>,
}

/// A network that runs.
#[derive(Clone)]
pub struct Live {
    /// Tells this run from others.
    pub run: u64,
    /// What it was started as, with the changes since.
    pub definition: Arc<Definition>,
    /// Its files.
    pub files: NetworkFiles,
}

impl Network {
    /// A network that does not run.
    pub fn new(definition: &Definition) -> Arc<Self> {
        Arc::new(Self {
            uuid: definition.network.uuid.0,
            name: definition.network.name.clone(),
            job: Mutex::new(()),
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// The state, which nobody else looks at meanwhile.
    pub fn state(&self) -> MutexGuard<'_, NetworkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from starting, ending and defining it.
    pub fn job(&self) -> MutexGuard<'_, ()> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as clients name it.
    pub fn to_wire(&self) -> WireNetwork {
        WireNetwork {
            name: self.name.clone(),
            uuid: self.uuid,
        }
    }

    /// What runs of it; an error if it does not run.
    pub fn live(&self) -> Result<Live, RemoteError> {
        self.state().live.clone().ok_or_else(|| {
            let why = format!("network '{}' is not active", self.name);
            RemoteError::network(Code::OperationInvalid, why)
        })
    }

    /// Waits until run `run` is over; false if it takes longer than `patience`.
    pub fn wait_for_end(&self, run: u64, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut guard = self.state();
        while guard.live.as_ref().is_some_and(|live| live.run == run) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.ended.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Wakes those that wait for the end.
    pub fn tell_end(&self) {
        self.ended.notify_all();
    }
}

impl NetworkState {
    /// What it runs as, or would be started as.
    pub fn current(&self) -> Result<&Arc<Definition>, RemoteError> {
        let live = self.live.as_ref().map(|live| &live.definition);
        live.or(self.persistent.as_ref())
            .ok_or_else(|| RemoteError::network(Code::NoNetwork, "the network is gone"))
    }
}

/// The error that there is no such network.
pub fn no_network(uuid: &Uuid, name: &str) -> RemoteError {
    let why = format!("no network with matching uuid '{}' ({name})", uuid::format(uuid));
    RemoteError::network(Code::NoNetwork, why)
}
