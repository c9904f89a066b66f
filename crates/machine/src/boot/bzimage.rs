//! Linux' bzImage (Documentation/arch/x86/boot.rst), by its 64-bit entry or, for kernels without one, the 32-bit entry.

use ostler_accel::CpuState;
use ostler_memory::GuestRam;

use super::cpu;
use super::memory_map::{low_ram_end, memory_map};
use super::{BootSource, place_initrd, write_command_line};
use crate::Error;
use crate::layout::{COMMAND_LINE, HIGH_RAM_START, RSDP, ZERO_PAGE};

/// Bytes of the file that hold every header field.
pub const HEAD: usize = 0x290;
const HEADER_START: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const LOADED_HIGH: u8 = 1;
const KERNEL_64: u16 = 1;
/// `initrd_addr_max` of kernels that do not say (protocol before 2.03).
const OLD_INITRD_MAX: u32 = 0x37ff_ffff;
/// Command line of kernels that do not say (protocol before 2.06).
const OLD_COMMAND_LINE_MAX: u32 = 255;
const E820_TABLE: usize = 0x2d0;

/// The setup header's fields that a loader acts on, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where the protected-mode part starts in the file.
    payload: u64,
    /// Its size in bytes.
    payload_len: u64,
    /// Bytes of memory from the load address that the kernel uses before it reads the memory map.
    init_size: u64,
    preferred: u64,
    alignment: u64,
    relocatable: bool,
    entry_64: bool,
    initrd_max: u32,
    command_line_max: u32,
}

/// True if the file starts like a bzImage.
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC..MAGIC + 4) == Some(b"HdrS") && head.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
}

/// Reads the setup header from the first [`HEAD`] bytes of a file of `file_len` bytes.
pub fn parse(head: &[u8], file_len: u64) -> Result<Header, Error> {
    let head: &[u8; HEAD] = head
        .get(..HEAD)
        .and_then(|h| h.try_into().ok())
        .ok_or(Error::BadKernel("its setup header is cut off"))?;
    let byte = |at: usize| head[at];
    let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let dword = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
    let qword = |at: usize| u64::from(dword(at)) | u64::from(dword(at + 4)) << 32;
    let version = word(0x206);
    let since = |v: u16| version >= v;

    if version < 0x200 || byte(0x211) & LOADED_HIGH == 0 {
        return Err(Error::BadKernel("it is a zImage, which only runs below 640 KiB"));
    }
    let setup_sectors = match byte(HEADER_START) {
        0 => 4,
        n => u64::from(n),
    };
    let payload = (setup_sectors + 1) * 512;
    let payload_len = file_len.saturating_sub(payload);
    // The size is given in paragraphs, rounded up.
    if payload_len == 0 || u64::from(dword(0x1f4)) * 16 > payload_len + 15 {
        return Err(Error::BadKernel("the file is shorter than its header says"));
    }
    let relocatable = since(0x205) && byte(0x234) != 0;
    let alignment = if since(0x205) { u64::from(dword(0x230)) } else { 0 };
    if relocatable && !alignment.is_power_of_two() {
        return Err(Error::BadKernel("its alignment is no power of two"));
    }
    Ok(Header {
        payload,
        payload_len,
        init_size: if since(0x20a) { u64::from(dword(0x260)) } else { 0 },
        preferred: if since(0x20a) {
            qword(0x258)
        } else {
            HIGH_RAM_START
        },
        alignment: alignment.max(1),
        relocatable,
        entry_64: since(0x20c) && word(0x236) & KERNEL_64 != 0,
        initrd_max: if since(0x203) {
            dword(0x22c)
        } else {
            OLD_INITRD_MAX
        },
        command_line_max: if since(0x206) {
            dword(0x238)
        } else {
            OLD_COMMAND_LINE_MAX
        },
    })
}

impl Header {
    /// Bytes of the file before the protected-mode part.
    pub fn setup_len(&self) -> u64 {
        self.payload
    }

