//! Entries for fuzzers: what a driver does. Those of devices take a program ([`program`]) of memory, chains, kicks, and what happens
//! outside; the device's worker goes on when the program says so (`ostler_worker::scripted`).

mod balloon;
mod block;
mod console;
mod mem;
mod net;
mod pmem;
mod program;
mod rng;
mod transport;
mod vring;
mod vsock;

pub use balloon::balloon;
pub use block::block;
pub use console::console;
pub use mem::mem;
pub use net::net;
pub use pmem::pmem;
pub use rng::rng;
pub use transport::transport;
pub use vring::vring;
pub use vsock::vsock;

#[cfg(test)]
mod tests {
    type Target = fn(&[u8]);

    #[test]
    fn programs_that_fuzzers_found_are_survived() {
        let targets: [(&str, Target); 8] = [
            ("virtio-balloon", super::balloon),
            ("virtio-block", super::block),
            ("virtio-console", super::console),
            ("virtio-net", super::net),
            ("virtio-pmem", super::pmem),
            ("virtio-rng", super::rng),
            ("virtio-transport", super::transport),
            ("virtio-vsock", super::vsock),
        ];
        for (name, target) in targets {
            ostler_corpus::replay(name, target);
        }
    }
}
