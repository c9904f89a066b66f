//! From a hash to an entry's place: open addressing with linear probing, never more than half full.
//!
//! A place of the index holds the entry's number and the upper bits of its hash, so that a wrong entry is hardly ever looked at.

/// Bits of a place that are the entry's number, plus one: 0 marks a free place.
const NUMBER: u32 = (1 << 21) - 1;

pub struct Index {
    places: Box<[u32]>,
    mask: usize,
}

/// The upper bits of the hash, where a place keeps them.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !NUMBER
}

impl Index {
    pub fn new(capacity: usize) -> Self {
        let places = (capacity * 2).next_power_of_two();
        Self {
            places: vec![0; places].into_boxed_slice(),
            mask: places - 1,
        }
    }

    pub fn bytes(&self) -> usize {
        self.places.len() * size_of::<u32>()
    }

    /// The entry with that hash which `is_it` says is the one.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut place = hash as usize & self.mask;
        loop {
            let value = self.places[place];
            if value == 0 {
                return None;
            }
            let entry = (value & NUMBER) - 1;
            if value & !NUMBER == tag(hash) && is_it(entry) {
                return Some(entry);
            }
            place = (place + 1) & self.mask;
        }
    }

    /// Has the first place of a hash brought into the caches; the number says nothing.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.places[hash as usize & self.mask].into()
    }

    pub fn insert(&mut self, hash: u64, entry: u32) {
        let mut place = hash as usize & self.mask;
        while self.places[place] != 0 {
            place = (place + 1) & self.mask;
        }
        self.places[place] = tag(hash) | (entry + 1);
    }

    /// Takes out an entry, and moves up those behind it that would not be found any more.
    pub fn remove(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = hash as usize & self.mask;
        while self.places[hole] & NUMBER != entry + 1 {
            if self.places[hole] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut place = hole;
        loop {
            place = (place + 1) & self.mask;
            let value = self.places[place];
            if value == 0 {
                break;
            }
            let home = hash_of((value & NUMBER) - 1) as usize & self.mask;
            let from_home = place.wrapping_sub(home) & self.mask;
            let from_hole = place.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.places[hole] = value;
                hole = place;
            }
        }
        self.places[hole] = 0;
    }
}

#[cfg(test)]
impl Index {
    /// The most places that stand together without a free one between them.
    pub fn longest_run(&self) -> usize {
        self.places
            .split(|&place| place == 0)
            .map(<[u32]>::len)
            .max()
            .unwrap_or(0)
    }
}
