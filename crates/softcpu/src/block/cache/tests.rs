//! A cache that is far too small for its guest.

use std::sync::Arc;

use ostler_accel::model::{self, Topology};
use ostler_accel::{CpuState, MpState, Segment, reset_state};
use ostler_memory::{RamOptions, RamSlot, allocate};

use super::BlockCache;
use crate::engine::{self, Left};
use crate::shared::VcpuShared;
use crate::state::{Cpu, reg};
use crate::vm::{Engine, convert, new_shared};

const CODE: u64 = 0x1_0000;
const TABLES: u64 = 0x10_0000;
/// Pages of code that are called in turn.
const PAGES: u32 = 1000;
const ROUNDS: u32 = 5;
const CALLEES: u64 = 0x40_0000;

/// A CPU in 64-bit mode at [`CODE`], memory mapped one to one.
fn cpu() -> Box<Cpu> {
    let ram = allocate(8 << 20, RamOptions::default()).unwrap();
    let vm = new_shared(1, RamSlot::all_of(&ram), Engine::Translator { after: 0 });
    let shared = Arc::new(VcpuShared::new(0));
    assert!(vm.vcpus[0].set(shared.clone()).is_ok());
    let known = crate::system::cpuid::supported(2_000_000);
    let leaves = model::build("x86-64-v2", &known, Topology { cpus: 1 }, 0).unwrap();
    let mut cpu = Cpu::new(vm, shared, 0, &leaves);
    let segment = |selector, rights| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    };
    let mut segments = [segment(0x10, 0xc093); 6];
    segments[1] = segment(8, 0xa09b);
    let state = CpuState {
        segments,
        cr0: 0x8005_0033,
        cr3: TABLES,
        cr4: 0x6b0,
        efer: 0xd01,
        rip: CODE,
        mp: MpState::Runnable,
        ..reset_state(0)
    };
    convert::restore(&mut cpu, &state).unwrap();
    cpu.gpr[reg::RSP] = 0x9_0000;
    for (at, entry) in [(0, TABLES + 0x1007), (0x1000, TABLES + 0x2007)] {
        cpu.write_physical(TABLES + at, &entry.to_le_bytes()).unwrap();
    }
    for n in 0..4u64 {
        let entry = n << 21 | 0x87;
        cpu.write_physical(TABLES + 0x2000 + 8 * n, &entry.to_le_bytes())
            .unwrap();
    }
    cpu
}

#[test]
fn code_that_does_not_fit_is_evicted_in_parts_and_executed_all_the_same() {
    const LIMIT: usize = 3 << 20;
    let mut cpu = cpu();
    // xor eax, eax; mov edx, ROUNDS; o: mov ebx, CALLEES; mov ecx, PAGES; l: call rbx; add ebx, 0x1000; dec ecx; jne l;
    // dec edx; jne o; out 0xf4, al
    let mut code = vec![0x31, 0xc0, 0xba];
    code.extend(ROUNDS.to_le_bytes());
    code.push(0xbb);
    code.extend((CALLEES as u32).to_le_bytes());
    code.push(0xb9);
    code.extend(PAGES.to_le_bytes());
    code.extend([
        0xff, 0xd3, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xf4, 0xff, 0xca, 0x75, 0xe6, 0xe6,
        0xf4,
    ]);
    cpu.write_physical(CODE, &code).unwrap();
    // 40 times mov esi, [rbx]; add eax, 3; ret
    let callee = [[0x8b, 0x33].repeat(40), vec![0x83, 0xc0, 3, 0xc3]].concat();
    for page in 0..u64::from(PAGES) {
        cpu.write_physical(CALLEES + (page << 12), &callee).unwrap();
    }
    let mut cache = BlockCache::new(LIMIT, LIMIT, Engine::Translator { after: 0 });
    assert_eq!(engine::run(&mut cpu, &mut cache), Left::Request);
    assert_eq!(cpu.gpr[reg::RAX], u64::from(3 * PAGES * ROUNDS));
    assert!(cache.evictions > 0);
    // As a whole it would be decoded again in each round.
    let decoded = cache.decoded;
    assert!(
        (u64::from(PAGES)..u64::from(PAGES * ROUNDS)).contains(&decoded),
        "{decoded}"
    );
    assert!(cache.bytes <= LIMIT + LIMIT / 4, "{}", cache.bytes);
}

