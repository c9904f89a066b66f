//! Where blocks are found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Block, Outcome, build};
use crate::fault::Result;
use crate::host;
use crate::state::{Cpu, mode, seg};
use crate::translate::{Left, Translator, context, salt};
use crate::vm::Engine;

/// Entries of the cache by instruction pointer.
pub(crate) const JUMPS: usize = 16384;

/// Bytes of host code that a vCPU keeps.
const CODE_BYTES: usize = 16 << 20;

/// Multiplies: the keys are addresses.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

/// What was found for an instruction pointer.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Jump {
    linear: u64,
    /// Mode and key of the address space, see [`context`].
    context: u64,
    block: *const Block,
    /// Where translated code goes on.
    pub(crate) code: *const u8,
}

impl Jump {
    pub(crate) const LINEAR: usize = std::mem::offset_of!(Jump, linear);
    pub(crate) const CONTEXT: usize = std::mem::offset_of!(Jump, context);
}

/// Index of the jump cache's entry for `linear`. Translated code computes the same.
fn slot(cpu: &Cpu, linear: u64) -> usize {
    (linear ^ linear >> 12 ^ salt(cpu.mode, cpu.mmu.local_key)) as usize & (JUMPS - 1)
}

/// Where translated code goes on at `cpu.rip`, if `jumps` has that.
pub(crate) fn code_at_rip(cpu: &Cpu, jumps: *const Jump) -> Option<*const u8> {
    let linear = cpu.rip;
    let slot = slot(cpu, linear);
    // SAFETY: the cache is there while its translated code executes, and the slot is one of its entries.
    let jump = unsafe { &*jumps.wrapping_add(slot) };
    let fits = jump.linear == linear
        && (jump.context == context(cpu.mode, cpu.mmu.global_key)
            || jump.context == context(cpu.mode, cpu.mmu.local_key));
    (fits && !jump.code.is_null()).then_some(jump.code)
}

const NO_JUMP: Jump = Jump {
    linear: 0,
    context: u64::MAX,
    block: std::ptr::null(),
    code: std::ptr::null(),
};

/// The decoded blocks of one vCPU.
pub struct BlockCache {
    jumps: Box<[Jump]>,
    blocks: HashMap<(u64, u32), Box<Block>, BuildHasherDefault<AddressHasher>>,
    /// Blocks whose code changed; links may still lead to them.
    #[expect(clippy::vec_box, reason = "links hold the blocks' addresses")]
    retired: Vec<Box<Block>>,
    bytes: usize,
    limit: usize,
    translator: Option<Translator>,
    /// Entries after which a block is translated.
    hot: u32,
    /// Blocks decoded so far.
    pub decoded: u64,
}

// SAFETY: the pointers lead to blocks that the cache owns, and the host addresses in those to guest memory that threads share.
unsafe impl Send for BlockCache {}

impl BlockCache {
    /// An empty cache that holds at most about `limit` bytes.
    pub fn new(limit: usize, engine: Engine) -> Self {
        let (translator, hot) = match engine {
            Engine::Interpreter => (None, u32::MAX),
            Engine::Translator { after } => (Translator::new(CODE_BYTES), after.saturating_add(1)),
        };
        Self {
            translator,
            hot,
            jumps: vec![NO_JUMP; JUMPS].into_boxed_slice(),
            blocks: HashMap::default(),
            retired: Vec::new(),
            bytes: 0,
            limit,
            decoded: 0,
        }
    }

    /// True if the blocks take more than the limit: time for [`BlockCache::clear`].
    pub fn is_full(&self) -> bool {
        self.bytes > self.limit || self.translator.as_ref().is_some_and(Translator::is_full)
    }

    /// Bytes of blocks and host code.
    fn kept(&self) -> usize {
        self.bytes + self.translator.as_ref().map_or(0, Translator::used)
    }

    /// Drops every block. No block may be executing.
    pub fn clear(&mut self) {
        self.jumps.fill(NO_JUMP);
        self.blocks.clear();
        self.retired.clear();
        self.bytes = 0;
        if let Some(translator) = &mut self.translator {
            translator.clear();
        }
    }

    /// The block at the current instruction pointer, decoded if it is not known. `alone` asks for one of a single instruction. The
    /// exception of a fetch that faults is raised.
    ///
    /// The reference is good until [`BlockCache::clear`]: only the engine holds one, and not across that.
    pub fn find<'a>(&mut self, cpu: &mut Cpu, alone: bool) -> Result<&'a Block> {
        let linear = if cpu.is_long() {
            cpu.rip
        } else {
            cpu.segs[seg::CS].base.wrapping_add(cpu.rip) & 0xffff_ffff
        };
        let mode = if alone { cpu.mode | mode::ALONE } else { cpu.mode };
        let slot = slot(cpu, linear);
        let jump = &mut self.jumps[slot];
        if jump.linear == linear
            && (jump.context == context(mode, cpu.mmu.global_key)
                || jump.context == context(mode, cpu.mmu.local_key))
        {
            // SAFETY: entries lead to blocks of this cache.
            let block = unsafe { &*jump.block };
            if block.may_enter(cpu) {
                if !block.code().is_null() {
                    jump.code = block.code();
                }
                return Ok(block);
            }
        }
        self.find_slow(cpu, linear, mode, slot)
    }

