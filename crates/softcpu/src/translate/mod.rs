//! The translator: host code for blocks that are executed often.
//!
//! Most guest instructions are copied as they are, with their registers renamed ([`registers`]) and their memory operand led
//! through the TLB ([`memory`]); vector instructions too, on the host's vector registers ([`vectors`]). What has system semantics, or
//! does not fit, calls the interpreter for that one instruction ([`runtime`]), and so does a memory access that misses the TLB. So an
//! instruction behaves the same in both.
//!
//! Translated code reaches the vCPU's state through the GS base. Between blocks the guest's registers stay in the host's; the
//! arithmetic flags are in the state ([`crate::flags`]). A block looks at its page's code version, at the attention word and at the
//! clock before it begins, or at less of them when it is entered from the same page ([`Entry`]). Jumps inside a page are linked; others
//! go through the jump cache, which the interpreter uses too ([`branch`]). Returns are predicted ([`returns`]).
//!
//! A vCPU's code is its own: no other thread executes it or changes it. It is written through one mapping and executed from
//! another.

mod assembler;
mod bits;
mod branch;
mod divide;
mod flags;
mod generic;
mod literals;
mod lower;
mod memory;
mod recipe;
mod region;
mod registers;
mod returns;
mod runtime;
mod spilled;
mod stack;
mod stack_run;
mod state_access;
mod strings;
mod system;
mod vectors;
mod x87;

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use iced_x86::{Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory};

use crate::block::{Block, Jump, MAX_INSTRUCTIONS, Outcome, Owner};
use crate::host;
use crate::native::FeatureSet;
use crate::native::code_buffer::{CodeBuffer, Piece};
use crate::state::{Cpu, mode};
use assembler::Assembler;
use lower::{Lowered, Lowering, Tools};
use region::Region;
pub use runtime::Left;
use runtime::Stubs;

/// What the translator keeps in a vCPU's state.
#[derive(Debug)]
pub struct TranslatorState {
    /// The state itself.
    me: *mut Cpu,
    /// The attention word.
    attention: *const AtomicU32,
    /// The jump cache.
    pub jumps: *const Jump,
    /// Context of jump cache entries for pages of this address space.
    context_local: u64,
    /// The same for global pages.
    context_global: u64,
    /// What the jump cache's index depends on besides the address, see [`salt`].
    salt: u64,
    /// What it is in user mode.
    salt_user: u64,
    /// Instructions until the clock is looked at.
    budget: i64,
    /// The block that translated code left from, or null.
    last_block: *const Block,
    /// A value that scratch registers have no room for.
    kept: u64,
    /// Host address of the page that the block reads constants from, or zero.
    literals: u64,
    /// The host's stack pointer with nothing but the bottom of the return stack.
    return_stack: u64,
    /// Where the return stack has to start again.
    return_limit: u64,
    /// Whether the host's vector registers hold the guest's: a [`vectors::Vectors`].
    vectors: u8,
}

impl TranslatorState {
    /// Before the first entry. `attention` outlives the vCPU's state.
    pub fn new(attention: *const AtomicU32) -> Self {
        Self {
            me: std::ptr::null_mut(),
            attention,
            jumps: std::ptr::null(),
            context_local: 0,
            context_global: 0,
            salt: 0,
            salt_user: 0,
            budget: 0,
            last_block: std::ptr::null(),
            kept: 0,
            literals: 0,
            return_stack: 0,
            return_limit: 0,
            vectors: vectors::Vectors::Away as u8,
        }
    }
}

// SAFETY: the pointers are used by the thread that executes the vCPU only, and lead to what the vCPU owns.
unsafe impl Send for TranslatorState {}

/// Offsets of [`TranslatorState`]'s fields in [`Cpu`].
mod state_at {
    use std::mem::offset_of;

    use super::TranslatorState;
    use crate::state::Cpu;

    const BASE: usize = offset_of!(Cpu, translated);
    pub const ME: usize = BASE + offset_of!(TranslatorState, me);
    pub const ATTENTION: usize = BASE + offset_of!(TranslatorState, attention);
    pub const JUMPS: usize = BASE + offset_of!(TranslatorState, jumps);
    pub const CONTEXT_LOCAL: usize = BASE + offset_of!(TranslatorState, context_local);
    pub const CONTEXT_GLOBAL: usize = BASE + offset_of!(TranslatorState, context_global);
    pub const SALT: usize = BASE + offset_of!(TranslatorState, salt);
    pub const SALT_USER: usize = BASE + offset_of!(TranslatorState, salt_user);
    pub const BUDGET: usize = BASE + offset_of!(TranslatorState, budget);
    pub const LAST_BLOCK: usize = BASE + offset_of!(TranslatorState, last_block);
    pub const KEPT: usize = BASE + offset_of!(TranslatorState, kept);
    pub const LITERALS: usize = BASE + offset_of!(TranslatorState, literals);
    pub const RETURN_STACK: usize = BASE + offset_of!(TranslatorState, return_stack);
    pub const RETURN_LIMIT: usize = BASE + offset_of!(TranslatorState, return_limit);
    pub const VECTORS: usize = BASE + offset_of!(TranslatorState, vectors);
}

