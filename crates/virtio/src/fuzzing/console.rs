use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use ostler_bus::testing::Input;
use rustix::event::{EventfdFlags, eventfd};

use super::program::play;
use crate::console::{ByteStream, ConsoleDevice, PortOptions, WindowSize};

/// Bytes that wait for the guest at most, as a terminal's would.
const MOST_WAITING: usize = 16 << 10;

/// What the port's other end holds.
#[derive(Default)]
struct Line {
    waiting: VecDeque<u8>,
    ended: bool,
    broken: bool,
}

struct Stream {
    line: Arc<Mutex<Line>>,
    ready: Arc<OwnedFd>,
}

impl ByteStream for Stream {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if line.waiting.is_empty() && !line.ended {
            let _ = rustix::io::read(&*self.ready, &mut [0; 8]);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = line.waiting.len().min(into.len());
        into.iter_mut()
            .zip(line.waiting.drain(..count))
            .for_each(|(to, from)| *to = from);
        Ok(count)
    }
    fn write(&mut self, _: &[u8]) {}
}

/// A driver of a console with two ports and its control queues; outside bytes come, lines end and break, the terminal's size
/// changes.
pub fn console(input: &[u8]) {
    let lines: [Arc<Mutex<Line>>; 2] = Default::default();
    let ready: [Arc<OwnedFd>; 2] =
        [(); 2].map(|()| Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")));
    let ports = lines
        .iter()
        .zip(&ready)
        .zip([("", true), ("org.example.0", false)]);
    let ports = ports.map(|((line, ready), (name, console))| PortOptions {
        stream: Box::new(Stream {
            line: line.clone(),
            ready: ready.clone(),
        }),
        name: name.into(),
        console,
    });
    let size = WindowSize {
        columns: 80,
        rows: 25,
    };
    let mut device = ConsoleDevice::new(ports.collect(), size).expect("an eventfd");
    let control = device.control();
    play(&mut Input::new(input), &mut device, |input| {
        let what = input.u8();
        let port = usize::from(what >> 7);
        let mut line = lines[port].lock().unwrap_or_else(PoisonError::into_inner);
        match what & 0x1f {
            0 => line.ended = true,
            1 => line.broken = true,
            2 => control.resize(WindowSize {
                columns: input.u16(),
                rows: input.u16(),
            }),
            count => {
                let room = MOST_WAITING.saturating_sub(line.waiting.len());
                let bytes = vec![what; (usize::from(count) * 97).min(room)];
                line.waiting.extend(bytes);
            }
        }
        drop(line);
        rustix::io::write(&*ready[port], &1u64.to_ne_bytes()).expect("an eventfd takes what it is told");
    });
}
