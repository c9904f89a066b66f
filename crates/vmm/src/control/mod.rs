//! The control socket: the QEMU Machine Protocol (QMP) and what Ostler adds to it.
//!
//! | file | holds |
//! |---|---|
//! | `server` | the thread, its clients and the descriptors that they send |
//! | `framer`, `json` | from bytes to texts, from texts to values |
//! | `session` | one client's conversation: negotiation, what a command must look like |
//! | `commands/` | the commands, a file a subject; their table is in `mod.rs` |
//! | `arguments`, `failure` | arguments by name and type, errors by class, in QEMU's words |
//! | `events` | what clients are told |
//! | `schema/` | what all of it looks like, for clients that ask first |

mod arguments;
mod commands;
mod events;
mod failure;
mod framer;
mod json;
mod schema;
mod server;
mod session;

pub(crate) use arguments::Arguments;
pub use failure::GUEST_IS_BUSY;
pub(crate) use failure::{Class, Failure};
pub use framer::{Frame, Framer, MAX_DEPTH, MAX_TEXT};
#[cfg(any(test, fuzzing))]
pub(crate) use json::parse;
pub use server::ControlServer;
