//! Ranges of sequence numbers with gaps between: what came early, or what the guest has of what was sent.

use super::after;

/// Ranges that are kept at most. What would be one more is forgotten, so it has to be sent again; no guest gains by making more.
pub const MOST: usize = 64;

/// A range: its first number, and the one behind it.
pub type Range = (u32, u32);

/// Ranges of which none touches another, all within half of the circle of sequence numbers. Those that were added to last come first.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that were added to last come first.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        self.0.iter().copied()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a range, joined with those that it touches. False if there are too many; nothing is added then.
    pub fn add(&mut self, (mut start, mut end): Range) -> bool {
        let apart = |(a, b): Range| after(a, end) || after(start, b);
        if self.0.len() >= MOST && self.iter().all(apart) {
            return false;
        }
        // None of them touches another, so one pass finds all.
        self.0.retain(|&(a, b)| {
            let apart = after(a, end) || after(start, b);
            if !apart {
                start = if after(start, a) { a } else { start };
                end = if after(b, end) { b } else { end };
            }
            apart
        });
        self.0.insert(0, (start, end));
        true
    }

    /// Takes out the range that begins at `at` or before, and tells its end.
    pub fn take_reached(&mut self, at: u32) -> Option<u32> {
        let index = self.0.iter().position(|range| !after(range.0, at))?;
        Some(self.0.remove(index).1)
    }

    /// Forgets everything before `at`.
    pub fn trim(&mut self, at: u32) {
        self.0.retain_mut(|range| {
            if after(at, range.0) {
                range.0 = at;
            }
            after(range.1, range.0)
        });
    }

    /// Forgets `at` and everything behind it.
    pub fn cut(&mut self, at: u32) {
        self.0.retain_mut(|range| {
            if after(range.1, at) {
                range.1 = at;
            }
            after(range.1, range.0)
        });
    }

    /// The range in which `at` is.
    pub fn around(&self, at: u32) -> Option<Range> {
        self.iter()
            .find(|range| !after(range.0, at) && after(range.1, at))
    }

    /// True if all of a range is in one of these.
    pub fn holds(&self, (start, end): Range) -> bool {
        self.around(start).is_some_and(|range| !after(end, range.1))
    }

    /// The end of the highest range.
    pub fn end(&self) -> Option<u32> {
        self.iter()
            .map(|range| range.1)
            .reduce(|a, b| if after(b, a) { b } else { a })
    }

    /// Where the first range behind `at` starts.
    pub fn next_start(&self, at: u32) -> Option<u32> {
        let starts = self.iter().map(|range| range.0);
        starts
            .filter(|start| after(*start, at))
            .reduce(|a, b| if after(a, b) { b } else { a })
    }

    /// The first gap at `at` or behind it that has a range behind it.
    pub fn gap(&self, at: u32) -> Option<Range> {
        // No range touches the end of another.
        let start = self.around(at).map_or(at, |range| range.1);
        Some((start, self.next_start(start)?))
    }

    /// How many numbers at `at` and behind it are in ranges.
    pub fn count_from(&self, at: u32) -> usize {
        let counts = self.iter().map(|(start, end)| {
            let start = if after(at, start) { at } else { start };
            if after(end, start) {
                end.wrapping_sub(start) as usize
            } else {
                0
            }
        });
        counts.sum()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(ranges: &[Range]) -> Ranges {
        let mut all = Ranges::default();
        for range in ranges {
            assert!(all.add(*range));
        }
        all
    }

    #[test]
    fn ranges_that_touch_are_joined_and_the_last_comes_first() {
        let mut ranges = of(&[(10, 20), (40, 50), (30, 35)]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(30, 35), (40, 50), (10, 20)]);
        assert!(ranges.add((35, 40)));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(30, 50), (10, 20)]);
        assert!(ranges.add((12, 13)));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 20), (30, 50)]);
        assert_eq!((ranges.gap(5), ranges.gap(10)), (Some((5, 10)), Some((20, 30))));
        assert_eq!((ranges.gap(25), ranges.gap(30)), (Some((25, 30)), None));
        assert_eq!((ranges.count_from(0), ranges.count_from(15)), (30, 25));
        ranges.trim(15);
        assert_eq!(ranges.end(), Some(50));
        assert_eq!(
            (ranges.take_reached(14), ranges.take_reached(15)),
            (None, Some(20))
        );
        // Over the end of the circle.
        let ranges = of(&[(u32::MAX - 5, 3)]);
        assert!(ranges.holds((u32::MAX, 2)) && !ranges.holds((0, 4)));
        assert_eq!(ranges.gap(u32::MAX - 9), Some((u32::MAX - 9, u32::MAX - 5)));
    }

    #[test]
    fn there_are_not_too_many() {
        let mut ranges = Ranges::default();
        for number in 0..MOST as u32 {
            assert!(ranges.add((number * 10, number * 10 + 1)));
        }
        assert!(!ranges.add((10_000, 10_001)));
        assert!(ranges.add((1, 5)), "one that is there may grow");
        assert_eq!(ranges.len(), MOST);
        assert!(ranges.add((0, 10_000)));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 10_000)]);
    }

    proptest! {
        /// As a set of numbers.
        #[test]
        fn they_are_a_set(adds in prop::collection::vec((0u32..200, 1u32..20), 1..40), first in any::<u32>(), cut in 0u32..220) {
            let (mut ranges, mut model) = (Ranges::default(), [false; 256]);
            for (start, len) in adds {
                prop_assert!(ranges.add((first.wrapping_add(start), first.wrapping_add(start + len))));
                model[start as usize..(start + len) as usize].fill(true);
                prop_assert_eq!(ranges.around(first.wrapping_add(start)), ranges.iter().next(), "the last comes first");
            }
            ranges.trim(first.wrapping_add(cut));
            model[..cut as usize].fill(false);
            let behind = (cut + 50).min(256);
            ranges.cut(first.wrapping_add(behind));
            model[behind as usize..].fill(false);
            let inside: Vec<bool> = (0..256).map(|at| ranges.around(first.wrapping_add(at)).is_some()).collect();
            prop_assert_eq!(&inside[..], &model[..]);
            prop_assert_eq!(ranges.count_from(first), model.iter().filter(|inside| **inside).count());
            let blocks = model.windows(2).filter(|pair| pair[0] != pair[1] && pair[1]).count() + usize::from(model[0]);
            prop_assert_eq!(ranges.len(), blocks);
        }
    }
}
