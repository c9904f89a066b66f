//! The console device (virtio 1.2, 5.3): several ports, each a byte stream, with names and sizes.

mod control;
mod device;
mod port;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{ConsoleControl, ConsoleDevice, PortOptions};
pub use port::{ByteStream, WindowSize};
