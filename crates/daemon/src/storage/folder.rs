//! The folder of a pool: which volumes are in it, and the way to each that leads nowhere else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ostler_libvirt::types::MAX_VOLUMES;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::{Permissions, PoolState, VolumeState};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{failed, refused};

/// How the name of a file begins that is not a whole volume yet.
const UNFINISHED: &str = ".ostler-new-";
/// Longest name in bytes, as the kernel has it.
const MAX_NAME: usize = 255;
/// Bytes of a block of `st_blocks`.
const BLOCK: u64 = 512;

/// How a volume's bytes lie in its file, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeFormat {
    /// Byte for byte.
    Raw,
    /// The same, and an ISO 9660 file system.
    Iso,
    /// QEMU's format of this number of bytes for the guest, which we do not read.
    Qcow2(u64),
}

/// An open volume.
pub struct Volume {
    /// Its file.
    pub file: File,
    /// Its path.
    pub path: PathBuf,
}

/// An open folder of a pool.
pub struct Folder {
    folder: OwnedFd,
    path: PathBuf,
}

/// A file of a volume that is being made; dropping it removes the file.
pub struct Unfinished<'a> {
    folder: &'a Folder,
    name: String,
    /// The file.
    pub file: File,
}

impl Folder {
    /// Opens the folder at `path`.
    pub fn open(path: &str) -> Result<Self, RemoteError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .map_err(refused(format!("open the pool's folder \"{path}\"")))?;
        Ok(Self {
            folder,
            path: path.into(),
        })
    }

    /// What its file system has, in bytes.
    pub fn measure(&self) -> Result<PoolState, RemoteError> {
        let found = rustix::fs::fstatvfs(&self.folder).map_err(refused("measure the pool's file system"))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let (capacity, available) = (bytes(found.f_blocks), bytes(found.f_bfree));
        Ok(PoolState {
            capacity,
            allocation: capacity.saturating_sub(available),
            available,
        })
    }

    /// The names of all volumes, in order.
    pub fn names(&self) -> Result<Vec<String>, RemoteError> {
        let mut names = Vec::new();
        self.each(|name| names.push(name))?;
        if names.len() > MAX_VOLUMES {
            let why = format!(
                "there are {} volumes, and clients can list {MAX_VOLUMES}; make a second pool",
                names.len()
            );
            return Err(failed(Code::OperationFailed, why));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// How many volumes there are.
    pub fn count(&self) -> Result<usize, RemoteError> {
        let mut count = 0;
        self.each(|_| count += 1)?;
        Ok(count)
    }

    fn each(&self, mut found: impl FnMut(String)) -> Result<(), RemoteError> {
        let cannot = || refused::<Errno>(format!("list the pool's folder \"{}\"", self.path.display()));
        for entry in Dir::read_from(&self.folder).map_err(cannot())? {
            let entry = entry.map_err(cannot())?;
            // What cannot be told to a client in XML is no volume.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if check_name(name).is_err() {
                continue;
            }
            let is_file = match entry.file_type() {
                FileType::RegularFile => true,
                FileType::Unknown => rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
                _ => false,
            };
            if is_file {
                found(name.into());
            }
        }
        Ok(())
    }

    /// Opens the volume `name`; for writing, or for looking at it.
    pub fn volume(&self, name: &str, writable: bool) -> Result<Volume, RemoteError> {
        let none = || {
            let why = format!("no storage vol with matching name '{name}'");
            failed(Code::NoStorageVolume, why)
        };
        check_name(name).map_err(|_| none())?;
        // Not through a link; and should it be a FIFO, opening it does not hang.
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let is_file =
            |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        // Looked at first, because opening a device may do something.
        match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_file(&stat) => {}
            _ => return Err(none()),
        }
        let path = self.path.join(name);
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(none()),
            Err(error) => return Err(refused(format!("open \"{}\"", path.display()))(error)),
        };
        match rustix::fs::fstat(&file) {
            Ok(stat) if is_file(&stat) => Ok(Volume { file, path }),
            _ => Err(none()),
        }
    }

    /// Looks at the volume `name`.
    pub fn look(&self, name: &str) -> Result<VolumeState, RemoteError> {
        self.volume(name, false)?.look(name)
    }

    /// Removes the volume `name`, which the caller has open.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())
            .and_then(|()| rustix::fs::fsync(&self.folder))
            .map_err(refused(format!("remove '{name}'")))
    }

    /// An empty file of the volume that is to be `name`. Nobody sees it before [`Unfinished::finish`].
    pub fn unfinished(&self, name: &str) -> Result<Unfinished<'_>, RemoteError> {
        check_name(name)
            .map_err(|why| failed(Code::Xml, format!("a volume cannot be called '{name}': {why}")))?;
        if rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(exists(name));
        }
        let random = crate::uuid::random().map_err(refused("make a name"))?;
        let name = format!("{UNFINISHED}{}", crate::uuid::format(&random));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR).map_err(refused(
                format!("make a file in the pool's folder \"{}\"", self.path.display()),
            ))?;
        let unfinished = Unfinished {
            folder: self,
            name,
            file: File::from(file),
        };
        // Tells one that somebody is at from one of a daemon that was killed.
        ostler_disk::open::lock(&unfinished.file, &self.path.join(&unfinished.name))
            .map_err(super::volume::locked)?;
        Ok(unfinished)
    }

    /// Removes what a daemon that was killed left of volumes that it was about to make.
    pub fn remove_unfinished(&self) {
        let Ok(entries) = Dir::read_from(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if name.starts_with(UNFINISHED)
                && entry.file_type() == FileType::RegularFile
                && let Ok(file) = rustix::fs::openat(&self.folder, name, flags, Mode::empty())
                && ostler_disk::open::lock(&File::from(file), Path::new(name)).is_ok()
            {
                let _ = self.remove(name);
            }
        }
    }
}

