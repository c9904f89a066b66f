//! Linux' own symbol table, as it lies in a running kernel's memory (scripts/kallsyms.c and kernel/kallsyms.c).
//!
//! A name is a byte with its length and as many bytes that each stand for a token of the token table. Its first character is the
//! symbol's type. In order of address, with each table aligned to 8 bytes:
//!
//! | table | entries |
//! |---|---|
//! | offsets, relative base | 32 bits a symbol; the address that they are relative to. Since Linux 6.4 behind the token index |
//! | number of symbols, names | |
//! | markers | where in the names each 256th one begins, 32 bits each |
//! | sequence | the symbols in the order of their names, 24 bits each: not in the first releases of 6.1, nor here since 6.4 |
//! | token table | 256 texts that end with a zero byte |
//! | token index | where each of these texts begins, 16 bits each |
//!
//! Everything here may be made up by a hostile guest: what does not fit is no table, names are printable, and the work is bounded.

use std::ops::Range;

use ostler_accel::Symbol;

/// Memory that tables lie in.
pub trait Source {
    /// Reads `bytes.len()` bytes at `address`. False if not all of them are there.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;
}

/// The tokens of ten digits follow each other in each kernel: a character that some name has is its own token.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Token of the first of them.
const FIRST_DIGIT: usize = b'0' as usize;
/// Most bytes of a token table.
const MAX_TOKENS: usize = 16 << 10;
/// Symbols between two markers.
const GROUP: usize = 256;
/// Most markers.
const MAX_GROUPS: usize = 4096;
/// Most bytes of a group of names.
const MAX_GROUP: usize = 128 << 10;
/// Bytes of a number in the sequence of names.
const SEQUENCE: usize = 3;
/// How far before the token table the markers may begin, in bytes.
const MARKERS_REACH: usize = MAX_GROUPS * (4 + SEQUENCE * GROUP) + 16;
/// Most bytes of a table.
const MAX_TABLE: usize = 16 << 20;
/// Longest name, in characters.
const MAX_NAME: usize = 512;
/// Bytes that are searched at a time.
const CHUNK: usize = 64 << 10;
/// Steps that a search may take, of a few nanoseconds each, besides looking for digits.
const BUDGET: usize = 16 << 20;

/// A kernel's symbols.
#[derive(Debug)]
pub struct Symbols {
    tokens: Tokens,
    /// Where the names are in memory.
    place: u64,
    names: Vec<u8>,
    /// Where in the names each group begins.
    groups: Vec<u32>,
    /// In ascending order.
    addresses: Vec<u64>,
}

/// Finds the symbols in `range` of `memory` that `accept` believes.
pub fn find(memory: &dyn Source, range: Range<u64>, accept: impl Fn(&Symbols) -> bool) -> Option<Symbols> {
    let mut search = Search {
        memory,
        budget: BUDGET,
    };
    let mut chunk = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end && memory.read(at, &mut chunk) {
        for (offset, &byte) in chunk.iter().enumerate() {
            if byte == DIGITS[0]
                && chunk[offset..].starts_with(DIGITS)
                && let Some(symbols) = search.symbols(at + offset as u64, &accept)
            {
                return Some(symbols);
            }
        }
        if search.budget == 0 {
            return None;
        }
        // Digits across the border are seen with the next chunk.
        at = at.checked_add((CHUNK - DIGITS.len()) as u64)?;
    }
    None
}

struct Search<'a> {
    memory: &'a dyn Source,
    budget: usize,
}