    /// Where to load it in RAM that ends at `ram_end`: first address and first one past its working memory.
    pub fn place(&self, ram_end: u64) -> Result<(u64, u64), Error> {
        let size = self.init_size.max(self.payload_len);
        let fits = |base: u64| {
            let end = base.checked_add(size)?;
            (base >= HIGH_RAM_START && end <= ram_end).then_some((base, end))
        };
        if self.preferred.is_multiple_of(self.alignment)
            && let Some(placed) = fits(self.preferred)
        {
            return Ok(placed);
        }
        let lowest = if self.relocatable {
            HIGH_RAM_START.next_multiple_of(self.alignment)
        } else {
            self.preferred
        };
        fits(lowest).ok_or(Error::KernelTooLarge {
            needed: lowest.saturating_add(size),
            end: ram_end,
        })
    }
}

/// Loads kernel, initrd and command line, and returns the first CPU's state.
pub fn load(ram: &GuestRam, boot: &BootSource, head: &[u8]) -> Result<CpuState, Error> {
    let header = parse(head, boot.kernel.len("kernel")?)?;
    let ram_end = low_ram_end(ram);
    let (base, end) = header.place(ram_end)?;
    write_command_line(ram, &boot.command_line, header.command_line_max as usize)?;
    boot.kernel
        .copy_to("kernel", header.payload, header.payload_len, ram, base)?;
    let initrd = place_initrd(ram, boot, end, ram_end.min(u64::from(header.initrd_max) + 1))?;
    cpu::write(ram, ZERO_PAGE, &zero_page(ram, head, base, initrd))?;
    let mut state = if header.entry_64 {
        cpu::long_mode(ram, base + 0x200)?
    } else {
        cpu::protected_mode(ram, base as u32)?
    };
    // rsi: address of boot_params.
    state.gpr[6] = ZERO_PAGE;
    Ok(state)
}

