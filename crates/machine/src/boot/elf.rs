//! ELF images as kernels come in (System V gABI): loadable segments and notes, each checked.

use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::memory_map::low_ram_end;
use super::{Blob, cpu};
use crate::Error;
use crate::layout::HIGH_RAM_START;

/// Bytes of the longest ELF header.
pub const HEADER: usize = 64;
const MAX_SEGMENTS: u64 = 64;
const MAX_NOTES: u64 = 1 << 20;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const MACHINE_386: u64 = 3;
const MACHINE_X86_64: u64 = 62;

/// A piece of the file, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    offset: u64,
    file_len: u64,
    address: u64,
    memory_len: u64,
}

impl Segment {
    /// File bytes at `offset` for guest memory at `address`, followed by zeroes up to `memory_len`.
    pub fn new(offset: u64, file_len: u64, address: u64, memory_len: u64) -> Self {
        Self {
            offset,
            file_len,
            address,
            memory_len,
        }
    }
}

/// What a loader needs of an ELF image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// The entry point (a physical address in kernels that boot loaders start).
    pub entry: u64,
    /// Loadable segments with something in them.
    pub segments: Vec<Segment>,
    /// Note segments: offset and length in the file.
    notes: Vec<(u64, u64)>,
}

/// Little-endian fields whose width depends on the class.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn get(&self, at: usize, len: usize) -> u64 {
        self.bytes.get(at..at + len).map_or(0, crate::registers::number)
    }
}

/// True if the file starts like an ELF image.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads the headers of `kernel`.
pub fn parse(kernel: &Blob) -> Result<Elf, Error> {
    let head = kernel.head("kernel", HEADER)?;
    let file_len = kernel.len("kernel")?;
    let wide = match (head.get(4), head.get(5)) {
        (Some(1), Some(1)) if head.len() >= 52 => false,
        (Some(2), Some(1)) if head.len() >= HEADER => true,
        _ => {
            return Err(Error::BadKernel(
                "its ELF header is cut off or of an unknown class",
            ));
        }
    };
    let field = Fields { bytes: &head };
    if !matches!(field.get(18, 2), MACHINE_386 | MACHINE_X86_64) {
        return Err(Error::BadKernel("it is for another kind of processor"));
    }
    let (entry, table, size, count) = if wide {
        (
            field.get(24, 8),
            field.get(32, 8),
            field.get(54, 2),
            field.get(56, 2),
        )
    } else {
        (
            field.get(24, 4),
            field.get(28, 4),
            field.get(42, 2),
            field.get(44, 2),
        )
    };
    if count > MAX_SEGMENTS || size < if wide { 56 } else { 32 } {
        return Err(Error::BadKernel("its ELF program headers make no sense"));
    }
    let mut headers = vec![0; (size * count) as usize];
    kernel.read_at("kernel", table, &mut headers)?;
    let mut elf = Elf {
        entry,
        segments: Vec::new(),
        notes: Vec::new(),
    };
    for header in headers.chunks(size as usize) {
        elf.add_header(header, wide, file_len)?;
    }
    check_overlaps(&elf.segments)?;
    Ok(elf)
}

impl Elf {
    fn add_header(&mut self, header: &[u8], wide: bool, file_len: u64) -> Result<(), Error> {
        let field = Fields { bytes: header };
        let segment = if wide {
            Segment::new(
                field.get(8, 8),
                field.get(32, 8),
                field.get(24, 8),
                field.get(40, 8),
            )
        } else {
            Segment::new(
                field.get(4, 4),
                field.get(16, 4),
                field.get(12, 4),
                field.get(20, 4),
            )
        };
        let kind = field.get(0, 4);
        if !matches!(kind, PT_LOAD | PT_NOTE) {
            return Ok(());
        }
        if segment
            .offset
            .checked_add(segment.file_len)
            .is_none_or(|end| end > file_len)
        {
            return Err(Error::BadKernel(
                "the file is shorter than its program headers say",
            ));
        }
        if kind == PT_NOTE {
            self.notes.push((segment.offset, segment.file_len));
        } else if segment.memory_len != 0 {
            if segment.file_len > segment.memory_len {
                return Err(Error::BadKernel("a segment is larger in the file than in memory"));
            }
            self.segments.push(segment);
        }
        Ok(())
    }