impl Search<'_> {
    fn spend(&mut self, steps: usize) -> Option<()> {
        self.budget = self.budget.saturating_sub(steps);
        (self.budget > 0).then_some(())
    }

    fn bytes(&mut self, address: u64, len: usize) -> Option<Vec<u8>> {
        (len <= MAX_TABLE).then_some(())?;
        self.spend(len / 8)?;
        let mut bytes = vec![0; len];
        self.memory.read(address, &mut bytes).then_some(bytes)
    }

    /// The symbols whose token table has its digits at `digits`.
    fn symbols(&mut self, digits: u64, accept: &dyn Fn(&Symbols) -> bool) -> Option<Symbols> {
        let (tokens, tokens_at, index_at) = self.tokens(digits)?;
        let Names {
            count,
            place,
            len,
            groups,
        } = self.names(tokens_at)?;
        let names = self.bytes(place, len)?;
        self.spend(count)?;
        are_grouped(&names, &groups, count).then_some(())?;
        let mut symbols = Symbols {
            tokens,
            place,
            names,
            groups,
            addresses: Vec::new(),
        };
        let size = 4 * count as u64;
        let behind = index_at + 512;
        for (base_at, offsets_at) in [
            (place.wrapping_sub(16), place.wrapping_sub(16 + size) & !7),
            ((behind + size).next_multiple_of(8), behind),
        ] {
            let Some(base) = self.bytes(base_at, 8).map(|bytes| number(&bytes)) else {
                continue;
            };
            let Some(offsets) = self.bytes(offsets_at, size as usize) else {
                continue;
            };
            for rule in [per_cpu_absolute, all_relative] {
                self.spend(count)?;
                let (words, _) = offsets.as_chunks::<4>();
                symbols.addresses = words
                    .iter()
                    .map(|&word| rule(base, u32::from_le_bytes(word)))
                    .collect();
                if symbols.addresses.is_sorted() && accept(&symbols) {
                    return Some(symbols);
                }
            }
        }
        None
    }

    /// The token table, where it begins and where its index does.
    fn tokens(&mut self, digits: u64) -> Option<(Tokens, u64, u64)> {
        let text = self.bytes(digits, MAX_TOKENS)?;
        let mut zeros = text.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let end = zeros.nth(255 - FIRST_DIGIT)?.0 + 1;
        let index_at = (digits + end as u64).next_multiple_of(8);
        let index = self.bytes(index_at, 512)?;
        let (index, _) = index.as_chunks::<2>();
        let starts: Vec<u16> = index.iter().map(|&word| u16::from_le_bytes(word)).collect();
        let before = u64::from(starts[FIRST_DIGIT]);
        let begin = digits
            .checked_sub(before)
            .filter(|begin| begin.is_multiple_of(8))?;
        let text = self.bytes(begin, before as usize + end)?;
        let mut ends = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == 0)
            .map(|(at, _)| at + 1);
        let mut start = 0;
        for &expected in &starts {
            (usize::from(expected) == start).then_some(())?;
            start = ends.next()?;
        }
        (start == text.len()).then_some((Tokens { text, starts }, begin, index_at))
    }

    /// The names whose markers lie before the token table at `end`.
    fn names(&mut self, end: u64) -> Option<Names> {
        let begin = end.saturating_sub(MARKERS_REACH as u64) & !7;
        let bytes = self.bytes(begin, (end - begin) as usize)?;
        let (words, _) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
        for first in (0..words.len().saturating_sub(1)).step_by(2).rev() {
            if words[first] != 0 || !grows(&words[first..first + 2]) {
                continue;
            }
            let len = 4 * (words.len() - first);
            for groups in group_counts(len) {
                self.spend(groups)?;
                let Some(markers) = words.get(first..first + groups) else {
                    continue;
                };
                if markers.windows(2).all(grows)
                    && let Some(names) = self.names_before(begin + 4 * first as u64, markers)
                    && names.fit(len)
                {
                    return Some(names);
                }
            }
        }
        None
    }

    /// The names that `groups`, which lie at `end`, are the markers of.
    fn names_before(&mut self, end: u64, groups: &[u32]) -> Option<Names> {
        let whole = groups.len() - 1;
        let last = u64::from(groups[whole]);
        let latest = end.checked_sub(last)? & !7;
        let earliest = latest.checked_sub(MAX_GROUP as u64)?;
        // The number is in the 8 bytes before the names.
        let heads = self.bytes(earliest - 8, MAX_GROUP + 8)?;
        let tails_at = earliest + last;
        let tails = self.bytes(tails_at, (end - tails_at) as usize)?;
        let (heads, _) = heads.as_chunks::<8>();
        for (at, head) in heads.iter().enumerate().rev() {
            self.spend(1)?;
            let count = usize::try_from(u64::from_le_bytes(*head)).ok()?;
            let Some(others @ 1..=GROUP) = count.checked_sub(whole * GROUP) else {
                continue;
            };
            self.spend(others)?;
            let tail = tails.get(8 * at..).unwrap_or_default();
            if after_names(tail, others).is_some_and(|used| tail.len() - used < 8) {
                let place = earliest + 8 * at as u64;
                return Some(Names {
                    count,
                    place,
                    len: (end - place) as usize,
                    groups: groups.to_vec(),
                });
            }
        }
        None
    }
}

/// Where names are.
struct Names {
    count: usize,
    place: u64,
    /// Up to the markers.
    len: usize,
    groups: Vec<u32>,
}

impl Names {
    /// True if the markers and what belongs to these names behind them take `len` bytes.
    fn fit(&self, len: usize) -> bool {
        let markers = (4 * self.groups.len()).next_multiple_of(8);
        let sequence = (SEQUENCE * self.count).next_multiple_of(8);
        len == markers || len == markers + sequence
    }
}

