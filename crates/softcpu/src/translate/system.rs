//! Instructions with system semantics that a 64-bit kernel executes all the time: system calls, RFLAGS.IF and AC, segment bases.
//!
//! They do what [`crate::system`] does. Whatever is not the plain case (another privilege level, single step, alignment checks, an
//! interrupt that waits for RFLAGS.IF) is a miss, for the interpreter. Translated code never executes with RFLAGS.TF set or with
//! breakpoints: that is [`mode::ALONE`].

use std::mem::offset_of;

use iced_x86::{Code, Instruction, OpKind, Register};
use ostler_accel::Segment;

use super::assembler::{Assembler, Label, Memory, RAX, RCX, RDX, Reg, S0, S1, S2, condition};
use super::branch::{search_cache, take_page};
use super::flags::Flags;
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::registers::{HOME, number};
use super::runtime::JUMP_CODE;
use super::{gpr_at, returns, state_at};
use crate::exec::address::segment_index;
use crate::flags::bit;
use crate::mmu::{Mmu, Selection, Window};
use crate::state::{Cpu, cr4, efer, mode, reg, seg};
use crate::system::msr::Msrs;
use crate::system::{code64, data};

const REST: usize = offset_of!(Cpu, rflags_rest);
const FLAGS: usize = offset_of!(Cpu, flags);
const MODE: usize = offset_of!(Cpu, mode);
const CPL: usize = offset_of!(Cpu, cpl);
const HELD: usize = offset_of!(Cpu, held);
const EFER: usize = offset_of!(Cpu, efer);
const CR4: usize = offset_of!(Cpu, cr4);
const STAR: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, star);
const LSTAR: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, lstar);
const SFMASK: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, sfmask);
const KERNEL_GS_BASE: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base);
const TSC_OFFSET: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, tsc_offset);
const TSC_AUX: usize = offset_of!(Cpu, msrs) + offset_of!(Msrs, tsc_aux);
const MMU: usize = offset_of!(Cpu, mmu);

const _: () = assert!(HOME[reg::RCX].is_some() && HOME[11].is_none());

/// Offset of segment register `index` in [`Cpu`].
const fn segment_at(index: usize) -> usize {
    offset_of!(Cpu, segs) + index * size_of::<Segment>()
}

const fn base_at(index: usize) -> usize {
    segment_at(index) + offset_of!(Segment, base)
}

const fn selector_at(index: usize) -> usize {
    segment_at(index) + offset_of!(Segment, selector)
}

/// CF, PF, AF, ZF and SF, which are in the second byte of the flags' own form.
const LAHF: u32 = (bit::CF | bit::PF | bit::AF | bit::ZF | bit::SF) as u32;
/// OF's place.
const OF: u8 = bit::OF.trailing_zeros() as u8;

/// Puts RFLAGS without RF and VM into `to`. Uses `other`.
fn rflags(code: &mut Assembler, to: Reg, other: Reg) {
    code.load_state16(to, FLAGS);
    code.mov32(other, to);
    code.shr32(to, 8);
    code.and32(to, LAHF);
    code.and32(other, 1);
    code.shl32(other, OF);
    code.or_registers(to, other);
    code.or_state(to, REST);
    code.and_simm32(to, !((bit::RF | bit::VM) as i32));
    code.or_imm(to, 2);
}

/// Sets the arithmetic flags in the state as RFLAGS in `from` says. Changes `from` and `other`.
fn set_arithmetic(code: &mut Assembler, from: Reg, other: Reg) {
    code.mov32(other, from);
    code.and32(other, LAHF);
    code.shl32(other, 8);
    code.shr32(from, OF);
    code.and32(from, 1);
    code.or_registers(other, from);
    code.store_state16(other, FLAGS);
}

/// Goes to `miss` if something may wait for RFLAGS.IF. Uses `S2`.
fn nothing_waits(code: &mut Assembler, miss: Label) {
    code.cmp_state8(HELD, 0);
    code.jump_if(condition::NE, miss);
    code.load_state(S2, state_at::ATTENTION);
    code.cmp_memory32(Memory::at(S2, 0), 0);
    code.jump_if(condition::NE, miss);
}

/// Puts another array of the TLB in force. Uses `S2`, changes no flags.
fn select(code: &mut Assembler, selection: usize) {
    code.load_state(S2, MMU + selection + offset_of!(Selection, class));
    code.store_state(S2, MMU + Mmu::CLASS);
    code.load_state(S2, MMU + selection + offset_of!(Selection, tables));
    code.store_state(S2, MMU + Mmu::NOW);
    code.set_state(MMU + Mmu::WINDOW + offset_of!(Window, limit), 0);
}

