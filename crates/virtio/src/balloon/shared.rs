//! What the device, its worker and management share.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::statistics::Statistics;
use crate::device::Notify;
use crate::error::Error;
use crate::worker::new_event;

type Listener = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Shared {
    /// Pages that the balloon is to have.
    wanted: AtomicU32,
    /// Pages that it has, as the driver says.
    actual: AtomicU32,
    /// `actual` changed, and nobody has asked since.
    changed: AtomicBool,
    /// Seconds between two requests for statistics; 0 for none.
    interval: AtomicU32,
    /// Signalled when the interval changes.
    pub interval_changed: EventFd,
    statistics: Mutex<Statistics>,
    notify: Mutex<Option<Arc<dyn Notify>>>,
    listener: Mutex<Option<Listener>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            wanted: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            changed: AtomicBool::new(false),
            interval: AtomicU32::new(0),
            interval_changed: new_event()?,
            statistics: Mutex::default(),
            notify: Mutex::new(None),
            listener: Mutex::new(None),
        })
    }

    pub fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    pub fn actual(&self) -> u32 {
        self.actual.load(Ordering::Relaxed)
    }

    /// The driver says how many pages there are. The listener hears of it once until someone takes the change.
    pub fn set_actual(&self, pages: u32) {
        if self.actual.swap(pages, Ordering::Relaxed) == pages || self.changed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(listener) = &*lock(&self.listener) {
            listener();
        }
    }

    pub fn interval(&self) -> u32 {
        self.interval.load(Ordering::Relaxed)
    }

    pub fn set_statistics(&self, statistics: Statistics) {
        *lock(&self.statistics) = statistics;
    }

    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *lock(&self.notify) = notify;
    }
}

/// The control side of a balloon. Sizes are in pages of [`super::PAGE_SIZE`] bytes.
#[derive(Clone)]
pub struct BalloonControl(pub(crate) Arc<Shared>);

impl BalloonControl {
    /// Asks the guest to have so many pages in the balloon; it does so when it can.
    pub fn set_wanted(&self, pages: u32) {
        self.0.wanted.store(pages, Ordering::Relaxed);
        let notify = lock(&self.0.notify).clone();
        if let Some(notify) = notify {
            notify.config_changed();
        }
    }

    /// How many pages the guest was asked to have in it.
    pub fn wanted(&self) -> u32 {
        self.0.wanted()
    }

    /// How many it has, as it says.
    pub fn actual(&self) -> u32 {
        self.0.actual()
    }

    /// `listener` is called when [`BalloonControl::actual`] changes, on a CPU's thread, and not again before
    /// [`BalloonControl::take_change`].
    pub fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        *lock(&self.0.listener) = Some(Box::new(listener));
    }

    /// True if the number of pages changed since the last call.
    pub fn take_change(&self) -> bool {
        self.0.changed.swap(false, Ordering::AcqRel)
    }

    /// The guest's latest statistics.
    pub fn statistics(&self) -> Statistics {
        lock(&self.0.statistics).clone()
    }

    /// Seconds between two requests for statistics; 0 for none.
    pub fn interval(&self) -> u32 {
        self.0.interval()
    }

    /// Asks the guest for statistics now and every so many seconds, or no more with 0.
    pub fn set_interval(&self, seconds: u32) {
        self.0.interval.store(seconds, Ordering::Relaxed);
        if let Err(error) = self.0.interval_changed.write(1) {
            tracing::warn!("a balloon's worker could not be told of its interval: {error}");
        }
    }
}
