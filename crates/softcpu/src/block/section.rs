//! The parts that the cache is evicted by.
//!
//! All blocks of a guest page are in one section, and links stay in a page: so a section goes without a look at the others. A page's
//! section is the one that was open when its first block came. When the cache is full, the section goes whose blocks were looked up
//! least of late. (Not the oldest: a workload that goes round in more code than fits would then find nothing.)

use std::collections::HashMap;

use super::Block;
use crate::translate::CodeGroup;

/// Sections that the cache is divided into, about.
const PARTS: usize = 32;
/// Blocks that are allocated together.
const TOGETHER: usize = 32;

/// A part of the cache.
#[derive(Default)]
pub(super) struct Section {
    /// Blocks stay where they are: a vector is never longer than it was made for.
    blocks: Vec<Vec<Block>>,
    /// Their host code.
    pub(super) code: CodeGroup,
    /// Bytes of host memory, but for the code.
    pub(super) bytes: usize,
    /// Times that one of its blocks was looked up of late.
    pub(super) used: u64,
}

impl Section {
    fn footprint(&self) -> usize {
        self.bytes + self.code.footprint()
    }

    /// Takes a block in, for as long as the section stays.
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

/// All sections.
pub(super) struct Sections {
    sections: Vec<Section>,
    /// The one that new pages get.
    open: u16,
    /// Guest-physical page numbers.
    pages: HashMap<u64, u16>,
    limit: usize,
}

impl Sections {
    /// Sections that take about `limit` bytes together.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            sections: vec![Section::default()],
            open: 0,
            pages: HashMap::default(),
            limit,
        }
    }

    pub(super) fn footprint(&self) -> usize {
        self.sections.iter().map(Section::footprint).sum()
    }

    pub(super) fn get_mut(&mut self, section: u16) -> &mut Section {
        &mut self.sections[usize::from(section)]
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Section> {
        self.sections.iter_mut()
    }

    /// Takes a block in.
    pub(super) fn add(&mut self, mut block: Block) -> *const Block {
        let page = block.gpa >> 12;
        let section = match self.pages.get(&page) {
            Some(&section) => section,
            None => {
                if self.sections[usize::from(self.open)].footprint() > self.limit / PARTS {
                    self.open_another();
                }
                self.pages.insert(page, self.open);
                self.open
            }
        };
        block.section = section;
        let section = self.get_mut(section);
        section.bytes += block.footprint();
        section.add(block)
    }

    fn open_another(&mut self) {
        let empty = self.sections.iter().position(|section| section.blocks.is_empty());
        let at = empty.unwrap_or(self.sections.len());
        // Pages that become larger keep their section, so there are never many more of these than parts.
        let Ok(number) = u16::try_from(at) else {
            return;
        };
        if empty.is_none() {
            self.sections.push(Section::default());
        }
        self.open = number;
    }

    /// The section to evict.
    pub(super) fn victim(&self) -> u16 {
        let open = usize::from(self.open);
        let others = (0..self.sections.len()).filter(|&at| at != open && self.sections[at].footprint() > 0);
        // A single page can fill the open one: with code that the guest writes again and again.
        let victim = if self.sections[open].footprint() > self.limit / 2 {
            None
        } else {
            others.min_by_key(|&at| self.sections[at].used)
        };
        victim.map_or(self.open, |at| at as u16)
    }

    /// Takes a section out.
    pub(super) fn take(&mut self, number: u16) -> Section {
        self.pages.retain(|_, section| *section != number);
        for section in &mut self.sections {
            section.used /= 2;
        }
        std::mem::take(self.get_mut(number))
    }

    /// Takes all of them out.
    pub(super) fn take_all(&mut self) -> Vec<Section> {
        self.pages.clear();
        self.open = 0;
        std::mem::replace(&mut self.sections, vec![Section::default()])
    }
}
