//! The remote protocol that libvirt's clients speak: XDR, packets, errors, and the table of procedures with their types.
//!
//! Only the wire is here. What a call does is the daemon's to decide.

pub mod error;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod procedures;
pub mod types;
pub mod xdr;

pub use error::{Code, RemoteError};
pub use frame::{FrameError, Header, Kind, Message, Status};
pub use procedures::{Access, Procedure};
pub use xdr::{Decode, Encode, List, Opaque, XdrError};
