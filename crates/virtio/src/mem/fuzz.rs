//! For fuzzers: what a driver asks a memory device for.

use std::sync::Arc;

use ostler_memory::{Pluggable, RamOptions, allocate_with, plugged_slots};

use super::request::Request;
use super::{LEAST_BLOCK, MemDevice, MemoryMapper};

const BLOCKS: u64 = 16;

struct Map;

impl MemoryMapper for Map {
    fn follow(&self) -> Result<(), String> {
        Ok(())
    }
}

/// See [`crate::fuzzing::mem`].
pub(crate) fn requests(input: &[u8]) {
    let more = Pluggable {
        size: BLOCKS * LEAST_BLOCK,
        block_size: LEAST_BLOCK,
    };
    let ram = allocate_with(1 << 20, Some(more), RamOptions::default()).expect("33 MiB of RAM are there");
    let device = MemDevice::new(ram.clone()).expect("there is a region");
    let control = device.control();
    control.set_mapper(Arc::new(Map));
    let (steps, _) = input.as_chunks::<25>();
    for [wanted, request @ ..] in steps {
        let wanted = u64::from(*wanted) % (BLOCKS + 1) * LEAST_BLOCK;
        assert!(control.set_requested(wanted));
        let before = control.plugged();
        let _ = control.0.handle(Request::parse(request));
        let after = control.plugged();
        assert!(after <= wanted.max(before), "more than the guest is to have");
        assert_eq!(plugged_slots(&ram).len() as u64 * LEAST_BLOCK, after);
    }
}
