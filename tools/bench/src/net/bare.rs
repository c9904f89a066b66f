//! Loops that move frames from one place to another and do nothing else: what the work of a switch is held against.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::Error;

/// How long a loop waits before it looks whether it is to end.
const REST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Frames that are sent with one call.
const BATCH: usize = 64;
/// Of the ring of received frames: bytes of a place, and how many there are. The kernel allocates a block at once.
const PLACE: usize = 2048;
const PLACES: usize = 2048;
const BLOCK: usize = 256 << 10;
/// Bytes that may wait to be sent.
const ROOM: libc::c_int = 4 << 20;

/// A loop on a thread of its own; dropping it ends it.
pub(super) struct Loop {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    id: i32,
}

impl Loop {
    /// Has `step` called again and again: it waits up to [`REST`] for frames and moves them.
    pub(super) fn start(mut step: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, id) = mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let _ = sender.send(rustix::thread::gettid().as_raw_nonzero().get());
            while !stopped.load(Ordering::Relaxed) && step().is_ok() {}
        });
        Self {
            stop,
            thread: Some(thread),
            id: id.recv().unwrap_or_default(),
        }
    }

    /// Its number in /proc/self/task.
    pub(super) fn thread(&self) -> i32 {
        self.id
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// True if there is something to read before long.
fn wait(descriptor: &impl AsFd) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&REST))? > 0)
}

/// Moves frames from the first tap to the second.
pub(super) fn taps(names: [&str; 2]) -> Result<Loop, Error> {
    let open = |name: &str| -> Result<File, Error> {
        let refused = |e: String| Error::Host("opening a tap", io::Error::other(e));
        let tap = ostler_netio::open_tap(name, 1, false).map_err(|e| refused(e.to_string()))?;
        let queue = tap.queues.into_iter().next();
        queue.ok_or_else(|| refused("it has no queue".into()))
    };
    let (mut from, mut to) = (open(names[0])?, open(names[1])?);
    let mut buffer = vec![0; 1 << 16];
    Ok(Loop::start(move || {
        if !wait(&from)? {
            return Ok(());
        }
        loop {
            match from.read(&mut buffer) {
                // What does not fit is lost.
                Ok(len) => drop(to.write(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }))
}

/// Moves frames from the first interface to the second: by a ring that the kernel fills (TPACKET_V2) and `sendmmsg`.
pub(super) fn interfaces(names: [&str; 2]) -> Result<Loop, Error> {
    let failed = |e| Error::Host("opening a packet socket", e);
    let mut from = Incoming::open(names[0]).map_err(failed)?;
    let mut to = Outgoing::open(names[1]).map_err(failed)?;
    Ok(Loop::start(move || {
        if !from.has_frame() && !wait(&from.socket)? {
            return Ok(());
        }
        while from.has_frame() {
            to.send(&mut from);
        }
        Ok(())
    }))
}

/// A packet socket at an interface; `protocol` says what it receives.
fn packet_socket(
    name: &str,
    protocol: u16,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    prepare(&socket)?;
    let asker = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let index = rustix::net::netdevice::name_to_index(asker, name)?;
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives during the call, and is as long as is said.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    let wish = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &wish)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let (pointer, len) = (
        std::ptr::from_ref(value).cast(),
        size_of::<T>() as libc::socklen_t,
    );
    // SAFETY: the value lives during the call, and is as long as is said.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Frames that an interface receives, in a ring.
struct Incoming {
    socket: OwnedFd,
    base: NonNull<u8>,
    next: usize,
}

// SAFETY: the mapping is this value's alone, and belongs to no thread.
unsafe impl Send for Incoming {}

impl Incoming {
    fn open(name: &str) -> io::Result<Self> {
        let socket = packet_socket(name, libc::ETH_P_ALL as u16, |socket| {
            let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
            set(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
            let on: libc::c_int = 1;
            set(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)?;
            let ring = libc::tpacket_req {
                tp_block_size: BLOCK as u32,
                tp_block_nr: (PLACES * PLACE / BLOCK) as u32,
                tp_frame_size: PLACE as u32,
                tp_frame_nr: PLACES as u32,
            };
            set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &ring)
        })?;
        // SAFETY: the kernel chooses a place that nothing else uses.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PLACES * PLACE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &socket,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            socket,
            base,
            next: 0,
        })
    }

    fn place(&self, number: usize) -> *mut u8 {
        // SAFETY: the remainder is below the number of places, all of which are mapped.
        unsafe { self.base.as_ptr().add(number % PLACES * PLACE) }
    }

    fn status(&self, number: usize) -> &AtomicU32 {
        // SAFETY: places are aligned and mapped as long as `self` lives; the kernel writes the status as one word.
        unsafe { AtomicU32::from_ptr(self.place(number).cast()) }
    }

    fn is_ours(&self, number: usize) -> bool {
        self.status(number).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    fn has_frame(&self) -> bool {
        self.is_ours(self.next)
    }

    /// Where the frame in a place that is ours is, and how long.
    fn frame(&self, number: usize) -> libc::iovec {
        // SAFETY: the place is mapped, and ours until its status is given back; it begins with this header.
        let header = unsafe { &*self.place(number).cast::<libc::tpacket2_hdr>() };
        let at = usize::from(header.tp_mac).min(PLACE);
        libc::iovec {
            // SAFETY: still in the place.
            iov_base: unsafe { self.place(number).add(at) }.cast(),
            iov_len: (header.tp_snaplen as usize).min(PLACE - at),
        }
    }
}

/// Frames that an interface is to send.
struct Outgoing {
    socket: OwnedFd,
    slices: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: the messages point into the slices, which are this value's own and do not move; what the slices point to is set anew
// before each call.
unsafe impl Send for Outgoing {}

impl Outgoing {
    fn open(name: &str) -> io::Result<Self> {
        let socket = packet_socket(name, 0, |socket| {
            set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &ROOM)
        })?;
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut slices = vec![empty; BATCH];
        let message = |slice: &mut libc::iovec| {
            // SAFETY: zeroes are a valid message without address, data and control.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let messages = slices.iter_mut().map(message).collect();
        Ok(Self {
            socket,
            slices,
            messages,
        })
    }

    /// Sends what has come, up to a batch, from where it is. What does not fit is lost.
    fn send(&mut self, from: &mut Incoming) {
        let mut count = 0;
        while count < BATCH && from.is_ours(from.next + count) {
            self.slices[count] = from.frame(from.next + count);
            count += 1;
        }
        // SAFETY: `count` messages are there; their slices lie in places of the ring that are ours.
        unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        for number in from.next..from.next + count {
            from.status(number)
                .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        from.next = (from.next + count) % PLACES;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), PLACES * PLACE) };
    }
}
