//! The requests of a memory device's driver.

/// Requests to a memory device of 16 blocks, 25 bytes each: before the first byte of every one, so many blocks are asked for.
pub fn mem(input: &[u8]) {
    crate::mem::fuzz::requests(input);
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("virtio-mem", super::mem);
    }
}
