//! Entries for fuzzers: what a guest executes, in any mode, and what it does with its local APIC.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use ostler_accel::{CpuState, CpuidLeaf, Exit, Segment, reset_state};
use ostler_bus::Msi;
use ostler_bus::testing::Input;
use ostler_memory::{GuestRam, RamSlot};

use crate::block::BlockCache;
use crate::emulate::Emulator;
use crate::shared::{VcpuShared, VmShared};
use crate::state::Cpu;
use crate::system::{self, lapic, msr};
use crate::vm::{Engine, convert, new_shared, tsc_khz};

/// Bytes of RAM.
const RAM: usize = 1 << 20;
/// Where code, the stack's end, data, descriptor tables and page tables are.
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
const DATA: u64 = 0x3_0000;
const GDT: u64 = 0x4_0000;
const IDT: u64 = 0x4_1000;
const PAGE_TABLES: u64 = 0x5_0000;
/// Instructions of one input at most.
const MOST_STEPS: usize = 16;
/// Instructions of a block at most.
const MOST_IN_BLOCK: u16 = 64;

const PAGING: u64 = 1 << 31;
const PROTECTED: u64 = 1;
const PAE: u64 = 1 << 5;
const LONG: u64 = 1 << 8 | 1 << 10;
const SSE: u64 = 3 << 9 | 1 << 18;

const CODE_16: u16 = 0x009b;
const CODE_32: u16 = 0x409b;
const CODE_64: u16 = 0x209b;
const DATA_32: u16 = 0x4093;
const USER: u16 = 3 << 5;

fn put(ram: &GuestRam, at: u64, bytes: &[u8]) {
    if let Some(host) = ostler_memory::host_range(ram, at, bytes.len()) {
        // SAFETY: the range is RAM of `ram`, which nobody else has.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
    }
}

/// A gigabyte from address 0 by pages of 2 MiB, which all may use.
fn put_page_tables(ram: &GuestRam) {
    put(ram, PAGE_TABLES, &(PAGE_TABLES + 0x1000 + 7).to_le_bytes());
    put(
        ram,
        PAGE_TABLES + 0x1000,
        &(PAGE_TABLES + 0x2000 + 7).to_le_bytes(),
    );
    for page in 0..8u64 {
        put(
            ram,
            PAGE_TABLES + 0x2000 + 8 * page,
            &(page << 21 | 0x87).to_le_bytes(),
        );
    }
}

