//! The front end: a device of our guest that another process serves by vhost-user (the vhost-user protocol as QEMU documents it).
//!
//! The back end never maps the guest's memory. It gets an *arena*: sealed memory of this process with rings of its own, into which
//! requests are copied and from which answers are copied back ("shadow rings"; frames of a network card go the same way). So every
//! write to guest memory is ours: the dirty log and the software CPU's decoded code see it before the guest hears of it, memory can
//! come and go while the guest runs, and a back end that misbehaves can give wrong answers but touch nothing else. The price is a
//! copy.
//!
//! | file | idea |
//! |---|---|
//! | `error.rs` | what a back end can do wrong |
//! | `line.rs` | the socket: a message and its answer, with an end to the waiting |
//! | `session.rs` | the conversation: features, memory, rings |
//! | `arena.rs` | the memory that both share |
//! | `layout.rs` | where the buffers of a request lie in it |
//! | `driver.rs` | the driver's side of a ring |
//! | `ring.rs` | a shadow ring and the requests in it |

mod arena;
mod driver;
mod error;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod layout;
mod line;
mod ring;
mod session;

pub(crate) use arena::Arena;
pub(crate) use driver::DriverRing;
#[cfg(any(test, fuzzing))]
pub(crate) use driver::SIZE as RING_SIZE;
pub use error::BackEndError;
pub(crate) use ring::{Passed, Sent, ShadowRing};
pub(crate) use session::Session;
