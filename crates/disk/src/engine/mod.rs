//! The two engines that carry requests to the host, and the choice between them.

mod aligned;
mod at_once;
mod host;
mod limits;
mod pool;
mod task;
mod uring;

use std::fs::File;
use std::sync::Arc;

pub(crate) use aligned::AlignedBuf;
pub(crate) use limits::Limits;

use crate::{DiskQueue, Error};

/// Who carries out a disk's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// io_uring where the host allows it, else threads.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Threads with blocking calls.
    Threads,
}

/// Opens a queue on `file`, on the engine asked for.
pub(crate) fn open_queue(
    file: &Arc<File>,
    limits: &Arc<Limits>,
    engine: Engine,
    depth: u32,
) -> Result<Box<dyn DiskQueue>, Error> {
    let failed = |source| Error::Host {
        what: "given a request queue",
        source,
    };
    if engine != Engine::Threads {
        match uring::UringQueue::new(file.clone(), limits.clone(), depth) {
            Ok(queue) => return Ok(Box::new(queue)),
            Err(error) if engine == Engine::Uring => return Err(failed(error)),
            Err(error) => tracing::info!("io_uring is refused ({error}); disk requests run on threads"),
        }
    }
    let queue = pool::PoolQueue::new(file.clone(), limits.clone(), depth).map_err(failed)?;
    Ok(Box::new(queue))
}

#[cfg(test)]
mod tests;
