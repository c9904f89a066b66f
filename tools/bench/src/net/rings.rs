//! Frames between rings in shared memory, as guests have them: through our switch, and through a loop that only moves them.
//!
//! One thread plays both guests: it fills one ring and empties the other. The switch's thread, or the loop's, is between.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ostler_netio::{FrameRings, RingBroken};
use ostler_switchd::client::Client;
use ostler_switchd::config::PortSpec;
use ostler_worker::EventLoop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

use super::bare::Loop;
use super::flood::SIZES;
use super::joint::{Kind, Switch};
use crate::Common;
use crate::beside::Figures;
use crate::error::Error;

/// Frames that are added before the other side is woken, and most that are under way.
const BURST: usize = 64;
const UNDER_WAY: u64 = 512;
const STATIONS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0x97, 1], [2, 0, 0, 0, 0x97, 2]];
/// Between two looks for frames, when there are none.
const REST: Duration = Duration::from_millis(100);
/// How long frames may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One end of a pair of rings, and the socket by which the other one is woken.
struct End {
    rings: FrameRings,
    wake: OwnedFd,
}

impl End {
    fn wake_peer(&self) {
        if self.rings.must_wake() {
            // A peer whose socket is full is awake.
            let _ = rustix::net::send(&self.wake, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Waits until there are frames, or for a moment.
    fn wait(&self) -> io::Result<()> {
        if !self.rings.sleep() {
            let rest = Timespec::try_from(REST).unwrap_or_default();
            poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&rest))?;
            self.rings.stay_awake();
        }
        self.clear();
        Ok(())
    }

    /// Takes the bytes that woke us.
    fn clear(&self) {
        let mut bytes = [0; 64];
        while rustix::net::recv(&self.wake, &mut bytes, RecvFlags::DONTWAIT).is_ok_and(|(count, _)| count > 0)
        {
        }
    }
}

fn broken(_: RingBroken) -> Error {
    Error::Host("moving frames between rings", io::ErrorKind::InvalidData.into())
}

/// Measures CPU time and time by the clock of a frame, through both.
pub(super) fn measure(common: &Common, span: Duration, figures: &mut Figures) -> Result<(), Error> {
    let switch = Switch::start(common, "")?;
    let mut ends = [attach(&switch, "one")?, attach(&switch, "two")?];
    introduce(&mut ends)?;
    for len in SIZES {
        flow(&mut ends, len, span, Kind::Ours, figures, || {
            Some(switch.cpu_ns())
        })?;
    }
    drop((ends, switch));

    let (mut ends, mover) = joined()?;
    for len in SIZES {
        flow(&mut ends, len, span, Kind::Bare, figures, || {
            let text =
                std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", mover.thread())).ok()?;
            text.split(' ').next()?.parse().ok()
        })?;
    }
    Ok(())
}

/// A guest's end of a pair of rings at the switch.
fn attach(switch: &Switch, name: &str) -> Result<End, Error> {
    let failed = |e: String| Error::Host("connecting rings to the switch", io::Error::other(e));
    let port: PortSpec = serde_json::from_value(serde_json::json!({ "name": name, "guest": true }))
        .map_err(|e| failed(e.to_string()))?;
    let client = Client::connect(&switch.control()).map_err(|e| failed(e.to_string()))?;
    let attached = client.attach(&port).map_err(|e| failed(e.to_string()))?;
    Ok(End {
        rings: FrameRings::join(attached.memory.as_fd()).map_err(|e| failed(e.to_string()))?,
        wake: attached.connection,
    })
}

/// Two pairs of rings, with a loop that moves frames from the first to the second.
fn joined() -> Result<([End; 2], Loop), Error> {
    let failed = |e: String| Error::Host("making rings", io::Error::other(e));
    let pair = || -> Result<(End, End), Error> {
        let (rings, memory) = FrameRings::create().map_err(|e| failed(e.to_string()))?;
        let (here, there) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
        let guest = FrameRings::join(memory.as_fd()).map_err(|e| failed(e.to_string()))?;
        Ok((
            End {
                rings,
                wake: here.into(),
            },
            End {
                rings: guest,
                wake: there.into(),
            },
        ))
    };
    let ((mut from, first), (mut to, second)) = (pair()?, pair()?);
    let mut frame = Vec::new();
    let mut events = EventLoop::new().map_err(|e| failed(e.to_string()))?;
    events.add(&from.wake, 0).map_err(|e| failed(e.to_string()))?;
    let mut tokens = Vec::new();
    let mover = Loop::start(move || {
        let lost = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut moved = 0;
        while moved < BURST && from.rings.pop(&mut frame).map_err(lost)?.is_some() {
            // What does not fit is lost.
            let _ = to.rings.push(&[&frame]).map_err(lost)?;
            frame.clear();
            moved += 1;
        }
        if moved > 0 {
            to.wake_peer();
            return Ok(());
        }
        // It waits as the switch does, which looks for a short while before it sleeps.
        if !events.poll(|| from.rings.has_frames()) && !from.rings.sleep() {
            events.wait(Some(REST), &mut tokens).map_err(io::Error::other)?;
            from.rings.stay_awake();
        }
        from.clear();
        Ok(())
    });
    Ok(([first, second], mover))
}

/// Each of the stations says something to all, so that the switch knows where they are.
fn introduce(ends: &mut [End; 2]) -> Result<(), Error> {
    for (end, station) in ends.iter_mut().zip(STATIONS) {
        let hello = frame([0xff; 6], station, 60);
        end.rings.push(&[&hello]).map_err(broken)?;
        end.wake_peer();
    }
    let (mut heard, deadline) = ([false; 2], Instant::now() + PATIENCE);
    while heard != [true; 2] && Instant::now() < deadline {
        for (end, heard) in ends.iter_mut().zip(&mut heard) {
            *heard |= end.rings.pop(&mut Vec::new()).map_err(broken)?.is_some();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn frame(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
    frame.resize(len, 0x5a);
    frame
}

/// Keeps frames under way from the first end to the second for a while.
fn flow(
    ends: &mut [End; 2],
    len: usize,
    span: Duration,
    kind: Kind,
    figures: &mut Figures,
    cpu_ns: impl Fn() -> Option<u64>,
) -> Result<(), Error> {
    let [from, to] = ends;
    let sent_frame = frame(STATIONS[1], STATIONS[0], len);
    let (mut sent, mut received, mut room) = (0u64, 0u64, Vec::new());
    let (before, start) = (cpu_ns(), Instant::now());
    while start.elapsed() < span {
        let mut moved = 0;
        while moved < BURST
            && sent - received < UNDER_WAY
            && from.rings.push(&[&sent_frame]).map_err(broken)?
        {
            sent += 1;
            moved += 1;
        }
        if moved > 0 {
            from.wake_peer();
        }
        let had = received;
        while let Some(len) = to.rings.pop(&mut room).map_err(broken)? {
            received += u64::from(len == sent_frame.len());
            room.clear();
        }
        if received == had && moved == 0 {
            to.wait().map_err(|e| Error::Host("waiting for frames", e))?;
        }
    }
    let took = start.elapsed();
    let spent = before
        .zip(cpu_ns())
        .map(|(before, after)| after.saturating_sub(before));
    let deadline = Instant::now() + PATIENCE;
    while received < sent && Instant::now() < deadline {
        received += u64::from(to.rings.pop(&mut room).map_err(broken)?.is_some());
        room.clear();
    }
    if received < sent {
        return Err(Error::Host(
            "moving frames between rings: some were lost",
            io::ErrorKind::TimedOut.into(),
        ));
    }
    let frames = received.max(1) as f64;
    figures.add(
        &format!("ring {len} clock"),
        kind.name(),
        took.as_nanos() as f64 / frames,
    );
    if let Some(spent) = spent {
        figures.add(&format!("ring {len} cpu"), kind.name(), spent as f64 / frames);
    }
    Ok(())
}
