//! The life of pools: defined, built, started, stopped, deleted, forgotten; and telling of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use ostler_libvirt::procedures::{EVENT_POOL_LIFECYCLE, EVENT_POOL_REFRESH};
use ostler_libvirt::types::{MAX_POOLS, PoolLifecycleMessage, PoolRefreshMessage, StoragePool as WirePool};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::Pool as Definition;

use super::folder::Folder;
use super::paths::{clean, escape};
use super::{LIFECYCLE, Places, Pool, Pools, REFRESH, failed, gone, mount, pool, read, refused};
use crate::files::write_durably;
use crate::{Error, uuid};

/// The name of the pool that is there from the first start.
const DEFAULT: &str = "default";
/// Mode of the folder of a pool that does not say one.
const FOLDER_MODE: u32 = 0o711;

/// A step in a pool's life (`virStoragePoolEventLifecycleType`).
#[derive(Debug, Clone, Copy)]
enum Step {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
    Created = 4,
    Deleted = 5,
}

impl Pools {
    /// Makes the pool `default` at the first start of all. Who undefines it does not get it back.
    pub(super) fn make_default(&self, places: &Places<'_>) -> Result<(), Error> {
        let made = places.definitions.join("default-was-made");
        if made.exists() {
            return Ok(());
        }
        if self.by_name(DEFAULT).is_err()
            && let Err(error) = self.define_default(places.images)
        {
            crate::log::note!(
                "the pool {DEFAULT} cannot be made in \"{}\": {error}",
                places.images.display()
            );
        }
        // For good: else it would come back for who undefined it.
        write_durably(&made, b"").map_err(Error::file("write", &made))
    }

    fn define_default(&self, images: &Path) -> Result<(), RemoteError> {
        let path = std::path::absolute(images).map_err(refused("find the folder of images"))?;
        let xml = format!(
            "<pool type='dir'><name>{DEFAULT}</name><target><path>{}</path></target></pool>",
            escape(&path.to_string_lossy())
        );
        let definition = read(&xml)?;
        self.check_conflicts(&definition)?;
        // What belongs to it comes before it: should we be killed in between, there is none yet.
        self.build_folder(&Pool::new(DEFAULT, definition.uuid.0), &definition)?;
        self.store
            .set_autostart(DEFAULT, true)
            .map_err(refused("keep that"))?;
        self.define(&xml).inspect_err(|_| {
            let _ = self.store.set_autostart(DEFAULT, false);
        })?;
        let pool = self.by_name(DEFAULT)?;
        pool.state().autostart = true;
        self.start(&pool)
    }

    /// Starts the pools that start with the host, once for each time that the host starts.
    pub(super) fn autostart(&self, done: &Path) {
        if done.exists() {
            return;
        }
        for pool in self.all() {
            let wanted = {
                let state = pool.state();
                state.autostart && state.active.is_none()
            };
            if !wanted {
                continue;
            }
            if let Err(error) = self.start(&pool) {
                crate::log::note!("pool {} does not start with the host: {error}", pool.name);
            }
        }
        // Last: should we be killed before, the next daemon starts the others.
        if let Err(error) = File::create(done) {
            crate::log::note!("cannot write \"{}\": {error}", done.display());
        }
    }

    /// Keeps a definition: a new pool's, or another one of a pool that is there.
    pub fn define(&self, xml: &str) -> Result<WirePool, RemoteError> {
        let definition = read(xml)?;
        let _changing = self.changing();
        self.check_conflicts(&definition)?;
        self.store
            .save(&definition.name, &definition.xml(None))
            .map_err(refused("keep the definition"))?;
        let pool = self.insert(&definition);
        pool.state().persistent = Some(Arc::new(definition));
        self.tell(&pool, Step::Defined);
        Ok(pool.to_wire())
    }

