//! Counters of a device, cheap enough to be always on.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a device has done since it was made. Every counter is updated by one thread at a time and read by any.
        #[derive(Debug, Default)]
        pub struct DeviceMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct MetricsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl DeviceMetrics {
            /// Reads all counters.
            pub fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl MetricsSnapshot {
            /// The counters with their names, for display.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Times that the worker woke because of the guest.
    kicks,
    /// Interrupts sent to the guest for used buffers.
    interrupts,
    /// Requests, frames or buffers that were completed.
    requests,
    /// Bytes that went from the device into guest memory.
    bytes_to_guest,
    /// Bytes that came from guest memory.
    bytes_from_guest,
    /// Requests that failed on the host's side, frames dropped.
    errors,
    /// Times that the driver broke the rules and the device asked for a reset.
    resets_needed,
}

impl DeviceMetrics {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
