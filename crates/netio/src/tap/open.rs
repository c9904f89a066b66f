//! Opening taps, for whoever starts the guest; the guest's process never calls this.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{AddressFamily, SocketType};

use super::sys;
use crate::{Error, HEADER_LEN};

/// An open tap: what the guest's process is handed.
#[derive(Debug)]
pub struct OpenTap {
    /// One descriptor a queue pair.
    pub queues: Vec<File>,
    /// One descriptor of /dev/vhost-net a queue pair, or none at all.
    pub vhost: Vec<File>,
    /// The interface's MTU, if whoever opened it could tell.
    pub mtu: Option<u16>,
    /// Every frame is whole in both directions: nobody leaves a checksum or the cutting into segments to the other side.
    pub whole: bool,
}

/// Opens the existing tap `name` for a guest with up to `pairs` queue pairs.
///
/// A tap that was made without `multi_queue` has one pair, whatever was asked for. With `vhost`, /dev/vhost-net is
/// opened too where it is there and usable; where it is not, the tap works without.
pub fn open_tap(name: &str, pairs: usize, vhost: bool) -> Result<OpenTap, Error> {
    let c_name = checked_name(name)?;
    // TUNSETIFF would make an interface that is missing.
    if !sys::exists(&c_name) {
        return Err(Error::NoTap { name: name.into() });
    }
    let queues = attach_queues(name, pairs.max(1))?;
    let vhost = if vhost {
        open_vhost(queues.len())
    } else {
        Vec::new()
    };
    finish(name, queues, vhost)
}

/// Sets queues that are attached up for a guest.
pub(super) fn finish(name: &str, queues: Vec<File>, vhost: Vec<File>) -> Result<OpenTap, Error> {
    let failed = |what| {
        move |source| Error::Setup {
            what,
            name: name.into(),
            source,
        }
    };
    for queue in &queues {
        sys::set_header_len(queue, HEADER_LEN).map_err(failed("setting the header length of a tap"))?;
    }
    // Until the guest says otherwise it takes nothing special.
    sys::set_offloads(&queues[0], crate::Offloads::NONE).map_err(failed("clearing the offloads of a tap"))?;
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    let socket = socket
        .map_err(io::Error::from)
        .map_err(failed("opening a socket to ask for the MTU"))?;
    let mtu = sys::mtu(socket, name).map_err(failed("asking for the MTU"))?;
    Ok(OpenTap {
        queues,
        vhost,
        mtu: Some(mtu),
        whole: false,
    })
}

/// The rules of `dev_valid_name` in Linux.
fn checked_name(name: &str) -> Result<CString, Error> {
    let refused = || Error::Name { name: name.into() };
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(refused());
    }
    CString::new(name).map_err(|_| refused())
}

fn open_tun() -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open("/dev/net/tun")
}

fn attach_queues(name: &str, pairs: usize) -> Result<Vec<File>, Error> {
    let basic = sys::IFF_TAP | sys::IFF_NO_PI | sys::IFF_VNET_HDR;
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EBUSY) => Error::TapBusy { name: name.into() },
        Some(libc::EINVAL) => Error::NotATap { name: name.into() },
        _ => Error::Setup {
            what: "attaching to the tap",
            name: name.into(),
            source,
        },
    };
    let no_device = |source| Error::Setup {
        what: "opening /dev/net/tun",
        name: name.into(),
        source,
    };
    let first = open_tun().map_err(no_device)?;
    // The flag must say how the tap was made, which only trying tells.
    match sys::attach(&first, name, basic | sys::IFF_MULTI_QUEUE) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::attach(&first, name, basic).map_err(failed)?;
            return Ok(vec![first]);
        }
        Err(error) => return Err(failed(error)),
    }
    let mut queues = vec![first];
    while queues.len() < pairs {
        let queue = open_tun().map_err(no_device)?;
        sys::attach(&queue, name, basic | sys::IFF_MULTI_QUEUE).map_err(failed)?;
        queues.push(queue);
    }
    Ok(queues)
}

pub(super) fn open_vhost(pairs: usize) -> Vec<File> {
    let open = || {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open("/dev/vhost-net")
    };
    match (0..pairs).map(|_| open()).collect() {
        Ok(files) => files,
        Err(error) => {
            tracing::info!(
                "/dev/vhost-net cannot be used ({error}); frames pass through the guest's process"
            );
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_refuses_are_refused_here() {
        for name in [
            "",
            "a/b",
            "sixteen-letters-",
            "a b",
            ".",
            "..",
            "tap%d",
            "a:1",
            "a\0b",
            "t\n",
        ] {
            assert!(
                matches!(open_tap(name, 1, false), Err(Error::Name { .. })),
                "{name:?}"
            );
        }
        assert!(matches!(
            open_tap("no-such-tap-99", 1, false),
            Err(Error::NoTap { .. })
        ));
    }

    #[test]
    fn an_interface_that_is_no_tap_is_refused() {
        let refused = open_tap("lo", 1, false).unwrap_err();
        assert!(
            matches!(refused, Error::NotATap { .. } | Error::Setup { .. }),
            "{refused}"
        );
    }
}
