//! From the guest's buffers to the back end (virtio 1.2, 5.1.6.2).

use std::sync::Arc;

use ostler_memory::GuestRam;
use ostler_netio::{HEADER_LEN, NetQueue, Sent};

use super::receive::Round;
use crate::chain::Chain;
use crate::device::{ActiveQueue, Notify};
use crate::error::GuestError;
use crate::metrics::DeviceMetrics;
use crate::queue_server::publish;

/// Frames moved before the other direction gets its turn.
const BUDGET: usize = 64;

/// A transmit queue.
pub(crate) struct Transmitter {
    pub active: ActiveQueue,
    chain: Chain,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
}

impl Transmitter {
    pub fn new(
        active: ActiveQueue,
        ram: Arc<GuestRam>,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
    ) -> Self {
        Self {
            active,
            chain: Chain::new(ram),
            notify,
            metrics,
        }
    }

    /// Sends what the guest offers, up to the budget. [`Round::Empty`] if that was all.
    pub fn send(&mut self, queue: &mut dyn NetQueue) -> Result<Round, GuestError> {
        let round = self.send_frames(queue);
        publish(&mut self.active, &*self.notify)?;
        round
    }

    fn send_frames(&mut self, queue: &mut dyn NetQueue) -> Result<Round, GuestError> {
        for _ in 0..BUDGET {
            if !self.active.vring.pop(&mut self.chain)? {
                return Ok(Round::Empty);
            }
            // SAFETY: the chain's buffers lie in mappings of guest RAM that the chain keeps alive.
            let sent = unsafe { queue.write_frame(self.chain.readable()) };
            self.active.vring.push_used(self.chain.head(), 0)?;
            match sent {
                Ok(Sent::Sent) => {
                    DeviceMetrics::add(&self.metrics.requests, 1);
                    let bytes = self.chain.readable_bytes().saturating_sub(HEADER_LEN) as u64;
                    DeviceMetrics::add(&self.metrics.bytes_from_guest, bytes);
                }
                Ok(Sent::Dropped) => DeviceMetrics::add(&self.metrics.errors, 1),
                Err(error) => {
                    tracing::warn!("a network back end is gone: {error}");
                    return Ok(Round::Dead);
                }
            }
        }
        Ok(Round::More)
    }

    /// Throws away what the guest sends while the back end is gone, so that its queue does not fill up.
    pub fn discard(&mut self) -> Result<Round, GuestError> {
        for _ in 0..BUDGET {
            if !self.active.vring.pop(&mut self.chain)? {
                publish(&mut self.active, &*self.notify)?;
                return Ok(Round::Empty);
            }
            self.active.vring.push_used(self.chain.head(), 0)?;
            DeviceMetrics::add(&self.metrics.errors, 1);
        }
        publish(&mut self.active, &*self.notify)?;
        Ok(Round::More)
    }
}
