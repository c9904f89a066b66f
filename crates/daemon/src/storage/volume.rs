//! What is done with volumes.

use std::os::unix::fs::fchown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ostler_libvirt::error::Source;
use ostler_libvirt::types::StorageVolume;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::{Volume as Wish, VolumeState};
use rustix::fs::{Mode, fchmod};

use super::folder::{Folder, Unfinished, Volume, VolumeFormat};
use super::pool::{Hold, Pool};
use super::{Pools, copy, failed, refused};

/// Mode of a volume that does not say one.
const MODE: u32 = 0o600;
/// Volumes that are copied or wiped at a time: the threads that do it are those of all calls.
const MAX_JOBS: usize = 8;

/// How a volume gets another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// Bytes.
    pub capacity: u64,
    /// The bytes are a difference, to less if it may shrink.
    pub delta: bool,
    /// It may become smaller.
    pub shrink: bool,
    /// What is added is given blocks at once.
    pub allocate: bool,
}

/// A copy or a wipe that goes on.
struct Job<'a>(&'a Pools);

impl Drop for Job<'_> {
    fn drop(&mut self) {
        self.0.jobs.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An error of opening a disk, as clients are told it.
pub(super) fn locked(error: ostler_disk::Error) -> RemoteError {
    match error {
        ostler_disk::Error::InUse { path } => {
            let why = format!(
                "\"{}\" is in use, by a guest or by another client",
                path.display()
            );
            failed(Code::ResourceBusy, why)
        }
        other => failed(Code::OperationFailed, other.to_string()),
    }
}

/// A volume as clients name it.
fn to_wire(pool: &Pool, state: &VolumeState) -> StorageVolume {
    StorageVolume {
        pool: pool.name.clone(),
        name: state.name.clone(),
        key: state.path.clone(),
    }
}

/// An error unless its bytes are the guest's.
fn check_raw(volume: &Volume, what: &str) -> Result<(), RemoteError> {
    match volume.format() {
        VolumeFormat::Qcow2(_) => {
            let path = volume.path.display();
            let why = format!("\"{path}\" is a qcow2 image, and only raw ones can be {what}");
            Err(failed(Code::ConfigUnsupported, why))
        }
        VolumeFormat::Raw | VolumeFormat::Iso => Ok(()),
    }
}

impl Pools {
    /// The folder of the pool of a volume, and what keeps it.
    fn hold(&self, volume: &StorageVolume) -> Result<(Folder, Hold, Arc<Pool>), RemoteError> {
        let pool = self.pool_of(volume)?;
        let (definition, hold) = pool.hold()?;
        Ok((Folder::open(&definition.target)?, hold, pool))
    }

    fn job(&self) -> Result<Job<'_>, RemoteError> {
        let job = Job(self);
        if self.jobs.fetch_add(1, Ordering::SeqCst) >= MAX_JOBS {
            let why =
                format!("{MAX_JOBS} volumes are being made, copied or wiped; try again when one is done");
            return Err(failed(Code::ResourceBusy, why));
        }
        Ok(job)
    }

    /// The volumes of a pool.
    pub fn volumes(&self, pool: &Pool) -> Result<Vec<StorageVolume>, RemoteError> {
        let definition = pool.active()?;
        let names = Folder::open(&definition.target)?.names()?;
        let wire = |name: String| StorageVolume {
            pool: pool.name.clone(),
            key: std::path::Path::new(&definition.target)
                .join(&name)
                .to_string_lossy()
                .into_owned(),
            name,
        };
        Ok(names.into_iter().map(wire).collect())
    }

    /// The volume of this name.
    pub fn volume(&self, pool: &Pool, name: &str) -> Result<StorageVolume, RemoteError> {
        let definition = pool.active()?;
        Ok(to_wire(pool, &Folder::open(&definition.target)?.look(name)?))
    }

    /// The volume at this path. `what` is how the client calls it, a key or a path.
    pub fn volume_at(&self, path: &str, what: &str) -> Result<StorageVolume, RemoteError> {
        let none = || {
            let why = format!("no storage vol with matching {what} '{path}'");
            failed(Code::NoStorageVolume, why)
        };
        let (pool, name) = self.by_path(path).ok_or_else(none)?;
        self.volume(&pool, &name).map_err(|error| match error.code {
            Code::NoStorageVolume => none(),
            _ => error,
        })
    }

    /// What there is to know of a volume.
    pub fn look(&self, volume: &StorageVolume) -> Result<VolumeState, RemoteError> {
        let definition = self.pool_of(volume)?.active()?;
        Folder::open(&definition.target)?.look(&volume.name)
    }

    /// Makes a volume of zeroes.
    pub fn create_volume(&self, pool: &Arc<Pool>, xml: &str) -> Result<StorageVolume, RemoteError> {
        let wish = Wish::parse(xml, None).map_err(|error| crate::xml::refused(error).of(Source::Storage))?;
        let _job = self.job()?;
        let (definition, _hold) = pool.hold()?;
        let folder = Folder::open(&definition.target)?;
        let new = folder.unfinished(&wish.name)?;
        let cannot = || refused::<std::io::Error>(format!("make the volume '{}'", wish.name));
        new.file.set_len(wish.capacity).map_err(cannot())?;
        copy::allocate(&new.file, 0, wish.allocation).map_err(cannot())?;
        finish(pool, &folder, new, &wish)
    }

    /// Makes a volume that begins with what another one has.
    pub fn copy_volume(
        &self,
        pool: &Arc<Pool>,
        xml: &str,
        source: &StorageVolume,
        share_only: bool,
    ) -> Result<StorageVolume, RemoteError> {
        let _job = self.job()?;
        let (from, _from_hold, _) = self.hold(source)?;
        let from = from.volume(&source.name, false)?;
        check_raw(&from, "copied")?;
        ostler_disk::open::lock(&from.file, &from.path).map_err(locked)?;
        let length = from.look(&source.name)?.capacity;
        let wish =
            Wish::parse(xml, Some(length)).map_err(|error| crate::xml::refused(error).of(Source::Storage))?;
        let (definition, _hold) = pool.hold()?;
        let folder = Folder::open(&definition.target)?;
        let new = folder.unfinished(&wish.name)?;
        let cannot = || {
            let how = if share_only { " with its blocks shared" } else { "" };
            refused::<std::io::Error>(format!("copy '{}' to '{}'{how}", source.name, wish.name))
        };
        copy::copy(&from.file, &new.file, share_only).map_err(cannot())?;
        // It is never smaller than what it is a copy of.
        new.file.set_len(wish.capacity.max(length)).map_err(cannot())?;
        finish(pool, &folder, new, &wish)
    }

    /// Removes a volume.
    pub fn delete_volume(&self, volume: &StorageVolume) -> Result<(), RemoteError> {
        let (folder, _hold, _) = self.hold(volume)?;
        let open = folder.volume(&volume.name, false)?;
        // Not while a guest has it for writing.
        ostler_disk::open::lock(&open.file, &open.path).map_err(locked)?;
        folder.remove(&volume.name)
    }

    /// Gives a volume another size.
    pub fn resize_volume(&self, volume: &StorageVolume, how: Resize) -> Result<(), RemoteError> {
        let (folder, _hold, _) = self.hold(volume)?;
        let open = folder.volume(&volume.name, true)?;
        check_raw(&open, "resized")?;
        ostler_disk::open::lock(&open.file, &open.path).map_err(locked)?;
        let now = open.look(&volume.name)?.capacity;
        let wanted = how.wanted(now)?;
        let cannot = || refused::<std::io::Error>(format!("resize '{}'", volume.name));
        if how.allocate && wanted > now {
            // The blocks first: where there are too few, it stays as it is.
            if let Err(error) = copy::allocate(&open.file, now, wanted) {
                let _ = open.file.set_len(now);
                return Err(cannot()(error));
            }
        }
        open.file.set_len(wanted).map_err(cannot())?;
        open.file.sync_all().map_err(cannot())
    }

    /// Writes zeroes over a volume.
    pub fn wipe_volume(&self, volume: &StorageVolume) -> Result<(), RemoteError> {
        let _job = self.job()?;
        let (folder, _hold, _) = self.hold(volume)?;
        let open = folder.volume(&volume.name, true)?;
        check_raw(&open, "wiped")?;
        ostler_disk::open::lock(&open.file, &open.path).map_err(locked)?;
        copy::wipe(&open.file).map_err(refused(format!("wipe '{}'", volume.name)))
    }

    /// Opens a volume for a stream of its bytes.
    pub(super) fn open_volume(
        &self,
        volume: &StorageVolume,
        writable: bool,
    ) -> Result<(Volume, Hold, Arc<Pool>), RemoteError> {
        let (folder, hold, pool) = self.hold(volume)?;
        let open = folder.volume(&volume.name, writable)?;
        ostler_disk::open::lock(&open.file, &open.path).map_err(locked)?;
        Ok((open, hold, pool))
    }
}