/// How many markers there may be where they begin `len` bytes before the token table: with and without the sequence of names.
fn group_counts(len: usize) -> impl Iterator<Item = usize> {
    let with = len.saturating_sub(4).div_ceil(4 + SEQUENCE * GROUP);
    [len / 4, (len / 4).saturating_sub(1), with]
        .into_iter()
        .filter(|groups| (2..=MAX_GROUPS).contains(groups))
}

/// True if two markers can follow each other.
fn grows(pair: &[u32]) -> bool {
    pair[0] < pair[1] && pair[1] - pair[0] <= MAX_GROUP as u32
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Linux before 6.15: symbols of per-CPU data are absolute, which negative offsets are not.
fn per_cpu_absolute(base: u64, offset: u32) -> u64 {
    match i64::from(offset as i32) {
        absolute @ 0.. => absolute as u64,
        relative => base.wrapping_sub(1).wrapping_sub(relative as u64),
    }
}

fn all_relative(base: u64, offset: u32) -> u64 {
    base.wrapping_add(offset.into())
}

/// The name at the start of `bytes`, as tokens, and what is behind it.
fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&low, rest) = bytes.split_first()?;
    let (len, rest) = if low & 0x80 == 0 {
        (usize::from(low), rest)
    } else {
        let (&high, rest) = rest.split_first()?;
        (usize::from(low & 0x7f) | usize::from(high) << 7, rest)
    };
    if len == 0 {
        None
    } else {
        rest.split_at_checked(len)
    }
}

/// How many bytes of `bytes` its first `count` names take.
fn after_names(bytes: &[u8], count: usize) -> Option<usize> {
    let mut rest = bytes;
    for _ in 0..count {
        rest = split_name(rest)?.1;
    }
    Some(bytes.len() - rest.len())
}

/// True if `names` has `count` names, with the groups where the markers say.
fn are_grouped(names: &[u8], groups: &[u32], count: usize) -> bool {
    let mut at = 0;
    for (index, &group) in groups.iter().enumerate() {
        if group as usize != at {
            return false;
        }
        let here = GROUP.min(count - index * GROUP);
        match after_names(&names[at..], here) {
            Some(used) => at += used,
            None => return false,
        }
    }
    true
}

#[derive(Debug)]
struct Tokens {
    text: Vec<u8>,
    /// Where each of the 256 begins.
    starts: Vec<u16>,
}

impl Tokens {
    fn expand(&self, token: u8) -> impl Iterator<Item = u8> {
        let start = usize::from(self.starts[usize::from(token)]);
        self.text[start..].iter().copied().take_while(|&byte| byte != 0)
    }
}

impl Symbols {
    /// True if the names in `memory` are still these.
    pub fn are_still_in(&self, memory: &dyn Source) -> bool {
        let mut page = [0; 4096];
        let mut place = self.place;
        self.names.chunks(page.len()).all(|names| {
            let page = &mut page[..names.len()];
            let same = memory.read(place, page) && page == names;
            place += names.len() as u64;
            same
        })
    }

    /// True if a symbol of this name is at `address`.
    pub fn has(&self, name: &str, address: u64) -> bool {
        self.at(address)
            .any(|index| self.name(index).is_some_and(|(_, found)| found == name))
    }

    /// The function that `address` is in, and how far.
    pub fn function_at(&self, address: u64) -> Option<Symbol> {
        let behind = self.addresses.partition_point(|&start| start <= address);
        // The last symbol has no end.
        self.addresses.get(behind)?;
        let start = *self.addresses.get(behind.checked_sub(1)?)?;
        let name = self.at(start).find_map(|index| match self.name(index)? {
            (b'T' | b't' | b'W' | b'w', name) => Some(name),
            _ => None,
        })?;
        Some(Symbol {
            name,
            offset: address - start,
        })
    }

    /// The symbols at `address`.
    fn at(&self, address: u64) -> Range<usize> {
        let first = self.addresses.partition_point(|&start| start < address);
        let count = self.addresses[first..].partition_point(|&start| start == address);
        first..first + count.min(GROUP)
    }

    /// Type and name of symbol `index`. Only printable names are names.
    fn name(&self, index: usize) -> Option<(u8, String)> {
        let mut rest = self.names.get(*self.groups.get(index / GROUP)? as usize..)?;
        for _ in 0..index % GROUP {
            rest = split_name(rest)?.1;
        }
        let mut characters = split_name(rest)?
            .0
            .iter()
            .flat_map(|&token| self.tokens.expand(token));
        let kind = characters.next()?;
        let name: Vec<u8> = characters.take(MAX_NAME + 1).collect();
        let fine = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
        fine.then(|| String::from_utf8(name).ok())
            .flatten()
            .map(|name| (kind, name))
    }
}

#[cfg(test)]
pub(super) mod tests;
