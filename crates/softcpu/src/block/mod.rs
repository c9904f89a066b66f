//! Decoded blocks.
//!
//! A block is a run of instructions in one page (the last may reach into the next), decoded once into [`Op`]s. An op's handler ends by
//! calling the next op's handler in tail position, which an optimised build turns into a jump: no loop, no return, and every
//! handler has an indirect jump of its own for the host to predict. A block's length is bounded, so that a build which does not
//! optimise stays within its stack.

mod build;
mod cache;
mod index;
mod jumps;
mod limit;
mod link;
mod op;
mod section;
mod select;
mod shed;

use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use build::MAX_INSTRUCTIONS;
pub use cache::BlockCache;
pub(crate) use jumps::{GRAIN, JUMPS, Jump, code_at_rip};
use op::{ALLOCATION, Form};
pub use op::{Handler, Op, OpRef};
pub use select::Owner;

use crate::fault::Stop;
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

/// A decoded block. What is looked at on each entry comes first and shares one cache line.
#[repr(C, align(64))]
pub struct Block {
    /// The first op, if the interpreter's form is there.
    entry: Cell<OpRef>,
    /// The code version of the page, and what it was.
    version: *const AtomicU32,
    was: u32,
    /// Instructions, which may be more than ops.
    pub instructions: u16,
    ops: u16,
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
    /// The lower half of that when forms were shed last.
    heat_seen: Cell<u16>,
    /// The section of the cache that it is in.
    section: u16,
    /// What belongs to the host code.
    translation: OnceCell<Box<Translation>>,
    /// What the interpreter executes, until there is host code or it is not worth its memory any more.
    form: Cell<Option<Form>>,
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
    /// The host code of the block in whose place this one is.
    replaces: *const u8,
    /// It begins with an op that looks for a breakpoint: it has no host code.
    breakpoint: bool,
}

impl Block {
    /// The first op.
    #[inline(always)]
    pub fn entry(&self) -> OpRef {
        self.entry.get()
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

    /// How many of the block's instructions lie before the one at `rip`, by the interpreter's form.
    pub fn instructions_before(&self, rip: u64, base: u64, mask: u64) -> u32 {
        let offset = rip.wrapping_sub(base) & mask;
        self.entry()
            .up_to(self.ops)
            .take_while(|op| u64::from(op.offset) < offset)
            .count() as u32
    }

    /// How many of the block's instructions are left at `cpu.rip`.
    pub fn instructions_left(&self, cpu: &Cpu) -> u32 {
        let done = self.instructions_before(cpu.rip, cpu.gpr[reg::RIP_BASE], cpu.rip_mask);
        u32::from(self.instructions).saturating_sub(done)
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
        let grown = translation.footprint() as isize - self.drop_form() as isize;
        self.code.set(translation.code);
        let _ = self.translation.set(Box::new(translation));
        grown
    }

    /// The host code of the block in whose place this one is, or null.
    fn replaces(&self) -> *const u8 {
        self.special_part
            .as_ref()
            .map_or(std::ptr::null(), |part| part.replaces)
    }

    /// Notes that this block is in the place of one with the host code `code`.
    fn set_replaces(&mut self, code: *const u8) {
        let part = self.special_part.get_or_insert_with(|| {
            Box::new(Special {
                second: None,
                second_version: (std::ptr::null(), 0),
                unsure: Cell::new(0),
                bytes: Box::default(),
                replaces: code,
                breakpoint: false,
            })
        });
        part.replaces = code;
    }

    /// True if there is no form for the interpreter.
    fn ops_are_gone(&self) -> bool {
        self.entry().is_none()
    }

    /// True if it begins where a breakpoint may be.
    fn has_breakpoint(&self) -> bool {
        self.special_part.as_ref().is_some_and(|part| part.breakpoint)
    }

    /// Frees the interpreter's form, and says how much memory that gives.
    fn drop_form(&self) -> usize {
        self.entry.set(OpRef::NONE);
        self.form.take().map_or(0, |form| form.footprint())
    }

    /// Bytes of host memory that the block takes without its translation.
    fn footprint(&self) -> usize {
        let special = self.special_part.as_ref().map_or(0, |part| {
            std::mem::size_of::<Special>() + part.bytes.len() + 2 * ALLOCATION
        });
        // The cache's index counts too.
        std::mem::size_of::<Self>() + self.form_footprint() + special + index::INDEXED
    }

    /// What the interpreter's form takes of that.
    fn form_footprint(&self) -> usize {
        let form = self.form.take();
        let bytes = form.as_ref().map_or(0, Form::footprint);
        self.form.set(form);
        bytes
    }
}
