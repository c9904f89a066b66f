//! A folder of the host in the guest: virtio-fs (virtio 1.2, 5.11), served by a virtiofsd.
//!
//! ```text
//! guest ─ request ─▶ its ring ─ copy ─▶ shadow ring ─▶ virtiofsd
//!                                 (the arena)             │
//! guest ◀─ interrupt ─ its ring ◀─ copy ─ shadow ring ◀───┘
//! ```
//!
//! The guest's process opens nothing: when the guest begins a session (FUSE_INIT) and there is no virtiofsd, the device asks through
//! its *plug*, as vsock does, and whoever started the guest sends a connection. A virtiofsd that goes takes its session with it: all
//! that the guest wants of it is answered "not connected" until the guest mounts the share again.
//!
//! | file | idea |
//! |---|---|
//! | `device.rs` | the device as its transport sees it |
//! | `worker.rs` | the thread: which request goes where |
//! | `server.rs` | a back end with its arena and its rings |
//! | `request.rs` | the little of FUSE that is needed to say that nobody is there, or that nothing can be changed |

mod device;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{FsDevice, MAX_TAG};
