//! The packet socket and its options (packet(7), <linux/if_packet.h>).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes that may wait at the socket beside the ring: large frames one way, all frames the other.
const ROOM: libc::c_int = 4 << 20;

pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket that gets no frames yet.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: makes a descriptor and touches no memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let on: libc::c_int = 1;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        socket.set(libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
        // A frame that is too long for its place in the ring waits at the socket, whole.
        socket.set(libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &on)?;
        // Neither what we send nor what the host itself does comes back.
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)?;
        for (above_limits, within) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if socket.set(libc::SOL_SOCKET, above_limits, &ROOM).is_err() {
                socket.set(libc::SOL_SOCKET, within, &ROOM)?;
            }
        }
        Ok(socket)
    }

    /// Has the frames of one interface come from now on, whoever they are for.
    pub fn bind(&self, interface: i32) -> io::Result<()> {
        let wish = libc::packet_mreq {
            mr_ifindex: interface,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &wish)?;
        // SAFETY: zeroes are a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives during the call, and is as long as is said.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), len) })
    }

    /// Sets an option that takes a `T`.
    pub fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let (pointer, len) = (
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        );
        // SAFETY: the value lives during the call, and is as long as is said.
        check(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, pointer, len) })
    }

    /// Frames that found no place in the ring since this was asked last.
    pub fn take_drops(&self) -> u64 {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes no more than `len` bytes into `stats`.
        let got = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if got == 0 { u64::from(stats.tp_drops) } else { 0 }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
