//! Multiboot 1 (Multiboot Specification 0.6.96): 32-bit protected mode, information in EBX. For test kernels.

use std::ops::Range;

use ostler_accel::CpuState;
use ostler_memory::GuestRam;

use super::elf::{self, Segment};
use super::memory_map::{MapEntry, low_ram_end, memory_map};
use super::{BootSource, cpu, write_command_line};
use crate::Error;
use crate::layout::{
    BIOS_IRET, BIOS_TIMER, BOOT_INFO, COMMAND_LINE, COMMAND_LINE_ROOM, HIGH_RAM_START, LOW_RAM_END,
};

/// The header lies within this much of the file's start.
pub const HEAD: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// Features that a kernel can insist on and that are here: page-aligned modules, memory map, video (best effort).
const KNOWN_REQUIREMENTS: u32 = 0x7;
const HAS_ADDRESSES: u32 = 1 << 16;

const INFO_MEMORY: u32 = 1;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MAP: u32 = 1 << 6;
const INFO_LOADER: u32 = 1 << 9;

const MODULE: u64 = BOOT_INFO + 0x80;
const LOADER_NAME: u64 = BOOT_INFO + 0xa0;
const MAP: u64 = BOOT_INFO + 0x100;

/// Where a kernel may lie below 1 MiB: beside the information and the command line.
const LOW_ROOM: [Range<u64>; 2] = [
    INFO_END..COMMAND_LINE,
    COMMAND_LINE + COMMAND_LINE_ROOM as u64..LOW_RAM_END,
];
const INFO_END: u64 = BOOT_INFO + 0x2000;

/// Where a PC's firmware lets the interrupts of the two 8259s begin.
pub const PIC_VECTORS: [u8; 2] = [0x08, 0x70];

/// By custom the command line starts with the kernel's name.
const KERNEL_NAME: &str = "kernel";

/// A Multiboot header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its offset in the file.
    offset: u64,
    flags: u32,
    /// Addresses of header, load start, load end, bss end and entry; they count if the flags say so.
    addresses: [u32; 5],
}

/// Finds the header in the file's first [`HEAD`] bytes.
pub fn find(head: &[u8]) -> Option<Header> {
    let word = |at: usize| {
        head.get(at..at + 4)
            .map(|bytes| crate::registers::number(bytes) as u32)
    };
    let limit = head.len().min(HEAD);
    for at in (0..limit).step_by(4) {
        let (Some(magic), Some(flags), Some(sum)) = (word(at), word(at + 4), word(at + 8)) else {
            break;
        };
        if magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(sum) == 0 {
            let addresses = std::array::from_fn(|i| word(at + 12 + 4 * i).unwrap_or(0));
            return Some(Header {
                offset: at as u64,
                flags,
                addresses,
            });
        }
    }
    None
}

impl Header {
    /// The one segment that the header's own addresses describe, and the entry point.
    fn own_segment(&self, file_len: u64) -> Result<(Segment, u32), Error> {
        let [header, load, load_end, bss_end, entry] = self.addresses.map(u64::from);
        let wrong = Error::BadKernel("the addresses in its Multiboot header make no sense");
        let before = header.checked_sub(load).filter(|before| *before <= self.offset);
        let Some(start) = before.map(|before| self.offset - before) else {
            return Err(wrong);
        };
        let rest = file_len - start;
        let file_part = if load_end == 0 {
            Some(rest)
        } else {
            load_end.checked_sub(load).filter(|len| *len <= rest)
        };
        let Some(file_part) = file_part else {
            return Err(wrong);
        };
        let memory = if bss_end == 0 {
            file_part
        } else {
            bss_end.saturating_sub(load).max(file_part)
        };
        Ok((Segment::new(start, file_part, load, memory), entry as u32))
    }
}

/// Loads kernel, module and command line, and returns the first CPU's state.
pub fn load(ram: &GuestRam, boot: &BootSource, header: Header) -> Result<CpuState, Error> {
    if header.flags & 0xffff & !KNOWN_REQUIREMENTS != 0 {
        return Err(Error::BadKernel(
            "it insists on Multiboot features that are unknown",
        ));
    }
    let (segments, entry) = if header.flags & HAS_ADDRESSES != 0 {
        let (segment, entry) = header.own_segment(boot.kernel.len("kernel")?)?;
        (vec![segment], entry)
    } else {
        let elf = elf::parse(&boot.kernel)?;
        let entry = u32::try_from(elf.entry).map_err(|_| Error::BadKernel("its entry is above 4 GiB"))?;
        (elf.segments, entry)
    };
    let end = elf::load(ram, &boot.kernel, &segments, &LOW_ROOM)?;
    let line = format!("{KERNEL_NAME} {}", boot.command_line);
    write_command_line(ram, &line, COMMAND_LINE_ROOM)?;
    let module = place_module(ram, boot, end)?;
    write_info(ram, module)?;
    write_real_mode_vectors(ram)?;
    let mut state = cpu::protected_mode(ram, entry)?;
    state.gpr[0] = LOADER_MAGIC;
    state.gpr[3] = BOOT_INFO;
    Ok(state)
}

