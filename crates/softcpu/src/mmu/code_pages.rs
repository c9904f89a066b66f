//! Which linear pages the jump cache may know code of: most pages whose translation is dropped have none.

/// Linear pages with code that is known, by a hash: there may be more.
pub(crate) struct CodePages {
    /// Pages in which a block begins.
    own: PageSet,
    /// Pages into which a block of the page before reaches.
    reached: PageSet,
}

impl CodePages {
    /// No pages.
    pub(super) fn new() -> Self {
        Self {
            own: PageSet::new(),
            reached: PageSet::new(),
        }
    }

    /// Notes a block that begins in linear page `page`, and perhaps reaches into the next.
    pub(crate) fn add(&mut self, page: u64, reaches_next: bool) {
        self.own.add(page);
        if reaches_next {
            self.reached.add(page.wrapping_add(1));
        }
    }

    /// False if no block depends on the translation of `page`.
    pub(crate) fn may_have(&self, page: u64) -> bool {
        self.own.may_have(page) || self.reached.may_have(page)
    }

    /// Forgets all pages.
    pub(crate) fn clear(&mut self) {
        self.own.0.fill(0);
        self.reached.0.fill(0);
    }
}

/// Words of a set of pages.
const WORDS: usize = 1024;

/// A set of pages.
struct PageSet(Box<[u64; WORDS]>);

impl PageSet {
    fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    fn bit(page: u64) -> (usize, u64) {
        let hash = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        (hash as usize / 64 % WORDS, 1 << (hash % 64))
    }

    fn add(&mut self, page: u64) {
        let (word, bit) = Self::bit(page);
        self.0[word] |= bit;
    }

    fn may_have(&self, page: u64) -> bool {
        let (word, bit) = Self::bit(page);
        self.0[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_with_what_reaches_into_it_and_most_others_are_not() {
        let mut pages = CodePages::new();
        pages.add(0x7f12_3456, false);
        pages.add(0xf_ffff_ffff_ffff, true);
        for page in [0x7f12_3456, 0xf_ffff_ffff_ffff, 0x10_0000_0000_0000] {
            assert!(pages.may_have(page));
        }
        assert!((0..1000).filter(|&page| pages.may_have(page)).count() < 10);
        pages.clear();
        assert!(!pages.may_have(0x7f12_3456));
    }
}