impl Resize {
    /// The size of a volume that has `now` bytes.
    fn wanted(self, now: u64) -> Result<u64, RemoteError> {
        let wanted = match (self.delta, self.shrink) {
            (false, _) => Some(self.capacity),
            (true, false) => now.checked_add(self.capacity),
            (true, true) => Some(now.saturating_sub(self.capacity)),
        };
        let wanted = wanted
            .filter(|wanted| *wanted <= i64::MAX as u64)
            .ok_or_else(|| {
                let why = format!("a volume cannot have {now} and {} bytes", self.capacity);
                failed(Code::InvalidArgument, why)
            })?;
        if wanted < now && !self.shrink {
            let why = "Can't shrink capacity below current capacity unless shrink flag explicitly specified";
            return Err(failed(Code::InvalidArgument, why));
        }
        Ok(wanted)
    }
}

/// Gives a new volume its owner, its mode and its name.
fn finish(
    pool: &Pool,
    folder: &Folder,
    new: Unfinished<'_>,
    wish: &Wish,
) -> Result<StorageVolume, RemoteError> {
    let cannot = || refused::<std::io::Error>(format!("set owner and mode of '{}'", wish.name));
    let permissions = wish.permissions;
    fchown(&new.file, permissions.owner, permissions.group).map_err(cannot())?;
    // After the owner, whose change takes bits away.
    let mode = Mode::from_raw_mode(permissions.mode.unwrap_or(MODE));
    fchmod(&new.file, mode).map_err(|error| cannot()(error.into()))?;
    new.finish(&wish.name)?;
    Ok(to_wire(pool, &folder.look(&wish.name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_asked_for() {
        let how = |capacity, delta, shrink| {
            let resize = Resize {
                capacity,
                delta,
                shrink,
                allocate: false,
            };
            resize.wanted(100).ok()
        };
        assert_eq!(how(150, false, false), Some(150));
        assert_eq!(how(50, false, false), None);
        assert_eq!(how(50, false, true), Some(50));
        assert_eq!(how(50, true, false), Some(150));
        assert_eq!(how(30, true, true), Some(70));
        assert_eq!(how(300, true, true), Some(0));
        assert_eq!(how(u64::MAX, true, false), None);
        assert_eq!(how(u64::MAX, false, false), None);
    }
}