    /// Starts a pool that is there while it runs only; `build` has the flags of building it first.
    pub fn create(&self, xml: &str, build: Option<u32>) -> Result<WirePool, RemoteError> {
        let definition = read(xml)?;
        let _changing = self.changing();
        self.check_conflicts(&definition)?;
        if let Ok(pool) = self.by_name(&definition.name)
            && pool.state().active.is_some()
        {
            return Err(already_active(&pool.name));
        }
        let known = self.list().contains_key(&definition.uuid.0);
        let pool = self.insert(&definition);
        let name = definition.name.clone();
        let started = match build {
            Some(flags) => {
                pool::check_build_flags(flags).and_then(|()| self.build_folder(&pool, &definition))
            }
            None => Ok(()),
        };
        let started = started.and_then(|()| self.start_as(&pool, definition));
        if started.is_err() && !known {
            self.list().remove(&pool.uuid);
        }
        started.map(|()| WirePool {
            name,
            uuid: pool.uuid,
        })
    }

    /// Another pool may not have the name, the UUID or the folder.
    pub(super) fn check_conflicts(&self, definition: &Definition) -> Result<(), RemoteError> {
        let taken = |why: String| Err(failed(Code::OperationFailed, why));
        let target = clean(&definition.target);
        let list = self.list();
        for pool in list.values() {
            if pool.uuid == definition.uuid.0 && pool.name == definition.name {
                continue;
            }
            if pool.uuid == definition.uuid.0 {
                let uuid = definition.uuid;
                return taken(format!(
                    "pool '{}' is already defined with uuid {uuid}",
                    pool.name
                ));
            }
            if pool.name == definition.name {
                let uuid = uuid::format(&pool.uuid);
                return taken(format!("pool '{}' already exists with uuid {uuid}", pool.name));
            }
            let state = pool.state();
            if [&state.persistent, &state.active]
                .into_iter()
                .flatten()
                .any(|other| clean(&other.target) == target)
            {
                return taken(format!("Storage source conflict with pool: '{}'", pool.name));
            }
        }
        if list.len() >= MAX_POOLS && !list.contains_key(&definition.uuid.0) {
            return taken(format!(
                "there are {MAX_POOLS} pools already, which is as many as clients can list"
            ));
        }
        Ok(())
    }

    /// The pool of a definition, made if it is not there.
    pub(super) fn insert(&self, definition: &Definition) -> Arc<Pool> {
        let uuid = definition.uuid.0;
        let new = || Pool::new(&definition.name, uuid);
        self.list().entry(uuid).or_insert_with(new).clone()
    }

    /// Forgets a definition.
    pub fn undefine(&self, pool: &Pool) -> Result<(), RemoteError> {
        let _changing = self.changing();
        pool.check_inactive()?;
        if pool.state().persistent.is_none() {
            return Err(gone(pool));
        }
        self.store
            .remove(&pool.name)
            .map_err(refused("forget the definition"))?;
        let mut state = pool.state();
        state.persistent = None;
        state.autostart = false;
        drop(state);
        self.list().remove(&pool.uuid);
        self.tell(pool, Step::Undefined);
        Ok(())
    }

    /// Has a pool start with the host, or not.
    pub fn set_autostart(&self, pool: &Pool, autostart: bool) -> Result<(), RemoteError> {
        let _changing = self.changing();
        let mut state = pool.state();
        if state.persistent.is_none() {
            let why = "pool has no config file";
            return Err(failed(Code::OperationInvalid, why));
        }
        self.store
            .set_autostart(&pool.name, autostart)
            .map_err(refused("keep that"))?;
        state.autostart = autostart;
        Ok(())
    }

    /// Makes the folder of a pool that does not run. It may be there already.
    pub fn build(&self, pool: &Pool, flags: u32) -> Result<(), RemoteError> {
        let _changing = self.changing();
        pool.check_inactive()?;
        let definition = pool.state().persistent.clone().ok_or_else(|| gone(pool))?;
        pool::check_build_flags(flags)?;
        self.build_folder(pool, &definition)
    }

