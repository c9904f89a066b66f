//! Raw images: the file's bytes are the disk's bytes. Regular files and block devices.

mod probe;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::{self, Limits};
use crate::{Capacity, Describe, DiskQueue, Engine, Error, Features, Flush, OpenQueue, Resize, Topology};

/// A raw disk on an open descriptor.
#[derive(Debug)]
pub struct RawDisk {
    file: Arc<File>,
    limits: Arc<Limits>,
    topology: Topology,
    block_device: bool,
    engine: Engine,
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        crate::open::release_last(&self.file);
    }
}

impl RawDisk {
    /// The disk behind `file`, as [`crate::open::open`] opened it: its access mode says whether the disk is read-only,
    /// its `O_DIRECT` flag whether the page cache is used. Opens nothing.
    pub fn new(file: File) -> Result<Self, Error> {
        Self::with_engine(file, Engine::Auto)
    }

    /// The same with a chosen engine.
    pub fn with_engine(file: File, engine: Engine) -> Result<Self, Error> {
        let found = probe::probe(&file).map_err(|source| Error::Host {
            what: "examined",
            source,
        })?;
        let limits = Limits::new(0, found.readonly, found.align);
        limits.set_size(found.size.next_multiple_of(limits.block()));
        limits.can_punch.store(found.can_punch, Ordering::Relaxed);
        Ok(Self {
            file: Arc::new(file),
            limits: Arc::new(limits),
            topology: found.topology,
            block_device: found.block_device,
            engine,
        })
    }
}

impl Capacity for RawDisk {
    fn size(&self) -> u64 {
        self.limits.size()
    }
}

impl Describe for RawDisk {
    fn features(&self) -> Features {
        let writable = !self.limits.readonly;
        Features {
            readonly: self.limits.readonly,
            discard: writable && self.limits.can_punch.load(Ordering::Relaxed),
            write_zeroes: writable,
        }
    }

    fn topology(&self) -> Topology {
        self.topology
    }
}

impl Flush for RawDisk {
    fn flush(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|source| Error::Host {
            what: "flushed",
            source,
        })
    }
}

impl Resize for RawDisk {
    fn resize(&self, size: u64) -> Result<(), Error> {
        if self.limits.readonly {
            return Err(Error::ReadOnly);
        }
        if self.block_device {
            return Err(Error::BlockDevice);
        }
        if !size.is_multiple_of(self.limits.block()) || i64::try_from(size).is_err() {
            return Err(Error::Size(size));
        }
        // Requests beyond the new end are refused before it takes effect, and allowed only after.
        let old = self.limits.size();
        self.limits.set_size(size.min(old));
        if let Err(source) = self.file.set_len(size) {
            self.limits.set_size(old);
            return Err(Error::Host {
                what: "resized",
                source,
            });
        }
        self.limits.set_size(size);
        Ok(())
    }

    fn refresh(&self) -> Result<u64, Error> {
        let size = probe::size(&self.file).map_err(|source| Error::Host {
            what: "examined",
            source,
        })?;
        self.limits.set_size(size.next_multiple_of(self.limits.block()));
        Ok(self.limits.size())
    }
}

impl OpenQueue for RawDisk {
    fn open_queue(&self, depth: u32) -> Result<Box<dyn DiskQueue>, Error> {
        engine::open_queue(&self.file, &self.limits, self.engine, depth)
    }
}
