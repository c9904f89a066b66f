//! What everyone does who starts a guest, `ostler run` and the daemon alike: finding firmware, opening boot images, setting the clock, and starting
//! the processes of a guest, of its user-mode network and of its porter.

pub mod firmware;
mod image;
pub mod pmem;
pub mod porter;
mod process;
pub mod rtc;
pub mod usernet;

pub use firmware::open_vga_bios;
pub use image::open_image;
pub use process::{Started, start, start_placed};
pub use rtc::RtcStart;

use std::io;
use std::path::Path;

/// Why something cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the user gave cannot be.
    #[error("{0}")]
    Input(String),
    /// The host or a process failed.
    #[error("{0}")]
    Failed(String),
}

/// What the host refused to do with a file.
fn cannot(action: &str, what: &str, path: &Path, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder".into(),
        io::ErrorKind::PermissionDenied => "you have no permission".into(),
        _ => error.to_string(),
    };
    Error::Input(format!("cannot {action} {what} \"{}\": {why}", path.display()))
}
