//! From the back end into the guest's buffers (virtio 1.2, 5.1.6.3 and 5.1.6.4).

use std::collections::VecDeque;
use std::sync::Arc;

use ostler_memory::{GuestRam, IoBuf};
use ostler_netio::{HEADER_LEN, MAX_FRAME, NetQueue, Received};

use crate::chain::{Chain, MAX_SEGMENTS};
use crate::device::{ActiveQueue, Notify};
use crate::error::GuestError;
use crate::metrics::DeviceMetrics;
use crate::queue_server::publish;

/// Frames moved before the other direction gets its turn.
const BUDGET: usize = 64;
/// A frame of the usual size with its header: Ethernet with a VLAN tag.
const USUAL_FRAME: usize = HEADER_LEN + 1518;
/// Where the header says over how many buffers a frame is spread.
const NUM_BUFFERS_AT: usize = 10;

/// Why a round of receiving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// The back end has no frame now.
    Empty,
    /// The guest has to give buffers first.
    NoBuffers,
    /// There may be more of both.
    More,
    /// The back end is gone.
    Dead,
}

/// Throws away what the back end has for a card without its cable.
pub(crate) fn drain(queue: &mut dyn NetQueue) -> Round {
    let mut frame = vec![0; HEADER_LEN + MAX_FRAME];
    for _ in 0..BUDGET {
        // SAFETY: `frame` is alive and nothing else refers to it during the call.
        match unsafe { queue.read_frame(&[IoBuf::of(&mut frame)]) } {
            Ok(Received::Frame(_) | Received::Dropped) => {}
            Ok(Received::Empty) => return Round::Empty,
            Err(error) => {
                tracing::warn!("a network back end is gone: {error}");
                return Round::Dead;
            }
        }
    }
    Round::More
}

/// A receive queue with the chains that were taken and not filled yet.
pub(crate) struct Receiver {
    pub active: ActiveQueue,
    ram: Arc<GuestRam>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    /// Frames may be spread over several chains.
    mergeable: bool,
    staged: VecDeque<Chain>,
    staged_bytes: usize,
    /// Chains whose lists can be used again.
    spare: Vec<Chain>,
    buffers: Vec<IoBuf>,
}

impl Receiver {
    pub fn new(
        active: ActiveQueue,
        ram: Arc<GuestRam>,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
        mergeable: bool,
    ) -> Self {
        Self {
            active,
            ram,
            notify,
            metrics,
            mergeable,
            staged: VecDeque::new(),
            staged_bytes: 0,
            spare: Vec::new(),
            buffers: Vec::new(),
        }
    }

    /// Receives frames until the budget, the frames or the buffers end. `largest` is the largest frame to expect.
    pub fn receive(&mut self, queue: &mut dyn NetQueue, large: bool) -> Result<Round, GuestError> {
        let round = self.receive_frames(queue, large);
        publish(&mut self.active, &*self.notify)?;
        round
    }

    fn receive_frames(&mut self, queue: &mut dyn NetQueue, large: bool) -> Result<Round, GuestError> {
        for _ in 0..BUDGET {
            if !self.stage(if large {
                HEADER_LEN + MAX_FRAME
            } else {
                USUAL_FRAME
            })? {
                return Ok(Round::NoBuffers);
            }
            // SAFETY: the staged chains' buffers lie in mappings of guest RAM that `self.ram` keeps alive.
            match unsafe { queue.read_frame(&self.buffers) } {
                Ok(Received::Frame(len)) => self.deliver(len)?,
                Ok(Received::Empty) => return Ok(Round::Empty),
                Ok(Received::Dropped) => DeviceMetrics::add(&self.metrics.errors, 1),
                Err(error) => {
                    tracing::warn!("a network back end is gone: {error}");
                    return Ok(Round::Dead);
                }
            }
        }
        Ok(Round::More)
    }

    /// Takes chains until `wanted` bytes are staged. False if there is not even room for a usual frame.
    fn stage(&mut self, wanted: usize) -> Result<bool, GuestError> {
        let enough = |receiver: &Self| match receiver.mergeable {
            true => receiver.staged_bytes >= wanted || receiver.buffers.len() >= MAX_SEGMENTS / 2,
            false => !receiver.staged.is_empty(),
        };
        while !enough(self) {
            let mut chain = self.spare.pop().unwrap_or_else(|| Chain::new(self.ram.clone()));
            if !self.active.vring.pop(&mut chain)? {
                self.spare.push(chain);
                break;
            }
            if chain.writable_bytes() < HEADER_LEN {
                return Err(GuestError::Request("a receive buffer smaller than its header"));
            }
            if self.buffers.len() + chain.writable().len() > MAX_SEGMENTS && !self.staged.is_empty() {
                self.active.vring.undo_pop(1);
                self.spare.push(chain);
                break;
            }
            self.staged_bytes += chain.writable_bytes();
            self.buffers.extend_from_slice(chain.writable());
            self.staged.push_back(chain);
        }
        Ok(!self.staged.is_empty() && (enough(self) || self.staged_bytes >= USUAL_FRAME))
    }

    /// Returns the chains that a frame of `len` bytes, header included, went into.
    fn deliver(&mut self, len: usize) -> Result<(), GuestError> {
        let mut left = len;
        let mut count = 0u16;
        let mut segments = 0;
        let mut used = 0;
        for chain in &self.staged {
            if left == 0 {
                break;
            }
            let here = chain.writable_bytes().min(left);
            chain.mark_written(here);
            self.active.vring.push_used(chain.head(), here as u32)?;
            left -= here;
            count += 1;
            used += chain.writable_bytes();
            segments += chain.writable().len();
        }
        if let Some(first) = self.staged.front() {
            first.write_at(NUM_BUFFERS_AT, &count.to_le_bytes());
        }
        self.spare.extend(self.staged.drain(..usize::from(count)));
        self.buffers.drain(..segments);
        self.staged_bytes -= used;
        DeviceMetrics::add(&self.metrics.requests, 1);
        DeviceMetrics::add(&self.metrics.bytes_to_guest, (len - HEADER_LEN.min(len)) as u64);
        Ok(())
    }

    /// Puts the staged chains back, so that the queue can go to somebody else.
    pub fn finish(mut self) -> ActiveQueue {
        self.active.vring.undo_pop(self.staged.len() as u16);
        self.active
    }
}
