//! Where blocks are found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::jumps::{Jump, Jumps};
use super::region::{Region, Regions};
use super::{Block, Outcome, build};
use crate::fault::Result;
use crate::host;
use crate::state::{Cpu, mode, seg};
use crate::translate::{Translator, context};
use crate::vm::Engine;

/// Bytes of host code that there is room for beyond the limit, as that is looked at between blocks only.
const SPARE: usize = 1 << 20;

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

/// The decoded blocks of one vCPU.
pub struct BlockCache {
    jumps: Jumps,
    /// Blocks by guest-physical address and mode. One whose code changed stays in its region: links may still lead to it.
    blocks: HashMap<(u64, u32), *const Block, BuildHasherDefault<AddressHasher>>,
    regions: Regions,
    bytes: usize,
    limit: usize,
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
    /// An empty cache that holds at most about `limit` bytes.
    pub fn new(limit: usize, engine: Engine) -> Self {
        let (translator, hot) = match engine {
            Engine::Interpreter => (None, u32::MAX),
            Engine::Translator { after } => (Translator::new(limit + SPARE), after.saturating_add(1)),
        };
        Self {
            translator,
            hot,
            jumps: Jumps::new(),
            blocks: HashMap::default(),
            regions: Regions::new(limit),
            bytes: 0,
            limit,
            decoded: 0,
            evictions: 0,
        }
    }

    /// True if the blocks take more than the limit: time for [`BlockCache::evict`].
    pub fn is_full(&self) -> bool {
        self.bytes > self.limit
    }

    /// Drops blocks until there is room. No block may be executing.
    #[cold]
    pub fn evict(&mut self, cpu: &mut Cpu) {
        let begun = host::tsc();
        cpu.mmu.running = std::ptr::null();
        while self.is_full() {
            let victim = self.regions.victim();
            self.jumps.drop_all(|block| block.region == victim);
            let region = self.regions.take(victim);
            self.drop_region(region);
            self.bytes = self.regions.footprint();
            self.evictions += 1;
        }
        cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
    }

    fn drop_region(&mut self, region: Region) {
        for block in region.blocks() {
            self.blocks.remove(&(block.gpa, block.mode));
        }
        if let Some(translator) = &mut self.translator {
            translator.forget(region.code);
        }
    }

    /// Drops every block. No block may be executing.
    pub fn clear(&mut self) {
        self.jumps.clear();
        for region in self.regions.take_all() {
            self.drop_region(region);
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
            self.jumps.drop_page(page);
        }
        let slot = Jumps::slot(linear);
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
        // SAFETY: the blocks of the map are in the regions.
        let old = self.blocks.get(&(gpa, mode)).map(|&block| unsafe { &*block });
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
                let (mut block, global) = build::build(cpu, linear, gpa, mode, global)?;
                cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
                self.decoded += 1;
                self.bytes += block.footprint();
                if let Some(old) = old {
                    block.replaces = old.code();
                }
                let block = self.regions.add(block);
                self.blocks.insert((gpa, mode), block);
                // SAFETY: the block is in its region now.
                (unsafe { &*block }, global)
            }
        };
        self.regions.get_mut(found.region).used += 1;
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
        self.jumps.set(slot, jump);
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
        if block.mode & mode::LONG == 0 || !block.linkable {
            block.heat.set(u32::MAX);
            return;
        }
        if block.special.get() {
            // Another CPU may still write to it without notice: next time.
            return;
        }
        let begun = host::tsc();
        block.heat.set(u32::MAX);
        let region = self.regions.get_mut(block.region);
        let code_before = region.code.footprint();
        if let Some(translation) = translator.translate(block, cpu.native.features, &mut region.code) {
            if !block.replaces.is_null() {
                translator.replace(block.replaces, translation.code);
            }
            let grown = block.set_translation(translation);
            region.bytes = region.bytes.saturating_add_signed(grown);
            self.bytes = self.bytes.saturating_add_signed(grown);
            self.bytes += region.code.footprint() - code_before;
        }
        cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
    }

    /// Executes the host code `code` and what it leads to.
    pub fn enter(&mut self, cpu: &mut Cpu, code: *const u8) -> (Outcome, Option<*const Block>) {
        cpu.translated.jumps = self.jumps.as_ptr();
        match &self.translator {
            Some(translator) => translator.enter(cpu, code),
            None => (Outcome::Look, None),
        }
    }

    /// Links the host code of two blocks.
    pub fn link(&mut self, from: &Block, outcome: Outcome, to: &Block) {
        from.set_link(outcome, to);
        if let (Some(translator), Some(translation)) = (&mut self.translator, from.translation.get())
            && from.is_linked(outcome, to)
            && let Some(to) = to.translation.get()
        {
            translator.link(translation, outcome, to);
        }
    }
}

#[cfg(test)]
mod tests;
