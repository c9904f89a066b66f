//! Decoded blocks.
//!
//! A block is a run of instructions in one page (the last may reach into the next), decoded once into [`Op`]s. An op's handler ends by
//! calling the next op's handler in tail position, which an optimised build turns into a jump: no loop, no return, and every
//! handler has an indirect jump of its own for the host to predict. A block's length is bounded, so that a build which does not
//! optimise stays within its stack.

mod build;
mod cache;
mod jumps;
mod limit;
mod link;
mod section;
mod select;

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

pub use cache::BlockCache;
use iced_x86::Instruction;
pub(crate) use jumps::{JUMPS, Jump, code_at_rip};
pub use select::Owner;

use crate::exec::Family;
use crate::fault::Stop;
use crate::native::NativeOp;
use crate::state::{Cpu, reg};
use crate::translate::{Single, Translation};

/// How a handler chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[repr(u32)]
pub enum Outcome {
    /// Go on at `rip`, the block's first successor (not taken, or fallen through).
    Next = 0,
    /// Go on at `rip`, the block's second successor (taken, or the only one of a jump).
    Taken = 1,
    /// Go on at `rip`, wherever that is.
    Jump = 2,
    /// Go on at `rip`; mode, flags or address space may have changed, events may wait.
    Look = 3,
    /// An exception is to be delivered.
    Fault = 4,
    /// User mode is needed.
    Exit = 5,
    /// Execute the instruction at `rip` alone.
    Alone = 6,
    /// As [`Outcome::Look`], but the block's instructions from `rip` on were not executed.
    Halfway = 7,
}

impl Outcome {
    /// The outcome of that number.
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 => Outcome::Next,
            1 => Outcome::Taken,
            2 => Outcome::Jump,
            4 => Outcome::Fault,
            5 => Outcome::Exit,
            6 => Outcome::Alone,
            7 => Outcome::Halfway,
            _ => Outcome::Look,
        }
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fault => Outcome::Fault,
            Stop::Exit => Outcome::Exit,
            Stop::Alone => Outcome::Alone,
        }
    }
}

/// What executes an op and those after it.
pub type Handler = fn(&mut Cpu, OpRef) -> Outcome;

/// One decoded instruction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Op {
    /// What executes it.
    pub handler: Handler,
    /// Immediate operand; target of a direct branch relative to [`reg::RIP_BASE`]; the condition of SETcc and CMOVcc; address of
    /// the native form.
    pub imm: u64,
    /// Address of the decoded instruction where the handler may need it; see [`OpRef::instruction`].
    pub long: u64,
    /// Displacement of the memory operand; target of a fused jump.
    pub disp: i32,
    /// First register operand, as byte offset into [`Cpu::gpr`].
    pub a: u8,
    /// Second register operand.
    pub b: u8,
    /// Base register of the memory operand, as index into [`Cpu::gpr`].
    pub base: u8,
    /// Index register.
    pub index: u8,
    /// Offset of the instruction in its linear page.
    pub offset: u16,
    /// Its length in bytes.
    pub len: u8,
    /// Shift of the index register.
    pub scale: u8,
    /// Segment register of the memory operand, where its base matters.
    pub segment: u8,
    /// The family that executes the instruction out of line.
    pub family: Family,
}

const _: () = assert!(std::mem::size_of::<Op>() == 40);

/// An op in its block. Every op but a block's last has another after it, and the last one's handler does not ask for it.
#[derive(Clone, Copy)]
pub struct OpRef(*const Op);

impl Deref for OpRef {
    type Target = Op;

    #[inline(always)]
    fn deref(&self) -> &Op {
        // SAFETY: an OpRef is only made for ops of a block, and a block outlives its execution.
        unsafe { &*self.0 }
    }
}

impl OpRef {
    /// The op after this one.
    #[inline(always)]
    pub fn next(self) -> OpRef {
        OpRef(self.0.wrapping_add(1))
    }

