//! What systemd wants of a service: sockets taken over (`sd_listen_fds(3)`), and being told that it is ready (`sd_notify(3)`).

use std::env;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};

use super::{Door, Kind, Listener};
use crate::Error;

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// As many are taken at most.
const MAX: RawFd = 64;

/// The sockets that systemd opened for this process, with their names. Called once, before the process opens anything.
pub fn activated() -> io::Result<Vec<(String, OwnedFd)>> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(MAX as u32) as RawFd;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for fd in FIRST..FIRST + count {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: whoever set these variables for this very process gave it the descriptors; nothing else here knows of
        // them, and this is called once.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        sockets.push((name, socket));
    }
    Ok(sockets)
}

/// The door behind a socket that systemd opened. Its name (`FileDescriptorName=`) says who comes in.
pub fn door(name: &str, socket: OwnedFd) -> Result<Door, Error> {
    let refused = |why: String| Error::Activation {
        name: name.into(),
        why,
    };
    let kind = match name {
        "read-write" => Kind::ReadWrite,
        "read-only" => Kind::ReadOnly,
        "tls" => Kind::Tls,
        _ => {
            let why = "its FileDescriptorName= has to be read-write, read-only or tls";
            return Err(refused(why.into()));
        }
    };
    if !socket_acceptconn(socket.as_fd()).is_ok_and(|listens| listens) {
        return Err(refused("it is no socket that listens".into()));
    }
    let family = socket_domain(socket.as_fd()).map_err(|e| refused(e.to_string()))?;
    let listener = match (kind, family) {
        (Kind::ReadWrite | Kind::ReadOnly, AddressFamily::UNIX) => Listener::Unix(socket.into()),
        (Kind::Tls, AddressFamily::INET | AddressFamily::INET6) => Listener::Tcp(socket.into()),
        (Kind::Tls, _) => return Err(refused("ListenStream= has to be a port".into())),
        _ => return Err(refused("ListenStream= has to be a path".into())),
    };
    let blocking = match &listener {
        Listener::Unix(listener) => listener.set_nonblocking(false),
        Listener::Tcp(listener) => listener.set_nonblocking(false),
    };
    blocking.map_err(|e| refused(e.to_string()))?;
    // The unit's SocketMode= and SocketGroup= say who may connect.
    Ok(Door {
        kind,
        listener,
        private: false,
        inherited: true,
        file: None,
    })
}

/// Tells systemd how this service is, if it asked for that. Whether it hears is its own matter.
pub fn notify(state: &str) {
    let Some(to) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match to.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&to),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        crate::log::note!("cannot tell systemd \"{state}\": {error}");
    }
}
