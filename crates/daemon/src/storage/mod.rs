//! Storage: pools, and the volumes in them.
//!
//! A pool is a folder, a volume is a file in it. What is in a folder is read from it whenever somebody asks, so there is nothing to
//! go stale: a *refresh* looks whether the folder can be read, and tells so. Only regular files are volumes. They are opened
//! below the pool's folder without following a link, so that nothing leads out of it.
//!
//! Lock order: what changes pools ([`Pools`]' `changing`), the list, a pool's state.

mod copy;
mod download;
mod folder;
mod lifecycle;
mod mount;
mod paths;
mod pool;
mod upload;
mod volume;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::error::Source;
use ostler_libvirt::types::{StoragePool as WirePool, StorageVolume, Uuid};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::{Pool as Definition, PoolType};

use crate::definitions::Definitions;
use crate::subscriptions::Subscriptions;
use crate::{Error, uuid};
pub use download::Download;
use folder::Folder;
use paths::{clean, split};
pub use pool::Pool;
pub use upload::Upload;
pub use volume::Resize;

/// Numbers of the events of pools: life cycle, refresh.
const LIFECYCLE: i32 = 0;
const REFRESH: i32 = 1;

/// Where pools are kept.
pub struct Places<'a> {
    /// The folder of definitions, which last.
    pub definitions: &'a Path,
    /// The folder of pools that run, which may go with a reboot of the host.
    pub running: &'a Path,
    /// The folder of the pool `default`, if that one has to be made.
    pub images: &'a Path,
}

/// All pools.
pub struct Pools {
    /// Held by whoever starts, stops, defines or forgets a pool.
    changing: Mutex<()>,
    list: Mutex<BTreeMap<Uuid, Arc<Pool>>>,
    store: Definitions,
    /// The pools that run, as they were started.
    running: Definitions,
    subscriptions: Subscriptions,
    /// Volumes that are being copied or wiped.
    jobs: AtomicUsize,
}

/// An error of storage.
fn failed(code: Code, detail: impl Into<String>) -> RemoteError {
    RemoteError::new(code, detail).of(Source::Storage)
}

/// For `map_err`: the host did not let us do `what`.
fn refused<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> RemoteError {
    let what = what.into();
    move |error| failed(Code::System, format!("cannot {what}: {}", error.into()))
}

fn gone(pool: &Pool) -> RemoteError {
    failed(
        Code::NoStoragePool,
        format!("no storage pool with matching name '{}'", pool.name),
    )
}

fn read(xml: &str) -> Result<Definition, RemoteError> {
    let new = uuid::random().map_err(refused("make a UUID"))?;
    let mut random = |bytes: &mut [u8]| bytes.iter_mut().zip(new).for_each(|(to, from)| *to = from);
    let definition = Definition::define(xml, &mut random)
        .map_err(|error| crate::xml::refused(error).of(Source::Storage))?;
    if definition.kind == PoolType::Logical {
        let why = "pools of type 'logical' are not served, only 'dir' and 'fs'";
        return Err(failed(Code::ConfigUnsupported, why));
    }
    Ok(definition)
}

impl Pools {
    /// Reads all definitions, finds the pools that ran when the last daemon ended, and starts those that start with the host.
    pub fn open(places: &Places<'_>) -> Result<Arc<Self>, Error> {
        let pools = Arc::new(Self {
            changing: Mutex::default(),
            list: Mutex::default(),
            store: Definitions::open(places.definitions)?,
            running: Definitions::open(places.running)?,
            subscriptions: Subscriptions::new(LIFECYCLE..REFRESH + 1),
            jobs: AtomicUsize::new(0),
        });
        for (definition, autostart) in pools.store.load(read, |definition| definition.name.clone())? {
            let pool = pools.insert(&definition);
            let mut state = pool.state();
            state.persistent = Some(Arc::new(definition));
            state.autostart = autostart;
        }
        for (definition, _) in pools.running.load(read, |definition| definition.name.clone())? {
            if let Err(error) = pools
                .check_conflicts(&definition)
                .and_then(|()| mount::check(&definition))
            {
                crate::log::note!("pool {} runs no more: {error}", definition.name);
                let _ = pools.running.remove(&definition.name);
                continue;
            }
            if let Ok(folder) = Folder::open(&definition.target) {
                folder.remove_unfinished();
            }
            let pool = pools.insert(&definition);
            pool.state().active = Some(Arc::new(definition));
        }
        pools.make_default(places)?;
        pools.autostart(&places.running.join("autostarted"));
        Ok(pools)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Pool>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscriptions to what happens to pools.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Every pool, by UUID.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.list().values().cloned().collect()
    }