    /// Executes the op after this one, and those after it.
    #[inline(always)]
    pub fn continue_with_next(self, cpu: &mut Cpu) -> Outcome {
        let next = self.next();
        (next.handler)(cpu, next)
    }

    /// The decoded instruction of an op whose handler may go out of line.
    #[inline]
    pub fn instruction(&self) -> &Instruction {
        // SAFETY: the builder put the address of an instruction in the block's arena there, which lives as long as the ops.
        unsafe { &*(self.long as *const Instruction) }
    }

    /// Executes the instruction by its family, and those after it.
    #[cold]
    #[inline(never)]
    pub fn out_of_line(self, cpu: &mut Cpu) -> Outcome {
        select::family_op(cpu, self)
    }

    /// Executes the block's last instruction by its family.
    #[cold]
    #[inline(never)]
    pub fn out_of_line_end(self, cpu: &mut Cpu) -> Outcome {
        select::family_end(cpu, self)
    }

    /// The native form of an op whose handler is the native one.
    #[inline]
    pub fn native(&self) -> &NativeOp {
        // SAFETY: as for `instruction`.
        unsafe { &*(self.imm as *const NativeOp) }
    }

    /// Instruction pointer of this op.
    #[inline(always)]
    pub fn rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[reg::RIP_BASE].wrapping_add(u64::from(self.offset)) & cpu.rip_mask
    }

    /// Instruction pointer of what follows this op.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[reg::RIP_BASE].wrapping_add(u64::from(self.offset) + u64::from(self.len)) & cpu.rip_mask
    }

    /// Stops at this op.
    #[cold]
    #[inline(never)]
    pub fn stop(self, cpu: &mut Cpu, stop: Stop) -> Outcome {
        cpu.rip = self.rip(cpu);
        stop.into()
    }
}

/// A decoded block. What is looked at on each entry comes first and shares one cache line.
#[repr(C, align(64))]
pub struct Block {
    /// The first op.
    entry: *const Op,
    /// The code version of the page, and what it was.
    version: *const AtomicU32,
    was: u32,
    /// Instructions, which may be more than ops.
    pub instructions: u32,
    /// Successors by [`Outcome::Next`] and [`Outcome::Taken`].
    links: [Cell<*const Block>; 2],
    /// Host pages that the code lies in.
    pub host: [u64; 2],
    /// Offset in the linear page.
    offset: u16,
    /// Which successors may be linked: those in the same page.
    linkable: bool,
    /// More than the first page's version has to be looked at.
    special: Cell<bool>,
    /// [`Cpu::mode`] that it was decoded for.
    pub mode: u32,

    /// Host code, once there is some.
    code: Cell<*const u8>,
    /// Times that it was entered without host code.
    heat: Cell<u32>,
    /// The section of the cache that it is in.
    section: u16,

    /// What belongs to the host code.
    translation: OnceCell<Box<Translation>>,
    /// The host code of the block in whose place this one is.
    replaces: *const u8,
    /// What the interpreter executes, until there is host code.
    form: RefCell<Option<Box<Form>>>,
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// What only special blocks have.
    special_part: Option<Box<Special>>,
}

const _: () = assert!(std::mem::size_of::<Block>() == 128);

/// What few blocks need.
struct Special {
    /// Guest-physical page of the part beyond the page's end, if the last instruction reaches there.
    second: Option<u64>,
    /// The second page's code version, and what it was.
    second_version: (*const AtomicU32, u32),
    /// Until every other vCPU has acknowledged this epoch, one may still write to the code without notice.
    unsure: Cell<u64>,
    /// The bytes, kept while unsure.
    bytes: Box<[u8]>,
}

/// What an allocation takes besides its contents, about.
const ALLOCATION: usize = 16;

/// A block as the interpreter executes it. The ops lead to the rest.
struct Form {
    ops: Box<[Op]>,
    /// Instructions that handlers out of line work from.
    instructions: Box<[Instruction]>,
    natives: Box<[NativeOp]>,
}