    /// The descriptor of the note of `kind` by `owner` (without its terminating zero), if there is one.
    pub fn note(&self, kernel: &Blob, owner: &[u8], kind: u32) -> Result<Option<Vec<u8>>, Error> {
        for &(offset, len) in &self.notes {
            let mut notes = vec![0; len.min(MAX_NOTES) as usize];
            kernel.read_at("kernel", offset, &mut notes)?;
            if let Some(found) = find_note(&notes, owner, kind) {
                return Ok(Some(found.to_vec()));
            }
        }
        Ok(None)
    }
}

/// Goes through notes: name length, descriptor length, type, then both padded to four bytes.
fn find_note<'a>(mut notes: &'a [u8], owner: &[u8], wanted: u32) -> Option<&'a [u8]> {
    while notes.len() >= 12 {
        let word = |at: usize| u32::from_le_bytes([notes[at], notes[at + 1], notes[at + 2], notes[at + 3]]);
        let (name_len, descriptor_len, kind) = (word(0) as usize, word(4) as usize, word(8));
        let rest = &notes[12..];
        let after_name = rest.get(name_len.checked_next_multiple_of(4)?..)?;
        let descriptor = after_name.get(..descriptor_len)?;
        let name = &rest[..name_len];
        if kind == wanted && name.strip_suffix(&[0]) == Some(owner) {
            return Some(descriptor);
        }
        notes = after_name
            .get(descriptor_len.checked_next_multiple_of(4)?..)
            .unwrap_or(&[]);
    }
    None
}

fn check_overlaps(segments: &[Segment]) -> Result<(), Error> {
    let mut sorted = segments.to_vec();
    sorted.sort_unstable_by_key(|segment| segment.address);
    let mut end = 0;
    for segment in sorted {
        if segment.address < end {
            return Err(Error::BadKernel("its segments overlap in memory"));
        }
        end = segment
            .address
            .checked_add(segment.memory_len)
            .ok_or(Error::BadKernel("a segment wraps around the end of memory"))?;
    }
    Ok(())
}

/// Copies segments into RAM above 1 MiB, or into one of the ranges `low` below that, and returns the first address past them.
pub fn load(
    ram: &GuestRam,
    kernel: &Blob,
    segments: &[Segment],
    low: &[std::ops::Range<u64>],
) -> Result<u64, Error> {
    if segments.is_empty() {
        return Err(Error::BadKernel("it has nothing to load"));
    }
    let ram_end = low_ram_end(ram);
    let mut end = 0;
    for segment in segments {
        let past = segment.address.saturating_add(segment.memory_len);
        let fits = |range: &std::ops::Range<u64>| range.start <= segment.address && past <= range.end;
        if segment.address < HIGH_RAM_START && !low.iter().any(fits) {
            return Err(Error::BadKernel(
                "it wants to be loaded below 1 MiB, where there is no room for it",
            ));
        }
        if past > ram_end {
            return Err(Error::KernelTooLarge {
                needed: past,
                end: ram_end,
            });
        }
        end = end.max(past);
    }
    for segment in segments {
        kernel.copy_to("kernel", segment.offset, segment.file_len, ram, segment.address)?;
        zero(
            ram,
            segment.address + segment.file_len,
            segment.memory_len - segment.file_len,
        )?;
    }
    Ok(end)
}