    /// The pool that a client means.
    pub fn get(&self, pool: &WirePool) -> Result<Arc<Pool>, RemoteError> {
        self.by_uuid(&pool.uuid).map_err(|_| {
            let uuid = uuid::format(&pool.uuid);
            let why = format!("no storage pool with matching uuid '{uuid}' ({})", pool.name);
            failed(Code::NoStoragePool, why)
        })
    }

    /// The pool with this UUID.
    pub fn by_uuid(&self, uuid: &Uuid) -> Result<Arc<Pool>, RemoteError> {
        self.list().get(uuid).cloned().ok_or_else(|| {
            let why = format!("no storage pool with matching uuid '{}'", uuid::format(uuid));
            failed(Code::NoStoragePool, why)
        })
    }

    /// The pool of this name.
    pub fn by_name(&self, name: &str) -> Result<Arc<Pool>, RemoteError> {
        let found = self.list().values().find(|pool| pool.name == name).cloned();
        found.ok_or_else(|| {
            let why = format!("no storage pool with matching name '{name}'");
            failed(Code::NoStoragePool, why)
        })
    }

    /// The pool with this folder.
    pub fn by_target(&self, path: &str) -> Result<Arc<Pool>, RemoteError> {
        let wanted = clean(path);
        let is_there = |pool: &&Arc<Pool>| {
            let state = pool.state();
            state
                .current()
                .is_some_and(|definition| clean(&definition.target) == wanted)
        };
        let found = self.list().values().find(is_there).cloned();
        found.ok_or_else(|| {
            let why = format!("no storage pool with matching target path '{path}'");
            failed(Code::NoStoragePool, why)
        })
    }

    /// The pool that runs, and the name in it, of the volume at `path`.
    pub fn by_path(&self, path: &str) -> Option<(Arc<Pool>, String)> {
        let (parent, name) = split(path)?;
        let real = |path: &str| fs::canonicalize(path).ok();
        let running = self.all().into_iter().filter_map(|pool| {
            let target = pool.state().active.as_ref()?.target.clone();
            Some((pool, target))
        });
        let running: Vec<_> = running.collect();
        // By the name that clients know it by, or another one of the same folder.
        let at = running
            .iter()
            .position(|(_, target)| clean(target) == parent)
            .or_else(|| {
                let parent = real(&parent)?;
                running
                    .iter()
                    .position(|(_, target)| real(target).is_some_and(|t| t == parent))
            })?;
        Some((running[at].0.clone(), name))
    }

    /// The path of the volume that `<disk type='volume'><source pool= volume=>` means, if it is there and its pool runs.
    pub fn volume_path(&self, pool: &str, volume: &str) -> Result<PathBuf, RemoteError> {
        let found = self.by_name(pool)?;
        let target = found.active()?.target.clone();
        let state = Folder::open(&target)?.look(volume)?;
        if state.format == "qcow2" {
            let why = format!(
                "the volume '{volume}' of '{pool}' is in the format qcow2, of which guests would see the bytes as they lie: convert \
                 it to raw"
            );
            return Err(RemoteError::new(Code::ConfigUnsupported, why));
        }
        Ok(Path::new(&target).join(volume))
    }

    /// The pool of a volume that a client names.
    pub fn pool_of(&self, volume: &StorageVolume) -> Result<Arc<Pool>, RemoteError> {
        self.by_name(&volume.pool)
    }
}

#[cfg(test)]
mod tests;
