//! A memory map that is replaced while the guest runs, as firmware's shadow RAM and flash have it done.

use std::sync::Arc;

use ostler_accel::Exit;
use ostler_memory::vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MmapRegion, VolatileMemory};
use ostler_memory::{GuestRam, PageTracker, RamSlot};

use super::common::{Bare, CODE, run_to_end};

/// The page whose memory changes.
const PAGE: u64 = 0x80_0000;

/// A page of its own that starts with `bytes`.
fn rom(bytes: &[u8]) -> Arc<MmapRegion<PageTracker>> {
    let page = MmapRegion::new(4096).unwrap();
    page.as_volatile_slice().write_slice(bytes, 0).unwrap();
    Arc::new(page)
}

/// All of `ram`, but at [`PAGE`] the page `rom`, for reads only.
fn map(ram: &GuestRam, rom: &Arc<MmapRegion<PageTracker>>) -> Vec<RamSlot> {
    let region = ram.iter().next().unwrap();
    let part = |gpa: u64, end: u64| RamSlot {
        gpa,
        len: end - gpa,
        mapping: region.get_mmap(),
        offset: gpa,
        writable: true,
    };
    let rom = RamSlot {
        gpa: PAGE,
        len: 4096,
        mapping: rom.clone(),
        offset: 0,
        writable: false,
    };
    vec![part(0, PAGE), rom, part(PAGE + 4096, region.len())]
}

#[test]
fn a_cpu_that_executes_sees_another_map_without_leaving_by_itself() {
    let bare = Bare::new(2);
    let (old, new) = (rom(&[1]), rom(&[7]));
    bare.vm.set_slots(map(&bare.ram, &old)).unwrap();
    // l: mov al,[0x800000]; cmp al,7; jne l; out 0xf4,al
    bare.write(
        CODE,
        &[0x8a, 0x04, 0x25, 0, 0, 0x80, 0, 0x3c, 7, 0x75, 0xf5, 0xe6, 0xf4],
    );
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    let spinning = std::thread::spawn(move || run_to_end(&mut *vcpu));
    // It should have the loop in its caches by then.
    std::thread::sleep(std::time::Duration::from_millis(200));
    bare.vm.set_slots(map(&bare.ram, &new)).unwrap();
    assert_eq!(spinning.join().unwrap(), 7);
}

#[test]
fn code_of_the_old_map_is_forgotten() {
    let bare = Bare::new(1);
    // mov al,N; out 0xf4,al; jmp back
    let code = |number: u8| rom(&[0xb0, number, 0xe6, 0xf4, 0xeb, 0xfa]);
    let codes = [code(1), code(2)];
    let mut vcpu = bare.vcpu(0);
    let mut state = bare.long_mode(0);
    state.rip = PAGE;
    vcpu.set_state(&state).unwrap();
    for turn in 0..200 {
        let page = &codes[turn % 2];
        bare.vm.set_slots(map(&bare.ram, page)).unwrap();
        assert_eq!(usize::from(run_to_end(&mut *vcpu)), 1 + turn % 2, "turn {turn}");
    }
}

#[test]
fn a_page_that_becomes_a_device_leaves_and_comes_back() {
    let bare = Bare::new(1);
    let page = rom(&[9]);
    // l: mov al,[0x800000]; out 0xf4,al; mov [0x800000],al; jmp l
    let code = [
        0x8a, 0x04, 0x25, 0, 0, 0x80, 0, 0xe6, 0xf4, 0x88, 0x04, 0x25, 0, 0, 0x80, 0, 0xeb, 0xee,
    ];
    bare.write(CODE, &code);
    let with = map(&bare.ram, &page);
    let without: Vec<RamSlot> = with.iter().filter(|slot| slot.gpa != PAGE).cloned().collect();
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    for turn in 0..100 {
        let (slots, expected) = if turn % 2 == 0 {
            (&with, 9)
        } else {
            (&without, 0x5a)
        };
        bare.vm.set_slots(slots.clone()).unwrap();
        assert_eq!(run_to_end(&mut *vcpu), expected, "turn {turn}");
        // The write goes to a device in both maps.
        loop {
            match vcpu.run().unwrap() {
                Exit::MmioWrite { gpa: PAGE, data } => break assert_eq!(data, [expected]),
                Exit::Kicked => {}
                exit => panic!("unexpected {exit:?}"),
            }
        }
    }
}
