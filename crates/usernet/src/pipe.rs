//! A cable in memory, for a network that is a thread beside its switch: frames pass as they are, each behind its virtio-net header, and
//! no byte is copied on the way.
//!
//! Each end has a bell, a descriptor that is readable when there may be something for it: frames, room for more, or that the other end
//! is gone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Buffers that are kept for the next frames, of each way.
const SPARE: usize = 32;
/// The largest buffer that is kept, in bytes: a whole frame with its header.
const SPARE_LEN: usize = 80 << 10;

/// One way.
struct Lane {
    state: Mutex<State>,
    /// Bytes of frames that may wait.
    room: usize,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Buffers of frames that were taken.
    spare: Vec<Vec<u8>>,
    /// The sender waits for room.
    full: bool,
    /// An end is gone.
    gone: bool,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of the cable.
pub struct Pipe {
    out: Arc<Lane>,
    into: Arc<Lane>,
    bell: Arc<OwnedFd>,
    others_bell: Arc<OwnedFd>,
    /// Something went out of which the other end was not told.
    untold: bool,
    /// Frames that were taken from the lane together, and the buffers of those before.
    taken: VecDeque<Vec<u8>>,
    done: Vec<Vec<u8>>,
    /// Buffers for the next frames.
    spare: Vec<Vec<u8>>,
}

impl Pipe {
    /// Both ends. So many bytes may wait on the way from the first to the second, and so many on the way back.
    pub fn pair(there: usize, back: usize) -> io::Result<(Self, Self)> {
        let lane = |room| {
            let state = Mutex::default();
            Arc::new(Lane { state, room })
        };
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let (there, back) = (lane(there), lane(back));
        let (first, second) = (bell()?, bell()?);
        let end = |out: &Arc<Lane>, into: &Arc<Lane>, bell: &Arc<OwnedFd>, others_bell: &Arc<OwnedFd>| Self {
            out: out.clone(),
            into: into.clone(),
            bell: bell.clone(),
            others_bell: others_bell.clone(),
            untold: false,
            taken: VecDeque::new(),
            done: Vec::new(),
            spare: Vec::new(),
        };
        Ok((
            end(&there, &back, &first, &second),
            end(&back, &there, &second, &first),
        ))
    }

    /// An empty buffer for a frame.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Sends a frame, which comes back if there is no room for it; the bell rings when there is. [`Pipe::flush`] tells the other end.
    pub fn send(&mut self, frame: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut state = self.out.state();
        if self.spare.is_empty() {
            std::mem::swap(&mut self.spare, &mut state.spare);
        }
        if state.bytes > 0 && state.bytes + frame.len() > self.out.room {
            state.full = true;
            return Err(frame);
        }
        if state.gone {
            // Nobody is there to take it.
            return Ok(());
        }
        // Who finds frames takes all of them, so only the first has to be told of.
        self.untold |= state.frames.is_empty();
        state.bytes += frame.len();
        state.frames.push_back(frame);
        Ok(())
    }

    /// Tells the other end of what was sent.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.untold) {
            ring(&self.others_bell);
        }
    }

    /// The next frame.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        if self.taken.is_empty() {
            // The bell first: what comes behind this rings it again.
            let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
            let mut state = self.into.state();
            std::mem::swap(&mut self.taken, &mut state.frames);
            state.bytes = 0;
            if state.spare.is_empty() {
                std::mem::swap(&mut self.done, &mut state.spare);
            }
            if std::mem::take(&mut state.full) {
                ring(&self.others_bell);
            }
        }
        self.taken.pop_front()
    }

    /// Gives back the buffer of a frame that was received.
    pub fn recycle(&mut self, mut frame: Vec<u8>) {
        if self.done.len() < SPARE && frame.capacity() <= SPARE_LEN {
            frame.clear();
            self.done.push(frame);
        }
    }

    /// Whether frames are here of which the bell does not tell.
    pub fn has_frames(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Whether the other end is gone, and all of it was received.
    pub fn is_over(&self) -> bool {
        let state = self.into.state();
        state.gone && state.frames.is_empty() && self.taken.is_empty()
    }
}

fn ring(bell: &OwnedFd) {
    // It cannot fail before it has rung 2^64 times unheard.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

impl AsFd for Pipe {
    /// The bell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for lane in [&self.out, &self.into] {
            lane.state().gone = true;
        }
        ring(&self.others_bell);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(end: &Pipe) -> bool {
        let mut fds = [PollFd::new(end, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn frames_pass_in_order_and_the_bell_rings_for_the_first() {
        let (mut ours, mut theirs) = Pipe::pair(1000, 1000).unwrap();
        assert!(theirs.receive().is_none() && !rings(&theirs));
        ours.send(vec![1]).unwrap();
        ours.send(vec![2]).unwrap();
        assert!(!rings(&theirs), "not yet told");
        ours.flush();
        assert!(rings(&theirs));
        assert_eq!(theirs.receive(), Some(vec![1]));
        assert!(!rings(&theirs) && theirs.has_frames());
        assert_eq!((theirs.receive(), theirs.receive()), (Some(vec![2]), None));
        assert!(!theirs.is_over());
        ours.send(vec![3]).unwrap();
        drop(ours);
        assert!(rings(&theirs) && !theirs.is_over());
        assert_eq!(theirs.receive(), Some(vec![3]));
        assert!(theirs.is_over());
        theirs.send(vec![4]).unwrap();
    }

    #[test]
    fn what_has_no_room_waits_and_is_told_of_room() {
        let (mut ours, mut theirs) = Pipe::pair(10, 10).unwrap();
        ours.send(vec![0; 20]).unwrap();
        assert_eq!(ours.send(vec![7; 5]), Err(vec![7; 5]));
        assert!(!rings(&ours));
        let frame = theirs.receive().unwrap();
        assert!(rings(&ours));
        theirs.recycle(frame);
        theirs.receive();
        ours.send(vec![7; 5]).unwrap();
        assert!(ours.buffer().capacity() >= 20, "it is used again");
    }

    #[test]
    fn two_threads_miss_nothing() {
        let (mut ours, mut theirs) = Pipe::pair(500, 500).unwrap();
        let sends = std::thread::spawn(move || {
            for number in 0..20_000u32 {
                let mut frame = ours.buffer();
                frame.extend(number.to_ne_bytes());
                while let Err(back) = ours.send(frame) {
                    ours.flush();
                    poll(&mut [PollFd::new(&ours, PollFlags::IN)], None).unwrap();
                    assert_eq!(ours.receive(), None);
                    frame = back;
                }
                if number % 7 == 0 {
                    ours.flush();
                }
            }
            ours.flush();
        });
        let mut next = 0u32;
        loop {
            while let Some(frame) = theirs.receive() {
                assert_eq!(frame, next.to_ne_bytes());
                next += 1;
                theirs.recycle(frame);
            }
            if theirs.is_over() {
                break;
            }
            poll(&mut [PollFd::new(&theirs, PollFlags::IN)], None).unwrap();
        }
        assert_eq!(next, 20_000);
        sends.join().unwrap();
    }
}
