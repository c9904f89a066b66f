use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_bus::testing::Input;
use ostler_netio::{
    Error, HEADER_LEN, IoBuf, KernelWorker, MAX_FRAME, NetBackend, NetQueue, Offloads, QueueCounters,
    Received, Sent,
};
use rustix::event::{EventfdFlags, eventfd};

use super::program::play;
use crate::net::{NetDevice, NetOptions};

/// Queue pairs of the network, and of the device.
const PAIRS: usize = 2;

#[derive(Default)]
struct State {
    to_guest: VecDeque<Vec<u8>>,
    gone: bool,
    down: bool,
    refuses: bool,
}

/// A network that says what the program says, and swallows everything.
struct Network {
    state: Mutex<State>,
    /// Readable while frames for the guest may be there.
    ready: OwnedFd,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        rustix::io::write(&self.ready, &1u64.to_ne_bytes()).expect("an eventfd takes what it is told");
    }
}

struct Backend(Arc<Network>);

impl NetBackend for Backend {
    fn queue_pairs(&self) -> usize {
        PAIRS
    }
    fn accepts(&self) -> Offloads {
        Offloads::ALL
    }
    fn delivers(&self) -> Offloads {
        Offloads::ALL
    }
    fn set_delivered(&self, _: Offloads) -> Result<(), Error> {
        if self.0.state().refuses {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
    fn link_up(&self) -> bool {
        !self.0.state().down
    }
    fn mtu(&self) -> Option<u16> {
        Some(9000)
    }
    fn open_queue(&self, _: usize) -> Result<Box<dyn NetQueue>, Error> {
        Ok(Box::new(Queue(self.0.clone())))
    }
    fn set_active_pairs(&self, pairs: usize) -> Result<(), Error> {
        assert!((1..=PAIRS).contains(&pairs));
        if self.0.state().refuses {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
    fn vhost(&self, _: usize) -> Option<&dyn KernelWorker> {
        None
    }
}

struct Queue(Arc<Network>);

impl NetQueue for Queue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        let mut state = self.0.state();
        if state.gone {
            return Err(Error::Closed);
        }
        let Some(frame) = state.to_guest.pop_front() else {
            let _ = rustix::io::read(&self.0.ready, &mut [0; 8]);
            return Ok(Received::Empty);
        };
        if IoBuf::total(buffers).is_none_or(|total| total < frame.len()) {
            return Ok(Received::Dropped);
        }
        let mut done = 0;
        for buffer in buffers {
            // SAFETY: promised by the caller.
            done += unsafe { buffer.copy_from(&frame[done..]) };
        }
        Ok(Received::Frame(frame.len()))
    }
    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        if self.0.state().gone {
            return Err(Error::Closed);
        }
        let total = IoBuf::total(buffers).unwrap_or(usize::MAX);
        if !(HEADER_LEN + 14..=HEADER_LEN + MAX_FRAME).contains(&total) {
            return Ok(Sent::Dropped);
        }
        for buffer in buffers {
            // SAFETY: promised by the caller.
            unsafe { buffer.copy_to(&mut vec![0; buffer.len()]) };
        }
        Ok(Sent::Sent)
    }
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.ready.as_fd())
    }
    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }
}

/// A driver of a network card with its control queue; outside frames come, and the network and its link come and go. The first byte
/// says how many queue pairs there are.
pub fn net(input: &[u8]) {
    let mut input = Input::new(input);
    let network = Arc::new(Network {
        state: Mutex::default(),
        ready: eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"),
    });
    let options = NetOptions {
        mac: [0x52, 0x54, 0, 1, 2, 3],
        pairs: 1 + u16::from(input.u8() & 1),
    };
    let mut device = NetDevice::new(Arc::new(Backend(network.clone())), options);
    let control = device.control();
    play(&mut input, &mut device, |input| {
        let what = input.u8();
        match what & 7 {
            0..=2 => {
                let len = HEADER_LEN + 14 + usize::from(input.u16() % 9000);
                let mut frame = vec![what; len];
                let count = input.u8().into();
                let head = input.take(count);
                let count = head.len().min(len);
                frame[..count].copy_from_slice(&head[..count]);
                // It would be bounded by what queues of a real one take.
                let mut state = network.state();
                if state.to_guest.len() < 64 {
                    state.to_guest.push_back(frame);
                }
                drop(state);
                network.ring();
            }
            3 => {
                let down = &mut network.state().down;
                *down = !*down;
            }
            4 => control.set_link(what & 8 != 0),
            5 => {
                control.announce();
            }
            6 => {
                let refuses = &mut network.state().refuses;
                *refuses = !*refuses;
            }
            _ => {
                let mut state = network.state();
                state.gone = !state.gone;
                drop(state);
                network.ring();
            }
        }
    });
}
