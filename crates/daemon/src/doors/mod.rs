//! The doors by which clients come in: unix sockets, made here or by systemd, and TLS.

pub mod credentials;
mod holder;
pub mod systemd;
pub mod tls;
mod unix;

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::config::{Config, Group};

/// What who comes in by a door may do, and how many may be there at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Clients of this host that may change things.
    ReadWrite,
    /// Clients of this host that may only look.
    ReadOnly,
    /// Clients from elsewhere with a certificate; they may change things.
    Tls,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// At a path of this host.
    Unix(UnixListener),
    /// At an address.
    Tcp(TcpListener),
}

/// A door.
#[derive(Debug)]
pub struct Door {
    /// Who comes in by it.
    pub kind: Kind,
    /// The socket.
    pub listener: Listener,
    /// Only the daemon's own user and root come in, whatever the socket's mode is.
    pub private: bool,
    /// systemd opened it, and goes on with it.
    inherited: bool,
    /// The file that goes with the door.
    file: Option<PathBuf>,
}

impl Door {
    /// Has whoever accepts here come back, and takes the file away. systemd goes on with what it opened.
    pub fn close(&self) {
        if self.inherited {
            return;
        }
        let socket = match &self.listener {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        };
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Opens all doors: those that systemd has opened already, and of the other kinds those that are configured.
///
/// Called before there are threads that make files: the process' umask is changed for a moment.
pub fn open(config: &Config, activated: Vec<(String, OwnedFd)>) -> Result<Vec<Door>, Error> {
    let mut doors = Vec::new();
    match open_all(config, activated, &mut doors) {
        Ok(()) => Ok(doors),
        Err(error) => {
            doors.iter().for_each(Door::close);
            Err(error)
        }
    }
}

fn open_all(config: &Config, activated: Vec<(String, OwnedFd)>, doors: &mut Vec<Door>) -> Result<(), Error> {
    for (name, socket) in activated {
        let door = systemd::door(&name, socket)?;
        if door.kind == Kind::Tls && config.tls.is_none() {
            let why = "there is no [tls] in the configuration".into();
            return Err(Error::Activation { name, why });
        }
        doors.push(door);
    }
    let is_there = |doors: &[Door], kind| doors.iter().any(|door: &Door| door.kind == kind);
    let unix = &config.unix;
    let group = unix.group.as_ref().map(find_group).transpose()?.flatten();
    if !is_there(doors, Kind::ReadWrite) {
        let mode = if group.is_some() { unix.mode } else { 0o600 };
        for path in &unix.sockets {
            doors.push(unix_door(path, Kind::ReadWrite, mode, group)?);
        }
    }
    if !is_there(doors, Kind::ReadOnly) {
        for path in &unix.readonly_sockets {
            doors.push(unix_door(path, Kind::ReadOnly, unix.readonly_mode, group)?);
        }
    }
    if let Some(tls) = config.tls.as_ref().filter(|_| !is_there(doors, Kind::Tls)) {
        for address in &tls.listen {
            let cannot = |source| Error::Address {
                address: *address,
                source,
            };
            doors.push(Door {
                kind: Kind::Tls,
                listener: Listener::Tcp(TcpListener::bind(address).map_err(cannot)?),
                private: false,
                inherited: false,
                file: None,
            });
        }
    }
    Ok(())
}

fn unix_door(path: &Path, kind: Kind, mode: u32, group: Option<u32>) -> Result<Door, Error> {
    Ok(Door {
        kind,
        listener: Listener::Unix(unix::listen(path, mode, group)?),
        private: kind == Kind::ReadWrite && group.is_none(),
        inherited: false,
        file: Some(path.into()),
    })
}

/// The number of a group; none if it is only usual and the host lacks it.
fn find_group(group: &Group) -> Result<Option<u32>, Error> {
    let (Group::Usual(name) | Group::Named(name)) = group;
    let list = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = number_of(name, &list);
    match (group, found) {
        // Only root gives a file to a group that it is not in.
        (Group::Usual(_), found) => Ok(found.filter(|_| rustix::process::geteuid().is_root())),
        (Group::Named(_), Some(found)) => Ok(Some(found)),
        (Group::Named(name), None) => Err(Error::NoGroup(name.clone())),
    }
}

/// The number of a group in the text of /etc/group; a number is its own.
fn number_of(name: &str, list: &str) -> Option<u32> {
    name.parse().ok().or_else(|| {
        list.lines().find_map(|line| {
            let mut fields = line.split(':');
            let number = (fields.next()? == name).then(|| fields.nth(1))??;
            number.parse().ok()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_name_and_number() {
        let list = "root:x:0:\nlibvirt:x:114:a,b\nbroken\nlib:x:no:\n";
        assert_eq!(number_of("libvirt", list), Some(114));
        assert_eq!(number_of("1000", list), Some(1000));
        for name in ["libvir", "broken", "lib", "a"] {
            assert_eq!(number_of(name, list), None, "{name}");
        }
        let missing = Group::Named("no such group".into());
        assert!(
            find_group(&missing)
                .unwrap_err()
                .to_string()
                .contains("no such group")
        );
        assert_eq!(find_group(&Group::Usual("no such group".into())).unwrap(), None);
    }
}
