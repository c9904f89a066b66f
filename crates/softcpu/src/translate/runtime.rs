//! The way into translated code and out of it, and its calls for help.

use std::cell::Cell;
use std::io;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use iced_x86::Mnemonic;

use super::assembler::{Assembler, Memory, RAX, RDI, RSI, S0, S1, S2, condition};
use super::stack::SlideStubs;
use super::vectors::{self, VectorStubs};
use super::{Single, gpr_at, registers, state_at};
use super::{branch, returns, system as lowered_system};
use crate::block::{Block, Jump, Outcome, Owner, code_at_rip};
use crate::engine;
use crate::fault::{Flow, Result, Stop};
use crate::native;
use crate::native::code_buffer::CodeBuffer;
use crate::state::{Activity, Cpu, mode, reg};
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
    /// Called to find the code at the address in `S0`, for a jump: see [`branch::emit_find`].
    pub find: *const u8,
    /// The same for a call, see [`returns::emit_find_callee`].
    pub find_callee: *const u8,
    /// The same for a return, see [`returns::emit_find_caller`].
    pub find_caller: *const u8,
    /// Called to move the stack's window to the address in `S0`.
    pub slides: SlideStubs,
    /// Called for SYSCALL with the address of the next instruction in `S0`. Returns only if the interpreter has to do it.
    pub syscall: *const u8,
    /// The same for SYSRET.
    pub sysret: *const u8,
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
        let untranslated_label = code.label();
        code.store_state(S0, offset_of!(Cpu, rip));
        let untranslated = code.len();
        code.place(untranslated_label);
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
        let elsewhere = code.label();
        code.cmp_imm(RAX, GO_ON as i32);
        code.jump_if(condition::NE, elsewhere);
        load_all(&mut code);
        code.ret();
        code.place(elsewhere);
        code.jump_if(condition::B, epilogue);
        code.mov(S0, RAX);
        returns::forget(&mut code);
        load_all(&mut code);
        code.raw(&[0x41, 0xff, 0xe5]); // jmp r13

        let syscall = code.len();
        lowered_system::emit_syscall(&mut code, untranslated_label);
        let sysret = code.len();
        lowered_system::emit_sysret(&mut code, untranslated_label);

        let vectors = vectors::emit(&mut code);
        let find = code.len();
        branch::emit_find(&mut code, untranslated_label);
        let find_callee = code.len();
        returns::emit_find_callee(&mut code);
        let find_caller = code.len();
        returns::emit_find_caller(&mut code);
        let slides = SlideStubs::emit(&mut code);
        let at = buffer.append(code.finish(base))?;
        Some(Self {
            vectors: vectors.at(at),
            find: at.wrapping_add(find),
            find_callee: at.wrapping_add(find_callee),
            find_caller: at.wrapping_add(find_caller),
            slides: slides.at(at),
            enter: at.wrapping_add(enter),
            exit: at.wrapping_add(exit),
            untranslated: at.wrapping_add(untranslated),
            help: at.wrapping_add(help_at),
            syscall: at.wrapping_add(syscall),
            sysret: at.wrapping_add(sysret),
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

/// What [`help`] says when translated code goes on where it was. Less is an [`Outcome`], more the code to go on at.
const GO_ON: usize = 100;

/// How translated code was left.
#[derive(Debug, Clone, Copy)]
pub struct Left(u32);

impl Left {
    /// By `outcome`, through `link` if it is a jump that can be led to its target.
    pub fn new(outcome: Outcome, link: Option<usize>) -> Self {
        let link = link.map_or(0, |link| link as u32 + 1);
        Self(outcome as u32 | link << 8)
    }

    /// As translated code hands it over.
    pub fn number(self) -> u32 {
        self.0
    }

    /// How it ended.
    pub fn outcome(self) -> Outcome {
        Outcome::from_number(self.0 & 0xff)
    }

    /// The link.
    pub fn link(self) -> Option<usize> {
        (self.0 >> 8).checked_sub(1).map(|link| link as usize)
    }
}

/// Executes instruction `index` of `block` as the interpreter does.
extern "sysv64" fn help(cpu: &mut Cpu, block: &Block, index: u32) -> usize {
    let Some(single) = block.single(index as usize) else {
        return Outcome::Look as usize;
    };
    let base = cpu.gpr[reg::RIP_BASE];
    cpu.rip = base.wrapping_add(u64::from(single.offset));
    cpu.next_rip = cpu.rip.wrapping_add(u64::from(single.len));
    cpu.mmu.running = &raw const block.host;
    let system = matches!(single.owner, Owner::System);
    cpu.counts.interpreter_calls += 1;
    let executed = execute(cpu, single);
    let inside = matches!(executed, Ok(Flow::Next)) && !single.ends;
    if inside && (!system || system::may_go_on(cpu, block.mode)) {
        cpu.refresh_contexts();
        return GO_ON;
    }
    cpu.translated.budget -= i64::from(single.uncounted) + i64::from(executed.is_ok());
    cpu.translated.last_block = std::ptr::null();
    let outcome = match executed {
        Ok(Flow::Next) if !single.ends => {
            cpu.rip = cpu.next_rip;
            return Outcome::Halfway as usize;
        }
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            if system { Outcome::Look } else { Outcome::Jump }
        }
        Ok(Flow::Jump) if single.ends && !system => Outcome::Jump,
        Ok(Flow::Jump) => Outcome::Look,
        Err(Stop::Fault) => {
            // Time passes by faults too, or a guest that does nothing else would never look at the clock.
            cpu.look_at -= 1;
            cpu.translated.budget -= 1;
            engine::deliver(cpu);
            Outcome::Look
        }
        Err(stop) => return Outcome::from(stop) as usize,
    };
    match onward(cpu, single) {
        Some(code) => code.addr(),
        None => outcome as usize,
    }
}

/// Where translated code goes on at `cpu.rip` after an instruction that ended its block, if nothing has to be looked at before.
fn onward(cpu: &mut Cpu, single: &Single) -> Option<*const u8> {
    cpu.replay.clear();
    let asks = cpu.shadow
        || cpu.mode & (mode::LONG | mode::ALONE) != mode::LONG
        || cpu.activity != Activity::Running
        || !cpu.ended.is_empty()
        || cpu.shared.attention.load(Ordering::Relaxed) != 0
        // It may have set a deadline.
        || single.instruction.mnemonic() == Mnemonic::Wrmsr;
    if asks {
        return None;
    }
    cpu.refresh_contexts();
    cpu.gpr[reg::RIP_BASE] = cpu.rip & !0xfff;
    code_at_rip(cpu, cpu.translated.jumps)
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

/// Executes translated code from `code` on, until something else has to be looked at. Returns how it ended, and the block whose code
/// ended it, where a link may be made.
pub fn enter(cpu: &mut Cpu, stubs: &Stubs, code: *const u8) -> (Left, Option<*const Block>) {
    if set_gs(cpu).is_err() {
        return (Left::new(Outcome::Look, None), None);
    }
    cpu.refresh_contexts();
    cpu.translated.me = std::ptr::from_mut(cpu);
    cpu.translated.budget = cpu.look_at as i64 - cpu.instructions as i64;
    // SAFETY: the buffer's first code follows the System V convention with these arguments.
    let function: extern "sysv64" fn(*mut Cpu, *const u8) -> u32 =
        unsafe { std::mem::transmute(stubs.enter) };
    let left = Left(function(cpu, code));
    cpu.instructions = (cpu.look_at as i64 - cpu.translated.budget) as u64;
    let last = cpu.translated.last_block;
    (left, (!last.is_null()).then_some(last))
}

/// The memory operand of a jump through an entry of the jump cache whose address is in [`S1`].
pub const JUMP_CODE: Memory = Memory {
    base: Some(S1),
    index: None,
    disp: offset_of!(Jump, code) as i32,
};
