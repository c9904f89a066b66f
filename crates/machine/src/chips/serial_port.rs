//! A UART on the bus: eight ports, an interrupt line, a back end, and a queue of input that waits for the FIFO.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ostler_bus::{Device, InterruptLine};

use super::uart::Uart;
use crate::SerialBackend;
use crate::registers::{lock, read_bytes, write_bytes};

/// Bytes of input that wait for the guest at most.
const INPUT_LIMIT: usize = 64 * 1024;

/// COM1.
pub struct SerialPort {
    state: Mutex<State>,
    line: Arc<dyn InterruptLine>,
    backend: Arc<dyn SerialBackend>,
}

#[derive(Default)]
struct State {
    uart: Uart,
    input: VecDeque<u8>,
    /// A push did not fit: the back end waits to hear of room.
    refused: bool,
}

impl State {
    fn refill(&mut self) {
        for _ in 0..self.uart.room() {
            let Some(byte) = self.input.pop_front() else {
                return;
            };
            self.uart.receive(byte);
        }
    }
}

impl SerialPort {
    /// A port in its reset state.
    pub fn new(line: Arc<dyn InterruptLine>, backend: Arc<dyn SerialBackend>) -> Self {
        Self {
            state: Mutex::default(),
            line,
            backend,
        }
    }

    /// Back to the reset state. Input that the guest has not read stays.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        state.uart = Uart::default();
        self.line.set(false);
    }

    /// Queues input for the guest. Returns how many of the bytes were taken.
    pub fn push_input(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = bytes.len().min(INPUT_LIMIT - state.input.len());
        state.input.extend(&bytes[..taken]);
        state.refused |= taken < bytes.len();
        state.refill();
        self.line.set(state.uart.interrupt());
        taken
    }

    /// After an access: moves input up, drives the line. Returns true if the back end has to hear of room.
    fn settle(&self, state: &mut State) -> bool {
        state.refill();
        self.line.set(state.uart.interrupt());
        state.refused && state.input.len() <= INPUT_LIMIT / 2 && std::mem::take(&mut state.refused)
    }
}

impl Device for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        read_bytes(offset, data, |register| state.uart.read(register as u8 & 7));
        let room = self.settle(&mut state);
        drop(state);
        if room {
            self.backend.input_room();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        write_bytes(offset, data, |register, value| {
            if let Some(byte) = state.uart.write(register as u8 & 7, value) {
                self.backend.output(&[byte]);
            }
        });
        let room = self.settle(&mut state);
        drop(state);
        if room {
            self.backend.input_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[derive(Default)]
    struct Outside {
        output: Mutex<Vec<u8>>,
        told_of_room: AtomicUsize,
    }

    impl SerialBackend for Outside {
        fn output(&self, bytes: &[u8]) {
            lock(&self.output).extend(bytes);
        }
        fn input_room(&self) {
            self.told_of_room.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Default)]
    struct Level(AtomicBool);

    impl InterruptLine for Level {
        fn set(&self, level: bool) {
            self.0.store(level, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_input_arrives_in_order_and_the_back_end_hears_of_room_once() {
        let (outside, level) = (Arc::new(Outside::default()), Arc::new(Level::default()));
        let port = SerialPort::new(level.clone(), outside.clone());
        port.write(2, &[0xc7]);
        port.write(1, &[1]);
        let content: Vec<u8> = (0..INPUT_LIMIT as u32 + 500).map(|i| (i % 251) as u8).collect();
        let taken = port.push_input(&content);
        assert_eq!(taken, INPUT_LIMIT);
        assert!(level.0.load(Ordering::Relaxed));
        let mut seen = Vec::new();
        let mut byte = [0];
        loop {
            port.read(5, &mut byte);
            if byte[0] & 1 == 0 {
                break;
            }
            port.read(0, &mut byte);
            seen.push(byte[0]);
        }
        assert!(seen == content[..taken]);
        assert_eq!(outside.told_of_room.load(Ordering::Relaxed), 1);
        assert!(!level.0.load(Ordering::Relaxed));
    }

    #[test]
    fn output_reaches_the_back_end() {
        let outside = Arc::new(Outside::default());
        let port = SerialPort::new(Arc::new(Level::default()), outside.clone());
        for byte in b"hello" {
            port.write(0, &[*byte]);
        }
        assert_eq!(*lock(&outside.output), b"hello");
    }
}