/// Offset of general register `number` in [`Cpu`].
const fn gpr_at(number: usize) -> usize {
    offset_of!(Cpu, gpr) + 8 * number
}

/// An instruction that translated code may ask to have executed.
pub struct Single {
    owner: Owner,
    instruction: Instruction,
    offset: u16,
    len: u8,
    ends: bool,
    /// Instructions before it that are not counted yet when it is asked for.
    uncounted: u16,
}

/// What is looked at on the way into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Everything: from another page, or backwards.
    Start,
    /// Whether the code is still the same: after a call, on whose way the clock was looked at.
    Returned,
    /// Nothing: forwards in the same page, where everything was looked at a moment ago.
    Inner,
}

/// A jump that can be led to a successor's code.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Where its displacement is in the block's code.
    place: usize,
    /// How it enters.
    entry: Entry,
}

/// What a block keeps of its translation.
pub struct Translation {
    /// Where to enter from another page.
    pub code: *const u8,
    /// Where [`Entry::Returned`] and [`Entry::Inner`] are, from there on.
    returned: u16,
    inner: u16,
    /// The jumps to the linked successors.
    links: Box<[Link]>,
    /// Instructions that the code asks for, by index.
    singles: Box<[Single]>,
}

impl Translation {
    /// Bytes of host memory besides the code.
    pub fn footprint(&self) -> usize {
        std::mem::size_of_val(&*self.singles) + std::mem::size_of_val(&*self.links)
    }

    /// Where `entry` is.
    fn entry(&self, entry: Entry) -> *const u8 {
        match entry {
            Entry::Start => self.code,
            Entry::Returned => self.code.wrapping_add(self.returned.into()),
            Entry::Inner => self.code.wrapping_add(self.inner.into()),
        }
    }

    /// Instruction `index`.
    pub fn single(&self, index: usize) -> Option<&Single> {
        self.singles.get(index)
    }
}

impl Cpu {
    /// Computes which entries of the jump cache fit: after a change of the mode or of the address space.
    #[inline]
    pub fn refresh_contexts(&mut self) {
        self.translated.context_local = context(self.mode, self.mmu.local_key);
        self.translated.context_global = context(self.mode, self.mmu.global_key);
        self.translated.salt = salt(self.mode, self.mmu.local_key);
        self.translated.salt_user = salt(mode::USER, self.mmu.local_key);
    }
}

/// What an entry of the jump cache is good for.
#[inline]
pub const fn context(mode: u32, key: u32) -> u64 {
    (key as u64) << 32 | mode as u64
}

/// What the index into the jump cache depends on besides the address: processes have code at the same addresses, and must not drive
/// out each other's entries at each switch; the kernel is the same in all. 12 bits: a page's entries stay in one row.
#[inline]
pub const fn salt(mode: u32, local_key: u32) -> u64 {
    if mode & mode::USER == 0 {
        return 0;
    }
    (local_key.wrapping_mul(0x9e37_79b1) >> 20) as u64
}

/// Makes and runs translations of one vCPU.
pub struct Translator {
    buffer: CodeBuffer,
    stubs: Option<Stubs>,
    assembler: Assembler,
    encoder: Encoder,
    infos: InstructionInfoFactory,
    /// Pieces of the buffer that hold nothing.
    free: Vec<Piece>,
}

/// Host code that is forgotten together.
#[derive(Default)]
pub struct CodeGroup(Vec<Piece>);

impl CodeGroup {
    /// Bytes of host memory.
    pub fn footprint(&self) -> usize {
        self.0.len() * PIECE
    }
}

/// Bytes that a group grows by. A block's code is far smaller.
const PIECE: usize = 64 << 10;

impl Translator {
    /// A translator whose code takes at most `capacity` bytes. `None` where the host refuses executable memory.
    pub fn new(capacity: usize) -> Option<Self> {
        let buffer = CodeBuffer::new(capacity.next_multiple_of(4096))
            .inspect_err(|error| {
                tracing::warn!("no translation, as the host gives no executable memory: {error}")
            })
            .ok()?;
        let mut translator = Self {
            buffer,
            stubs: None,
            assembler: Assembler::default(),
            encoder: Encoder::new(64),
            infos: InstructionInfoFactory::new(),
            free: Vec::new(),
        };
        translator.stubs = Stubs::new(&mut translator.buffer);
        translator.stubs.is_some().then_some(translator)
    }

    /// Forgets the code of a group. No block keeps a translation that is in it.
    pub fn forget(&mut self, group: CodeGroup) {
        for mut piece in group.0 {
            self.buffer.recycle(&mut piece);
            self.free.push(piece);
        }
    }

    /// What the jump cache has for blocks without a translation.
    pub fn untranslated(&self) -> *const u8 {
        self.stubs.map_or(std::ptr::null(), |stubs| stubs.untranslated)
    }

    /// Executes `code` and what it leads to.
    pub fn enter(&self, cpu: &mut Cpu, code: *const u8) -> (Left, Option<*const Block>) {
        match &self.stubs {
            Some(stubs) => runtime::enter(cpu, stubs, code),
            None => (Left::new(Outcome::Look, None), None),
        }
    }

