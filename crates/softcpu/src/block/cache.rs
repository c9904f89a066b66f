//! Where blocks are found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Block, build};
use crate::fault::Result;
use crate::host;
use crate::state::{Cpu, mode, seg};

/// Entries of the cache by instruction pointer.
const JUMPS: usize = 4096;

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
#[repr(align(32))]
struct Jump {
    linear: u64,
    mode: u32,
    key: u32,
    block: *const Block,
}

const NO_JUMP: Jump = Jump {
    linear: 0,
    mode: u32::MAX,
    key: 0,
    block: std::ptr::null(),
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
    /// Blocks decoded so far.
    pub decoded: u64,
}

// SAFETY: the pointers lead to blocks that the cache owns, and the host addresses in those to guest memory that threads share.
unsafe impl Send for BlockCache {}

impl BlockCache {
    /// An empty cache that holds at most about `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
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
        self.bytes > self.limit
    }

    /// Drops every block. No block may be executing.
    pub fn clear(&mut self) {
        self.jumps.fill(NO_JUMP);
        self.blocks.clear();
        self.retired.clear();
        self.bytes = 0;
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
        let slot = (linear ^ linear >> 12) as usize & (JUMPS - 1);
        let jump = self.jumps[slot];
        if jump.linear == linear
            && jump.mode == mode
            && (jump.key == cpu.mmu.global_key || jump.key == cpu.mmu.local_key)
        {
            // SAFETY: entries lead to blocks of this cache.
            let block = unsafe { &*jump.block };
            if block.may_enter(cpu) {
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
                cpu.kernel_ticks += host::tsc().wrapping_sub(begun);
                self.decoded += 1;
                self.bytes += block.footprint();
                let block = Box::new(block);
                let at = &raw const *block;
                if let Some(old) = self.blocks.insert((gpa, mode), block) {
                    self.retired.push(old);
                }
                (at, global)
            }
        };
        let key = if global {
            cpu.mmu.global_key
        } else {
            cpu.mmu.local_key
        };
        self.jumps[slot] = Jump {
            linear,
            mode,
            key,
            block,
        };
        // SAFETY: the block is in the cache, boxed.
        Ok(unsafe { &*block })
    }
}
