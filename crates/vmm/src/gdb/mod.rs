//! A debugger for the guest: GDB's remote serial protocol at a socket.
//!
//! | file | idea |
//! |---|---|
//! | `packet` | packets in a stream of bytes, hexadecimal |
//! | `session` | one client's conversation, on whatever is a [`target::Target`] |
//! | `registers` | registers as GDB numbers them, and the target description |
//! | `guest` | the target: CPUs by jobs on their threads, memory by their page tables, the state driver |
//! | `points`, `patches` | what a client has set; INT3 in memory for KVM |
//! | `server` | the socket and its thread |
//!
//! When a client stops the guest, or a CPU meets something, the state driver pauses it as if a client of the control socket
//! had asked for that; that socket tells so, and can let it go on. When the debugger steps a CPU, it freezes the others.
//!
//! The protocol is our own code: the `gdbstub` crate answers packets that it does not know with "unknown", so `qqemu.PhyMemMode`,
//! which people know from QEMU, is out of its reach, its x86-64 has no control registers, and it wants to own the loop.

#[cfg(any(test, fuzzing))]
mod fake;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guest;
mod packet;
mod patches;
mod points;
mod registers;
mod server;
mod session;
mod target;

pub(crate) use guest::{Parts, Reports};
pub(crate) use server::GdbServer;
