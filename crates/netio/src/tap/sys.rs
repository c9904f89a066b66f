//! The ioctls of /dev/net/tun (<linux/if_tun.h>) and the few of sockets that go with them.

use std::ffi::{CStr, c_char, c_int, c_short, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::Offloads;

/// Bytes of an interface name with its terminating zero.
const IFNAMSIZ: usize = 16;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNGETVNETHDRSZ: libc::Ioctl = 0x8004_54d7;
const TUNSETQUEUE: libc::Ioctl = 0x4004_54d9;
const SIOCGIFHWADDR: libc::Ioctl = 0x8927;
const SIOCGIFMTU: libc::Ioctl = 0x8921;

pub(super) const IFF_TAP: c_short = 0x0002;
pub(super) const IFF_NO_PI: c_short = 0x1000;
pub(super) const IFF_VNET_HDR: c_short = 0x4000;
pub(super) const IFF_MULTI_QUEUE: c_short = 0x0100;
const IFF_ATTACH_QUEUE: c_short = 0x0200;
const IFF_DETACH_QUEUE: c_short = 0x0400;

const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
const TUN_F_TSO_ECN: c_uint = 0x08;
const TUN_F_USO4: c_uint = 0x20;
const TUN_F_USO6: c_uint = 0x40;

/// `struct ifreq` with the two members of its union that are used here.
#[repr(C)]
pub(super) struct IfReq {
    name: [u8; IFNAMSIZ],
    value: IfValue,
}

#[repr(C)]
union IfValue {
    flags: c_short,
    mtu: c_int,
    room: [u8; 24],
}

impl IfReq {
    pub(super) fn new(name: &str, flags: c_short) -> Self {
        let mut request = Self {
            name: [0; IFNAMSIZ],
            value: IfValue { room: [0; 24] },
        };
        let bytes = name.as_bytes();
        let len = bytes.len().min(IFNAMSIZ - 1);
        request.name[..len].copy_from_slice(&bytes[..len]);
        request.value.flags = flags;
        request
    }

    pub(super) fn name(&self) -> String {
        CStr::from_bytes_until_nul(&self.name).map_or(String::new(), |n| n.to_string_lossy().into_owned())
    }

    pub(super) fn flags(&self) -> c_short {
        // SAFETY: all members are plain integers, and the union starts out zeroed.
        unsafe { self.value.flags }
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes `tun` a queue of the interface.
pub(super) fn attach(tun: &File, name: &str, flags: c_short) -> io::Result<()> {
    let mut request = IfReq::new(name, flags);
    // SAFETY: TUNSETIFF reads and writes an ifreq.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) })
}

/// The interface that `tun` is a queue of, and its flags.
pub(super) fn describe(tun: &File) -> io::Result<IfReq> {
    let mut request = IfReq::new("", 0);
    // SAFETY: TUNGETIFF writes an ifreq.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETIFF, &raw mut request) })?;
    Ok(request)
}

/// Sets the bytes of the header in front of each frame.
pub(super) fn set_header_len(tun: &File, len: usize) -> io::Result<()> {
    let value = len as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETVNETHDRSZ, &raw const value) })
}

/// The bytes of the header in front of each frame.
pub(super) fn header_len(tun: &File) -> io::Result<usize> {
    let mut value: c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes an int.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETVNETHDRSZ, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// Says what the reader of the tap takes: frames without checksum, larger than the MTU.
pub(super) fn set_offloads(tun: &File, offloads: Offloads) -> io::Result<()> {
    let mut bits = 0;
    for (wanted, bit) in [
        (offloads.checksum, TUN_F_CSUM),
        (offloads.tso4, TUN_F_TSO4),
        (offloads.tso6, TUN_F_TSO6),
        (offloads.ecn, TUN_F_TSO_ECN),
        (offloads.uso, TUN_F_USO4 | TUN_F_USO6),
    ] {
        if wanted {
            bits |= bit;
        }
    }
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
}

/// Lets the queue carry frames, or rest.
pub(super) fn set_active(tun: &File, active: bool) -> io::Result<()> {
    let mut request = IfReq::new(
        "",
        if active {
            IFF_ATTACH_QUEUE
        } else {
            IFF_DETACH_QUEUE
        },
    );
    // SAFETY: TUNSETQUEUE reads an ifreq.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETQUEUE, &raw mut request) })
}

/// The Ethernet address of the interface that `tun` is a queue of.
pub(super) fn address(tun: &File) -> io::Result<[u8; 6]> {
    let mut request = IfReq::new("", 0);
    // SAFETY: SIOCGIFHWADDR writes an ifreq.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: all members are plain integers, and the union starts out zeroed.
    let room = unsafe { request.value.room };
    // A `struct sockaddr`: the family, then the address.
    Ok([room[2], room[3], room[4], room[5], room[6], room[7]])
}

/// True if the network namespace of this thread has an interface of that name.
pub(super) fn exists(name: &CStr) -> bool {
    // SAFETY: the name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr().cast::<c_char>()) != 0 }
}

/// The interface's MTU, asked through any socket of its namespace.
pub(super) fn mtu(socket: impl AsFd, name: &str) -> io::Result<u16> {
    let mut request = IfReq::new(name, 0);
    // SAFETY: SIOCGIFMTU reads and writes an ifreq.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGIFMTU, &raw mut request) })?;
    // SAFETY: all members are plain integers, and the call has written this one.
    let mtu = unsafe { request.value.mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
