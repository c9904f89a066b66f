//! A queue whose chains are answered one after the other.

use std::sync::Arc;

use ostler_memory::GuestRam;

use crate::chain::Chain;
use crate::device::{ActiveQueue, Notify};
use crate::error::GuestError;

/// How many chains are answered in one go: a bound on the driver's waiting, and on how long a worker looks at nothing else.
const BATCH: usize = 64;

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done, with so many bytes written.
    Used(u32),
    /// It cannot be answered now: it stays in the queue, and so does what follows.
    Later,
}

/// How far a queue was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// Every available chain was answered.
    All,
    /// The handler cannot answer the next one now.
    Later,
    /// The batch is full: look at the worker's other events, then go on.
    More,
}

/// One queue with what is needed to serve it.
pub(crate) struct QueueServer {
    pub active: ActiveQueue,
    chain: Chain,
    notify: Arc<dyn Notify>,
}

impl QueueServer {
    pub fn new(active: ActiveQueue, ram: Arc<GuestRam>, notify: Arc<dyn Notify>) -> Self {
        Self {
            active,
            chain: Chain::new(ram),
            notify,
        }
    }

    /// Hands available chains to `handle`, a batch of them at most, and shows the driver the answers.
    pub fn serve(
        &mut self,
        handle: impl FnMut(&Chain) -> Result<Answer, GuestError>,
    ) -> Result<Served, GuestError> {
        let served = self.serve_batch(handle);
        publish(&mut self.active, &*self.notify)?;
        served
    }

    fn serve_batch(
        &mut self,
        mut handle: impl FnMut(&Chain) -> Result<Answer, GuestError>,
    ) -> Result<Served, GuestError> {
        for _ in 0..BATCH {
            if !self.active.vring.pop(&mut self.chain)? {
                return Ok(Served::All);
            }
            match handle(&self.chain)? {
                Answer::Used(len) => self.active.vring.push_used(self.chain.head(), len)?,
                Answer::Later => {
                    self.active.vring.undo_pop(1);
                    return Ok(Served::Later);
                }
            }
        }
        Ok(Served::More)
    }
}

/// Shows the driver what was used, and interrupts it if it wants to know.
pub(crate) fn publish(active: &mut ActiveQueue, notify: &dyn Notify) -> Result<(), GuestError> {
    if active.vring.publish()? {
        notify.queue(active.index);
    }
    Ok(())
}
