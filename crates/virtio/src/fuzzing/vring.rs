//! The rings alone.

use vm_memory::{Bytes, GuestAddress};

use crate::chain::MAX_SEGMENTS;
use crate::{Chain, QueueSettings, Vring};

/// Where the queue's three parts are, one after the other, and what follows them.
const BASE: u64 = 0x1000;

/// A queue of 16 whose parts and what follows hold the input; the first two bytes are the available index.
pub fn vring(input: &[u8]) {
    let Some((index, bytes)) = input.split_first_chunk::<2>() else {
        return;
    };
    let ram = ostler_memory::allocate(1 << 20, Default::default()).expect("1 MiB of RAM is there");
    let settings = QueueSettings {
        size: 16,
        descriptors: BASE,
        available: BASE + 16 * 16,
        used: BASE + 16 * 16 + 48,
    };
    let bytes = &bytes[..bytes.len().min(0x8000)];
    ram.write_slice(bytes, GuestAddress(BASE)).expect("it is in RAM");
    ram.write_slice(index, GuestAddress(settings.available + 2))
        .expect("it is in RAM");
    let mut vring = Vring::new(ram.clone(), settings, 1024, true).expect("the queue is well placed");
    let mut chain = Chain::new(ram);
    for _ in 0..20 {
        match vring.pop(&mut chain) {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
        let total: usize = chain
            .writable_segments()
            .iter()
            .map(|segment| segment.len as usize)
            .sum();
        assert_eq!(total, chain.writable_bytes());
        assert!(chain.readable().len() + chain.writable().len() <= MAX_SEGMENTS);
        chain.read_at(0, &mut [0; 64]);
        let written = chain.write_at(0, &[1; 64]);
        chain.mark_written(written);
        if vring.push_used(chain.head(), written as u32).is_err() || vring.publish().is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("virtio-vring", super::vring);
    }
}