    #[cold]
    fn find_slow<'a>(&mut self, cpu: &mut Cpu, linear: u64, mode: u32, slot: usize) -> Result<&'a Block> {
        build::check_fetch(cpu)?;
        let (gpa, global) = cpu.translate_code(linear)?;
        let known = self.blocks.get(&(gpa, mode)).filter(|block| block.may_enter(cpu));
        let known = match known {
            Some(block) => match block.second {
                // The page after may be another one now.
                Some(second) => {
                    let next = (linear & !0xfff).wrapping_add(4096);
                    let after = cpu.translate_code(next)?;
                    (after.0 == second).then_some((&raw const **block, global && after.1))
                }
                None => Some((&raw const **block, global)),
            },
            None => None,
        };
        let (block, global) = match known {
            Some(found) => found,
            None => {
                let begun = host::tsc();
                let (block, global) = build::build(cpu, linear, gpa, mode, global)?;
                cpu.count_translation(begun);
                cpu.counts.decoded += 1;
                self.decoded += 1;
                self.bytes += block.footprint();
                cpu.counts.cache_bytes = self.kept() as u64;
                let mut block = Box::new(block);
                if let Some(old) = self.blocks.remove(&(gpa, mode)) {
                    // Where only the second page is another one, the old code is still right elsewhere.
                    if old.second.is_none() && block.second.is_none() {
                        block.replaces = old.code();
                    }
                    self.retired.push(old);
                }
                let at = &raw const *block;
                self.blocks.insert((gpa, mode), block);
                (at, global)
            }
        };
        let key = if global {
            cpu.mmu.global_key
        } else {
            cpu.mmu.local_key
        };
        // SAFETY: the block is in the cache, boxed.
        let found = unsafe { &*block };
        let code = match &self.translator {
            Some(translator) if found.code().is_null() => translator.untranslated(),
            _ => found.code(),
        };
        self.jumps[slot] = Jump {
            linear,
            context: context(mode, key),
            block,
            code,
        };
        Ok(found)
    }

    /// Notes that `block` is entered without host code, and translates it when that happened often.
    #[inline]
    pub fn heat_up(&mut self, cpu: &mut Cpu, block: &Block) {
        let heat = block.heat.get().saturating_add(1);
        block.heat.set(heat);
        if heat >= self.hot && heat != u32::MAX {
            self.translate(cpu, block);
        }
    }

    #[cold]
    fn translate(&mut self, cpu: &mut Cpu, block: &Block) {
        let Some(translator) = &mut self.translator else {
            return;
        };
        if block.mode & (mode::LONG | mode::ALONE) != mode::LONG {
            block.heat.set(u32::MAX);
            return;
        }
        if !block.is_certain() {
            // Another CPU may still write to it without notice: next time.
            return;
        }
        let begun = host::tsc();
        block.heat.set(u32::MAX);
        let page = block.gpa & !0xfff;
        let warm = self.hot.div_ceil(3);
        let find = |offset: u16| {
            let near = &**self.blocks.get(&(page | u64::from(offset), block.mode))?;
            near.may_join(block, warm).then_some(near)
        };
        if let Some(translation) = translator.translate(block, cpu.native.features, find) {
            if !block.replaces.is_null() {
                translator.replace(block.replaces, translation.code);
            }
            self.bytes = self
                .bytes
                .saturating_add_signed(block.set_translation(translation));
            cpu.counts.translated += 1;
            cpu.counts.cache_bytes = self.kept() as u64;
        }
        cpu.count_translation(begun);
    }

    /// Executes the host code `code` and what it leads to.
    pub fn enter(&mut self, cpu: &mut Cpu, code: *const u8) -> (Left, Option<*const Block>) {
        cpu.translated.jumps = self.jumps.as_ptr();
        match &self.translator {
            Some(translator) => translator.enter(cpu, code),
            None => (Left::new(Outcome::Look, None), None),
        }
    }

    /// Lets jump `link` of the host code of `from` lead to that of `to`.
    pub fn link(&mut self, from: &Block, link: usize, to: &Block) {
        if let (Some(translator), Some(translation)) = (&mut self.translator, from.translation.get())
            && from.may_link(to)
            && let Some(to) = to.translation.get()
        {
            translator.link(translation, link, to);
        }
    }
}
