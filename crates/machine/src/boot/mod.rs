//! Boot protocols: one file each. Which one applies is told by the kernel's contents.

mod blob;
mod bzimage;
pub mod cpu;
mod elf;
pub mod memory_map;
mod multiboot;
mod pvh;

use ostler_accel::CpuState;
use ostler_memory::GuestRam;

pub use blob::{Blob, BootSource};
pub use multiboot::PIC_VECTORS;

use crate::Error;
use crate::layout::{COMMAND_LINE, COMMAND_LINE_ROOM, HIGH_RAM_START};

/// Loads what `boot` names into RAM and returns the first CPU's state.
pub fn load(ram: &GuestRam, boot: &BootSource) -> Result<CpuState, Error> {
    let head = boot.kernel.head("kernel", multiboot::HEAD)?;
    if bzimage::is_bzimage(&head) {
        return bzimage::load(ram, boot, &head);
    }
    if elf::is_elf(&head) {
        let image = elf::parse(&boot.kernel)?;
        if let Some(entry) = pvh::entry(&image, boot)? {
            return pvh::load(ram, boot, &image, entry);
        }
    }
    match multiboot::find(&head) {
        Some(header) => multiboot::load(ram, boot, header),
        None => Err(Error::NotAKernel),
    }
}

/// True if the kernel starts by Multiboot, which lets it find what it is not told of "as initialized by the BIOS" (3.2).
pub fn is_multiboot(boot: &BootSource) -> Result<bool, Error> {
    let head = boot.kernel.head("kernel", multiboot::HEAD)?;
    if bzimage::is_bzimage(&head) || multiboot::find(&head).is_none() {
        return Ok(false);
    }
    Ok(!elf::is_elf(&head) || pvh::entry(&elf::parse(&boot.kernel)?, boot)?.is_none())
}

/// Bytes of a bzImage's setup part; zero for kernels of other kinds.
pub fn setup_part(boot: &BootSource) -> Result<u64, Error> {
    let head = boot.kernel.head("kernel", bzimage::HEAD)?;
    if !bzimage::is_bzimage(&head) {
        return Ok(0);
    }
    Ok(bzimage::parse(&head, boot.kernel.len("kernel")?)?.setup_len())
}

/// Writes the command line with its terminating zero; `limit` is the most that the kernel takes without it.
fn write_command_line(ram: &GuestRam, line: &str, limit: usize) -> Result<(), Error> {
    let limit = limit.min(COMMAND_LINE_ROOM - 1);
    if line.len() > limit {
        return Err(Error::CommandLine {
            length: line.len(),
            limit,
        });
    }
    if line.contains('\0') {
        return Err(Error::CommandLineZero);
    }
    cpu::write(ram, COMMAND_LINE, line.as_bytes())?;
    cpu::write(ram, COMMAND_LINE + line.len() as u64, &[0])
}

/// Copies the initrd as high as it can lie in `[floor, ceiling)` of RAM, page aligned. Returns its address and size.
fn place_initrd(
    ram: &GuestRam,
    boot: &BootSource,
    floor: u64,
    ceiling: u64,
) -> Result<Option<(u64, u64)>, Error> {
    let Some(initrd) = &boot.initrd else {
        return Ok(None);
    };
    let floor = floor.max(HIGH_RAM_START).next_multiple_of(4096);
    let size = initrd.len("initrd")?;
    let base = ceiling
        .checked_sub(size)
        .map(|base| base & !0xfff)
        .filter(|&base| base >= floor);
    let base = base.ok_or(Error::InitrdTooLarge {
        size,
        room: ceiling.saturating_sub(floor),
    })?;
    initrd.copy_to("initrd", 0, size, ram, base)?;
    Ok(Some((base, size)))
}
