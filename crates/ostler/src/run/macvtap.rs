//! A card that is a macvtap on an interface of the host: made for the guest, and gone with it.
//!
//! The kernel keeps a macvtap whose guest was killed. So each has a mark, its alias, and who made it holds the abstract socket of that
//! name (unix(7)), which ends with the process and belongs to the network namespace as the macvtap does. A mark whose socket nobody
//! holds is on what was left, and the next start deletes it. What has no such mark is never touched.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use ostler_hostnet::{Kernel, Mac, MacvtapSpec};
use ostler_netio::OpenTap;
use ostler_vmm::spec::MacAddress;
use rustix::rand::{GetRandomFlags, getrandom};

use super::options::DirectOption;
use crate::failure::{Failure, say};

/// A macvtap that was made; dropping it deletes it.
pub struct Macvtap {
    name: String,
    _mark: Option<Mark>,
}

impl Drop for Macvtap {
    fn drop(&mut self) {
        let deleted = Kernel::open().and_then(|mut kernel| kernel.delete_tap(&self.name));
        if let Err(error) = deleted {
            say(format_args!("ostler: the macvtap {} stays: {error}", self.name));
        }
    }
}

/// The mark of a macvtap, as long as its maker lives.
struct Mark {
    text: String,
    _socket: UnixDatagram,
}

impl Mark {
    /// What the marks of this network namespace begin with. One that an administrator moves to another is no leftover there.
    fn prefix() -> io::Result<String> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(format!("ostler-run {namespace} "))
    }

    /// One that nobody has.
    fn new() -> io::Result<Self> {
        let mut number = [0; 16];
        getrandom(&mut number, GetRandomFlags::empty())?;
        Self::hold(&format!(
            "{}{:032x}",
            Self::prefix()?,
            u128::from_ne_bytes(number)
        ))
    }

    /// Takes `text`, which fails while somebody has it.
    fn hold(text: &str) -> io::Result<Self> {
        let name = SocketAddr::from_abstract_name(text)?;
        Ok(Self {
            text: text.into(),
            _socket: UnixDatagram::bind_addr(&name)?,
        })
    }
}

/// Deletes the macvtaps of this network namespace whose makers were killed.
fn delete_leftovers() -> Result<(), ostler_hostnet::Error> {
    let Ok(prefix) = Mark::prefix() else {
        return Ok(());
    };
    let mut kernel = Kernel::open()?;
    for macvtap in kernel.macvtaps()? {
        if !macvtap.alias.starts_with(&prefix) {
            continue;
        }
        // Held meanwhile, so that no other start takes the same one for its own leftover.
        if let Ok(_held) = Mark::hold(&macvtap.alias) {
            kernel.delete_macvtap(&macvtap)?;
            say(format_args!(
                "ostler: {}, which a guest left that was killed, was deleted",
                macvtap.name
            ));
        }
    }
    Ok(())
}

/// Makes a macvtap for a card with this address, and opens it.
pub fn make(
    option: &DirectOption,
    mac: MacAddress,
    pairs: usize,
    vhost: bool,
) -> Result<(Macvtap, OpenTap), Failure> {
    if let Err(error) = delete_leftovers() {
        say(format_args!("ostler: macvtaps of killed guests stay: {error}"));
    }
    // Without /proc there is no mark, and what a killed guest leaves stays.
    let mark = Mark::new().ok();
    let make = |name: &str| {
        let spec = MacvtapSpec {
            name: name.into(),
            over: option.over.clone(),
            mode: option.mode,
            mac: Mac(mac.0),
            alias: mark.as_ref().map(|mark| mark.text.clone()),
        };
        Kernel::open()?.create_macvtap(&spec)
    };
    let (name, index) = ostler_hostnet::make_numbered("macvtap", make).map_err(Failure::bad_input)?;
    let made = Macvtap { name, _mark: mark };
    let opened = ostler_netio::open_macvtap((&made.name, index), mac.0, pairs, vhost);
    Ok((made, opened.map_err(Failure::bad_input)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_held_by_one() {
        let mark = Mark::new().unwrap();
        assert!(mark.text.starts_with(&Mark::prefix().unwrap()));
        assert!(mark.text.len() < 100, "it is an alias, and the name of a socket");
        assert!(Mark::hold(&mark.text).is_err());
        let text = mark.text.clone();
        drop(mark);
        assert!(Mark::hold(&text).is_ok());
        assert_ne!(Mark::new().unwrap().text, text);
    }
}
