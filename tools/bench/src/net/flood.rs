//! Paced frames from one interface to another.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::joint::{Joint, Kind, TAPS};
use super::space::{INSIDE, Space, run};
use crate::beside::Figures;
use crate::error::Error;

/// Bytes of the frames, without their checksum.
pub(super) const SIZES: [usize; 2] = [60, 1514];
/// Frames that are sent with one call.
const BURST: usize = 16;
/// The pace at which CPU time is measured, in frames a second: one that everybody keeps up with.
const PACE: f64 = 25_000.0;
/// The first pace at which loss is looked for.
const FIRST: f64 = 50_000.0;
/// The highest that is tried.
const HIGHEST: f64 = 3_000_000.0;
/// Steps of the search between the last pace without loss and the first with.
const STEPS: u32 = 4;
/// How long one pace is tried.
const TRIAL: Duration = Duration::from_millis(400);
/// How long frames may be on their way.
const SETTLE: Duration = Duration::from_millis(100);
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const SENDER: [u8; 6] = [2, 0, 0, 0, 0x96, 1];

/// From where frames are sent, and where they are counted.
pub(super) struct Path<'a> {
    out: OwnedFd,
    /// The station that they are for.
    to: [u8; 6],
    counted: Counted<'a>,
}

enum Counted<'a> {
    In(&'a Space),
    Here(&'static str),
}

impl Counted<'_> {
    /// Frames that the interface has received so far.
    fn received(&self) -> Result<u64, Error> {
        let said = match self {
            Counted::In(space) => run(&format!(
                "nsenter -t {} -n ip -j -s link show dev {INSIDE}",
                space.pid()
            ))?,
            Counted::Here(name) => run(&format!("ip -j -s link show dev {name}"))?,
        };
        let links: Value = serde_json::from_str(&said).unwrap_or_default();
        links
            .pointer("/0/stats64/rx/packets")
            .and_then(Value::as_u64)
            .ok_or(Error::Nonsense {
                side: "ip",
                line: said,
            })
    }
}

impl<'a> Path<'a> {
    /// From one namespace to another. The receiver has made itself known.
    pub(super) fn between(from: &Space, to: &'a Space) -> Result<Self, Error> {
        let failed = |e| Error::Host("opening a packet socket", e);
        let back = to.inside(|| packet_socket(INSIDE))?.map_err(failed)?;
        let out = from.inside(|| packet_socket(INSIDE))?.map_err(failed)?;
        let path = Self {
            out,
            to: to.mac(),
            counted: Counted::In(to),
        };
        path.introduce(&back)?;
        Ok(path)
    }

    /// What is sent at the first tap is received at the second.
    pub(super) fn over_taps() -> Result<Self, Error> {
        let failed = |e| Error::Host("opening a packet socket", e);
        let [from, to] = TAPS;
        let back = packet_socket(to).map_err(failed)?;
        let path = Self {
            out: packet_socket(from).map_err(failed)?,
            to: [2, 0, 0, 0, 0x97, 2],
            counted: Counted::Here(to),
        };
        path.introduce(&back)?;
        Ok(path)
    }

