//! The control socket: the QEMU Machine Protocol (QMP) and what Ostler adds to it.

mod framer;
mod server;
mod session;

pub use framer::{Frame, Framer, MAX_DEPTH, MAX_TEXT};
pub use server::ControlServer;
pub use session::{Session, Step, View};
