//! How an instruction stops before its end.

/// An exception on its way into the guest (SDM vol. 3, chapter 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0 to 31 (or any for `INT n`, which the system part delivers itself).
    pub vector: u8,
    /// Error code where the vector has one.
    pub error_code: Option<u32>,
    /// What goes to CR2 (a page fault's linear address) at delivery.
    pub cr2: Option<u64>,
    /// Bits to set in DR6 (a debug exception's causes) at delivery.
    pub dr6: u64,
}

/// Exception vectors.
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// BOUND.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// SIMD error.
    pub const XM: u8 = 19;
}

impl Exception {
    /// An exception without an error code.
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            cr2: None,
            dr6: 0,
        }
    }

    /// An exception with an error code.
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            cr2: None,
            dr6: 0,
        }
    }

    /// Invalid opcode.
    pub const fn ud() -> Self {
        Self::plain(vector::UD)
    }

    /// Device not available.
    pub const fn nm() -> Self {
        Self::plain(vector::NM)
    }

    /// Divide error.
    pub const fn de() -> Self {
        Self::plain(vector::DE)
    }

    /// General protection.
    pub const fn gp(code: u32) -> Self {
        Self::with_code(vector::GP, code)
    }

    /// Stack fault.
    pub const fn ss(code: u32) -> Self {
        Self::with_code(vector::SS, code)
    }

    /// Segment not present.
    pub const fn np(code: u32) -> Self {
        Self::with_code(vector::NP, code)
    }

    /// Invalid TSS.
    pub const fn ts(code: u32) -> Self {
        Self::with_code(vector::TS, code)
    }

    /// Page fault at linear address `cr2`.
    pub const fn pf(code: u32, cr2: u64) -> Self {
        Self {
            vector: vector::PF,
            error_code: Some(code),
            cr2: Some(cr2),
            dr6: 0,
        }
    }

    /// Debug exception whose causes are `dr6`.
    pub const fn db(dr6: u64) -> Self {
        Self {
            vector: vector::DB,
            error_code: None,
            cr2: None,
            dr6,
        }
    }
}

/// Why an instruction did not retire. The details are in the [`Cpu`](crate::state::Cpu).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[repr(u8)]
pub enum Stop {
    /// `Cpu::exception` is to be delivered; `Cpu::rip` is the instruction's own address.
    Fault,
    /// `Cpu::exit` needs user mode; afterwards the instruction is executed again and finds the answer in the replay log.
    Exit,
    /// The instruction is about to write to the block that it is part of: execute it again on its own.
    Alone,
}

/// Result of anything that can stop an instruction.
pub type Result<T> = std::result::Result<T, Stop>;

/// Where an instruction that retired goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// At the next instruction.
    Next,
    /// At `Cpu::rip`, which the instruction has set.
    Jump,
}
