//! The entropy device (virtio 1.2, 5.4): the host's random numbers at a bounded rate.

mod device;
#[cfg(test)]
mod tests;
mod worker;

pub use device::RngDevice;