/// A flat segment with the selector in `S2`.
fn set_segment(code: &mut Assembler, index: usize, rights: u16) {
    code.store_state16(S2, selector_at(index));
    code.set_state(base_at(index), 0);
    code.set_state32(segment_at(index) + offset_of!(Segment, limit), u32::MAX);
    code.set_state16(segment_at(index) + offset_of!(Segment, rights), rights);
}

/// Makes the mode in `S2`, which is lost, the one in force, and `cpl` the privilege level.
fn set_mode(code: &mut Assembler, cpl: u8) {
    code.store_state32(S2, MODE);
    // The lower halves of both are the mode.
    code.store_state32(S2, state_at::CONTEXT_LOCAL);
    code.store_state32(S2, state_at::CONTEXT_GLOBAL);
    code.set_state8(CPL, cpl);
    if cpl == 3 {
        code.load_state(S2, state_at::SALT_USER);
        code.store_state(S2, state_at::SALT);
    } else {
        code.set_state(state_at::SALT, 0);
    }
}

/// Goes on at the address in `S0` after a change of the privilege level.
fn go_on(code: &mut Assembler, untranslated: Label) {
    let unknown = code.label();
    returns::forget(code);
    search_cache(code, unknown);
    take_page(code);
    code.jump_memory(JUMP_CODE);
    code.place(unknown);
    code.store_state(S0, offset_of!(Cpu, rip));
    code.jump(untranslated);
}

/// Writes the stub for SYSCALL in 64-bit mode at any level: called with the address of the next instruction in `S0`, the flags in the
/// state. Returns if the interpreter has to do it.
pub fn emit_syscall(code: &mut Assembler, untranslated: Label) {
    let slow = code.label();
    code.test_state32(EFER, efer::SCE as u32);
    code.jump_if(condition::E, slow);
    code.load_state(S1, SFMASK);
    code.not(S1);
    code.mov(S2, S1);
    code.and_state(S1, REST);
    code.test_imm(S1, bit::AC as i32);
    code.jump_if(condition::NE, slow);
    // Nothing stops it from here on.
    code.mov(RCX, S0);
    code.and_simm32(S1, !(bit::RF as i32));
    code.store_state(S2, state_at::KEPT);
    rflags(code, S0, S2);
    code.store_state(S0, gpr_at(11));
    code.store_state(S1, REST);
    code.and_state(S0, state_at::KEPT);
    set_arithmetic(code, S0, S2);

    code.load_state32(S2, MODE);
    code.and32(S2, !(mode::USER | mode::INNER));
    set_mode(code, 0);
    select(code, Mmu::OF_SUPERVISOR);
    code.load_state(S2, STAR);
    code.shr(S2, 32);
    code.and32(S2, 0xfffc);
    set_segment(code, seg::CS, code64(0));
    code.add_imm(S2, 8);
    set_segment(code, seg::SS, data(0));
    code.load_state(S0, LSTAR);
    go_on(code, untranslated);
    code.place(slow);
    code.ret();
}

/// Writes the stub for SYSRET with 64-bit operands at level 0: called with the flags in the state. Returns if the interpreter has to do
/// it.
pub fn emit_sysret(code: &mut Assembler, untranslated: Label) {
    const CHANGEABLE: u64 = bit::IF | bit::DF | bit::IOPL | bit::NT | bit::VIF | bit::VIP | bit::ID;
    let slow = code.label();
    code.test_state32(EFER, efer::SCE as u32);
    code.jump_if(condition::E, slow);
    code.cmp_state8(HELD, 0);
    code.jump_if(condition::NE, slow);
    code.mov(S0, RCX);
    code.shl(S0, 16);
    code.sar(S0, 16);
    code.cmp_registers(true, S0, RCX);
    code.jump_if(condition::NE, slow);
    code.load_state(S1, gpr_at(11));
    code.test_imm(S1, (bit::TF | bit::AC) as i32);
    code.jump_if(condition::NE, slow);
    // Nothing stops it from here on.
    code.mov(S2, S1);
    code.and_simm32(S2, CHANGEABLE as i32);
    code.store_state(S2, REST);
    set_arithmetic(code, S1, S2);

    code.load_state32(S2, MODE);
    code.or_imm(S2, mode::USER as i32);
    set_mode(code, 3);
    select(code, Mmu::OF_USER);
    code.load_state(S2, STAR);
    code.shr(S2, 48);
    code.add_imm(S2, 8);
    code.or_imm(S2, 3);
    set_segment(code, seg::SS, data(3));
    code.load_state(S2, STAR);
    code.shr(S2, 48);
    code.add_imm(S2, 16);
    code.or_imm(S2, 3);
    set_segment(code, seg::CS, code64(3));
    go_on(code, untranslated);
    code.place(slow);
    code.ret();
}

