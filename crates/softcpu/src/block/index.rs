//! Blocks by guest-physical address and mode.

use hashbrown::HashTable;

use super::Block;

/// The newest block of each address and mode. It keeps addresses only: the keys are in the blocks.
#[derive(Default)]
pub(super) struct Index(HashTable<*const Block>);

/// Bytes that an entry takes, about: tables are between 7/16 and 7/8 full.
pub(super) const INDEXED: usize = 16;

/// Multiplies: what is hashed are addresses.
pub(super) fn hash(value: u64) -> u64 {
    let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

fn key_hash(gpa: u64, mode: u32) -> u64 {
    hash(hash(gpa) ^ u64::from(mode))
}

/// The block behind an entry.
fn block_of<'a>(&entry: &*const Block) -> &'a Block {
    // SAFETY: the cache takes a block out before it frees it.
    unsafe { &*entry }
}

impl Index {
    /// The block at `gpa` for `mode`. It is there for as long as its section is.
    pub(super) fn find<'a>(&self, gpa: u64, mode: u32) -> Option<&'a Block> {
        let same = |entry: &*const Block| {
            let block = block_of(entry);
            block.gpa == gpa && block.mode == mode
        };
        self.0.find(key_hash(gpa, mode), same).map(block_of)
    }

    /// Puts `block` in the place of an older one. It stays where it is until it is removed.
    pub(super) fn insert(&mut self, block: &Block) {
        self.remove(block);
        let rehash = |entry: &*const Block| {
            let block = block_of(entry);
            key_hash(block.gpa, block.mode)
        };
        self.0
            .insert_unique(key_hash(block.gpa, block.mode), block, rehash);
    }

    /// Takes the block at the same place as `block` out.
    pub(super) fn remove(&mut self, block: &Block) {
        let same = |entry: &*const Block| {
            let other = block_of(entry);
            other.gpa == block.gpa && other.mode == block.mode
        };
        if let Ok(entry) = self.0.find_entry(key_hash(block.gpa, block.mode), same) {
            entry.remove();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
