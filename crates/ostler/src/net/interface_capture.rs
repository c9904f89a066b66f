//! Captures of interfaces of the host, by packet sockets (packet(7)), written as the captures of our switch are.

use std::ffi::CString;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use ostler_switchd::pcapng::{self, Direction, Packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;
use crate::run::Signals;

/// Bytes that wait in the kernel for each interface.
const ROOM: libc::c_int = 8 << 20;
/// Longest frame that is read, in bytes.
const LONGEST: usize = 1 << 17;
/// Frames of one interface that are taken before the others have their turn.
const TURN: usize = 64;
/// How often it is looked whether the interfaces are still there.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of both addresses, behind which a tag stands.
const ADDRESSES: usize = 12;

/// An interface whose frames are wanted.
pub struct Interface {
    pub name: String,
    /// The VLAN of its untagged frames.
    pub pvid: Option<u16>,
}

/// A capture that has begun.
pub struct InterfaceCapture {
    sockets: Vec<Socket>,
    snaplen: u32,
    /// Only frames of this VLAN.
    pub vlan: Option<u16>,
    /// It ends after so many frames.
    pub count: Option<u64>,
    /// No frames that the ports send.
    pub received_only: bool,
    written: u64,
}

/// A frame that came.
struct Frame {
    len: usize,
    tag: Option<[u8; 4]>,
    direction: Direction,
}

impl InterfaceCapture {
    pub fn open(interfaces: impl Iterator<Item = Interface>, snaplen: u32) -> Result<Self, Failure> {
        let open = |interface: Interface| {
            let name = interface.name.clone();
            Socket::open(interface).map_err(|error| {
                let what = format!("cannot capture at the interface `{name}`: {error}");
                match error.kind() {
                    io::ErrorKind::PermissionDenied => Failure::failed(format!("{what}; be root for it")),
                    _ => Failure::failed(what),
                }
            })
        };
        let sockets: Result<Vec<_>, _> = interfaces.map(open).collect();
        Ok(Self {
            sockets: sockets?,
            snaplen,
            vlan: None,
            count: None,
            received_only: false,
            written: 0,
        })
    }

    /// Writes frames until a signal comes, there are enough, or all interfaces are gone.
    pub fn run(mut self, file: &mut dyn Write, signals: &Signals) -> io::Result<()> {
        let mut out = Vec::new();
        pcapng::section(&mut out);
        for socket in &self.sockets {
            pcapng::interface(&mut out, &socket.interface.name, self.snaplen);
        }
        let mut frame = vec![0; LONGEST];
        let mut over = false;
        while !over {
            file.write_all(&out)?;
            file.flush()?;
            out.clear();
            over = self.wait(signals)? || self.sockets.iter().all(|socket| !socket.is_there());
            for number in 0..self.sockets.len() {
                over |= self.take(number, &mut frame, &mut out)?;
            }
        }
        for (number, socket) in self.sockets.iter().enumerate() {
            let (seen, dropped) = socket.statistics();
            pcapng::statistics(&mut out, number as u32, now(), seen, dropped);
        }
        file.write_all(&out)?;
        file.flush()
    }

    /// Waits for frames; true if a signal ends the capture.
    fn wait(&self, signals: &Signals) -> io::Result<bool> {
        let mut events = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        events.extend(
            self.sockets
                .iter()
                .map(|socket| PollFd::new(&socket.fd, PollFlags::IN)),
        );
        let look = Timespec::try_from(LOOK).ok();
        match poll(&mut events, look.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(!events[0].revents().is_empty() && signals.next().is_some())
    }

    /// Appends what one interface has; true if these are enough.
    fn take(&mut self, number: usize, bytes: &mut [u8], out: &mut Vec<u8>) -> io::Result<bool> {
        for _ in 0..TURN {
            let socket = &self.sockets[number];
            let Some(frame) = socket.receive(bytes)? else {
                return Ok(false);
            };
            let bytes = &bytes[..frame.len];
            if !self.wants(&socket.interface, &frame, bytes) {
                continue;
            }
            let packet = Packet {
                interface: number as u32,
                time: now(),
                direction: frame.direction,
                dropped: 0,
            };
            let snaplen = self.snaplen as usize;
            match &frame.tag {
                Some(tag) if bytes.len() >= ADDRESSES => {
                    let (addresses, rest) = bytes.split_at(ADDRESSES);
                    pcapng::packet(out, &packet, &[addresses, tag, rest], snaplen);
                }
                _ => pcapng::packet(out, &packet, &[bytes], snaplen),
            }
            self.written += 1;
            if self.count.is_some_and(|count| self.written >= count) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn wants(&self, interface: &Interface, frame: &Frame, bytes: &[u8]) -> bool {
        if self.received_only && frame.direction == Direction::Out {
            return false;
        }
        self.vlan
            .is_none_or(|vlan| vlan_of(frame, bytes, interface.pvid) == Some(vlan))
    }
}

/// The VLAN of a frame: that of its tag, which the kernel may have taken out, or that of untagged frames.
fn vlan_of(frame: &Frame, bytes: &[u8], untagged: Option<u16>) -> Option<u16> {
    let tag = frame
        .tag
        .as_ref()
        .map(|tag| &tag[..])
        .or(bytes.get(ADDRESSES..ADDRESSES + 4));
    let Some(&[a, b, c, d]) = tag else {
        return untagged;
    };
    match (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]) & 0xfff) {
        (0x8100 | 0x88a8, vlan @ 1..) => Some(vlan),
        _ => untagged,
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// A packet socket of one interface.
struct Socket {
    fd: OwnedFd,
    index: libc::c_uint,
    interface: Interface,
}

/// The interface's number, 0 if there is none.
fn index_of(name: &str) -> libc::c_uint {
    let Ok(name) = CString::new(name) else { return 0 };
    // SAFETY: the name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Socket {
    fn open(interface: Interface) -> io::Result<Self> {
        let index = index_of(&interface.name);
        if index == 0 {
            return Err(io::Error::other("there is no such interface in the kernel here"));
        }
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Without a protocol it hears nothing until it is bound to the interface.
        // SAFETY: a new descriptor comes back, or an error.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: it was just opened and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, index, interface };
        socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // Beyond the host's limit only root may go; with less room more frames are missing, which is counted.
        socket
            .option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)
            .or_else(|_| socket.option(libc::SOL_SOCKET, libc::SO_RCVBUF, ROOM))?;
        // SAFETY: a sockaddr_ll of zeros is one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address is on this frame, and its size is passed.
        checked(unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value is on this frame, and its size is passed.
        let set =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
        checked(set).map(drop)
    }

    fn is_there(&self) -> bool {
        index_of(&self.interface.name) == self.index
    }

    /// The next frame, if one waits.
    fn receive(&self, bytes: &mut [u8]) -> io::Result<Option<Frame>> {
        // SAFETY: structures of integers and pointers, for which zero is a value.
        let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
        let mut parts = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut control = [0u64; 16];
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut parts;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in the message leads to memory of the size that stands beside it, which outlives the call.
        let len = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        if len < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // The interface was switched off; it may come back.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
                _ => Err(error),
            };
        }
        let direction = match address.sll_pkttype {
            libc::PACKET_OUTGOING => Direction::Out,
            _ => Direction::In,
        };
        Ok(Some(Frame {
            len: len as usize,
            tag: tag(&message),
            direction,
        }))
    }

    /// Frames that were seen since the start, and those of them that found no room.
    fn statistics(&self) -> (u64, u64) {
        let mut counts = MaybeUninit::<[u32; 2]>::zeroed();
        let mut len = size_of::<[u32; 2]>() as libc::socklen_t;
        // SAFETY: `struct tpacket_stats` is two numbers, and so much room is there.
        unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut len,
            );
        }
        // SAFETY: any bytes are numbers, and they were zero.
        let [seen, dropped] = unsafe { counts.assume_init() };
        (seen.into(), dropped.into())
    }
}