impl Unfinished<'_> {
    /// Has it be the volume `name` from now on.
    pub fn finish(mut self, name: &str) -> Result<(), RemoteError> {
        let folder = &self.folder.folder;
        let cannot = || refused::<Errno>(format!("name the new volume '{name}'"));
        // Before it has its name: a name may last sooner than what it stands for.
        rustix::fs::fsync(&self.file).map_err(cannot())?;
        let renamed = rustix::fs::renameat_with(folder, &self.name, folder, name, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => self.name.clear(),
            Err(Errno::EXIST) => return Err(exists(name)),
            // A file system that cannot do it that way; the name that is left is removed.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match rustix::fs::linkat(folder, &self.name, folder, name, AtFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => return Err(exists(name)),
                    Err(error) => return Err(cannot()(error)),
                }
            }
            Err(error) => return Err(cannot()(error)),
        }
        rustix::fs::fsync(folder).map_err(cannot())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // It may be gone already.
            let _ = self.folder.remove(&self.name);
        }
    }
}

impl Volume {
    /// What there is to know of it.
    pub fn look(&self, name: &str) -> Result<VolumeState, RemoteError> {
        let meta = self
            .file
            .metadata()
            .map_err(refused(format!("look at '{name}'")))?;
        let format = self.format();
        let time = |seconds: i64, nanoseconds: i64| (seconds.max(0) as u64, nanoseconds as u32);
        Ok(VolumeState {
            name: name.into(),
            path: self.path.to_string_lossy().into_owned(),
            block: false,
            format: format.name().into(),
            capacity: match format {
                VolumeFormat::Qcow2(capacity) => capacity,
                _ => meta.len(),
            },
            allocation: meta.blocks().saturating_mul(BLOCK),
            physical: meta.len(),
            permissions: Permissions {
                mode: Some(meta.mode() & 0o7777),
                owner: Some(meta.uid()),
                group: Some(meta.gid()),
            },
            times: Some([
                time(meta.atime(), meta.atime_nsec()),
                time(meta.mtime(), meta.mtime_nsec()),
                time(meta.ctime(), meta.ctime_nsec()),
            ]),
        })
    }

    /// What its first bytes say.
    pub fn format(&self) -> VolumeFormat {
        /// Where ISO 9660 has its name (ECMA-119, 8.1.2).
        const ISO: u64 = 0x8001;
        let mut head = [0; 32];
        if self.file.read_exact_at(&mut head, 0).is_ok()
            && head.starts_with(b"QFI\xfb")
            && matches!(head[4..8], [0, 0, 0, 2 | 3])
        {
            let size = head[24..].try_into().unwrap_or_default();
            return VolumeFormat::Qcow2(u64::from_be_bytes(size));
        }
        let mut name = [0; 5];
        match self.file.read_exact_at(&mut name, ISO) {
            Ok(()) if &name == b"CD001" => VolumeFormat::Iso,
            _ => VolumeFormat::Raw,
        }
    }
}

impl VolumeFormat {
    /// Its name for clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Iso => "iso",
            Self::Qcow2(_) => "qcow2",
        }
    }
}

fn exists(name: &str) -> RemoteError {
    failed(Code::StorageVolumeExists, format!("'{name}'"))
}

/// Whether a file of this name may be a volume.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        Err("a name has 1 to 255 bytes")
    } else if name.contains('/') || matches!(name, "." | "..") {
        Err("it would lead out of the pool")
    } else if name
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
    {
        Err("it has a control character")
    } else if name.starts_with(UNFINISHED) {
        Err("names like that are those of unfinished volumes")
    } else {
        Ok(())
    }
}
