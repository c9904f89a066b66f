//! The way into translated code and out of it, and its calls for help.

use std::cell::Cell;
use std::io;
use std::mem::offset_of;

use super::assembler::{Assembler, Memory, RAX, RDI, RSI, S0, S1, S2, condition};
use super::vectors::{self, VectorStubs};
use super::{Single, gpr_at, registers, state_at};
use super::{memory, returns};
use crate::block::{Block, Jump, Outcome, Owner};
use crate::fault::{Flow, Result};
use crate::native;
use crate::native::code_buffer::CodeBuffer;
use crate::state::{Cpu, reg};
use crate::system;

/// Code that all translated blocks share.
#[derive(Debug, Clone, Copy)]
pub struct Stubs {
    /// Called by [`enter`].
    enter: *const u8,
    /// Leaves with the page offset of the next instruction in `S0`, the outcome in `S1` and the block in `S2`.
    pub exit: *const u8,
    /// Leaves for a block that is not translated; RIP is in the state.
    pub untranslated: *const u8,
    /// Called to have an instruction executed: its index in `S0`, the block in `S2`.
    pub help: *const u8,
    /// Called to move the stack's window to the address in `S0`.
    pub slide: *const u8,
    /// What moves vector registers.
    pub vectors: VectorStubs,
}

impl Stubs {
    /// Writes the code to the start of an empty buffer.
    pub fn new(buffer: &mut CodeBuffer) -> Option<Self> {
        let mut code = Assembler::default();
        let base = buffer.next();
        let enter = code.len();
        // push rbx, rbp, r12 to r15; sub rsp, 8
        code.raw(&[
            0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x48, 0x83, 0xec, 0x08,
        ]);
        code.mov(S2, RSI);
        let bottom = code.label();
        returns::begin(&mut code, bottom);
        load_all(&mut code);
        code.raw(&[0x41, 0xff, 0xe7]); // jmp r15

        let exit = code.len();
        code.add_state(S0, gpr_at(reg::RIP_BASE));
        code.store_state(S0, offset_of!(Cpu, rip));
        let leave = code.label();
        code.place(leave);
        code.store_state(S2, state_at::LAST_BLOCK);
        store_all(&mut code);
        code.mov32(RAX, S1);
        let epilogue = code.label();
        code.place(epilogue);
        returns::forget(&mut code);
        // add rsp, 8 and what the return stack began with; pop r15 to r12, rbp, rbx; ret
        code.raw(&[
            0x48,
            0x83,
            0xc4,
            0x08 + returns::BOTTOM,
            0x41,
            0x5f,
            0x41,
            0x5e,
            0x41,
            0x5d,
            0x41,
            0x5c,
            0x5d,
            0x5b,
            0xc3,
        ]);

        // A return to the address in S0 that the return stack does not know: RSP has moved already.
        code.place(bottom);
        code.store_state(S0, offset_of!(Cpu, rip));
        let untranslated = code.len();
        code.xor32(S2, S2);
        code.mov_imm32(S1, Outcome::Jump as u32);
        code.jump(leave);

        let help_at = code.len();
        store_all(&mut code);
        code.raw(&[0x48, 0x83, 0xec, 0x08]); // sub rsp, 8
        code.load_state(RDI, state_at::ME);
        code.mov(RSI, S2);
        code.raw(&[0x44, 0x89, 0xea]); // mov edx, r13d
        code.mov_imm64(RAX, help as *const () as u64);
        code.raw(&[0xff, 0xd0]); // call rax
        code.raw(&[0x48, 0x83, 0xc4, 0x08]); // add rsp, 8
        code.raw(&[0x83, 0xe8, GO_ON as u8]); // sub eax, GO_ON
        let stopped = code.label();
        code.jump_if(condition::NE, stopped);
        load_all(&mut code);
        code.raw(&[0xc3]);
        code.place(stopped);
        code.raw(&[0x83, 0xc0, GO_ON as u8]); // add eax, GO_ON
        code.jump(epilogue);

        let vectors = vectors::emit(&mut code);
        let slide = code.len();
        memory::emit_slide(&mut code);
        let at = buffer.append(code.finish(base))?;
        Some(Self {
            vectors: vectors.at(at),
            slide: at.wrapping_add(slide),
            enter: at.wrapping_add(enter),
            exit: at.wrapping_add(exit),
            untranslated: at.wrapping_add(untranslated),
            help: at.wrapping_add(help_at),
        })
    }
}

