//! Where blocks are found.

use ostler_accel::DebugRequest;

use super::index::Index;
use super::jumps::{Jump, Jumps};
use super::limit::Limit;
use super::section::{Section, Sections};
use super::shed::Shedding;
use super::{Block, Outcome, build};
use crate::fault::Result;
use crate::host;
use crate::state::{Cpu, mode, seg};
use crate::translate::{Left, Translator, context, salt};
use crate::vm::Engine;

/// Bytes of host code that there is room for beyond the limit, as that is looked at between blocks only.
const SPARE: usize = 1 << 20;

/// The decoded blocks of one vCPU.
pub struct BlockCache {
    jumps: Jumps,
    /// Blocks by guest-physical address and mode. One whose code changed stays in its section: links may still lead to it.
    blocks: Index,
    sections: Sections,
    bytes: usize,
    /// What it may hold.
    limit: Limit,
    shedding: Shedding,
    /// Memory to decode in.
    plan: build::Plan,
    translator: Option<Translator>,
    /// Entries after which a block is translated.
    hot: u32,
    /// Blocks decoded so far.
    pub decoded: u64,
    /// Times that a part was evicted.
    pub evictions: u64,
}

// SAFETY: the pointers lead to blocks that the cache owns, and the host addresses in those to guest memory that threads share.
unsafe impl Send for BlockCache {}

impl BlockCache {
    /// An empty cache that holds up to `enough` bytes, and up to `most` if it needs them again and again.
    pub fn new(enough: usize, most: usize, engine: Engine) -> Self {
        let (translator, hot) = match engine {
            Engine::Interpreter => (None, u32::MAX),
            Engine::Translator { after } => (Translator::new(most + SPARE), after.saturating_add(1)),
        };
        Self {
            translator,
            hot,
            jumps: Jumps::new(),
            blocks: Index::default(),
            sections: Sections::new(enough),
            bytes: 0,
            limit: Limit::new(enough, most),
            shedding: Shedding::new(),
            plan: build::Plan::default(),
            decoded: 0,
            evictions: 0,
        }
    }

    /// True if the blocks take more than they may: time for [`BlockCache::evict`].
    pub fn is_full(&self) -> bool {
        self.bytes > self.limit.bytes()
    }

    /// Drops blocks until there is room. No block may be executing.
    #[cold]
    pub fn evict(&mut self, cpu: &mut Cpu) {
        if self.limit.raise() {
            return;
        }
        let begun = host::tsc();
        cpu.counts.cache_evictions += 1;
        cpu.mmu.running = std::ptr::null();
        while self.is_full() {
            let victim = self.sections.victim();
            self.jumps.drop_all(|block| block.section == victim);
            let section = self.sections.take(victim);
            self.drop_section(section);
            self.bytes = self.sections.footprint();
            self.evictions += 1;
        }
        cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
    }

    fn drop_section(&mut self, section: Section) {
        for block in section.blocks() {
            self.blocks.remove(block);
            self.limit.note_evicted(block.gpa);
        }
        if let Some(translator) = &mut self.translator {
            translator.forget(section.code);
        }
    }

    /// Takes over the breakpoints of `request`. No block may be executing.
    pub fn set_breakpoints(&mut self, request: &DebugRequest) {
        if self.plan.divisions.adapt(request) {
            self.clear();
        }
    }

    /// Drops every block. No block may be executing.
    pub fn clear(&mut self) {
        self.jumps.clear();
        for section in self.sections.take_all() {
            self.drop_section(section);
        }
        self.bytes = 0;
    }

