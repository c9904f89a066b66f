//! virtio 1.2: queues, the PCI transport, and one folder a kind of device.
//!
//! A [`VirtioDevice`] knows its configuration and what to do with queues. The transport ([`VirtioPci`]) owns everything
//! that all kinds share: features, status, queue set-up, notification, interrupts, reset. Queues move into the device
//! when the driver says DRIVER_OK ([`VirtioDevice::activate`]) and out of it at a reset ([`VirtioDevice::stop`]).
//!
//! A guest's kick wakes the device's worker thread through an event; no vCPU thread does a device's work. What a
//! guest gets wrong is a [`GuestError`]: the device shows "needs reset" and its worker lives on.

pub mod balloon;
pub mod block;
mod chain;
pub mod console;
mod device;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod hostile_tests;
pub mod mem;
pub mod net;
pub mod pmem;
mod queue_server;
mod request_worker;
pub mod rng;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzzers use a part of it"))]
mod testing;
mod transport;
mod vring;
pub mod vsock;

pub use chain::{Chain, MAX_SEGMENTS, Segment};
pub use device::{Activation, ActiveQueue, DeviceKind, Notify, VirtioDevice, read_structure};
pub use error::{Error, GuestError};
pub use ostler_worker::{DeviceMetrics, MetricsSnapshot};
use ostler_worker::{event_loop, metrics, worker};
pub use transport::{Platform, VirtioPci};
pub use vring::{QueueSettings, Vring};
