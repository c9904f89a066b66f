//! vhost-user, on both of its sides. Of our own guests' devices, this is the front end: [`front`], [`fs`], which is such a device, and
//! [`card`], to which a network card's frames can go.
//! All else is the back end of a foreign guest's network card: QEMU or Cloud Hypervisor shares the guest's memory, and frames go
//! straight between its rings and the switch (the vhost-user protocol as QEMU documents it; virtio 1.2, 5.1).
//!
//! Neither the guest nor its front end is trusted: a guest that breaks its rings loses them until it sets them up anew, a front end that
//! breaks the protocol loses the connection, and nothing that either does makes this side wait or end.
//!
//! | file | idea |
//! |---|---|
//! | `message.rs` | messages, from bytes |
//! | `wire.rs` | the socket: messages in whatever pieces they come, with their descriptors |
//! | `session.rs` | the state of the protocol |
//! | `memory.rs`, `guard.rs` | the guest's memory, and its being taken away |
//! | `event.rs` | eventfds that the other side can fill |
//! | `ring.rs`, `frames.rs`, `backlog.rs`, `steering.rs` | a ring; a frame from it or into it; those that wait; which pair they go to |
//! | `net.rs` | the foreign guest's card as the switch sees it |

mod backlog;
pub mod card;
mod error;
mod event;
mod frames;
pub mod front;
pub mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
mod memory;
mod message;
mod net;
mod ring;
mod session;
mod steering;
#[cfg(test)]
mod tests;
mod wire;

pub use error::Error;
pub use net::{Lost, PairCounters, VhostUserNet};