/// Puts the initrd right behind the kernel, page aligned, where loaders of this kind put modules.
fn place_module(ram: &GuestRam, boot: &BootSource, end: u64) -> Result<Option<(u32, u32)>, Error> {
    let Some(initrd) = &boot.initrd else {
        return Ok(None);
    };
    let size = initrd.len("initrd")?;
    let base = end.max(HIGH_RAM_START).next_multiple_of(4096);
    let room = low_ram_end(ram).saturating_sub(base);
    if size > room {
        return Err(Error::InitrdTooLarge { size, room });
    }
    initrd.copy_to("initrd", 0, size, ram, base)?;
    // Both are below 4 GiB, as the RAM is.
    Ok(Some((base as u32, (base + size) as u32)))
}

/// Lets every interrupt of real mode return, as a PC's firmware would leave it: test kernels go back there. Those of the two
/// 8259s are ended first.
fn write_real_mode_vectors(ram: &GuestRam) -> Result<(), Error> {
    const IRET: u8 = 0xcf;
    // push ax; mov al, 0x20; out 0x20, al; pop ax; iret
    const FIRST: [u8; 7] = [0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, IRET];
    // The same with out 0xa0, al before the other.
    const SECOND: [u8; 9] = [0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, IRET];
    const BEHIND: u64 = BIOS_TIMER + FIRST.len() as u64;
    for (at, code) in [(BIOS_IRET, &[IRET][..]), (BIOS_TIMER, &FIRST), (BEHIND, &SECOND)] {
        cpu::write(ram, at, code)?;
    }
    let mut vectors = [BIOS_IRET; 256];
    vectors[usize::from(PIC_VECTORS[0])..][..8].fill(BIOS_TIMER);
    vectors[usize::from(PIC_VECTORS[1])..][..8].fill(BEHIND);
    let table: Vec<u8> = vectors
        .iter()
        .flat_map(|at| [(at & 0xffff) as u16, (at >> 4 & 0xf000) as u16])
        .flat_map(u16::to_le_bytes)
        .collect();
    cpu::write(ram, 0, &table)
}

