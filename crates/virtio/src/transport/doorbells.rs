//! Kicks that wake a worker without the vCPU leaving guest mode for user mode.

use std::sync::{Arc, Mutex};

use ostler_bus::{Doorbell, DoorbellRegistry, Space};
use vmm_sys_util::eventfd::EventFd;

use super::layout::{NOTIFY, NOTIFY_STRIDE};

/// The doorbells of one device, where its register BAR is now.
pub(crate) struct Doorbells {
    registry: Arc<dyn DoorbellRegistry>,
    kicks: Vec<Arc<EventFd>>,
    base: Mutex<Option<u64>>,
}

impl Doorbells {
    pub fn new(registry: Arc<dyn DoorbellRegistry>, kicks: Vec<Arc<EventFd>>) -> Self {
        Self {
            registry,
            kicks,
            base: Mutex::new(None),
        }
    }

    /// Moves all doorbells to a BAR at `base`, or away. Where the accelerator takes none, kicks still work: they leave
    /// as ordinary writes, and the register behind them signals the same event.
    pub fn move_to(&self, base: Option<u64>) {
        let mut current = self.base.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *current == base {
            return;
        }
        if let Some(old) = std::mem::replace(&mut *current, base) {
            for (queue, kick) in self.kicks.iter().enumerate() {
                if let Err(error) = self.registry.remove(doorbell(old, queue), kick) {
                    tracing::warn!("a doorbell could not be removed: {error}");
                }
            }
        }
        if let Some(new) = base {
            for (queue, kick) in self.kicks.iter().enumerate() {
                if let Err(error) = self.registry.add(doorbell(new, queue), kick) {
                    tracing::warn!("a doorbell could not be registered, kicks will be slower: {error}");
                }
            }
        }
    }
}

/// The driver writes the queue's number, 16 bits wide, without NOTIFICATION_DATA (4.1.5.2).
fn doorbell(base: u64, queue: usize) -> Doorbell {
    let address = base.wrapping_add(NOTIFY + queue as u64 * NOTIFY_STRIDE);
    Doorbell {
        space: Space::Memory,
        address,
        width: Some(2),
        value: None,
    }
}