impl Form {
    /// Bytes of host memory.
    fn footprint(&self) -> usize {
        std::mem::size_of::<Self>()
            + std::mem::size_of_val(&*self.ops)
            + std::mem::size_of_val(&*self.instructions)
            + std::mem::size_of_val(&*self.natives)
            + 3 * ALLOCATION
    }
}

impl Block {
    /// The first op.
    #[inline(always)]
    pub fn entry(&self) -> OpRef {
        OpRef(self.entry)
    }

    /// True while the code is what was decoded, in both pages, and no other vCPU may write to it without notice.
    pub(crate) fn is_certain(&self) -> bool {
        let part = self.special_part.as_ref();
        self.is_current() && part.is_none_or(|part| part.unsure.get() == 0 && part.second_is_current())
    }

    /// True while the first page's code is what was decoded.
    #[inline(always)]
    fn is_current(&self) -> bool {
        // SAFETY: the version is in a page tracker of the memory map; the cache is emptied when that is replaced.
        unsafe { (*self.version).load(Ordering::Relaxed) == self.was }
    }

    /// Guest-physical page of the part beyond the page's end, if the last instruction reaches there.
    pub(crate) fn second(&self) -> Option<u64> {
        self.special_part.as_ref()?.second
    }

    /// Offset in the linear page.
    pub(crate) fn offset(&self) -> u16 {
        self.offset
    }

    /// The page's code version, and what it has to be.
    pub(crate) fn version(&self) -> (*const AtomicU32, u32) {
        (self.version, self.was)
    }

    /// The same of the page that the last instruction reaches into.
    pub(crate) fn second_version(&self) -> Option<(*const AtomicU32, u32)> {
        let part = self.special_part.as_ref()?;
        part.second.map(|_| part.second_version)
    }

    /// Host code to enter, or null.
    #[inline(always)]
    pub(crate) fn code(&self) -> *const u8 {
        self.code.get()
    }

    /// Instruction `index` of the translation.
    pub(crate) fn single(&self, index: usize) -> Option<&Single> {
        self.translation.get()?.single(index)
    }

    /// What [`reg::RIP_BASE`] is while the block executes at `rip`.
    #[inline(always)]
    pub fn rip_base(&self, rip: u64) -> u64 {
        rip.wrapping_sub(u64::from(self.offset))
    }

    /// How many of the block's instructions lie before the one at `rip`.
    pub fn instructions_before(&self, rip: u64, base: u64, mask: u64) -> u32 {
        let offset = rip.wrapping_sub(base) & mask;
        self.form
            .borrow()
            .iter()
            .flat_map(|form| &form.ops)
            .take_while(|op| u64::from(op.offset) < offset)
            .count() as u32
    }

    /// How many of the block's instructions are left at `cpu.rip`.
    pub fn instructions_left(&self, cpu: &Cpu) -> u32 {
        let done = self.instructions_before(cpu.rip, cpu.gpr[reg::RIP_BASE], cpu.rip_mask);
        self.instructions.saturating_sub(done)
    }

    /// The linked successor.
    #[inline(always)]
    pub fn link(&self, outcome: Outcome) -> Option<&Block> {
        // SAFETY: links lead to blocks of the same page, which are freed together.
        unsafe { self.links[outcome as usize & 1].get().as_ref() }
    }

    /// Takes over host code. The interpreter's form goes: no op of the block may be executing. Returns by how many bytes the block
    /// grew.
    fn set_translation(&self, translation: Translation) -> isize {
        let freed = self.form.take().map_or(0, |form| form.footprint());
        let grown = translation.footprint() as isize - freed as isize;
        self.code.set(translation.code);
        let _ = self.translation.set(Box::new(translation));
        grown
    }

    /// Bytes of host memory that the block takes.
    fn footprint(&self) -> usize {
        let special = self.special_part.as_ref().map_or(0, |part| {
            std::mem::size_of::<Special>() + part.bytes.len() + 2 * ALLOCATION
        });
        let form = self.form.borrow().as_ref().map_or(0, |form| form.footprint());
        // The cache's index counts too.
        std::mem::size_of::<Self>() + form + special + 48
    }
}
