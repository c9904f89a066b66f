//! Memory that comes and goes (virtio-mem), and files that are memory (virtio-pmem), beside all else that changes the memory map.

use std::sync::atomic::Ordering;

use ostler_memory::{
    Extras, FileMemory, Pluggable, RamOptions, RamSlot, allocate_all, allocate_with, pluggable, plugged_slots,
};

use crate::bench::{Bench, Parts};
use crate::display::{self, display, frame_buffer};
use crate::smm::{self, LOW_END, SMRAM, sees};

const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 8;
/// The region is at a multiple of 1 GiB above 4 GiB.
const REGION: u64 = 4 << 30;

fn more(parts: Parts) -> Parts {
    let more = Pluggable {
        size: BLOCKS * BLOCK,
        block_size: BLOCK,
    };
    Parts {
        ram: allocate_with(LOW_END, Some(more), RamOptions::default()).unwrap(),
        display: display(None),
        ..parts
    }
}

impl Bench {
    /// Plugs these blocks and no others, as the device does.
    fn plug(&self, plugged: &[usize]) -> Result<(), ostler_machine::Error> {
        let (_, blocks) = pluggable(&self.ram).unwrap();
        blocks.set(0..BLOCKS as usize, false);
        for index in plugged {
            blocks.set(*index..*index + 1, true);
        }
        self.machine.set_plugged_memory(plugged_slots(&self.ram))
    }
}

fn blocks_in(slots: &[RamSlot]) -> Vec<u64> {
    let all = 0..BLOCKS;
    all.filter(|index| sees(slots, REGION + index * BLOCK)).collect()
}

#[test]
fn blocks_are_in_every_map_whatever_else_changes() {
    let bench = more(smm::parts()).build_with_smm().unwrap();
    let maps = || {
        let outside = blocks_in(&bench.vm.slots.lock().unwrap());
        (outside, blocks_in(&bench.vm.smm_slots.lock().unwrap()))
    };
    assert_eq!(maps(), (vec![], vec![]));
    bench.plug(&[1, 3]).unwrap();
    assert_eq!(maps(), (vec![1, 3], vec![1, 3]));
    // The board's map changes: SMRAM opens, shadow RAM shows.
    bench.bridge(SMRAM, 0x48);
    assert_eq!(bench.seen(0xa_8000), (true, true));
    bench.bridge(SMRAM, 0x08);
    bench.bridge(0x90, 0x30);
    assert_eq!(maps(), (vec![1, 3], vec![1, 3]));
    // So does that of the display.
    bench.set_config(0, display::SLOT, 0x10, 0xc800_0000u32.to_le_bytes());
    bench.set_config(0, display::SLOT, 4, [2, 0]);
    assert_eq!(bench.seen(0xc800_0000), (true, true));
    assert_eq!(maps(), (vec![1, 3], vec![1, 3]));
    bench.plug(&[0]).unwrap();
    assert_eq!(maps(), (vec![0], vec![0]));
    assert_eq!(
        (bench.seen(0xc800_0000), bench.seen(0xa_8000)),
        ((true, true), (false, true)),
        "all else stays"
    );
    bench.plug(&[]).unwrap();
    assert_eq!(maps(), (vec![], vec![]));
}

#[test]
fn without_firmware_and_display_the_map_changes_once_there_is_more_memory() {
    let bench = Parts {
        display: None,
        ..more(Parts::default())
    };
    let bench = bench.build().unwrap();
    assert!(bench.machine.changed_slots().is_none());
    bench.plug(&[7]).unwrap();
    let ranges: Vec<(u64, u64)> = {
        let slots = bench.machine.changed_slots().unwrap();
        slots.iter().map(|slot| (slot.gpa, slot.len)).collect()
    };
    assert_eq!(ranges, [(0, LOW_END), (REGION + 7 * BLOCK, BLOCK)]);
    assert_eq!(bench.vm.slots.lock().unwrap().len(), 2);
}

#[test]
fn a_map_that_the_accelerator_refuses_is_not_kept() {
    let bench = more(Parts::default()).build().unwrap();
    bench.plug(&[2]).unwrap();
    bench.vm.refuses.store(true, Ordering::SeqCst);
    bench.plug(&[2, 3]).unwrap_err();
    bench.vm.refuses.store(false, Ordering::SeqCst);
    assert_eq!(blocks_in(&bench.machine.changed_slots().unwrap()), [2]);
    // The display changes the map: nothing of what was refused comes with that.
    bench.set_config(0, display::SLOT, 4, [0, 0]);
    assert_eq!(frame_buffer(&bench), None);
    assert_eq!(blocks_in(&bench.vm.slots.lock().unwrap()), [2]);
}

#[test]
fn firmware_takes_no_block_for_ram_and_keeps_its_windows_off_the_region() {
    let bench = more(smm::parts()).build_with_smm().unwrap();
    let files = bench.files();
    let ends = files["etc/e820"].chunks(20).filter(|entry| entry[16] == 1);
    let ends: Vec<u64> = ends
        .map(|entry| {
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            number(0) + number(8)
        })
        .collect();
    assert_eq!(ends, [LOW_END + ostler_machine::SMM_MEMORY]);
    let end = REGION + BLOCKS * BLOCK;
    assert_eq!(files["etc/reserved-memory-end"], end.to_le_bytes());
    // CMOS: RAM above 4 GiB.
    for index in [0x5b, 0x5c, 0x5d] {
        bench.outb(0x70, index);
        assert_eq!(bench.inb(0x71), 0);
    }
    let plain = smm::parts().build_with_smm().unwrap();
    assert!(!plain.files().contains_key("etc/reserved-memory-end"));
}

#[test]
fn files_are_in_every_map_and_firmware_keeps_its_windows_off_them() {
    const FILES: u64 = 5 << 30;
    let file = |writable| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BLOCK).unwrap();
        FileMemory {
            file,
            size: BLOCK,
            writable,
        }
    };
    let extras = Extras {
        pluggable: Some(Pluggable {
            size: BLOCKS * BLOCK,
            block_size: BLOCK,
        }),
        files: vec![file(true), file(false)],
    };
    let parts = Parts {
        ram: allocate_all(LOW_END, extras, RamOptions::default()).unwrap(),
        display: display(None),
        ..smm::parts()
    };
    let bench = parts.build_with_smm().unwrap();
    let check = || {
        for slots in [&bench.vm.slots, &bench.vm.smm_slots] {
            let slots = slots.lock().unwrap();
            let found: Vec<_> = [FILES, FILES + (1 << 30)]
                .iter()
                .map(|gpa| {
                    slots
                        .iter()
                        .find(|slot| slot.gpa == *gpa)
                        .map(|slot| slot.writable)
                })
                .collect();
            assert_eq!(found, [Some(true), Some(false)]);
        }
    };
    check();
    bench.plug(&[1]).unwrap();
    bench.bridge(SMRAM, 0x48);
    check();
    let end = FILES + (1 << 30) + BLOCK;
    assert_eq!(bench.files()["etc/reserved-memory-end"], end.to_le_bytes());
}