fn load_all(code: &mut Assembler) {
    for (number, home) in registers::pinned() {
        code.load_state(home, gpr_at(number));
    }
}

/// Brings all registers of the guest into the state. Changes flags.
fn store_all(code: &mut Assembler) {
    for (number, home) in registers::pinned() {
        code.store_state(home, gpr_at(number));
    }
    vectors::store(code);
}

/// What [`help`] says when translated code goes on; else an [`Outcome`].
const GO_ON: u32 = 100;

/// Executes instruction `index` of `block` as the interpreter does.
extern "sysv64" fn help(cpu: &mut Cpu, block: &Block, index: u32) -> u32 {
    let Some(single) = block.single(index as usize) else {
        return Outcome::Look as u32;
    };
    let base = cpu.gpr[reg::RIP_BASE];
    cpu.rip = base.wrapping_add(u64::from(single.offset));
    cpu.next_rip = cpu.rip.wrapping_add(u64::from(single.len));
    cpu.mmu.running = &raw const block.host;
    cpu.counts.interpreter_calls += 1;
    let outcome = match execute(cpu, single) {
        Ok(Flow::Next) if !single.ends => {
            cpu.refresh_contexts();
            return GO_ON;
        }
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            if matches!(single.owner, Owner::Family(_)) {
                Outcome::Jump
            } else {
                Outcome::Look
            }
        }
        Ok(Flow::Jump) if single.ends && matches!(single.owner, Owner::Family(_)) => Outcome::Jump,
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    };
    cpu.translated.last_block = block;
    outcome as u32
}

fn execute(cpu: &mut Cpu, single: &Single) -> Result<Flow> {
    match &single.owner {
        Owner::Family(family) => family.execute(cpu, &single.instruction),
        Owner::Native(op) => native::execute(cpu, op),
        Owner::System => system::execute(cpu, &single.instruction),
    }
}

thread_local! {
    /// What this thread's GS base is, if it was set here.
    static GS_BASE: Cell<usize> = const { Cell::new(0) };
}

/// Makes GS lead to `cpu` on this thread: nothing else in the process uses GS.
fn set_gs(cpu: &Cpu) -> io::Result<()> {
    const ARCH_SET_GS: libc::c_int = 0x1001;
    let at = std::ptr::from_ref(cpu).addr();
    if GS_BASE.get() == at {
        return Ok(());
    }
    // SAFETY: the call changes the GS base of this thread only, which neither Rust nor the C library uses on x86-64.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, at) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    GS_BASE.set(at);
    Ok(())
}

/// Executes translated code from `code` on, until something else has to be looked at. Returns how it ended, and the block that ended
/// it, where a link may be made.
pub fn enter(cpu: &mut Cpu, stubs: &Stubs, code: *const u8) -> (Outcome, Option<*const Block>) {
    if set_gs(cpu).is_err() {
        return (Outcome::Look, None);
    }
    cpu.refresh_contexts();
    cpu.translated.me = std::ptr::from_mut(cpu);
    cpu.translated.budget = cpu.look_at as i64 - cpu.instructions as i64;
    // SAFETY: the buffer's first code follows the System V convention with these arguments.
    let function: extern "sysv64" fn(*mut Cpu, *const u8) -> u32 =
        unsafe { std::mem::transmute(stubs.enter) };
    let outcome = function(cpu, code);
    cpu.instructions = (cpu.look_at as i64 - cpu.translated.budget) as u64;
    let last = cpu.translated.last_block;
    (Outcome::from_number(outcome), (!last.is_null()).then_some(last))
}

/// The memory operand of a jump through an entry of the jump cache whose address is in [`S1`].
pub const JUMP_CODE: Memory = Memory {
    base: Some(S1),
    index: None,
    disp: offset_of!(Jump, code) as i32,
};