    /// The receiver says something to everybody, so that its place is known.
    fn introduce(&self, back: &OwnedFd) -> Result<(), Error> {
        let mut burst = Burst::new(&frame([0xff; 6], self.to, 60), 1);
        burst.send(back)?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Sends at this pace for a while.
    fn send(&self, len: usize, pace: f64, span: Duration) -> Result<Trial, Error> {
        let before = self.counted.received()?;
        let mut burst = Burst::new(&frame(self.to, SENDER, len), BURST);
        let (start, mut sent) = (Instant::now(), 0u64);
        loop {
            let due = Duration::from_secs_f64(sent as f64 / pace);
            if due >= span {
                break;
            }
            let now = start.elapsed();
            if now > span * 2 {
                break;
            }
            if now < due {
                pause(due - now);
                continue;
            }
            sent += burst.send(&self.out)?;
        }
        let took = start.elapsed();
        std::thread::sleep(SETTLE);
        Ok(Trial {
            sent,
            received: self.counted.received()?.saturating_sub(before),
            pace: sent as f64 / took.as_secs_f64(),
        })
    }
}

/// Sleeps where there is time for it, so that the others have the CPU.
fn pause(span: Duration) {
    if span > Duration::from_micros(150) {
        std::thread::sleep(span - Duration::from_micros(100));
    } else {
        std::hint::spin_loop();
    }
}

/// What became of a number of frames.
struct Trial {
    sent: u64,
    received: u64,
    /// Frames a second that were sent in the end.
    pace: f64,
}

/// CPU time of a frame at one pace, and the highest pace without loss, for each size.
pub(super) fn measure(
    joint: &Joint,
    port: &'static str,
    kind: Kind,
    path: &Path<'_>,
    span: Duration,
    figures: &mut Figures,
) -> Result<(), Error> {
    for len in SIZES {
        // Warm, and seen to work.
        let trial = path.send(len, PACE, SETTLE)?;
        if trial.received == 0 {
            return Err(Error::Host(
                "sending frames through what joins two ports",
                io::ErrorKind::TimedOut.into(),
            ));
        }
        let before = joint.cpu_ns();
        let trial = path.send(len, PACE, span)?;
        if let Some((before, after)) = before.zip(joint.cpu_ns()) {
            let spent = after.saturating_sub(before) as f64 / 1e3;
            figures.add(
                &format!("{port} {len} cpu"),
                kind.name(),
                spent / trial.received.max(1) as f64,
            );
        }
        figures.add(
            &format!("{port} {len} pace"),
            kind.name(),
            highest_pace(path, len)? / 1e3,
        );
    }
    Ok(())
}

/// The highest pace at which every frame arrives, in frames a second.
fn highest_pace(path: &Path<'_>, len: usize) -> Result<f64, Error> {
    let (mut good, mut bad) = (0.0f64, None::<f64>);
    let mut next = FIRST;
    let mut steps = 0;
    while steps < STEPS && next <= HIGHEST {
        let trial = path.send(len, next, TRIAL)?;
        if trial.received >= trial.sent {
            good = good.max(trial.pace);
            // The sender itself may be slower than it should be.
            if trial.pace < next * 0.9 {
                return Ok(good);
            }
        } else {
            bad = Some(bad.map_or(next, |bad| bad.min(next)));
        }
        next = match bad {
            None => next * 2.0,
            Some(bad) => {
                steps += 1;
                (good + bad) / 2.0
            }
        };
    }
    Ok(good)
}

fn frame(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ETHERTYPE].concat();
    frame.resize(len, 0x5a);
    frame
}

/// The same frame some times, sent with one call.
struct Burst {
    messages: Vec<libc::mmsghdr>,
    _slice: Box<libc::iovec>,
    _frame: Vec<u8>,
}

impl Burst {
    fn new(frame: &[u8], count: usize) -> Self {
        let mut frame = frame.to_vec();
        let mut slice = Box::new(libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        });
        // SAFETY: zeroes are a valid message without address, data and control.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut *slice;
        message.msg_hdr.msg_iovlen = 1;
        Self {
            messages: vec![message; count],
            _slice: slice,
            _frame: frame,
        }
    }

    /// How many were sent.
    fn send(&mut self, socket: &OwnedFd) -> Result<u64, Error> {
        // SAFETY: the messages point to the slice and it to the frame, which live as long as `self` and are only read.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len() as libc::c_uint,
                0,
            )
        };
        match u64::try_from(sent) {
            Ok(sent) => Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
                error => Err(Error::Host("sending frames", error)),
            },
        }
    }
}

/// A socket that sends frames at an interface of this namespace, and receives none.
fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?,
        name,
    )?;
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives during the call, and is as long as is said.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