#[test]
fn forms_that_nobody_enters_are_shed_and_come_back() {
    let mut cpu = cpu();
    // l: call rbx; add ebx, 0x1000; dec ecx; jne l; out 0xf4, al
    let code = [
        0xff, 0xd3, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xf4, 0xe6, 0xf4,
    ];
    cpu.write_physical(CODE, &code).unwrap();
    // 40 times mov esi, [rbx]; add eax, 3; ret
    let callee = [[0x8b, 0x33].repeat(40), vec![0x83, 0xc0, 3, 0xc3]].concat();
    for half in 0..2 * u64::from(PAGES) {
        cpu.write_physical(CALLEES + (half << 11), &callee).unwrap();
    }
    let mut cache = BlockCache::new(64 << 20, 64 << 20, Engine::Interpreter);
    let mut call_all = |cache: &mut BlockCache, from: u64| {
        cpu.rip = CODE;
        cpu.gpr[reg::RBX] = from;
        cpu.gpr[reg::RCX] = PAGES.into();
        assert_eq!(engine::run(&mut cpu, cache), Left::Request);
        crate::vm::vcpu::complete(&mut cpu);
        cpu.gpr[reg::RAX]
    };
    let shed = |cache: &mut BlockCache| -> u64 {
        cache
            .sections
            .iter_mut()
            .flat_map(|section| section.blocks())
            .filter(|block| block.is_shed())
            .count() as u64
    };
    assert_eq!(call_all(&mut cache, CALLEES), u64::from(3 * PAGES));
    let once = cache.bytes;
    for half in 1..=2 {
        assert_eq!(
            call_all(&mut cache, CALLEES + 0x800),
            u64::from(3 * PAGES * (1 + half))
        );
    }
    let (gone, decoded) = (shed(&mut cache), cache.decoded);
    assert!(gone >= u64::from(PAGES) / 2, "{gone}");
    assert!(cache.bytes < once + once / 2, "{} after {once}", cache.bytes);
    assert_eq!(cache.bytes, cache.sections.footprint());
    // They come back, and nothing else is decoded.
    let known = cache.blocks.len();
    assert_eq!(call_all(&mut cache, CALLEES), u64::from(3 * PAGES * 4));
    assert!((decoded + gone..=decoded + u64::from(2 * PAGES)).contains(&cache.decoded));
    assert_eq!(cache.blocks.len(), known);
    assert_eq!(cache.bytes, cache.sections.footprint());
}

#[test]
fn an_emptied_cache_holds_nothing_and_fills_again() {
    let mut cpu = cpu();
    // l: add eax, 1; out 0xf4, al; jmp l
    cpu.write_physical(CODE, &[0x83, 0xc0, 1, 0xe6, 0xf4, 0xeb, 0xf9])
        .unwrap();
    let mut cache = BlockCache::new(1 << 20, 1 << 20, Engine::Translator { after: 0 });
    for round in 1..=4 {
        assert_eq!(engine::run(&mut cpu, &mut cache), Left::Request);
        crate::vm::vcpu::complete(&mut cpu);
        assert_eq!(cpu.gpr[reg::RAX], round);
        assert!(cache.bytes > 0);
        cache.clear();
        assert_eq!((cache.bytes, cache.blocks.len()), (0, 0));
    }
}

#[test]
fn all_jumps_are_dropped_however_many_they_are() {
    let mut cpu = cpu();
    let mut cache = BlockCache::new(1 << 20, 1 << 20, Engine::Interpreter);
    // Fewer than are known one by one, as many, more, and few again.
    for count in [1, 16, 17, 1000, 3] {
        for at in 0..count {
            cpu.rip = CODE + at;
            assert!(cache.find(&mut cpu, at % 2 == 0).is_ok());
        }
        assert!(!cache.jumps.is_empty());
        cache.clear();
        assert!(cache.jumps.is_empty(), "{count}");
    }
}
