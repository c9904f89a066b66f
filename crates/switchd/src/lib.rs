//! The process of the virtual switch: it connects the core (`ostler-switch`) with the world.
//!
//! One thread does everything: it takes batches of frames from the ports, hands them to the core, and flushes what the ports are to
//! send; between batches it serves the control socket. So nothing on a frame's way is locked, and a command sees the switch between
//! two batches. It is a crate of its own so that the core stays free of sockets and configuration files.
//!
//! | file | idea |
//! |---|---|
//! | `config.rs` | the configuration file, and ports as they are described there and on the control socket |
//! | `engine.rs` | the loop |
//! | `ports/` | where frames come from and go to: one file a kind |
//! | `router.rs` | routers as they are described |
//! | `control/` | the control socket: lines of JSON; one function a command |
//! | `capture/` | copies of frames as a pcapng stream |
//! | `cable.rs` | a guest's parent: connects its card, and connects it again |
//! | `client.rs` | the other end of it, also for those who connect guests |

pub mod cable;
mod capture;
pub mod client;
pub mod config;
mod control;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod place;
mod ports;
mod router;

pub use capture::pcapng;
pub use engine::Engine;
pub use error::Error;
pub use place::{check_name, control_path, control_path_in, runtime_folder, switches_in};
pub use router::{HostSpec, NameSpec, PlanSpec, RouterSpec};