fn segment(selector: u16, rights: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

/// The state in one of eight modes: real, virtual-8086, protected with 16 and 32 bits, compatibility, long, and the last two for users.
fn state(which: u8) -> CpuState {
    let mut state = reset_state(0);
    state.rip = CODE;
    state.gpr = [
        DATA,
        3,
        DATA + 64,
        DATA + 512,
        STACK,
        STACK - 64,
        DATA + 256,
        DATA + 1024,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
    ];
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0xff);
    (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
    state.cr4 = SSE;
    state.xcr0 = 7;
    let user = which >= 6;
    let privilege = if user { USER } else { 0 };
    let selector = if user { 3 } else { 0 };
    match which {
        0 | 1 => {
            for segment in &mut state.segments {
                (segment.selector, segment.base) = (0, 0);
            }
            (state.segments[1].base, state.segments[1].selector) = (0, 0);
            state.rip = 0x8000;
            state.gpr[4] = 0x7000;
            if which == 1 {
                state.cr0 |= PROTECTED;
                state.rflags |= 1 << 17;
                for segment in &mut state.segments {
                    segment.rights = 0xf3;
                }
            } else {
                // A real-mode interrupt table at 0.
                (state.idtr.base, state.idtr.limit) = (0, 0x3ff);
            }
            return state;
        }
        _ => {}
    }
    let code = match which {
        2 => CODE_16,
        3 | 4 | 6 => CODE_32,
        _ => CODE_64,
    };
    state.cr0 = 0x33 | PAGING;
    state.segments = [segment(0x10 | selector, DATA_32 | privilege); 6];
    state.segments[1] = segment(0x08 | selector, code | privilege);
    (state.tr.selector, state.tr.base, state.tr.limit, state.tr.rights) = (0x18, DATA + 0x800, 0x67, 0x8b);
    if which >= 4 {
        state.cr3 = PAGE_TABLES;
        state.cr4 |= PAE;
        state.efer = LONG | 1 | 1 << 11;
    } else {
        state.cr0 &= !PAGING;
    }
    state
}

/// A virtual machine whose engine is `engine`, with the input's mode and code in it; what is left of the input is data.
struct Guest {
    ram: Arc<GuestRam>,
    state: CpuState,
}

impl Guest {
    fn new(input: &mut Input<'_>) -> Self {
        let ram = ostler_memory::allocate(RAM as u64, Default::default()).expect("1 MiB of RAM is there");
        put_page_tables(&ram);
        let first = input.u8();
        let mut state = state(first & 7);
        if first & 8 != 0 {
            let register = usize::from(input.u8() & 0xf);
            state.gpr[register] = input.u64();
        }
        if first & 0x10 != 0 {
            state.rflags ^= u64::from(input.u32() & 0x0004_7fd5);
        }
        if first & 0x20 != 0 {
            // Near the end of a page.
            state.rip += 0xff0 + u64::from(input.u8() & 0xf);
        }
        if first & 0x40 != 0 {
            let bytes = input.take(64);
            put(&ram, GDT, bytes);
            put(&ram, IDT, bytes);
        }
        let count = usize::from(input.u8());
        put(&ram, state.rip, input.take(count));
        put(&ram, DATA, input.take(256));
        Self { ram, state }
    }

    fn slots(&self) -> Vec<RamSlot> {
        RamSlot::all_of(&self.ram)
    }
}

/// What CPUID answers. Asked for once: where the host is a guest itself, that takes long.
static CPUID: LazyLock<Vec<CpuidLeaf>> = LazyLock::new(|| system::cpuid::supported(tsc_khz()));

/// Code in any mode, one interpreted instruction after the other. Each leaves a state that a CPU can have.
pub fn instructions(input: &[u8]) {
    let mut input = Input::new(input);
    let guest = Guest::new(&mut input);
    let mut emulator = Emulator::new(0, guest.slots(), &CPUID);
    let mut state = guest.state.clone();
    for _ in 0..MOST_STEPS {
        let done = emulator.execute_one(&state, &mut |exit| match exit {
            Exit::PortRead { data, .. } | Exit::MmioRead { data, .. } => data.fill(0x5a),
            _ => {}
        });
        let Ok(done) = done else { return };
        if done.shutdown || done.state.mp != ostler_accel::MpState::Runnable {
            return;
        }
        state = done.state;
    }
}

fn cpu(vm: &Arc<VmShared>, id: u32) -> Box<Cpu> {
    let shared = Arc::new(VcpuShared::new(id));
    // It is there once at most.
    let _ = vm.vcpus[id as usize].set(shared.clone());
    Cpu::new(vm.clone(), shared, id, &CPUID)
}

/// Code in any mode, decoded as blocks and translated, not executed. Both engines execute what one decoder made, so that it decides
/// about lengths alone.
pub fn translation(input: &[u8]) {
    let mut input = Input::new(input);
    let guest = Guest::new(&mut input);
    let engine = Engine::Translator { after: 0 };
    let vm = new_shared(1, guest.slots(), engine);
    let mut cpu = cpu(&vm, 0);
    if convert::restore(&mut cpu, &guest.state).is_err() {
        return;
    }
    let mut cache = BlockCache::new(1 << 20, 1 << 20, engine);
    let first = cpu.rip;
    // From every byte on, as jumps into the middle of instructions have it.
    for offset in 0..16 {
        cpu.rip = first.wrapping_add(offset);
        for alone in [false, true] {
            let Ok(block) = cache.find(&mut cpu, alone) else {
                cpu.exception = None;
                continue;
            };
            cache.heat_up(&mut cpu, block);
            assert!(block.instructions <= MOST_IN_BLOCK);
            assert!(!alone || block.instructions <= 1);
        }
    }
    cpu.mmu.running = std::ptr::null();
}

/// What a guest of two CPUs does with its local APICs and other MSRs, and what messages come.
pub fn lapic(input: &[u8]) {
    let mut input = Input::new(input);
    let ram = ostler_memory::allocate(RAM as u64, Default::default()).expect("1 MiB of RAM is there");
    let vm = new_shared(2, RamSlot::all_of(&ram), Engine::Interpreter);
    let mut cpus = [cpu(&vm, 0), cpu(&vm, 1)];
    for (id, cpu) in (0..).zip(&mut cpus) {
        convert::restore(cpu, &reset_state(id)).expect("it is the state after RESET");
    }
    for _ in 0..256 {
        if input.is_over() {
            break;
        }
        let step = input.u8();
        let cpu = &mut *cpus[usize::from(step >> 7)];
        match step & 7 {
            0 | 1 => {
                let register = u64::from(input.u8() & 0x3f) << 4;
                let _ = lapic::mmio_write(cpu, register, &input.u32().to_le_bytes());
            }
            2 => {
                let (offset, width) = (u64::from(input.u16() & 0xfff), 1 << (step >> 3 & 3));
                let _ = lapic::mmio_read(cpu, offset, &mut [0; 8][..width]);
                let _ = lapic::mmio_write(cpu, offset, &input.u64().to_le_bytes()[..width]);
            }
            3 => {
                let index = 0x800 + u32::from(input.u8() & 0x3f);
                let _ = lapic::msr_read(cpu, index);
                let _ = lapic::msr_write(cpu, index, input.u64());
            }
            4 => {
                let index = match step >> 3 & 3 {
                    0 => input.pick(&[
                        0x1b,
                        0x6e0,
                        0x10,
                        0x3b,
                        0xc000_0080,
                        0x277,
                        0x1a0,
                        0x4b56_4d00,
                        0x4b56_4d01,
                    ]),
                    1 => 0x200 + u32::from(input.u8()),
                    _ => input.u32(),
                };
                let _ = msr::read(cpu, index);
                let _ = msr::write(cpu, index, input.u64());
            }
            5 => {
                let address = 0xfee0_0000 | u64::from(input.u32() & 0xf_ffff);
                let data = input.u32();
                lapic::signal(&vm, Msi { address, data });
            }
            6 => lapic::set_tpr(cpu, input.u8()),
            _ => {
                let _ = system::service_events(cpu);
                cpu.exception = None;
                cpu.ended.clear();
            }
        }
        cpu.exception = None;
    }
    // What is saved can be restored, and is the same again.
    for cpu in &mut cpus {
        system::take_posted(cpu);
        let saved = lapic::save(cpu);
        lapic::restore(cpu, &saved);
        cpu.shared.acknowledged.load(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("softcpu-instructions", super::instructions);
        ostler_corpus::replay("softcpu-translation", super::translation);
        ostler_corpus::replay("softcpu-lapic", super::lapic);
    }
}
