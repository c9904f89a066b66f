//! What the device, its worker and management share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ostler_memory::{Blocks, GuestRam, discard, pluggable};
use vm_memory::GuestMemoryRegion;

use super::request::{BlockState, Request, Response, Span};
use crate::device::Notify;

/// The accelerator's memory map.
pub trait MemoryMapper: Send + Sync {
    /// Makes the CPUs' memory map that of the blocks that are plugged now ([`ostler_memory::plugged_slots`]). When it returns, no CPU
    /// uses an older one. It is not called on a CPU's thread.
    ///
    /// # Errors
    /// One sentence; the map is as before.
    fn follow(&self) -> Result<(), String>;
}

type Listener = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Shared {
    ram: Arc<GuestRam>,
    blocks: Arc<Blocks>,
    /// Guest-physical address of the region.
    pub base: u64,
    mapper: OnceLock<Arc<dyn MemoryMapper>>,
    /// Held while blocks change.
    changing: Mutex<()>,
    requested: AtomicU64,
    plugged: AtomicU64,
    /// `plugged` changed, and nobody has asked since.
    changed: AtomicBool,
    notify: Mutex<Option<Arc<dyn Notify>>>,
    listener: Mutex<Option<Listener>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Of the region of `ram` that is plugged in blocks, if there is one.
    pub fn new(ram: Arc<GuestRam>) -> Option<Self> {
        let (region, blocks) = pluggable(&ram)?;
        let base = region.start_addr().0;
        Some(Self {
            ram,
            blocks,
            base,
            mapper: OnceLock::new(),
            changing: Mutex::new(()),
            requested: AtomicU64::new(0),
            plugged: AtomicU64::new(0),
            changed: AtomicBool::new(false),
            notify: Mutex::new(None),
            listener: Mutex::new(None),
        })
    }

    pub fn block_size(&self) -> u64 {
        self.blocks.block_size() as u64
    }

    pub fn size(&self) -> u64 {
        self.blocks.count() as u64 * self.block_size()
    }

    pub fn requested(&self) -> u64 {
        self.requested.load(Ordering::Relaxed)
    }

    pub fn plugged(&self) -> u64 {
        self.plugged.load(Ordering::Relaxed)
    }

    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *lock(&self.notify) = notify;
    }

    /// Does what a driver asks for.
    pub fn handle(&self, request: Request) -> Response {
        let _guard = lock(&self.changing);
        match request {
            Request::Plug(span) => self.plug(span),
            Request::Unplug(span) => match self.range(span) {
                Some(range) if self.state(&range) == BlockState::Plugged => self.unplug(range),
                _ => Response::Error,
            },
            Request::UnplugAll => self.unplug(0..self.blocks.count()),
            Request::State(span) => match self.range(span) {
                Some(range) => Response::State(self.state(&range)),
                None => Response::Error,
            },
            Request::Unknown => Response::Error,
        }
    }

    /// The blocks of a span, if they are of the region.
    fn range(&self, span: Span) -> Option<Range<usize>> {
        let offset = span.gpa.checked_sub(self.base)?;
        let size = self.block_size();
        if span.blocks == 0 || !offset.is_multiple_of(size) {
            return None;
        }
        let start = usize::try_from(offset / size).ok()?;
        let end = start.checked_add(usize::from(span.blocks))?;
        (end <= self.blocks.count()).then_some(start..end)
    }

    fn state(&self, range: &Range<usize>) -> BlockState {
        let plugged = range
            .clone()
            .filter(|index| self.blocks.is_plugged(*index))
            .count();
        match plugged {
            0 => BlockState::Unplugged,
            all if all == range.len() => BlockState::Plugged,
            _ => BlockState::Mixed,
        }
    }

    fn plug(&self, span: Span) -> Response {
        let Some(range) = self.range(span) else {
            return Response::Error;
        };
        if self.state(&range) != BlockState::Unplugged {
            return Response::Error;
        }
        let more = range.len() as u64 * self.block_size();
        if self.plugged() + more > self.requested() {
            return Response::Nack;
        }
        self.blocks.set(range.clone(), true);
        if !self.follow() {
            self.blocks.set(range, false);
            return Response::Busy;
        }
        self.set_plugged(self.plugged() + more);
        Response::Ack
    }

    /// Takes away those of the blocks that are plugged. Their memory is the host's again.
    fn unplug(&self, range: Range<usize>) -> Response {
        let gone: Vec<usize> = range.filter(|index| self.blocks.is_plugged(*index)).collect();
        let set = |plugged| {
            gone.iter()
                .for_each(|&index| self.blocks.set(index..index + 1, plugged))
        };
        set(false);
        if !self.follow() {
            set(true);
            return Response::Busy;
        }
        let size = self.block_size();
        for &index in &gone {
            if let Err(error) = discard(&self.ram, self.base + index as u64 * size, size) {
                tracing::warn!("memory that was unplugged stays with the process: {error}");
            }
        }
        self.set_plugged(self.plugged() - gone.len() as u64 * size);
        Response::Ack
    }

    /// True if the memory map followed.
    fn follow(&self) -> bool {
        let Some(mapper) = self.mapper.get() else {
            return false;
        };
        mapper
            .follow()
            .inspect_err(|error| tracing::warn!("a guest's memory cannot change: {error}"))
            .is_ok()
    }

    /// The listener hears of it once until someone takes the change.
    fn set_plugged(&self, bytes: u64) {
        if self.plugged.swap(bytes, Ordering::Relaxed) == bytes || self.changed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(listener) = &*lock(&self.listener) {
            listener();
        }
    }
}

/// The control side of the device. Sizes are in bytes.
#[derive(Clone)]
pub struct MemControl(pub(crate) Arc<Shared>);

impl MemControl {
    /// Gives the device the memory map; without one nothing can be plugged. A second call changes nothing.
    pub fn set_mapper(&self, mapper: Arc<dyn MemoryMapper>) {
        let _ = self.0.mapper.set(mapper);
    }

    /// Asks the guest to have `bytes` plugged; it does so when it can. False if that is no multiple of the block's size, or more than
    /// the region's.
    pub fn set_requested(&self, bytes: u64) -> bool {
        if bytes > self.0.size() || !bytes.is_multiple_of(self.0.block_size()) {
            return false;
        }
        self.0.requested.store(bytes, Ordering::Relaxed);
        let notify = lock(&self.0.notify).clone();
        if let Some(notify) = notify {
            notify.config_changed();
        }
        true
    }

    /// How much the guest was asked to have plugged.
    pub fn requested(&self) -> u64 {
        self.0.requested()
    }

    /// How much is plugged.
    pub fn plugged(&self) -> u64 {
        self.0.plugged()
    }

    /// How much can be plugged at most.
    pub fn most(&self) -> u64 {
        self.0.size()
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.0.block_size()
    }

    /// Guest-physical address of the region.
    pub fn address(&self) -> u64 {
        self.0.base
    }

    /// Unplugs everything: the machine was reset, its CPUs are held, and its guest starts over with what it had at first (5.15.6).
    pub fn machine_was_reset(&self) {
        let _guard = lock(&self.0.changing);
        self.0.unplug(0..self.0.blocks.count());
    }

    /// `listener` is called when [`MemControl::plugged`] changes, and not again before [`MemControl::take_change`].
    pub fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        *lock(&self.0.listener) = Some(Box::new(listener));
    }

    /// True if [`MemControl::plugged`] changed since the last call.
    pub fn take_change(&self) -> bool {
        self.0.changed.swap(false, Ordering::AcqRel)
    }
}
