//! A connection, by whatever door it came, and who is at its other end.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::doors::credentials;

/// Something that packets come and go by.
pub struct Connection {
    /// What the client says.
    pub reader: Box<dyn Read + Send>,
    /// What the client is told.
    pub writer: Box<dyn Write + Send>,
    /// What may be sent to at once, if packets go over the socket as they are.
    pub direct: Option<UnixStream>,
    /// The socket under both; shutting it down ends them.
    pub socket: OwnedFd,
    /// Who it is.
    pub peer: Peer,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as it was when it connected.
    Process {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its number; 0 if it is outside of this container.
        pid: i32,
    },
    /// Somebody with a certificate.
    Remote {
        /// From where.
        address: SocketAddr,
        /// The certificate's distinguished name.
        name: String,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, gid, pid } => write!(f, "uid={uid} gid={gid} pid={pid}"),
            Self::Remote { address, name } => write!(f, "address={address} dn={name:?}"),
        }
    }
}

impl Connection {
    /// The connection of a process of this host.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        let libc::ucred { pid, uid, gid } = credentials::of_peer(&stream)?;
        Ok(Self {
            reader: Box::new(stream.try_clone()?),
            writer: Box::new(stream.try_clone()?),
            direct: Some(stream.try_clone()?),
            peer: Peer::Process { uid, gid, pid },
            socket: stream.into(),
        })
    }
}