    fn build_folder(&self, pool: &Pool, definition: &Definition) -> Result<(), RemoteError> {
        let path = Path::new(&definition.target);
        let permissions = definition.permissions;
        let what = || format!("make the folder \"{}\"", path.display());
        if let Some(parent) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(refused(what()))?;
        }
        let is_new = match fs::DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => false,
            Err(error) => return Err(refused(what())(error)),
        };
        let mode = permissions.mode.or(is_new.then_some(FOLDER_MODE));
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused(what()))?;
        }
        std::os::unix::fs::chown(path, permissions.owner, permissions.group).map_err(refused(what()))?;
        self.tell(pool, Step::Created);
        Ok(())
    }

    /// Removes the folder of a pool that does not run. It has to be empty.
    pub fn delete(&self, pool: &Pool) -> Result<(), RemoteError> {
        let _changing = self.changing();
        pool.check_inactive()?;
        let definition = pool.state().persistent.clone().ok_or_else(|| gone(pool))?;
        let path = &definition.target;
        fs::remove_dir(path).map_err(refused(format!("remove the folder \"{path}\"")))?;
        self.tell(pool, Step::Deleted);
        Ok(())
    }

    /// Starts a pool that is defined.
    pub fn start(&self, pool: &Pool) -> Result<(), RemoteError> {
        let _changing = self.changing();
        let definition = pool.state().persistent.clone().ok_or_else(|| gone(pool))?;
        self.start_as(pool, Definition::clone(&definition))
    }

    /// The same after its folder was made.
    pub fn build_and_start(&self, pool: &Pool, flags: u32) -> Result<(), RemoteError> {
        self.build(pool, flags)?;
        self.start(pool)
    }

    fn start_as(&self, pool: &Pool, definition: Definition) -> Result<(), RemoteError> {
        if pool.state().active.is_some() {
            return Err(already_active(&pool.name));
        }
        mount::mount(&definition)?;
        let noted = Folder::open(&definition.target)
            .map(|folder| folder.remove_unfinished())
            .and_then(|()| {
                self.running
                    .save(&pool.name, &definition.xml(None))
                    .map_err(refused("note that the pool runs"))
            });
        if let Err(error) = noted {
            let _ = mount::unmount(&definition);
            return Err(error);
        }
        pool.state().active = Some(Arc::new(definition));
        self.tell(pool, Step::Started);
        Ok(())
    }

    /// Stops a pool; one that is there while it runs only is gone then.
    pub fn stop(&self, pool: &Pool) -> Result<(), RemoteError> {
        let _changing = self.changing();
        let definition = pool.take_active()?;
        let stopped = mount::unmount(&definition).and_then(|()| {
            self.running
                .remove(&pool.name)
                .map_err(refused("note that the pool runs no more"))
        });
        if let Err(error) = stopped {
            pool.state().active = Some(definition);
            return Err(error);
        }
        if pool.state().persistent.is_none() {
            self.list().remove(&pool.uuid);
        }
        self.tell(pool, Step::Stopped);
        Ok(())
    }

    /// Looks whether the folder of a pool that runs can be read, and tells so.
    pub fn refresh(&self, pool: &Pool) -> Result<(), RemoteError> {
        let definition = pool.active()?;
        mount::check(&definition)?;
        Folder::open(&definition.target)?.count()?;
        self.tell_refresh(pool);
        Ok(())
    }

    /// Tells that the volumes of a pool may have changed.
    pub(super) fn tell_refresh(&self, pool: &Pool) {
        let wire = pool.to_wire();
        self.subscriptions
            .tell(REFRESH, EVENT_POOL_REFRESH, &pool.uuid, |callback| {
                PoolRefreshMessage {
                    callback,
                    pool: wire.clone(),
                }
            });
    }

    fn tell(&self, pool: &Pool, step: Step) {
        crate::log::note!("pool {}: {step:?}", pool.name);
        let wire = pool.to_wire();
        self.subscriptions
            .tell(LIFECYCLE, EVENT_POOL_LIFECYCLE, &pool.uuid, |callback| {
                PoolLifecycleMessage {
                    callback,
                    pool: wire.clone(),
                    event: step as i32,
                    detail: 0,
                }
            });
    }
}

fn already_active(name: &str) -> RemoteError {
    failed(
        Code::OperationInvalid,
        format!("storage pool '{name}' is already active"),
    )
}
