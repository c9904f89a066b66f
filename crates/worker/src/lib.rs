//! What the worker of any device stands on: a thread that can be stopped, a wait for events with a short adaptive poll, times that
//! suit the host, and counters.

mod error;
pub mod event_loop;
pub mod metrics;
pub mod pace;
#[cfg(feature = "testing")]
pub mod scripted;
pub mod worker;

pub use error::Error;
pub use event_loop::{EventLoop, Interest};
pub use metrics::{DeviceMetrics, MetricsSnapshot};
pub use worker::{Worker, clear, new_event};
