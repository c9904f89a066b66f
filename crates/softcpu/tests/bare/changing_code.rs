//! Code that changes while it is in use: by the guest's own stores, by another CPU, by a device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ostler_accel::Vcpu;

use super::common::{Bare, CODE, run_to_end};

/// Where the code that changes lies: a page of its own.
const OTHER: u64 = 0x2_0000;

/// `mov eax, VALUE; ret`.
fn answer(value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.push(0xc3);
    code
}

/// A program in 64-bit mode that calls [`OTHER`] for ever and shows on port 0xf4 what it said, in AL.
fn caller() -> Vec<u8> {
    // mov ebx, OTHER; l: call rbx; out 0xf4, al; jmp l
    let mut code = vec![0xbb];
    code.extend((OTHER as u32).to_le_bytes());
    code.extend([0xff, 0xd3, 0xe6, 0xf4, 0xeb, 0xfa]);
    code
}

#[test]
fn a_write_of_a_device_is_seen_by_the_next_execution() {
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    bare.write(CODE, &caller());
    bare.write(OTHER, &answer(1));
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    for _ in 0..50 {
        assert_eq!(run_to_end(&mut *vcpu), 1);
    }
    bare.write(OTHER, &answer(2));
    for _ in 0..50 {
        assert_eq!(run_to_end(&mut *vcpu), 2);
    }
    bare.write(OTHER + 1, &[3]);
    assert_eq!(run_to_end(&mut *vcpu), 3);
}

#[test]
fn a_loop_that_rewrites_its_callee_gets_what_it_wrote() {
    // mov ebx, OTHER; xor ecx, ecx; xor edx, edx
    // l: inc ecx; mov [rbx+1], ecx; call rbx; add edx, eax; cmp ecx, 200; jne l; mov ebx, edx; out 0xf4, al
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    let mut code = vec![0xbb];
    code.extend((OTHER as u32).to_le_bytes());
    code.extend([
        0x31, 0xc9, 0x31, 0xd2, 0xff, 0xc1, 0x89, 0x4b, 0x01, 0xff, 0xd3, 0x01, 0xc2, 0x81, 0xf9, 200, 0, 0,
        0, 0x75, 0xef, 0x89, 0xd3, 0xe6, 0xf4,
    ]);
    bare.write(CODE, &code);
    bare.write(OTHER, &answer(0));
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(vcpu.state().unwrap().gpr[3], (1..=200).sum::<u64>());
}

#[test]
fn a_loop_that_rewrites_an_instruction_of_its_own_gets_what_it_wrote() {
    // xor ecx, ecx; xor edx, edx; lea rbx, [rip + i]
    // l: inc ecx; mov [rbx+1], ecx; i: mov eax, 0; add edx, eax; cmp ecx, 200; jne l; mov ebx, edx; out 0xf4, al
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    bare.write(
        CODE,
        &[
            0x31, 0xc9, 0x31, 0xd2, 0x48, 0x8d, 0x1d, 5, 0, 0, 0, 0xff, 0xc1, 0x89, 0x4b, 0x01, 0xb8, 0, 0,
            0, 0, 0x01, 0xc2, 0x81, 0xf9, 200, 0, 0, 0, 0x75, 0xec, 0x89, 0xd3, 0xe6, 0xf4,
        ],
    );
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(vcpu.state().unwrap().gpr[3], (1..=200).sum::<u64>());
}

#[test]
fn code_that_another_cpu_writes_is_executed_whole() {
    // The second CPU stores 0x1111, 0x2222, ... in turn; the first must only ever see one of them, and the last one in the end.
    let bare = Bare::new(2);
    let (mut first, mut second) = (bare.vcpu(0), bare.vcpu(1));
    bare.write(CODE, &caller());
    bare.write(OTHER, &answer(0x11));
    // mov ebx, OTHER; mov ecx, 20000; l: mov eax, ecx; and eax, 3; inc eax; imul eax, eax, 0x11; mov [rbx+1], al; dec ecx; jne l;
    // mov byte [rbx+1], 0x77; out 0xf4, al
    let mut writer = vec![0xbb];
    writer.extend((OTHER as u32).to_le_bytes());
    writer.extend([0xb9]);
    writer.extend(20_000u32.to_le_bytes());
    writer.extend([
        0x89, 0xc8, 0x83, 0xe0, 3, 0xff, 0xc0, 0x6b, 0xc0, 0x11, 0x88, 0x43, 1, 0xff, 0xc9, 0x75, 0xef, 0xc6,
        0x43, 1, 0x77, 0xe6, 0xf4,
    ]);
    bare.write(CODE + 0x1000, &writer);
    first.set_state(&bare.long_mode(0)).unwrap();
    let mut state = bare.long_mode(1);
    state.rip = CODE + 0x1000;
    state.gpr[4] -= 0x1000;
    second.set_state(&state).unwrap();
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            run_to_end(&mut *second);
            written.store(true, Ordering::SeqCst);
        });
        loop {
            let over = written.load(Ordering::SeqCst);
            let seen = run_to_end(&mut *first);
            assert!([0x11, 0x22, 0x33, 0x44, 0x77].contains(&seen), "{seen:#x}");
            if over {
                assert_eq!(seen, 0x77);
                return;
            }
        }
    });
}

