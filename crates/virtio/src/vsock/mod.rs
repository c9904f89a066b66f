//! Sockets between guest and host (virtio 1.2, 5.10), without the host's own vsock: on the host each is a unix socket.
//!
//! ```text
//! host ── connect to PATH, "CONNECT port\n" ─▶ REQUEST ─▶ guest answers ─▶ "OK port\n", then bytes
//! guest ── connect to port P of CID 2 ─▶ a wish through the plug ─▶ whoever started the guest connects to PATH_P
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `packet` | the header of a packet |
//! | `connection` | one connection: its stream, its buffer, both sides' credit |
//! | `table` | all connections; packets of the guest go in, packets for it come out |
//! | `door` | the host's side: clients that say where they want to go, and the plug |
//! | `plug` | what passes through the plug |
//!
//! A guest's process opens nothing, so it has a *plug* for the guest's own wishes: a socket to a process that connects for it
//! and sends the connection back.

mod connection;
mod device;
mod door;
mod packet;
pub mod plug;
mod table;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{VsockControl, VsockDevice};
pub use door::Door;

/// The host's CID.
pub const HOST_CID: u64 = 2;
/// CIDs that a guest can have: those below are taken, and the greatest stands for any (5.10.4).
pub const GUEST_CIDS: std::ops::RangeInclusive<u32> = 3..=u32::MAX - 1;
