//! Which queue pairs of a back end are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

/// One flag a queue pair.
#[derive(Debug, Clone)]
pub struct Slots(Arc<[AtomicBool]>);

impl Slots {
    /// None of `pairs` is open.
    pub fn new(pairs: usize) -> Self {
        Self((0..pairs).map(|_| AtomicBool::new(false)).collect())
    }

    /// Takes pair `index` until the result is dropped.
    ///
    /// # Errors
    /// If there is none, or it is taken.
    pub fn take(&self, index: usize) -> Result<SlotGuard, Error> {
        let refused = Error::NoQueue {
            index,
            pairs: self.0.len(),
        };
        match self.0.get(index) {
            Some(taken) if !taken.swap(true, Ordering::AcqRel) => Ok(SlotGuard {
                slots: self.clone(),
                index,
            }),
            _ => Err(refused),
        }
    }
}

/// A pair that is taken.
#[derive(Debug)]
pub struct SlotGuard {
    slots: Slots,
    index: usize,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.slots.0[self.index].store(false, Ordering::Release);
    }
}