impl Lowering<'_> {
    /// True at privilege level 0.
    fn is_kernel(&self) -> bool {
        self.block.mode & (mode::USER | mode::INNER) == 0
    }

    /// A system instruction. `None` leaves it to the interpreter.
    pub(super) fn system(&mut self, index: usize, i: &Instruction) -> Option<()> {
        if i.has_lock_prefix() {
            return None;
        }
        match i.code() {
            Code::Syscall => self.transfer(index, i, self.stubs.syscall),
            Code::Sysretq if self.is_kernel() => self.transfer(index, i, self.stubs.sysret),
            Code::Swapgs if self.is_kernel() => {
                self.code.load_state(S0, base_at(seg::GS));
                self.code.load_state(S1, KERNEL_GS_BASE);
                self.code.store_state(S1, base_at(seg::GS));
                self.code.store_state(S0, KERNEL_GS_BASE);
            }
            Code::Cli if self.is_kernel() => {
                self.flags_to_state();
                self.code.and_state_imm(REST, !(bit::IF as i32));
                self.flags = Flags::State;
            }
            // The instruction after STI has to be in the same block: no interrupt comes between.
            Code::Sti if self.is_kernel() && index + 1 < self.region.parts[self.part].singles.end => {
                self.sti(index);
            }
            Code::Clac if self.is_kernel() => self.set_ac(index, false),
            Code::Stac if self.is_kernel() => self.set_ac(index, true),
            Code::Pushfq => {
                self.flags_to_state();
                self.stack_slot(index, -8, Access::Write);
                rflags(self.code, S1, S2);
                self.code.store(Memory::at(S0, 0), S1);
                self.adjust_stack(-8);
            }
            Code::Popfq if self.block.mode & mode::INNER == 0 => self.popf(index),
            Code::Rdtsc => self.rdtsc(index),
            Code::Rdtscp => {
                self.rdtsc(index);
                self.code.load_state(RCX, TSC_AUX);
            }
            Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
                return self.read_selector(index, i);
            }
            Code::Mov_r64_cr if self.is_kernel() => {
                let from = match i.op1_register() {
                    Register::CR0 => offset_of!(Cpu, cr0),
                    Register::CR2 => offset_of!(Cpu, cr2),
                    Register::CR3 => offset_of!(Cpu, cr3),
                    Register::CR4 => CR4,
                    _ => return None,
                };
                self.code.load_state(S0, from);
                self.write_register(i.op0_register())?;
            }
            Code::Rdfsbase_r64 => return self.read_base(index, i, seg::FS),
            Code::Rdgsbase_r64 => return self.read_base(index, i, seg::GS),
            Code::Wrfsbase_r64 => return self.write_base(index, i, seg::FS),
            Code::Wrgsbase_r64 => return self.write_base(index, i, seg::GS),
            _ => return None,
        }
        Some(())
    }

    /// Leaves the block by `stub`, or by the interpreter.
    fn transfer(&mut self, index: usize, i: &Instruction, stub: *const u8) {
        self.flags_to_state();
        self.spare_flags();
        let counted = i32::from(self.uncounted) + 1;
        self.count(counted);
        self.page_address(i.next_ip());
        self.code.call_outside(stub);
        self.count(-counted);
        self.interpret(index);
    }

    fn sti(&mut self, index: usize) {
        self.flags_to_state();
        let miss = self.miss(index);
        let done = self.code.label();
        self.code.test_state32(REST, bit::IF as u32);
        self.code.jump_if(condition::NE, done);
        nothing_waits(self.code, miss);
        self.code.or_state_imm(REST, bit::IF as i32);
        self.code.place(done);
        self.flags = Flags::State;
    }

    /// POPFQ at level 0, or at level 3 where it changes neither IF nor IOPL.
    fn popf(&mut self, index: usize) {
        const CHANGEABLE: u64 = bit::IF | bit::DF | bit::IOPL | bit::NT | bit::ID | bit::AC | bit::TF;
        let slow = if self.is_kernel() {
            bit::TF | bit::AC
        } else {
            bit::TF | bit::AC | bit::IF | bit::IOPL
        };
        self.flags_to_state();
        self.stack_slot(index, 0, Access::Read);
        let miss = self.miss(index);
        self.code.load(S0, Memory::at(S0, 0));
        self.code.mov(S1, S0);
        self.code.xor_state(S1, REST);
        self.code.test_imm(S1, slow as i32);
        self.code.jump_if(condition::NE, miss);
        if self.is_kernel() {
            let masked = self.code.label();
            self.code.test_imm(S0, bit::IF as i32);
            self.code.jump_if(condition::E, masked);
            nothing_waits(self.code, miss);
            self.code.place(masked);
        }
        self.code.load_state(S1, REST);
        self.code.and_simm32(S1, (bit::VIF | bit::VIP) as i32);
        self.code.mov(S2, S0);
        self.code.and_simm32(S2, CHANGEABLE as i32);
        self.code.or_registers(S2, S1);
        self.code.store_state(S2, REST);
        set_arithmetic(self.code, S0, S2);
        self.adjust_stack(8);
        self.flags = Flags::State;
    }

    /// CLAC and STAC at level 0.
    fn set_ac(&mut self, index: usize, on: bool) {
        self.flags_to_state();
        let miss = self.miss(index);
        self.code.test_state32(CR4, cr4::SMAP as u32);
        self.code.jump_if(condition::E, miss);
        if on {
            self.code.or_state_imm(REST, bit::AC as i32);
            select(self.code, Mmu::OF_SUPERVISOR_AC);
        } else {
            self.code.and_state_imm(REST, !(bit::AC as i32));
            select(self.code, Mmu::OF_SUPERVISOR);
        }
        self.flags = Flags::State;
    }

    /// The guest's time into EDX and EAX.
    fn rdtsc(&mut self, index: usize) {
        self.flags_to_state();
        if !self.is_kernel() {
            let miss = self.miss(index);
            self.code.test_state32(CR4, cr4::TSD as u32);
            self.code.jump_if(condition::NE, miss);
        }
        self.code.rdtsc();
        self.code.shl(RDX, 32);
        self.code.or_registers(RAX, RDX);
        self.code.add_state(RAX, TSC_OFFSET);
        self.code.mov(RDX, RAX);
        self.code.shr(RDX, 32);
        self.code.mov32(RAX, RAX);
        self.flags = Flags::State;
    }

    /// MOV from a segment register.
    fn read_selector(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let from = selector_at(segment_index(i.op1_register())?);
        if i.op0_kind() == OpKind::Register {
            if i.code() == Code::Mov_rm16_Sreg {
                return None;
            }
            self.code.load_state16(S0, from);
            return self.write_register(i.op0_register());
        }
        if !is_simple(i) {
            return None;
        }
        self.operand(i, index, Access::Write, 2);
        self.code.load_state16(S1, from);
        self.code.store16(S0, S1);
        Some(())
    }

    /// Goes to a miss unless RDFSBASE and its kin may be executed.
    fn needs_fsgsbase(&mut self, index: usize) -> Label {
        self.flags_to_state();
        let miss = self.miss(index);
        self.code.test_state32(CR4, cr4::FSGSBASE as u32);
        self.code.jump_if(condition::E, miss);
        self.flags = Flags::State;
        miss
    }

    fn read_base(&mut self, index: usize, i: &Instruction, segment: usize) -> Option<()> {
        self.needs_fsgsbase(index);
        self.code.load_state(S0, base_at(segment));
        self.write_register(i.op0_register())
    }

    fn write_base(&mut self, index: usize, i: &Instruction, segment: usize) -> Option<()> {
        let miss = self.needs_fsgsbase(index);
        self.load_register(S0, i.op0_register())?;
        self.code.mov(S1, S0);
        self.code.shl(S1, 16);
        self.code.sar(S1, 16);
        self.code.cmp_registers(true, S0, S1);
        self.code.jump_if(condition::NE, miss);
        self.code.store_state(S0, base_at(segment));
        Some(())
    }

    /// Puts `S0` into a general register of 32 or 64 bits, whose upper half becomes that of `S0`.
    fn write_register(&mut self, register: Register) -> Option<()> {
        let number = number(register)?;
        match HOME[number] {
            Some(home) => self.code.mov(home, S0),
            None => self.code.store_state(S0, gpr_at(number)),
        }
        Some(())
    }
}