/// The tag that the kernel took out of a frame (`struct tpacket_auxdata`).
fn tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    const LEN: usize = 20;
    // SAFETY: the kernel filled the message, whose control data lie in memory of the caller's.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: a header that is not null lies wholly in the control data.
        let (level, kind, len) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        // SAFETY: it only computes a length.
        let whole = len >= unsafe { libc::CMSG_LEN(LEN as u32) } as usize;
        if (level, kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) && whole {
            let mut data = [0u8; LEN];
            // SAFETY: so many bytes of data are behind the header.
            unsafe { std::ptr::copy_nonoverlapping(libc::CMSG_DATA(header), data.as_mut_ptr(), LEN) };
            return tag_of(&data);
        }
        // SAFETY: as at the start.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn tag_of(auxiliary: &[u8; 20]) -> Option<[u8; 4]> {
    let half = |at: usize| u16::from_ne_bytes([auxiliary[at], auxiliary[at + 1]]);
    let status = u32::from_ne_bytes([auxiliary[0], auxiliary[1], auxiliary[2], auxiliary[3]]);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let kind = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => 0x8100,
        _ => half(18),
    };
    let ([a, b], [c, d]) = (kind.to_be_bytes(), half(16).to_be_bytes());
    Some([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: Option<[u8; 4]>) -> Frame {
        Frame {
            len: 60,
            tag,
            direction: Direction::In,
        }
    }

    #[test]
    fn a_tag_that_the_kernel_took_out_is_the_frames() {
        let mut data = [0u8; 20];
        assert_eq!(tag_of(&data), None);
        data[..4].copy_from_slice(&libc::TP_STATUS_VLAN_VALID.to_ne_bytes());
        data[16..18].copy_from_slice(&0x600au16.to_ne_bytes());
        assert_eq!(tag_of(&data), Some([0x81, 0, 0x60, 0x0a]));
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        data[..4].copy_from_slice(&both.to_ne_bytes());
        data[18..].copy_from_slice(&0x88a8u16.to_ne_bytes());
        assert_eq!(tag_of(&data), Some([0x88, 0xa8, 0x60, 0x0a]));
    }

    #[test]
    fn a_frame_is_in_the_vlan_of_its_tag_or_of_its_port() {
        let untagged = [0u8; 60];
        assert_eq!(vlan_of(&frame(None), &untagged, Some(7)), Some(7));
        assert_eq!(
            vlan_of(&frame(Some([0x81, 0, 0x20, 10])), &untagged, Some(7)),
            Some(10)
        );
        let mut tagged = untagged;
        tagged[12..16].copy_from_slice(&[0x81, 0, 0, 11]);
        assert_eq!(vlan_of(&frame(None), &tagged, Some(7)), Some(11));
        // A priority tag names no VLAN.
        tagged[15] = 0;
        assert_eq!(vlan_of(&frame(None), &tagged, None), None);
        assert_eq!(vlan_of(&frame(None), &[0; 5], None), None);
    }
}
