//! A volume's bytes from a client.
//!
//! They are written by the thread that reads from the client, so that a client is read from no faster than the disk writes, and
//! nothing but the packet at hand is in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::types::{StorageVolume, StreamHole};
use ostler_libvirt::{Code, Kind, Message, RemoteError, Status, xdr};

use super::pool::{Hold, Pool};
use super::{Pools, copy, failed, refused};
use crate::stream::{Peer, Stream};

/// An upload.
pub struct Upload {
    peer: Peer,
    /// None once it is over.
    target: Mutex<Option<Target>>,
}

/// Where it goes.
struct Target {
    writer: Writer,
    pools: Arc<Pools>,
    pool: Arc<Pool>,
    _hold: Hold,
}

/// The file and the place in it.
struct Writer {
    file: File,
    at: u64,
    /// How much more may come; as much as the client likes if none.
    left: Option<u64>,
    /// Holes may come.
    sparse: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        // Whether all came or not, the volume is another one now.
        self.pools.tell_refresh(&self.pool);
    }
}

impl Upload {
    /// Takes bytes for `volume` from `offset` on: `length` of them at most, or any number if that is 0.
    pub fn start(
        pools: &Arc<Pools>,
        volume: &StorageVolume,
        (offset, length): (u64, u64),
        sparse: bool,
        peer: Peer,
    ) -> Result<Arc<Self>, RemoteError> {
        let (open, hold, pool) = pools.open_volume(volume, true)?;
        let end = offset.checked_add(length).filter(|end| *end <= i64::MAX as u64);
        if end.is_none() {
            let why = format!("no file has {length} bytes from {offset} on");
            return Err(failed(Code::InvalidArgument, why));
        }
        Ok(Arc::new(Self {
            peer,
            target: Mutex::new(Some(Target {
                writer: Writer {
                    file: open.file,
                    at: offset,
                    left: (length != 0).then_some(length),
                    sparse,
                },
                pools: pools.clone(),
                pool,
                _hold: hold,
            })),
        }))
    }

    fn target(&self) -> MutexGuard<'_, Option<Target>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Upload {
    fn take(&self, message: Message) -> bool {
        let mut target = self.target();
        if message.header.status != Status::Continue {
            // The end is told after the refresh, so that the client finds what it sent.
            let was_there = target.take().is_some();
            drop(target);
            if was_there || message.header.status == Status::Error {
                self.peer.end();
            }
            return true;
        }
        let Some(writer) = target.as_mut().map(|target| &mut target.writer) else {
            return false;
        };
        let taken = match message.header.kind {
            Kind::Hole => writer.hole(&message.payload),
            _ => writer.data(&message.payload),
        };
        if let Err(error) = taken {
            *target = None;
            drop(target);
            self.peer.fail(&error);
        }
        false
    }

    fn is_over(&self) -> bool {
        self.target().is_none()
    }

    fn close(&self) {
        *self.target() = None;
    }
}

impl Writer {
    /// The place behind `length` more bytes, if they may come.
    fn behind(&mut self, length: u64) -> Result<u64, RemoteError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or_else(|| {
                let why = "more data than the length that was announced; nothing of this packet was written";
                failed(Code::OperationFailed, why)
            })?;
        }
        let end = self.at.checked_add(length).filter(|end| *end <= i64::MAX as u64);
        end.ok_or_else(|| failed(Code::Overflow, "the data goes on behind what a file can have"))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        let end = self.behind(bytes.len() as u64)?;
        self.file
            .write_all_at(bytes, self.at)
            .map_err(refused("write to the volume"))?;
        self.at = end;
        Ok(())
    }

    fn hole(&mut self, payload: &[u8]) -> Result<(), RemoteError> {
        let wrong = |why: String| failed(Code::InvalidArgument, why);
        let hole: StreamHole = xdr::from_bytes(payload).map_err(|error| wrong(format!("a hole: {error}")))?;
        let length = u64::try_from(hole.length)
            .ok()
            .filter(|_| hole.flags == 0 && self.sparse);
        let length = length.ok_or_else(|| wrong(format!("a hole of {} bytes here", hole.length)))?;
        let end = self.behind(length)?;
        self.zeroes(end).map_err(refused("make a hole in the volume"))?;
        self.at = end;
        Ok(())
    }

    /// Has nothing but a hole from here to `end`.
    fn zeroes(&self, end: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        copy::punch(&self.file, self.at, end.min(length))?;
        if end > length {
            self.file.set_len(end)?;
        }
        Ok(())
    }
}
