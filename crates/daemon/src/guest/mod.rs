//! A guest's process: starting it, finding it again, and talking to its control socket.

mod attached;
pub mod cards;
mod control;
pub mod keys;
mod launch;
mod outside;
mod plug;
mod process;
mod screen;
mod streams;

pub use attached::Attached;
pub use control::{CPU_ID, Control, ControlError, Notice};
pub use launch::{Launch, errand_of, launch, open_image_of};
pub use outside::{NetworkCard, Outside, Place};
pub use plug::{Plug, port_name};
pub use process::GuestProcess;
pub use screen::picture;

use std::path::{Path, PathBuf};

/// The files of a guest that runs, in a folder of its own.
#[derive(Debug, Clone)]
pub struct RunFiles {
    /// The folder.
    pub folder: PathBuf,
}

impl RunFiles {
    /// The socket of its control protocol.
    pub fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    /// The socket of its serial port.
    pub fn serial(&self) -> PathBuf {
        self.folder.join("serial")
    }

    /// The socket of its virtio console.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console")
    }

    /// The socket at which the host's clients reach the guest's vsock; servers of the host listen beside it, at `vsock_PORT`.
    pub fn vsock(&self) -> PathBuf {
        self.folder.join("vsock")
    }

    /// Nobody listens for the guest's vsock any more: what was its socket goes.
    pub fn remove_vsock(&self) {
        // It may be gone already.
        let _ = std::fs::remove_file(self.vsock());
    }

    /// The socket of a channel.
    pub fn channel(&self, number: usize) -> PathBuf {
        self.folder.join(format!("channel{number}"))
    }

    /// The socket by which a guest waits that starts paused.
    pub fn gdb(&self) -> PathBuf {
        self.folder.join("gdb")
    }

    /// What the daemon has to know of it when it comes back.
    pub fn status(&self) -> PathBuf {
        self.folder.join("status.json")
    }

    /// What it was started as.
    pub fn definition(&self) -> PathBuf {
        self.folder.join("domain.xml")
    }

    /// Is there until the guest has all that its definition asks for beyond what its process is started with.
    pub fn unsettled(&self) -> PathBuf {
        self.folder.join("unsettled")
    }

    /// In `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
        }
    }
}
