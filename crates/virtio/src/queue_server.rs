//! A queue whose chains are answered one after the other.

use std::sync::Arc;

use ostler_memory::GuestRam;

use crate::chain::Chain;
use crate::device::{ActiveQueue, Notify};
use crate::error::GuestError;

/// How many chains are answered before the driver sees them, at most: a bound on its waiting.
const BATCH: usize = 64;

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done, with so many bytes written.
    Used(u32),
    /// It cannot be answered now: it stays in the queue, and so does what follows.
    Later,
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

    /// Hands every available chain to `handle`. True if all were answered.
    pub fn serve(
        &mut self,
        mut handle: impl FnMut(&Chain) -> Result<Answer, GuestError>,
    ) -> Result<bool, GuestError> {
        let mut unpublished = 0;
        let mut all = true;
        while self.active.vring.pop(&mut self.chain)? {
            match handle(&self.chain)? {
                Answer::Used(len) => self.active.vring.push_used(self.chain.head(), len)?,
                Answer::Later => {
                    self.active.vring.undo_pop(1);
                    all = false;
                    break;
                }
            }
            unpublished += 1;
            if unpublished == BATCH {
                unpublished = 0;
                publish(&mut self.active, &*self.notify)?;
            }
        }
        publish(&mut self.active, &*self.notify)?;
        Ok(all)
    }
}

/// Shows the driver what was used, and interrupts it if it wants to know.
pub(crate) fn publish(active: &mut ActiveQueue, notify: &dyn Notify) -> Result<(), GuestError> {
    if active.vring.publish()? {
        notify.queue(active.index);
    }
    Ok(())
}
