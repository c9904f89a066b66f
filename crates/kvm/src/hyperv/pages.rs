//! The two pages by which a synthetic interrupt controller speaks to its guest: a slot for a message, and 2,048 event flags, for
//! each of its sources (Hypervisor Top Level Functional Specification 6.0b, chapters 10 and 11).
//!
//! Both are written on the thread of the vCPU that they belong to, outside guest mode: so neither that CPU of the guest nor KVM,
//! whose timers use the same slots, comes in between. Other CPUs of the guest may, and hurt the guest alone.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use ostler_memory::vm_memory::bitmap::BitmapSlice;
use ostler_memory::vm_memory::{Bytes, VolatileMemory, VolatileSlice};

/// Bytes of each page.
pub const PAGE: usize = 4096;

/// Sources of a controller.
pub const SINTS: u8 = 16;

/// Event flags of a source.
pub const FLAGS: u32 = 8 * SLOT as u32;

/// Most bytes of a message's payload.
pub const PAYLOAD: usize = 240;

/// Bytes that a source has of each page.
const SLOT: usize = PAGE / SINTS as usize;

/// Where in a slot: type (zero in a free one), bytes of the payload, flags, the sender's port, payload.
const TYPE: usize = 0;
const SIZE: usize = 4;
const MESSAGE_FLAGS: usize = 5;
const PORT: usize = 8;
const CONTENTS: usize = 16;

/// Another message waits for the slot.
const PENDING: u8 = 1;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Not zero.
    pub kind: u32,
    /// At most [`PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// Puts `message`, which came to `port`, into the slot of `sint`. If there is another one, the guest is told to say when it took that,
/// and this is false. `None` if there is no such slot.
pub fn put<B: BitmapSlice>(
    page: &VolatileSlice<'_, B>,
    sint: u8,
    port: u32,
    message: &Message,
) -> Option<bool> {
    let slot = page.subslice(usize::from(sint) * SLOT, SLOT).ok()?;
    if slot.load::<u32>(TYPE, Ordering::Acquire).ok()? != 0 {
        slot.get_atomic_ref::<AtomicU8>(MESSAGE_FLAGS)
            .ok()?
            .fetch_or(PENDING, Ordering::SeqCst);
        slot.bitmap().mark_dirty(MESSAGE_FLAGS, 1);
        return Some(false);
    }
    let payload = &message.payload[..message.payload.len().min(PAYLOAD)];
    slot.write_slice(payload, CONTENTS).ok()?;
    slot.write_obj(u64::from(port), PORT).ok()?;
    slot.write_obj([payload.len() as u8, 0, 0, 0], SIZE).ok()?;
    // The type comes last: with it, the message is there.
    slot.store(message.kind, TYPE, Ordering::Release).ok()?;
    Some(true)
}

/// Sets a flag of `sint`; true if it was clear, `None` if there is no such flag.
pub fn set_flag<B: BitmapSlice>(page: &VolatileSlice<'_, B>, sint: u8, flag: u32) -> Option<bool> {
    let slot = page.subslice(usize::from(sint) * SLOT, SLOT).ok()?;
    let (word, bit) = (flag as usize / 64 * 8, 1u64 << (flag % 64));
    let before = slot
        .get_atomic_ref::<AtomicU64>(word)
        .ok()?
        .fetch_or(bit, Ordering::SeqCst);
    slot.bitmap().mark_dirty(word, 8);
    Some(before & bit == 0)
}

#[cfg(test)]
mod tests {
    use ostler_memory::vm_memory::{GuestAddress, GuestMemoryBackend};
    use ostler_memory::{GuestRam, RamOptions, allocate};

    use super::*;

    fn ram() -> std::sync::Arc<GuestRam> {
        let ram = allocate(2 * PAGE as u64, RamOptions::default()).unwrap();
        for region in ram.iter() {
            region.get_mmap().bitmap().set_logging(true);
        }
        ram
    }

    fn is_dirty(ram: &GuestRam) -> bool {
        ram.iter()
            .any(|region| region.get_mmap().bitmap().take_dirty() != [0])
    }

    fn message(first: u8, len: usize) -> Message {
        Message {
            kind: 0x1234_5678,
            payload: vec![first; len],
        }
    }

    #[test]
    fn a_message_fills_a_free_slot_and_waits_for_a_full_one() {
        let ram = ram();
        let page = ram.get_slice(GuestAddress(0), PAGE).unwrap();
        page.write_obj(0xffu8, 8 * 256 + 16 + 3).unwrap();
        is_dirty(&ram);
        assert_eq!(put(&page, 8, 0x10, &message(7, 3)), Some(true));
        assert!(is_dirty(&ram));
        let mut slot = [0u8; 20];
        page.read_slice(&mut slot, 8 * 256).unwrap();
        let expected = [
            0x78, 0x56, 0x34, 0x12, 3, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 0xff,
        ];
        assert_eq!(slot, expected, "only the payload's own bytes");

        assert_eq!(put(&page, 8, 0x11, &message(9, 240)), Some(false));
        assert!(is_dirty(&ram));
        page.read_slice(&mut slot, 8 * 256).unwrap();
        assert_eq!(slot[5], 1, "the guest is to tell");
        slot[5] = 0;
        assert_eq!(slot, expected, "the message is what it was");

        // The guest takes it.
        page.write_obj(0u32, 8 * 256).unwrap();
        assert_eq!(put(&page, 8, 0x11, &message(9, 240)), Some(true));
        assert_eq!(page.read_obj::<[u8; 2]>(8 * 256 + 4).unwrap(), [240, 0]);
        assert_eq!(page.read_obj::<u8>(9 * 256 - 1).unwrap(), 9);
        assert_eq!(page.read_obj::<u8>(9 * 256).unwrap(), 0, "not the next slot");
    }

    #[test]
    fn the_last_slot_ends_with_the_page_and_there_is_none_behind_it() {
        let ram = ram();
        let page = ram.get_slice(GuestAddress(0), PAGE).unwrap();
        assert_eq!(put(&page, 15, 0, &message(0x80, 240)), Some(true));
        assert_eq!(put(&page, 16, 0, &message(1, 1)), None);
        assert_eq!(put(&page, 255, 0, &message(1, 1)), None);
        assert_eq!(put(&page, 14, 0, &message(1, 999)), Some(true), "cut to the slot");
        assert_eq!(
            set_flag(&page, 15, 2047),
            Some(false),
            "the message's last byte has it"
        );
        assert_eq!(set_flag(&page, 0, 2047), Some(true));
        assert_eq!(set_flag(&page, 0, 2048), None);
        assert_eq!(set_flag(&page, 16, 0), None);
        assert_eq!(set_flag(&page, 0, u32::MAX), None);
    }

    #[test]
    fn a_flag_is_news_once() {
        let ram = ram();
        let page = ram.get_slice(GuestAddress(0), PAGE).unwrap();
        is_dirty(&ram);
        assert_eq!(set_flag(&page, 9, 0x21), Some(true));
        assert!(is_dirty(&ram));
        assert_eq!(page.read_obj::<u64>(9 * 256).unwrap(), 1 << 0x21);
        assert_eq!(set_flag(&page, 9, 0x21), Some(false));
        assert_eq!(set_flag(&page, 9, 64), Some(true));
        assert_eq!(page.read_obj::<u64>(9 * 256 + 8).unwrap(), 1);
    }
}
