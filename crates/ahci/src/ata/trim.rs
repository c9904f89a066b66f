//! The list of a TRIM (ATA8-ACS, 7.10.3.1): entries of eight bytes, a block's address in 48 bits and a count in 16.

/// The byte ranges of a list, those that follow each other as one; `None` if one reaches past `sectors` of `sector` bytes.
pub fn ranges(list: &[u8], sectors: u64, sector: u32) -> Option<Vec<(u64, u64)>> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let (entries, _) = list.as_chunks::<8>();
    for entry in entries {
        let entry = u64::from_le_bytes(*entry);
        let (lba, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
        if count == 0 {
            continue;
        }
        if lba + count > sectors {
            return None;
        }
        let (offset, len) = (lba * u64::from(sector), count * u64::from(sector));
        match ranges.last_mut() {
            Some((start, so_far)) if *start + *so_far == offset => *so_far += len,
            _ => ranges.push((offset, len)),
        }
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u64, u64)]) -> Vec<u8> {
        let entries = entries.iter().map(|(lba, count)| lba | count << 48);
        entries.flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn neighbours_are_one_range_and_empty_entries_none() {
        let got = ranges(&list(&[(0, 8), (8, 8), (0, 0), (32, 1)]), 100, 512);
        assert_eq!(got, Some(vec![(0, 8192), (32 * 512, 512)]));
        assert_eq!(ranges(&list(&[(1, 2)]), 100, 4096), Some(vec![(4096, 8192)]));
    }

    #[test]
    fn a_range_past_the_end_spoils_the_list() {
        assert_eq!(ranges(&list(&[(0, 8), (99, 2)]), 100, 512), None);
        assert_eq!(ranges(&list(&[((1 << 48) - 1, 65_535)]), 100, 512), None);
        assert_eq!(ranges(&list(&[(99, 1)]), 100, 512), Some(vec![(99 * 512, 512)]));
    }
}