/// Clears what a segment has beyond its file bytes. After a power-on RAM is clear, and stays unallocated.
fn zero(ram: &GuestRam, start: u64, len: u64) -> Result<(), Error> {
    const PAGE: usize = 4096;
    let mut page = [0; PAGE];
    let mut done = 0;
    while done < len {
        let at = start + done;
        let here = (PAGE as u64 - at % PAGE as u64).min(len - done) as usize;
        ram.read_slice(&mut page[..here], GuestAddress(at))
            .map_err(|_| Error::NoMemory(at))?;
        if page[..here].iter().any(|byte| *byte != 0) {
            cpu::write(ram, at, &[0; PAGE][..here])?;
        }
        done += here as u64;
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small ELF image: one loadable segment that holds the whole file, and a note segment with `note`.
    pub fn image(wide: bool, address: u64, entry: u64, note: &[u8], body: &[u8]) -> Vec<u8> {
        let (header, size) = if wide { (64, 56) } else { (52, 32) };
        let note_at = header + 2 * size;
        let body_at = (note_at + note.len()).next_multiple_of(16);
        let len = body_at + body.len();
        let mut image = vec![0; len];
        let mut put = |at: usize, value: u64, width: usize| {
            image[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        };
        put(0, 0x464c_457f, 4);
        put(4, if wide { 2 } else { 1 }, 1);
        put(5, 1, 1);
        put(18, if wide { MACHINE_X86_64 } else { MACHINE_386 }, 2);
        let w = if wide { 8 } else { 4 };
        put(24, entry, w);
        put(if wide { 32 } else { 28 }, header as u64, w);
        put(if wide { 54 } else { 42 }, size as u64, 2);
        put(if wide { 56 } else { 44 }, 2, 2);
        let places: [usize; 4] = if wide { [8, 24, 32, 40] } else { [4, 12, 16, 20] };
        for (at, kind, values) in [
            (header, PT_LOAD, [0, address, len as u64, len as u64 + 100]),
            (
                header + size,
                PT_NOTE,
                [note_at as u64, 0, note.len() as u64, note.len() as u64],
            ),
        ] {
            put(at, kind, 4);
            for (place, value) in places.into_iter().zip(values) {
                put(at + place, value, w);
            }
        }
        image[note_at..note_at + note.len()].copy_from_slice(note);
        image[body_at..].copy_from_slice(body);
        image
    }

    /// A note by Xen.
    pub fn xen_note(kind: u32, descriptor: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, descriptor.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(descriptor);
        note
    }

    #[test]
    fn segments_and_notes_are_found_in_both_classes() {
        for wide in [true, false] {
            let notes = [xen_note(5, &[1, 2, 3, 4]), xen_note(18, &[9, 8, 7, 6])].concat();
            let kernel = Blob::Bytes(image(wide, 0x10_0000, 0x10_0040, &notes, b"body"));
            let elf = parse(&kernel).unwrap();
            assert_eq!(elf.entry, 0x10_0040);
            assert_eq!(elf.segments.len(), 1);
            assert_eq!(elf.note(&kernel, b"Xen", 18).unwrap().unwrap(), [9, 8, 7, 6]);
            assert_eq!(elf.note(&kernel, b"Xen", 19).unwrap(), None);
            assert_eq!(elf.note(&kernel, b"GNU", 18).unwrap(), None);
        }
    }

    #[test]
    fn memory_past_the_file_bytes_is_cleared() {
        let ram = ostler_memory::allocate(4 << 20, Default::default()).unwrap();
        cpu::write(&ram, 0x10_0000, &[0xff; 0x2000]).unwrap();
        let kernel = Blob::Bytes(vec![7; 10]);
        let end = load(&ram, &kernel, &[Segment::new(2, 5, 0x10_0010, 0x1800)], &[]).unwrap();
        assert_eq!(end, 0x10_1810);
        let mut bytes = vec![0; 0x1802];
        ram.read_slice(&mut bytes, GuestAddress(0x10_000f)).unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[5], bytes[6]), (0xff, 7, 7, 0));
        assert_eq!((bytes[0x1800], bytes[0x1801]), (0, 0xff));
    }

    #[test]
    fn overlapping_wrapping_and_misplaced_segments_are_refused() {
        let segment = |address, len| Segment::new(0, 0, address, len);
        assert!(check_overlaps(&[segment(0x3000, 0x1000), segment(0x2000, 0x1001)]).is_err());
        assert!(check_overlaps(&[segment(u64::MAX - 5, 7)]).is_err());
        assert!(check_overlaps(&[segment(0x3000, 0x1000), segment(0x2000, 0x1000)]).is_ok());
        let ram = ostler_memory::allocate(4 << 20, Default::default()).unwrap();
        let kernel = Blob::Bytes(Vec::new());
        assert!(matches!(
            load(&ram, &kernel, &[segment(0x1000, 8)], &[]),
            Err(Error::BadKernel(_))
        ));
        assert!(matches!(
            load(&ram, &kernel, &[segment(4 << 20, 8)], &[]),
            Err(Error::KernelTooLarge { .. })
        ));
        assert!(matches!(load(&ram, &kernel, &[], &[]), Err(Error::BadKernel(_))));
    }

    proptest! {
        #[test]
        fn a_damaged_header_never_panics(wide: bool, changes in proptest::collection::vec((0usize..200, any::<u8>()), 1..6)) {
            let mut bytes = image(wide, 0x10_0000, 0x10_0040, &xen_note(18, &[0; 8]), b"body");
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let kernel = Blob::Bytes(bytes);
            let ram = ostler_memory::allocate(2 << 20, Default::default()).unwrap();
            if let Ok(elf) = parse(&kernel) {
                let _ = elf.note(&kernel, b"Xen", 18);
                let _ = load(&ram, &kernel, &elf.segments, &[]);
            }
        }

        #[test]
        fn any_notes_are_gone_through(notes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_note(&notes, b"Xen", 18);
        }
    }
}
