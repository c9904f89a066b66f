//! The parent's part in a guest's sockets: it connects where the guest wants to go.
//!
//! A guest's process opens nothing. For a connection of the guest to port P of the host it asks through its plug, and this end
//! connects to PATH_P and sends the connection back.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ostler_virtio::vsock::plug;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::failure::Failure;

/// The host's end of a guest's plug.
pub struct HostEnd {
    plug: OwnedFd,
    /// Where the host's clients come in; the host's own servers are beside it.
    path: PathBuf,
}

impl HostEnd {
    /// Both ends: that of this process, and the guest's.
    pub fn new(path: &Path) -> Result<(Self, OwnedFd), Failure> {
        let (plug, guests) =
            plug::pair().map_err(|error| Failure::failed(format!("no socket pair: {error}")))?;
        let path = path.into();
        Ok((Self { plug, path }, guests))
    }

    /// Connects the guest wherever it asks, in a thread of its own, for as long as the guest runs.
    pub fn mind(self) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("vsock".into());
        thread.spawn(move || {
            while let Ok((id, port)) = plug::wait_for_wish(&self.plug) {
                let connection = connect_to(&server_path(&self.path, port));
                let answer = connection
                    .as_ref()
                    .map(OwnedFd::as_fd)
                    .map_err(|error| error.raw_os_error());
                if plug::answer(&self.plug, id, answer).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

/// Where the server of `port` listens.
fn server_path(path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("_{port}"));
    name.into()
}

/// Connects without waiting: a server whose queue is full is as good as none.
fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