    /// Translates `block`, and what it leads to, for a vCPU that may use the extensions `usable`, with its code in `group`. `find` knows the
    /// block at an offset in the same page that may be translated with it. `None` if its code changed meanwhile or there is no room.
    pub fn translate<'a>(
        &mut self,
        block: &'a Block,
        usable: FeatureSet,
        find: impl Fn(u16) -> Option<&'a Block>,
        group: &mut CodeGroup,
    ) -> Option<Translation> {
        let (lowered, singles) = match self.lower(block, usable, find) {
            Some(lowered) => lowered,
            // Never seen; a block by itself is the simplest case.
            None => self.lower(block, usable, |_| None)?,
        };
        let code = self.place(group)?;
        Some(Translation {
            code,
            returned: lowered.returned,
            inner: lowered.inner,
            links: lowered.links,
            singles: chosen(singles, &lowered.asked),
        })
    }

    /// Puts the code of the region that begins with `block` into the assembler.
    fn lower<'a>(
        &mut self,
        block: &'a Block,
        usable: FeatureSet,
        find: impl Fn(u16) -> Option<&'a Block>,
    ) -> Option<(Lowered, Vec<Single>)> {
        let (region, singles) = Region::new(block, find)?;
        let tools = Tools {
            code: &mut self.assembler,
            encoder: &mut self.encoder,
            infos: &mut self.infos,
            usable,
            stubs: self.stubs?,
        };
        let lowered = Lowering::new(tools, block, &region, &singles).region()?;
        Some((lowered, singles))
    }

    /// Puts what was assembled into `group`.
    fn place(&mut self, group: &mut CodeGroup) -> Option<*const u8> {
        if let Some(piece) = group.0.last_mut() {
            let at = self.buffer.next_in(piece);
            if let Some(code) = self.buffer.append_to(piece, self.assembler.finish(at)) {
                return Some(code);
            }
        }
        let mut piece = self.free.pop().or_else(|| self.buffer.piece(PIECE))?;
        let at = self.buffer.next_in(&piece);
        let code = self.buffer.append_to(&mut piece, self.assembler.finish(at));
        group.0.push(piece);
        code
    }

    /// Lets what jumps to `old`, whose code is out of date, go to `code`.
    pub fn replace(&mut self, old: *const u8, code: *const u8) {
        self.buffer.patch_jump(old, code);
    }

    /// Lets jump `link` of `from` lead to `to`.
    pub fn link(&mut self, from: &Translation, link: usize, to: &Translation) {
        if let Some(link) = from.links.get(link) {
            self.buffer
                .patch_displacement(from.code.wrapping_add(link.place), to.entry(link.entry));
        }
    }
}

/// The instructions with the indices in `asked`, in that order.
fn chosen(singles: Vec<Single>, asked: &[(usize, u16)]) -> Box<[Single]> {
    let mut singles: Vec<Option<Single>> = singles.into_iter().map(Some).collect();
    asked
        .iter()
        .filter_map(|&(index, uncounted)| {
            let single = singles.get_mut(index)?.take()?;
            Some(Single { uncounted, ..single })
        })
        .collect()
}

/// Decodes the instructions of `block` once more.
fn decode(block: &Block) -> Option<Vec<Single>> {
    let offset = usize::from(block.offset());
    let mut bytes = [0u8; MOST_BYTES];
    // The last instruction may reach into another page.
    let most = MAX_LENGTH * usize::from(block.instructions);
    let here = most.min(4096 - offset);
    let (first, second) = bytes[..most].split_at_mut(here);
    copy_code(block.host[0], offset, first);
    let mut len = here;
    if block.second().is_some() {
        let beyond = second.len().min(MAX_LENGTH);
        copy_code(block.host[1], 0, &mut second[..beyond]);
        len += beyond;
    }
    let bytes = &bytes[..len];
    let mut decoder = Decoder::with_ip(64, bytes, offset as u64, DecoderOptions::NONE);
    let mut singles = Vec::with_capacity(block.instructions as usize);
    for _ in 0..block.instructions {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        let owner = Owner::of(&instruction, block.mode);
        singles.push(Single {
            ends: owner.ends_block(&instruction),
            owner,
            offset: instruction.ip() as u16,
            len: instruction.len() as u8,
            uncounted: 0,
            instruction,
        });
    }
    // What was decoded is the block's code only if that has not changed.
    block.is_certain().then_some(singles)
}

/// Longest instruction in bytes.
const MAX_LENGTH: usize = 15;
/// Most bytes of a block.
const MOST_BYTES: usize = MAX_LENGTH * MAX_INSTRUCTIONS;

/// Copies code from `offset` of the page at host address `page`, in guest RAM that is mapped.
fn copy_code(page: u64, offset: usize, into: &mut [u8]) {
    // SAFETY: the code's page is mapped guest RAM, and the caller asks for no more than it has after `offset`.
    unsafe { host::read_code((page as *const u8).wrapping_add(offset), into) };
}
