//! The PVH entry of ELF kernels (Xen's x86/HVM direct boot ABI): 32-bit protected mode, `hvm_start_info` in EBX.

use ostler_accel::CpuState;
use ostler_memory::GuestRam;

use super::elf::{self, Elf};
use super::memory_map::{low_ram_end, memory_map};
use super::{BootSource, cpu, place_initrd, write_command_line};
use crate::Error;
use crate::layout::{BOOT_INFO, COMMAND_LINE, COMMAND_LINE_ROOM, RSDP};

/// XEN_ELFNOTE_PHYS32_ENTRY.
const ENTRY_NOTE: u32 = 18;
const MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = BOOT_INFO + 0x100;
const MAP: u64 = BOOT_INFO + 0x200;

/// The PVH entry point, if the image has one.
pub fn entry(elf: &Elf, boot: &BootSource) -> Result<Option<u32>, Error> {
    let Some(note) = elf.note(&boot.kernel, b"Xen", ENTRY_NOTE)? else {
        return Ok(None);
    };
    let address = match note.len() {
        4 | 8 => crate::registers::number(&note),
        _ => return Err(Error::BadKernel("its PVH note has a wrong length")),
    };
    let entry = u32::try_from(address);
    entry
        .map(Some)
        .map_err(|_| Error::BadKernel("its PVH entry is above 4 GiB"))
}

/// Loads kernel, initrd and command line, and returns the first CPU's state.
pub fn load(ram: &GuestRam, boot: &BootSource, elf: &Elf, entry: u32) -> Result<CpuState, Error> {
    write_command_line(ram, &boot.command_line, COMMAND_LINE_ROOM)?;
    let end = elf::load(ram, &boot.kernel, &elf.segments, &[])?;
    let initrd = place_initrd(ram, boot, end, low_ram_end(ram))?;
    let map = memory_map(ram);

    let mut info = Vec::new();
    info.extend(MAGIC.to_le_bytes());
    info.extend(
        [1u32, 0, u32::from(initrd.is_some())]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    info.extend(
        [MODULES, COMMAND_LINE, RSDP, MAP]
            .iter()
            .flat_map(|address| address.to_le_bytes()),
    );
    info.extend([map.len() as u32, 0].iter().flat_map(|word| word.to_le_bytes()));
    cpu::write(ram, BOOT_INFO, &info)?;
    if let Some((base, size)) = initrd {
        let module: Vec<u8> = [base, size, 0, 0]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        cpu::write(ram, MODULES, &module)?;
    }
    let mut entries = Vec::new();
    for range in &map {
        entries.extend(range.base.to_le_bytes());
        entries.extend(range.len.to_le_bytes());
        entries.extend((range.usage as u64).to_le_bytes());
    }
    cpu::write(ram, MAP, &entries)?;

    let mut state = cpu::protected_mode(ram, entry)?;
    // ebx: address of hvm_start_info.
    state.gpr[3] = BOOT_INFO;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::{image, xen_note};
    use super::*;
    use crate::Blob;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn start_info_leads_to_everything() {
        let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
        let note = xen_note(ENTRY_NOTE, &0x100_0100u64.to_le_bytes());
        let boot = BootSource {
            kernel: Blob::Bytes(image(true, 0x100_0000, 0, &note, b"body")),
            initrd: Some(Blob::Bytes(vec![3; 4097])),
            command_line: "root=/dev/vda".into(),
        };
        let state = super::super::load(&ram, &boot).unwrap();
        assert_eq!(
            (state.rip, state.gpr[3], state.cr0),
            (0x100_0100, BOOT_INFO, 0x11)
        );
        let dword = |at: u64| ram.read_obj::<u32>(GuestAddress(at)).unwrap();
        let qword = |at: u64| ram.read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!(
            (dword(BOOT_INFO), dword(BOOT_INFO + 4), dword(BOOT_INFO + 12)),
            (MAGIC, 1, 1)
        );
        let module = qword(BOOT_INFO + 16);
        assert_eq!((qword(module), qword(module + 8)), ((64 << 20) - 0x2000, 4097));
        let mut line = [0; 14];
        ram.read_slice(&mut line, GuestAddress(qword(BOOT_INFO + 24)))
            .unwrap();
        assert_eq!(&line, b"root=/dev/vda\0");
        assert_eq!(qword(BOOT_INFO + 32), RSDP);
        let map = qword(BOOT_INFO + 40);
        assert_eq!((qword(map), dword(map + 16)), (0, 1));
        assert_eq!(dword(BOOT_INFO + 48) as usize, memory_map(&ram).len());
    }

    #[test]
    fn an_elf_image_without_an_entry_is_no_kernel() {
        let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
        let boot = |note: &[u8]| BootSource {
            kernel: Blob::Bytes(image(true, 0x100_0000, 0, note, b"body")),
            initrd: None,
            command_line: String::new(),
        };
        assert!(matches!(
            super::super::load(&ram, &boot(&[])),
            Err(Error::NotAKernel)
        ));
        let high = xen_note(ENTRY_NOTE, &(1u64 << 32).to_le_bytes());
        assert!(matches!(
            super::super::load(&ram, &boot(&high)),
            Err(Error::BadKernel(_))
        ));
        let odd = xen_note(ENTRY_NOTE, &[1, 2, 3, 4, 5, 6]);
        assert!(matches!(
            super::super::load(&ram, &boot(&odd)),
            Err(Error::BadKernel(_))
        ));
    }
}
