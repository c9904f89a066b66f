//! What a sequence starts from and what it leaves, the same for both sides.

/// Virtual address of the code page, in the host's child and in the guest.
pub const CODE: u64 = 0x1000_0000;
/// Virtual address of the data pages.
pub const DATA: u64 = 0x2000_0000;
/// Writable data pages, followed by one page that can only be read, and then by nothing.
pub const DATA_PAGES: usize = 2;
/// Virtual address of the stack page.
pub const STACK: u64 = 0x3000_0000;
/// Bytes a page.
pub const PAGE: usize = 4096;
/// Base of FS in 64-bit mode: where the general registers lead, so that it can be used without one.
pub const FS_BASE: u64 = DATA + 2048;
/// Base of GS in 64-bit mode: a little, so that it can be added to any operand.
pub const GS_BASE: u64 = 0x148;
/// Bytes of memory that a sequence can see: data, the read-only page, the stack.
pub const MEMORY: usize = (DATA_PAGES + 2) * PAGE;
/// Bytes of an XSAVE image with AVX state.
pub const XSAVE: usize = 832;
/// Selector of 64-bit user code, as on Linux.
pub const CODE64: u16 = 0x33;
/// Selector of 32-bit user code, as on Linux.
pub const CODE32: u16 = 0x23;
/// Selector of user data, as on Linux.
pub const USER_DATA: u16 = 0x2b;

/// The user-visible registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// General registers by encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// x87, SSE and AVX state in the standard XSAVE format.
    pub xsave: [u8; XSAVE],
}

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Outcome {
    /// The registers at the end.
    pub registers: Registers,
    /// Vector of the exception that ended it; 3 (the INT3 behind every sequence) is the ordinary end.
    pub vector: u64,
    /// Error code.
    pub error: u64,
    /// Address of a page fault, else 0.
    pub cr2: u64,
}

/// A sequence with its start.
#[derive(Debug, Clone)]
pub struct Case {
    /// Machine code, INT3 at its end.
    pub code: Vec<u8>,
    /// True for 64-bit mode, else 32-bit.
    pub long: bool,
    /// The start; `rip` is [`CODE`].
    pub registers: Registers,
    /// Data pages, read-only page, stack page.
    pub memory: Vec<u8>,
}

/// Both halves of what is compared.
#[derive(Debug, Clone)]
pub struct Final {
    /// Registers and exception.
    pub outcome: Outcome,
    /// Memory as in [`Case::memory`].
    pub memory: Vec<u8>,
}

impl Registers {
    /// All zero.
    pub fn zeroed() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            xsave: [0; XSAVE],
        }
    }
}
