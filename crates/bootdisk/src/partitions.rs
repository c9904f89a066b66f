//! Where partitions are: GPT (UEFI 2.10, 5.3) and MBR with logical partitions. Sectors have 512 bytes, as our disks show them.
//!
//! Checksums of GPT are not looked at, as boot loaders do not: a wrong address reads as no file system.

use crate::Error;
use crate::source::{Part, Source};

const SECTOR: u64 = 512;
/// Most partitions that are looked at.
const MAX_PARTITIONS: usize = 128;
/// Largest entry of a GPT, in bytes.
const MAX_ENTRY: usize = 4096;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Gpt,
    Mbr,
    /// Not at all: a file system has all of it.
    None,
}

/// A partition.
pub(crate) struct Partition {
    pub table: Table,
    /// As GRUB and Linux count, from 1; 0 for the whole disk.
    pub number: u32,
    pub part: Part,
}

/// The partitions of a disk in order, or the whole disk if it has none.
pub(crate) fn list(source: &Source) -> Result<Vec<Partition>, Error> {
    let mut sector = [0; SECTOR as usize];
    let partitions = match source.read(0, &mut sector) {
        Ok(()) if sector[510..] == [0x55, 0xaa] => match mbr_entries(&sector) {
            entries if entries.iter().any(|entry| entry.kind == 0xee) => gpt(source),
            entries => mbr(source, &entries),
        },
        // Too small, or no table; GPT has one always, as protection.
        _ => Vec::new(),
    };
    if partitions.is_empty() {
        return Ok(vec![Partition {
            table: Table::None,
            number: 0,
            part: source.part(0, u64::MAX),
        }]);
    }
    Ok(partitions)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn gpt(source: &Source) -> Vec<Partition> {
    let mut header = [0; SECTOR as usize];
    if source.read(SECTOR, &mut header).is_err() || &header[..8] != b"EFI PART" {
        return Vec::new();
    }
    let first = u64_at(&header, 72);
    let count = (u32_at(&header, 80) as usize).min(MAX_PARTITIONS);
    let size = u32_at(&header, 84) as usize;
    if !(128..=MAX_ENTRY).contains(&size) {
        return Vec::new();
    }
    let mut entry = vec![0; size];
    let mut partitions = Vec::new();
    for (index, number) in (0..count as u64).zip(1..) {
        let at = first
            .checked_mul(SECTOR)
            .and_then(|at| at.checked_add(index * size as u64));
        if at.is_none_or(|at| source.read(at, &mut entry).is_err()) {
            break;
        }
        let (start, end) = (u64_at(&entry, 32), u64_at(&entry, 40));
        let used = entry[..16].iter().any(|byte| *byte != 0);
        let fits = start > 0 && end >= start && end < source.size() / SECTOR;
        if used && fits {
            partitions.push(Partition {
                table: Table::Gpt,
                number,
                part: source.part(start * SECTOR, (end - start + 1) * SECTOR),
            });
        }
    }
    partitions
}

struct MbrEntry {
    kind: u8,
    start: u64,
    sectors: u64,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The four entries; what cannot be one (the code of a file system's own boot sector is there too) reads as unused.
fn mbr_entries(sector: &[u8; SECTOR as usize]) -> [MbrEntry; 4] {
    [0x1be, 0x1ce, 0x1de, 0x1ee].map(|at| {
        let entry = &sector[at..at + 16];
        let sane = matches!(entry[0], 0 | 0x80);
        MbrEntry {
            kind: if sane { entry[4] } else { 0 },
            start: u32_at(entry, 8).into(),
            sectors: u32_at(entry, 12).into(),
        }
    })
}

fn mbr(source: &Source, entries: &[MbrEntry; 4]) -> Vec<Partition> {
    let partition = |number: u32, start: u64, sectors: u64| {
        let fits = start > 0 && sectors > 0 && start + sectors <= source.size() / SECTOR;
        fits.then(|| Partition {
            table: Table::Mbr,
            number,
            part: source.part(start * SECTOR, sectors * SECTOR),
        })
    };
    let used = |entry: &&MbrEntry| entry.kind != 0;
    let primary = (1..)
        .zip(entries)
        .filter(|(_, entry)| used(entry) && !entry.is_extended());
    let mut partitions: Vec<_> = primary
        .filter_map(|(number, entry)| partition(number, entry.start, entry.sectors))
        .collect();
    let Some(extended) = entries.iter().find(|entry| entry.is_extended()) else {
        return partitions;
    };
    // A chain of tables, each with one logical partition and the way to the next table.
    let mut table = extended.start;
    for number in 5..MAX_PARTITIONS as u32 {
        let mut sector = [0; SECTOR as usize];
        if source.read(table * SECTOR, &mut sector).is_err() || sector[510..] != [0x55, 0xaa] {
            break;
        }
        let [logical, next, ..] = mbr_entries(&sector);
        if logical.kind != 0 {
            partitions.extend(partition(number, table + logical.start, logical.sectors));
        }
        if !next.is_extended() {
            break;
        }
        table = extended.start + next.start;
    }
    partitions
}
