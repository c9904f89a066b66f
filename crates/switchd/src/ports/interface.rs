//! An interface of the host that is asked for its state.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use super::Gone;

/// An interface, by its name and number, in the network namespace where it was found.
pub(super) struct Interface {
    asker: OwnedFd,
    name: String,
    index: i32,
}

impl Interface {
    /// Finds the interface called `name`.
    pub fn find(name: &str) -> io::Result<Self> {
        let asker = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = ask(&asker, name, libc::SIOCGIFINDEX)?;
        Ok(Self {
            asker,
            name: name.into(),
            // SAFETY: the call filled the index.
            index: unsafe { index.ifr_ifru.ifru_ifindex },
        })
    }

    /// Its number.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Whether it is set up and has its carrier. An error if it is not there any more, or another one has its name.
    pub fn is_running(&self) -> Result<bool, Gone> {
        let gone = |error: io::Error| Gone(error.to_string());
        let index = ask(&self.asker, &self.name, libc::SIOCGIFINDEX).map_err(gone)?;
        // SAFETY: the call filled the index.
        if unsafe { index.ifr_ifru.ifru_ifindex } != self.index {
            return Err(Gone("the interface was removed".into()));
        }
        let flags = ask(&self.asker, &self.name, libc::SIOCGIFFLAGS).map_err(gone)?;
        // SAFETY: the call filled the flags.
        let flags = i32::from(unsafe { flags.ifr_ifru.ifru_flags });
        Ok(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
    }
}

fn ask(asker: &OwnedFd, name: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: these calls read the name and write into the ifreq that they are given.
    if unsafe { libc::ioctl(asker.as_raw_fd(), what, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}