/// Builds `boot_params` from the file's own setup header. `base` and the initrd's place and size are below 4 GiB.
fn zero_page(ram: &GuestRam, head: &[u8], base: u64, initrd: Option<(u64, u64)>) -> [u8; 4096] {
    let mut page = [0; 4096];
    let header_end = (MAGIC + usize::from(head[0x201])).clamp(MAGIC, HEAD);
    page[HEADER_START..header_end].copy_from_slice(&head[HEADER_START..header_end]);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let (initrd, initrd_len) = initrd.unwrap_or((0, 0));
    put(0x070, &RSDP.to_le_bytes());
    put(0x1fa, &0xffffu16.to_le_bytes()); // the normal video mode
    put(0x210, &[0xff]); // a loader without a registered id
    put(0x214, &(base as u32).to_le_bytes());
    put(0x218, &(initrd as u32).to_le_bytes());
    put(0x21c, &(initrd_len as u32).to_le_bytes());
    put(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    let map = memory_map(ram);
    put(0x1e8, &[map.len() as u8]);
    for (i, entry) in map.iter().enumerate() {
        let at = E820_TABLE + i * 20;
        put(at, &entry.base.to_le_bytes());
        put(at + 8, &entry.len.to_le_bytes());
        put(at + 16, &(entry.usage as u32).to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    /// A kernel of protocol 2.15 with 5 setup sectors and 1,000 bytes of payload.
    pub(crate) fn image() -> Vec<u8> {
        let mut image = vec![0; 6 * 512 + 1000];
        image[0x1f1] = 5;
        image[0x1f4..0x1f8].copy_from_slice(&63u32.to_le_bytes());
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
        image[0x234] = 1;
        image[0x236] = 1;
        image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
        image[6 * 512..].fill(0x90);
        image
    }

    fn source(kernel: Vec<u8>, initrd: Option<Vec<u8>>, command_line: &str) -> BootSource {
        BootSource {
            kernel: Blob::Bytes(kernel),
            initrd: initrd.map(Blob::Bytes),
            command_line: command_line.into(),
        }
    }

    fn boot(megabytes: u64, source: &BootSource) -> Result<CpuState, Error> {
        let ram = ostler_memory::allocate(megabytes << 20, Default::default()).unwrap();
        crate::boot::load(&ram, source)
    }

    #[test]
    fn kernel_initrd_and_command_line_are_where_boot_params_says() {
        let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
        let state = crate::boot::load(&ram, &source(image(), Some(vec![7; 5000]), "console=ttyS0")).unwrap();
        assert_eq!(state.rip, 0x100_0200);
        assert_eq!(state.gpr[6], ZERO_PAGE);
        let dword = |at: u64| ram.read_obj::<u32>(GuestAddress(at)).unwrap();
        let initrd = u64::from(dword(ZERO_PAGE + 0x218));
        assert_eq!(initrd, (64 << 20) - 0x2000);
        assert_eq!(dword(ZERO_PAGE + 0x21c), 5000);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(initrd + 4999)).unwrap(), 7);
        let mut line = [0; 14];
        ram.read_slice(&mut line, GuestAddress(u64::from(dword(ZERO_PAGE + 0x228))))
            .unwrap();
        assert_eq!(&line, b"console=ttyS0\0");
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x100_0000 + 999)).unwrap(), 0x90);
        assert_eq!(u64::from(dword(ZERO_PAGE + 0x70)), RSDP);
    }

    #[test]
    fn a_small_guest_gets_the_kernel_lower() {
        assert_eq!(boot(20, &source(image(), None, "")).unwrap().rip, 0x20_0200);
    }

    #[test]
    fn what_does_not_fit_is_one_clear_error() {
        assert!(matches!(
            boot(8, &source(image(), None, "")),
            Err(Error::KernelTooLarge { .. })
        ));
        let initrd = Some(vec![0; 40 << 20]);
        assert!(matches!(
            boot(64, &source(image(), initrd, "")),
            Err(Error::InitrdTooLarge { .. })
        ));
        let long = "x".repeat(2048);
        assert!(matches!(
            boot(64, &source(image(), None, &long)),
            Err(Error::CommandLine { limit: 2047, .. })
        ));
        assert!(matches!(
            boot(64, &source(image(), None, "a\0b")),
            Err(Error::CommandLineZero)
        ));
    }

    #[test]
    fn a_file_that_is_no_kernel_is_told_apart_from_a_damaged_one() {
        for text in [&b""[..], b"#!/bin/sh\n", &[0; 9000]] {
            assert!(matches!(
                boot(64, &source(text.to_vec(), None, "")),
                Err(Error::NotAKernel)
            ));
        }
        let cut = image()[..4000].to_vec();
        assert!(matches!(
            boot(64, &source(cut, None, "")),
            Err(Error::BadKernel(_))
        ));
        let header_only = image()[..0x240].to_vec();
        assert!(matches!(
            boot(64, &source(header_only, None, "")),
            Err(Error::BadKernel(_))
        ));
    }

    proptest! {
        #[test]
        fn any_header_is_placed_inside_ram_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), HEAD - 0x1f1),
            len in 0u64..1 << 33,
            ram_end in 0u64..1 << 32,
        ) {
            let mut head = image()[..HEAD].to_vec();
            head[0x1f1..].copy_from_slice(&bytes);
            if let Ok(header) = parse(&head, len)
                && let Ok((base, end)) = header.place(ram_end)
            {
                prop_assert!(base >= HIGH_RAM_START && end <= ram_end);
                prop_assert!(end - base >= header.payload_len);
            }
        }

        #[test]
        fn one_changed_field_never_panics(at in 0x1f1usize..0x270, value: u32) {
            let mut image = image();
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = boot(32, &source(image, Some(vec![1; 100]), "quiet"));
        }
    }
}
