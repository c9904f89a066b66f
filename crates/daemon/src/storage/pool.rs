//! One pool: its definition, and what it was started as.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::types::{StoragePool as WirePool, Uuid};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::{Pool as Definition, PoolState};

use super::folder::Folder;
use super::{failed, gone};

/// A pool.
pub struct Pool {
    /// What it is called.
    pub name: String,
    /// What identifies it.
    pub uuid: Uuid,
    state: Mutex<State>,
}

/// What there is to know of a pool.
#[derive(Default)]
pub struct State {
    /// The definition that lasts; none for one that is there while it runs only.
    pub persistent: Option<Arc<Definition>>,
    /// What it was started as, while it runs.
    pub active: Option<Arc<Definition>>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Volumes that are being made or changed, for which it has to run on.
    busy: usize,
}

impl State {
    /// What it runs as, or would be started as.
    pub fn current(&self) -> Option<&Arc<Definition>> {
        self.active.as_ref().or(self.persistent.as_ref())
    }
}

/// Keeps a pool from being stopped.
pub struct Hold(Arc<Pool>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

impl Pool {
    pub(super) fn new(name: &str, uuid: Uuid) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            uuid,
            state: Mutex::default(),
        })
    }

    /// The state, which nobody else looks at meanwhile.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool as clients name it.
    pub fn to_wire(&self) -> WirePool {
        WirePool {
            name: self.name.clone(),
            uuid: self.uuid,
        }
    }

    /// What it was started as; an error if it does not run.
    pub fn active(&self) -> Result<Arc<Definition>, RemoteError> {
        self.state().active.clone().ok_or_else(|| self.not_active())
    }

    fn not_active(&self) -> RemoteError {
        failed(
            Code::OperationInvalid,
            format!("storage pool '{}' is not active", self.name),
        )
    }

    /// An error if it runs.
    pub(super) fn check_inactive(&self) -> Result<(), RemoteError> {
        match self.state().active {
            None => Ok(()),
            Some(_) => Err(failed(
                Code::OperationInvalid,
                format!("storage pool '{}' is still active", self.name),
            )),
        }
    }

    /// Keeps it running until what is returned is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Result<(Arc<Definition>, Hold), RemoteError> {
        let mut state = self.state();
        let definition = state.active.clone().ok_or_else(|| self.not_active())?;
        state.busy += 1;
        drop(state);
        Ok((definition, Hold(self.clone())))
    }

    /// Has it run no more, unless volumes are being changed.
    pub(super) fn take_active(&self) -> Result<Arc<Definition>, RemoteError> {
        let mut state = self.state();
        if state.busy > 0 {
            let why = format!("pool '{}' has asynchronous jobs running.", self.name);
            return Err(failed(Code::OperationInvalid, why));
        }
        state.active.take().ok_or_else(|| self.not_active())
    }
}

impl Pool {
    /// The definition, or the pool as it runs, with what was measured of it.
    pub fn xml(&self, inactive: bool) -> Result<String, RemoteError> {
        let (definition, is_active) = {
            let state = self.state();
            let chosen = match (&state.active, &state.persistent) {
                (_, Some(persistent)) if inactive => Some(persistent),
                (Some(active), _) => Some(active),
                (None, persistent) => persistent.as_ref(),
            };
            let chosen = chosen.cloned().ok_or_else(|| gone(self))?;
            (chosen, state.active.is_some() && !inactive)
        };
        let measured = match is_active {
            true => Some(self.measure()?),
            false => None,
        };
        Ok(definition.xml(measured.as_ref()))
    }

    /// What its file system has, in bytes.
    pub fn measure(&self) -> Result<PoolState, RemoteError> {
        let definition = self.active()?;
        Folder::open(&definition.target)?.measure()
    }
}

/// Refuses flags of building that ask for more than a folder.
pub(super) fn check_build_flags(flags: u32) -> Result<(), RemoteError> {
    match flags {
        0 => Ok(()),
        _ => Err(failed(
            Code::OperationUnsupported,
            "to build a pool makes its folder, and nothing is repaired, resized or written over by that; leave the flag out, and \
             make a file system with mkfs",
        )),
    }
}
