//! Opening macvtaps: a character device for each, which is named by its interface's number.
//!
//! Numbers of interfaces belong to a network namespace, names of devices do not: whoever has `/dev/tap4` may have it of another
//! namespace. So what was opened is asked whose it is; and where the device is missing or another's, one is made for the moment.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::open::{finish, open_vhost};
use super::{OpenTap, sys};
use crate::Error;

/// Opens the macvtap `name`, whose interface has this number and this address, for a guest with up to `pairs` queue pairs.
///
/// # Errors
/// If it is not there, or the host refuses a step.
pub fn open_macvtap(
    (name, index): (&str, u32),
    mac: [u8; 6],
    pairs: usize,
    vhost: bool,
) -> Result<OpenTap, Error> {
    let failed = |what| {
        move |source| Error::Setup {
            what,
            name: name.into(),
            source,
        }
    };
    let device = Device::find(name, index).map_err(failed("finding the device of the macvtap"))?;
    let mut queues = Vec::new();
    while queues.len() < pairs.max(1) {
        let queue = device.open().map_err(failed("opening the macvtap"))?;
        let flags = sys::IFF_TAP | sys::IFF_NO_PI | sys::IFF_VNET_HDR | sys::IFF_MULTI_QUEUE;
        sys::attach(&queue, name, flags).map_err(failed("attaching to the macvtap"))?;
        let found = sys::describe(&queue)
            .map_err(failed("describing the macvtap"))?
            .name();
        let address = sys::address(&queue).map_err(failed("asking for the address of the macvtap"))?;
        if found != name || address != mac {
            let source = io::Error::other(format!("{} belongs to another interface", device.path.display()));
            return Err(failed("opening the macvtap")(source));
        }
        queues.push(queue);
    }
    drop(device);
    let vhost = if vhost {
        open_vhost(queues.len())
    } else {
        Vec::new()
    };
    finish(name, queues, vhost)
}

/// The character device of a macvtap.
struct Device {
    path: PathBuf,
    /// It was made for the moment.
    made: bool,
}

impl Device {
    fn find(name: &str, index: u32) -> io::Result<Self> {
        let path = PathBuf::from(format!("/dev/tap{index}"));
        let there = fs::metadata(&path)
            .ok()
            .filter(|meta| meta.file_type().is_char_device());
        let number = device_number(name, index);
        match (there, number) {
            (Some(meta), Some(number)) if meta.rdev() == number => Ok(Self { path, made: false }),
            // Nothing else tells which device it is.
            (Some(_), None) => Ok(Self { path, made: false }),
            (None, None) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("neither {} nor its number in /sys is there", path.display()),
            )),
            (_, Some(number)) => {
                let path = PathBuf::from(format!("/dev/.ostler-tap-{}-{index}", std::process::id()));
                let _ = fs::remove_file(&path);
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(CWD, &path, FileType::CharacterDevice, mode, number)?;
                Ok(Self { path, made: true })
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&self.path)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The device's number as /sys has it, where /sys shows this network namespace.
fn device_number(name: &str, index: u32) -> Option<u64> {
    let interface = Path::new("/sys/class/net").join(name);
    let own = fs::read_to_string(interface.join("ifindex")).ok()?;
    if own.trim().parse() != Ok(index) {
        return None;
    }
    let places = [format!("macvtap/tap{index}/dev"), format!("tap{index}/dev")];
    let text = places
        .iter()
        .find_map(|place| fs::read_to_string(interface.join(place)).ok())?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}
