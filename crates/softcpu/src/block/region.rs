//! The parts that the cache is evicted by.
//!
//! All blocks of a guest page are in one region, and links stay in a page: so a region goes without a look at the others. A page's
//! region is the one that was open when its first block came. When the cache is full, the region goes whose blocks were looked up
//! least of late. (Not the oldest: a workload that goes round in more code than fits would then find nothing.)

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::Block;
use super::cache::AddressHasher;
use crate::translate::CodeGroup;

/// Regions that the cache is divided into, about.
const PARTS: usize = 16;
/// Blocks that are allocated together.
const TOGETHER: usize = 32;

/// A part of the cache.
#[derive(Default)]
pub(super) struct Region {
    /// Blocks stay where they are: a vector is never longer than it was made for.
    blocks: Vec<Vec<Block>>,
    /// Their host code.
    pub(super) code: CodeGroup,
    /// Bytes of host memory, but for the code.
    pub(super) bytes: usize,
    /// Times that one of its blocks was looked up of late.
    pub(super) used: u64,
}

impl Region {
    fn footprint(&self) -> usize {
        self.bytes + self.code.footprint()
    }

    /// Takes a block in, for as long as the region stays.
    fn add(&mut self, block: Block) -> *const Block {
        if self.blocks.last().is_none_or(|blocks| blocks.len() == TOGETHER) {
            self.blocks.push(Vec::with_capacity(TOGETHER));
        }
        let last = self.blocks.len() - 1;
        self.blocks[last].push(block);
        self.blocks[last]
            .last()
            .map_or(std::ptr::null(), std::ptr::from_ref)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().flatten()
    }
}

/// All regions.
pub(super) struct Regions {
    regions: Vec<Region>,
    /// The one that new pages get.
    open: u16,
    /// Guest-physical page numbers.
    pages: HashMap<u64, u16, BuildHasherDefault<AddressHasher>>,
    limit: usize,
}

impl Regions {
    /// Regions that take about `limit` bytes together.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            regions: vec![Region::default()],
            open: 0,
            pages: HashMap::default(),
            limit,
        }
    }

    pub(super) fn footprint(&self) -> usize {
        self.regions.iter().map(Region::footprint).sum()
    }

    pub(super) fn get_mut(&mut self, region: u16) -> &mut Region {
        &mut self.regions[usize::from(region)]
    }

    /// Takes a block in.
    pub(super) fn add(&mut self, mut block: Block) -> *const Block {
        let page = block.gpa >> 12;
        let region = match self.pages.get(&page) {
            Some(&region) => region,
            None => {
                if self.regions[usize::from(self.open)].footprint() > self.limit / PARTS {
                    self.open_another();
                }
                self.pages.insert(page, self.open);
                self.open
            }
        };
        block.region = region;
        let region = self.get_mut(region);
        region.bytes += block.footprint();
        region.add(block)
    }

    fn open_another(&mut self) {
        let empty = self.regions.iter().position(|region| region.blocks.is_empty());
        let at = empty.unwrap_or(self.regions.len());
        // Pages that become larger keep their region, so there are never many more of these than parts.
        let Ok(number) = u16::try_from(at) else {
            return;
        };
        if empty.is_none() {
            self.regions.push(Region::default());
        }
        self.open = number;
    }

    /// The region to evict.
    pub(super) fn victim(&self) -> u16 {
        let open = usize::from(self.open);
        let others = (0..self.regions.len()).filter(|&at| at != open && self.regions[at].footprint() > 0);
        // A single page can fill the open one: with code that the guest writes again and again.
        let victim = if self.regions[open].footprint() > self.limit / 2 {
            None
        } else {
            others.min_by_key(|&at| self.regions[at].used)
        };
        victim.map_or(self.open, |at| at as u16)
    }

    /// Takes a region out.
    pub(super) fn take(&mut self, number: u16) -> Region {
        self.pages.retain(|_, region| *region != number);
        for region in &mut self.regions {
            region.used /= 2;
        }
        std::mem::take(self.get_mut(number))
    }

    /// Takes all of them out.
    pub(super) fn take_all(&mut self) -> Vec<Region> {
        self.pages.clear();
        self.open = 0;
        std::mem::replace(&mut self.regions, vec![Region::default()])
    }
}