#[test]
fn a_write_that_goes_past_guest_memorys_own_ways_is_seen_once_it_is_reported() {
    // As io_uring reads a disk's blocks into guest memory.
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    bare.write(CODE, &caller());
    bare.write(OTHER, &answer(1));
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    for round in 1..=20 {
        for _ in 0..10 {
            assert_eq!(run_to_end(&mut *vcpu), round);
        }
        let block = [answer(u32::from(round) + 1), vec![0x90; 4096 - 6]].concat();
        let to = ostler_memory::host_range(&bare.ram, OTHER, block.len()).unwrap();
        // SAFETY: the page is the guest's RAM, and its CPU does not execute now.
        unsafe { std::ptr::copy_nonoverlapping(block.as_ptr(), to, block.len()) };
        ostler_memory::mark_written(&bare.ram, OTHER, block.len());
    }
}

/// Linear address of two pages of 4 KiB, whose table entries are at [`ENTRIES`].
const MAPPED: u64 = 0x40_0000;
const ENTRIES: u64 = 0x20_0000;

fn map(bare: &Bare, page: u64, frame: u64) {
    bare.write(ENTRIES + 8 * page, &(frame | 7).to_le_bytes());
}

/// A program that calls `MAPPED + offset` for ever, shows on port 0xf4 what it said, and then drops the translation of page `page`
/// of [`MAPPED`].
fn remapped(bare: &Bare, offset: u64, page: u64) -> Box<dyn Vcpu> {
    let mut vcpu = bare.vcpu(0);
    let state = bare.long_mode(0);
    // The page directory of `long_mode`.
    bare.write(
        state.cr3 + 0x2000 + 8 * (MAPPED >> 21),
        &(ENTRIES | 7).to_le_bytes(),
    );
    // mov ebx, MAPPED + offset; mov esi, MAPPED + page; l: call rbx; out 0xf4, al; invlpg [rsi]; jmp l
    let mut code = vec![0xbb];
    code.extend(((MAPPED + offset) as u32).to_le_bytes());
    code.push(0xbe);
    code.extend(((MAPPED + (page << 12)) as u32).to_le_bytes());
    code.extend([0xff, 0xd3, 0xe6, 0xf4, 0x0f, 0x01, 0x3e, 0xeb, 0xf7]);
    bare.write(CODE, &code);
    vcpu.set_state(&state).unwrap();
    vcpu
}

#[test]
fn code_at_an_address_that_leads_elsewhere_is_seen_after_invlpg() {
    let bare = Bare::new(1);
    let mut vcpu = remapped(&bare, 0x10, 0);
    for frame in 0..4 {
        bare.write(OTHER + (frame << 12) + 0x10, &answer(frame as u32));
    }
    for round in 0..60 {
        let frame = round / 3 % 4;
        map(&bare, 0, OTHER + (frame << 12));
        assert_eq!(u64::from(run_to_end(&mut *vcpu)), frame, "{round}");
    }
}

#[test]
fn an_instruction_whose_second_page_leads_elsewhere_is_seen_after_invlpg() {
    let bare = Bare::new(1);
    let mut vcpu = remapped(&bare, 0xffe, 1);
    map(&bare, 0, OTHER);
    bare.write(OTHER + 0xffe, &answer(0x7700)[..2]);
    for frame in 1..4 {
        bare.write(OTHER + (frame << 12), &answer((frame as u32) << 8)[2..]);
    }
    for round in 0..60 {
        let frame = round / 3 % 3 + 1;
        map(&bare, 1, OTHER + (frame << 12));
        run_to_end(&mut *vcpu);
        assert_eq!(vcpu.state().unwrap().gpr[0], frame << 8, "{round}");
    }
}

#[test]
fn the_dirty_log_has_what_a_loop_writes_each_time_that_it_is_taken() {
    const DATA: u64 = 0x3_0000;
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    // mov ebx, DATA; l: inc dword [rbx]; inc dword [rbx+0x2000]; mov eax, [rbx+0x1000]; out 0xf4, al; jmp l
    let mut code = vec![0xbb];
    code.extend((DATA as u32).to_le_bytes());
    code.extend([
        0xff, 0x03, 0xff, 0x83, 0, 0x20, 0, 0, 0x8b, 0x83, 0, 0x10, 0, 0, 0xe6, 0xf4, 0xeb, 0xee,
    ]);
    bare.write(CODE, &code);
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    // Warm: the pages may be written without notice by now.
    for _ in 0..50 {
        run_to_end(&mut *vcpu);
    }
    let written = |bare: &Bare| {
        let slots = ostler_memory::RamSlot::all_of(&bare.ram);
        let words = slots[0].mapping.bitmap().take_dirty();
        (0..3)
            .map(|page| {
                let page = (DATA >> 12) + page;
                words[(page / 64) as usize] >> (page % 64) & 1 != 0
            })
            .collect::<Vec<_>>()
    };
    bare.vm.set_dirty_log(true).unwrap();
    for _ in 0..5 {
        for _ in 0..3 {
            run_to_end(&mut *vcpu);
        }
        assert_eq!(written(&bare), [true, false, true]);
    }
    assert_eq!(written(&bare), [false; 3]);
    bare.vm.set_dirty_log(false).unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(written(&bare), [false; 3]);
}