    /// The block at the current instruction pointer, decoded if it is not known. `alone` asks for one of a single instruction. The
    /// exception of a fetch that faults is raised.
    ///
    /// The reference is good until blocks are dropped: only the engine holds one, and not across that.
    pub fn find<'a>(&mut self, cpu: &mut Cpu, alone: bool) -> Result<&'a Block> {
        let linear = if cpu.is_long() {
            cpu.rip
        } else {
            cpu.segs[seg::CS].base.wrapping_add(cpu.rip) & 0xffff_ffff
        };
        let mode = if alone { cpu.mode | mode::ALONE } else { cpu.mode };
        while let Some(page) = cpu.mmu.take_flushed() {
            self.jumps.drop_page(&mut cpu.mmu.code_pages, page);
        }
        let slot = Jumps::slot(linear, salt(cpu.mode, cpu.mmu.local_key));
        let jump = self.jumps.entry(slot);
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
        let old = self.blocks.find(gpa, mode);
        let known = match old.filter(|block| block.may_enter(cpu)) {
            Some(block) => match block.second() {
                // The page after may be another one now.
                Some(second) => {
                    let next = (linear & !0xfff).wrapping_add(4096);
                    let after = cpu.translate_code(next)?;
                    (after.0 == second).then_some((block, global && after.1))
                }
                None => Some((block, global)),
            },
            None => None,
        };
        let (found, global) = match known {
            Some(found) => found,
            None => {
                let begun = host::tsc();
                let (block, global) = build::build(cpu, &mut self.plan, linear, gpa, mode, global)?;
                cpu.count_translation(begun);
                (self.add(cpu, block, old), global)
            }
        };
        self.sections.get_mut(found.section).used += 1;
        let key = if global {
            cpu.mmu.global_key
        } else {
            cpu.mmu.local_key
        };
        let code = match &self.translator {
            Some(translator) if found.code().is_null() => translator.untranslated(),
            _ => found.code(),
        };
        let jump = Jump {
            linear,
            context: context(mode, key),
            block: found,
            code,
        };
        self.jumps.set(&mut cpu.mmu.code_pages, slot, jump);
        Ok(found)
    }

    /// Takes in `block`, which was decoded just now where `old` was known.
    fn add<'a>(&mut self, cpu: &mut Cpu, mut block: Block, old: Option<&'a Block>) -> &'a Block {
        cpu.counts.decoded += 1;
        self.decoded += 1;
        let bytes = block.footprint();
        let restored = old.filter(|old| old.restore(&block));
        if self.shedding.note(bytes, restored.is_some()) {
            self.bytes -= self.shedding.look(&mut self.sections);
        }
        if let Some(old) = restored {
            self.grow(cpu, old.section, old.form_footprint() as isize);
            return old;
        }
        self.limit.note_decoded(block.gpa);
        // Where only the second page is another one, the old code is still right elsewhere.
        if let Some(old) = old.filter(|old| old.second().is_none() && block.second().is_none())
            && !old.code().is_null()
        {
            block.set_replaces(old.code());
        }
        self.bytes += bytes;
        cpu.counts.cache_bytes = self.bytes as u64;
        // SAFETY: the block is in its section now, and stays where it is until that is dropped.
        let block = unsafe { &*self.sections.add(block) };
        self.blocks.insert(block);
        block
    }

    /// Notes that blocks in `section` take `grown` bytes more.
    fn grow(&mut self, cpu: &mut Cpu, section: u16, grown: isize) {
        let section = self.sections.get_mut(section);
        section.bytes = section.bytes.saturating_add_signed(grown);
        self.bytes = self.bytes.saturating_add_signed(grown);
        cpu.counts.cache_bytes = self.bytes as u64;
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
        if block.mode & (mode::LONG | mode::ALONE) != mode::LONG || block.has_breakpoint() {
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
            let near = self.blocks.find(page | u64::from(offset), block.mode)?;
            near.may_join(block, warm).then_some(near)
        };
        let section = self.sections.get_mut(block.section);
        let code_before = section.code.footprint();
        if let Some(translation) = translator.translate(block, cpu.native.features, find, &mut section.code) {
            let replaced = block.replaces();
            if !replaced.is_null() {
                translator.replace(replaced, translation.code);
            }
            self.bytes += section.code.footprint() - code_before;
            cpu.counts.translated += 1;
            let grown = block.set_translation(translation);
            self.grow(cpu, block.section, grown);
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

#[cfg(test)]
mod tests;