fn write_info(ram: &GuestRam, module: Option<(u32, u32)>) -> Result<(), Error> {
    let map = memory_map(ram);
    let map_bytes = map_entries(&map);
    let mut flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MAP | INFO_LOADER;
    if module.is_some() {
        flags |= INFO_MODULES;
    }
    let upper = low_ram_end(ram).saturating_sub(HIGH_RAM_START) >> 10;
    let fields = [
        (0, flags),
        (4, (LOW_RAM_END >> 10) as u32),
        (8, upper as u32),
        (16, COMMAND_LINE as u32),
        (20, u32::from(module.is_some())),
        (24, MODULE as u32),
        (44, map_bytes.len() as u32),
        (48, MAP as u32),
        (64, LOADER_NAME as u32),
    ];
    let mut info = [0u8; 0x78];
    for (at, value) in fields {
        info[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    cpu::write(ram, BOOT_INFO, &info)?;
    if let Some((start, end)) = module {
        let entry: Vec<u8> = [start, end, COMMAND_LINE as u32, 0]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        cpu::write(ram, MODULE, &entry)?;
    }
    cpu::write(ram, LOADER_NAME, b"ostler\0")?;
    cpu::write(ram, MAP, &map_bytes)
}

fn map_entries(map: &[MapEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in map {
        bytes.extend(20u32.to_le_bytes());
        bytes.extend(range.base.to_le_bytes());
        bytes.extend(range.len.to_le_bytes());
        bytes.extend((range.usage as u32).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    fn header(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
        let sum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
        [HEADER_MAGIC, flags, sum]
            .iter()
            .chain(&addresses)
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    fn boot(kernel: Vec<u8>) -> BootSource {
        BootSource {
            kernel: Blob::Bytes(kernel),
            initrd: Some(Blob::Bytes(vec![5; 100])),
            command_line: "a b".into(),
        }
    }

    #[test]
    fn a_kernel_may_lie_below_1_mib_beside_what_the_loader_puts_there() {
        let ram = ostler_memory::allocate(4 << 20, Default::default()).unwrap();
        for (at, fits) in [
            (0x8000u32, true),
            (0x7ff0, false),
            (0x1_fff0, false),
            (0x2_0000, false),
            (0x3_0000, true),
            (0x9_fbf0, false),
            (0x10_0000, true),
        ] {
            let mut kernel = header(HAS_ADDRESSES, [at, at, 0, 0, at + 32]);
            kernel.resize(64, 0x90);
            let found = find(&kernel).unwrap();
            let loaded = load(&ram, &boot(kernel), found);
            assert_eq!(loaded.is_ok(), fits, "{at:#x}");
            if let Ok(state) = loaded {
                assert_eq!(state.rip, u64::from(at) + 32);
                let word: u32 = ram.read_obj(GuestAddress(at.into())).unwrap();
                assert_eq!(word, HEADER_MAGIC);
                let module: u32 = ram.read_obj(GuestAddress(MODULE)).unwrap();
                assert!(u64::from(module) >= HIGH_RAM_START);
                let vector = |n: u64| ram.read_obj::<u32>(GuestAddress(4 * n)).unwrap();
                assert_eq!([0, 7, 0x10, 0x6f, 0x78, 255].map(vector), [0xf000_ff53; 6]);
                assert_eq!([8, 15].map(vector), [0xf000_fea5; 2]);
                assert_eq!([0x70, 0x77].map(vector), [0xf000_feac; 2]);
                let first: u8 = ram.read_obj(GuestAddress(0xf_ff53)).unwrap();
                assert_eq!(first, 0xcf);
            }
        }
    }

    #[test]
    fn an_elf_kernel_gets_its_information() {
        let ram = ostler_memory::allocate(16 << 20, Default::default()).unwrap();
        let image = super::super::elf::tests::image(false, 0x40_0000, 0x40_0080, &[], &header(0, [0; 5]));
        let end = 0x40_0000 + image.len() as u64 + 100;
        let state = super::super::load(&ram, &boot(image)).unwrap();
        assert_eq!(
            (state.rip, state.gpr[0], state.gpr[3]),
            (0x40_0080, LOADER_MAGIC, BOOT_INFO)
        );
        let dword = |at: u64| ram.read_obj::<u32>(GuestAddress(at)).unwrap();
        assert_eq!(dword(BOOT_INFO) & 0x4d, 0x4d);
        assert_eq!(dword(BOOT_INFO + 8), 15 << 10);
        let mut line = [0; 11];
        ram.read_slice(&mut line, GuestAddress(u64::from(dword(BOOT_INFO + 16))))
            .unwrap();
        assert_eq!(&line, b"kernel a b\0");
        let module = u64::from(dword(BOOT_INFO + 24));
        assert_eq!(u64::from(dword(module)), end.next_multiple_of(4096));
        assert_eq!(dword(module + 4) - dword(module), 100);
        assert_eq!(dword(BOOT_INFO + 44) as usize, memory_map(&ram).len() * 24);
    }

    #[test]
    fn a_flat_kernel_is_loaded_by_the_addresses_in_its_header() {
        let ram = ostler_memory::allocate(16 << 20, Default::default()).unwrap();
        let mut kernel = vec![0x90; 64];
        kernel.extend(header(
            HAS_ADDRESSES,
            [0x10_0040, 0x10_0000, 0x10_0060, 0x10_1000, 0x10_0010],
        ));
        let state = super::super::load(&ram, &boot(kernel)).unwrap();
        assert_eq!(state.rip, 0x10_0010);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x10_003f)).unwrap(), 0x90);
        let module = u64::from(ram.read_obj::<u32>(GuestAddress(BOOT_INFO + 24)).unwrap());
        assert_eq!(ram.read_obj::<u32>(GuestAddress(module)).unwrap(), 0x10_1000);
    }

    #[test]
    fn senseless_addresses_and_unknown_requirements_are_refused() {
        let ram = ostler_memory::allocate(16 << 20, Default::default()).unwrap();
        for (flags, addresses) in [
            (HAS_ADDRESSES, [0x10_0000, 0x10_0004, 0, 0, 0]),
            (HAS_ADDRESSES, [0x10_0000, 0x10_0000, 0x20_0000, 0, 0]),
            (HAS_ADDRESSES, [0x10_0000, 0x10_0000, 0x0f_0000, 0, 0]),
            (HAS_ADDRESSES, [0, 0, 0, 0, 0]),
            (1 << 9, [0; 5]),
        ] {
            let loaded = super::super::load(&ram, &boot(header(flags, addresses)));
            assert!(
                matches!(loaded, Err(Error::BadKernel(_))),
                "{flags:x} {addresses:x?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_addresses_are_loaded_or_refused(flags: u32, addresses: [u32; 5], before in 0usize..64) {
            let ram = ostler_memory::allocate(2 << 20, Default::default()).unwrap();
            let mut kernel = vec![0; before & !3];
            kernel.extend(header(flags & !0xfff8 | HAS_ADDRESSES, addresses));
            let _ = super::super::load(&ram, &boot(kernel));
        }
    }
}
