//! Messages of the control queues (virtio 1.2, 5.3.6.2).

use std::collections::VecDeque;

use super::port::WindowSize;
use crate::chain::Chain;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Bytes of a message without what follows it.
const HEADER_LEN: usize = 8;

/// A message from the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromDriver {
    /// The driver can take messages, or could not set itself up.
    DeviceReady(bool),
    /// The driver has taken a port, or could not.
    PortReady(u32, bool),
    /// A process of the guest opened or closed a port.
    PortOpen(u32, bool),
}

/// Reads a message; `None` if it is short or unknown, which is ignored.
pub(crate) fn parse(chain: &Chain) -> Option<FromDriver> {
    let mut bytes = [0; HEADER_LEN];
    if chain.read_at(0, &mut bytes) < HEADER_LEN {
        return None;
    }
    let [i0, i1, i2, i3, e0, e1, v0, v1] = bytes;
    let port = u32::from_le_bytes([i0, i1, i2, i3]);
    let on = u16::from_le_bytes([v0, v1]) != 0;
    match u16::from_le_bytes([e0, e1]) {
        DEVICE_READY => Some(FromDriver::DeviceReady(on)),
        PORT_READY => Some(FromDriver::PortReady(port, on)),
        PORT_OPEN => Some(FromDriver::PortOpen(port, on)),
        _ => None,
    }
}

/// Messages that wait for the driver's buffers.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Vec<u8>>,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn add_port(&mut self, port: u32) {
        self.push(port, PORT_ADD, 1, &[]);
    }

    pub fn console_port(&mut self, port: u32) {
        self.push(port, CONSOLE_PORT, 1, &[]);
    }

    pub fn open(&mut self, port: u32, open: bool) {
        self.push(port, PORT_OPEN, open.into(), &[]);
    }

    pub fn name(&mut self, port: u32, name: &str) {
        self.push(port, PORT_NAME, 1, name.as_bytes());
    }

    /// Columns come first, as the specification has it. Linux read rows first until its stable kernels of January 2026.
    pub fn resize(&mut self, port: u32, size: WindowSize) {
        let [c0, c1] = size.columns.to_le_bytes();
        let [r0, r1] = size.rows.to_le_bytes();
        self.push(port, RESIZE, 0, &[c0, c1, r0, r1]);
    }

    fn push(&mut self, port: u32, event: u16, value: u16, rest: &[u8]) {
        let mut message = Vec::with_capacity(HEADER_LEN + rest.len());
        message.extend(port.to_le_bytes());
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(rest);
        self.waiting.push_back(message);
    }

    /// The next message to deliver.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }
}
