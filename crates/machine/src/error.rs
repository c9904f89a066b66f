use std::io;

use crate::bridges::topology::MAX_DEVICES;
use crate::layout::MAX_CPUS;

/// Why a machine could not be built or brought back to its boot state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A boot file could not be read.
    #[error("cannot read the {what}: {source}; check that the file is whole and readable")]
    Read {
        /// Which file: "kernel" or "initrd".
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The kernel is in no format that is known.
    #[error(
        "the kernel file is no kernel: it is neither a bzImage, nor an ELF image with a PVH entry, nor a Multiboot image"
    )]
    NotAKernel,
    /// The kernel is in a known format, but what it says of itself cannot be.
    #[error("the kernel cannot be loaded: {0}; use an undamaged bzImage, PVH or Multiboot kernel")]
    BadKernel(&'static str),
    /// The accelerator has no system management mode.
    #[error(
        "this firmware needs system management mode, which the host's KVM does not have; use --accel soft, or firmware without \
         secure boot such as --firmware uefi"
    )]
    NoSmm,
    /// A CPU that comes later would have no place in the firmware's system management memory.
    #[error(
        "CPUs cannot come and go in a guest whose firmware has system management mode; say --cpus N without max, or take firmware \
         without secure boot"
    )]
    SmmWithCpuHotplug,
    /// The kernel does not fit.
    #[error(
        "the kernel needs memory up to {needed:#x}, and the guest's ends at {end:#x}; give it more with --memory"
    )]
    KernelTooLarge {
        /// First address that it does not need.
        needed: u64,
        /// End of RAM below 4 GiB.
        end: u64,
    },
    /// The initrd does not fit beside the kernel.
    #[error(
        "the initrd of {size} bytes does not fit into guest memory beside the kernel ({room} bytes free); give the guest more with --memory"
    )]
    InitrdTooLarge {
        /// Its size in bytes.
        size: u64,
        /// Bytes that were free for it.
        room: u64,
    },
    /// The kernel takes no command line of this length.
    #[error("the command line has {length} bytes, and the kernel takes at most {limit}; shorten it")]
    CommandLine {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A zero byte would end the command line early.
    #[error("the command line has a zero byte in it; remove it")]
    CommandLineZero,
    /// The VGA BIOS has no size that one can have.
    #[error(
        "the VGA BIOS has {0} bytes, more than the 128 KiB that a PC has room for; use Debian's vgabios-stdvga.bin"
    )]
    VgaBiosSize(u64),
    /// That many CPUs cannot be had.
    #[error("a guest can have 1 to {MAX_CPUS} CPUs, not {0}")]
    Cpus(u32),
    /// More CPUs at the start than there can be, or none.
    #[error("a guest that can have {most} CPUs starts with 1 to {most} of them, not {start}")]
    BootCpus {
        /// CPUs at the start.
        start: u32,
        /// CPUs that there can be.
        most: u32,
    },
    /// There is not enough RAM for what the platform itself places in it.
    #[error("the guest has no memory at {0:#x}, which the boot needs; give it at least 2M")]
    NoMemory(u64),
    /// The tables that describe the machine outgrew their place.
    #[error("the firmware tables do not fit into their place; give the guest fewer CPUs")]
    TablesTooLarge,
    /// Firmware of this size has no place.
    #[error(
        "the {what} has {size} bytes, and must have {least} to {most} in pages of 4096; use an image for x86-64 machines"
    )]
    FirmwareSize {
        /// Which image.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// Least bytes.
        least: u64,
        /// Most bytes.
        most: u64,
    },
    /// Bus 0 is full.
    #[error(
        "a machine has room for {MAX_DEVICES} PCI devices, not {0}; give the guest fewer disks and network cards"
    )]
    TooManyDevices(usize),
    /// Devices cannot be where they are to be.
    #[error(transparent)]
    Place(#[from] crate::PlaceError),
    /// The slot of this root port, called by its bus, takes nothing while the guest runs.
    #[error("the root port of bus {0:02x} has no hotplug slot; use another one")]
    NoHotplug(u8),
    /// A PCI function could not be placed or given its addresses.
    #[error(transparent)]
    Pci(#[from] ostler_pci::Error),
    /// Two devices want the same addresses.
    #[error(transparent)]
    Bus(#[from] ostler_bus::Error),
    /// The accelerator refused.
    #[error(transparent)]
    Accelerator(#[from] ostler_accel::Error),
    /// A thread or timer could not be had from the host.
    #[error("the host gave no {what}: {source}")]
    Host {
        /// What was wanted.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}
