//! What a debugger outside of the guest wants of a vCPU.

use crate::CpuState;

/// Which accesses a watchpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// Writes.
    Write,
    /// Reads.
    Read,
    /// Both.
    Access,
}

impl WatchKind {
    /// True if it is for a write (`write`) or a read.
    pub fn includes(self, write: bool) -> bool {
        match self {
            Self::Write => write,
            Self::Read => !write,
            Self::Access => true,
        }
    }
}

/// Bytes that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchpoint {
    /// First linear address.
    pub linear: u64,
    /// How many bytes, at least one.
    pub len: u64,
    /// Which accesses.
    pub kind: WatchKind,
}

impl Watchpoint {
    /// True if an access of `len` bytes at `linear` touches a byte of it.
    pub fn overlaps(&self, linear: u64, len: u64) -> bool {
        linear.wrapping_sub(self.linear) < self.len || self.linear.wrapping_sub(linear) < len
    }
}

/// Where a vCPU is to leave with [`crate::Exit::Debug`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebugRequest {
    /// After one instruction, before which no interrupt is taken.
    pub step: bool,
    /// Before the instructions at these linear addresses. Not while it steps.
    pub breakpoints: Vec<u64>,
    /// Linear addresses where INT3 was put into guest memory, for an accelerator with few breakpoints of its own. Those of the
    /// guest itself are not among them.
    pub patched: Vec<u64>,
    /// After accesses to these bytes.
    pub watchpoints: Vec<Watchpoint>,
}

/// Why a vCPU left for its debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugCause {
    /// The instruction at `rip` has a breakpoint, and was not executed.
    Breakpoint,
    /// The instruction before `rip` touched watched bytes.
    Watchpoint {
        /// The watchpoint's address.
        linear: u64,
        /// What it is for.
        kind: WatchKind,
    },
    /// One instruction was executed, or its exception was delivered.
    Step,
}

/// How many of each a debugger may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugLimits {
    /// Breakpoints and watchpoints together.
    pub points: usize,
    /// A watchpoint may be for reads alone.
    pub reads: bool,
    /// A watchpoint must be 1, 2, 4 or 8 bytes at a multiple of its length.
    pub aligned: bool,
}

/// Bits of the control registers and of EFER that decide about address translation.
mod bits {
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const PRESENT: u64 = 1;
    pub const LARGE: u64 = 1 << 7;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// Guest-physical address of `linear` by the page tables of the CPU in `state` (SDM vol. 3, chapter 4), or `None` where nothing is
/// mapped. Rights are not looked at, and no accessed or dirty bit is set. `read` reads a table's entry of that many bytes, 4 or 8,
/// at a guest-physical address.
pub fn translate(state: &CpuState, linear: u64, read: impl Fn(u64, usize) -> Option<u64>) -> Option<u64> {
    let long = state.efer & bits::EFER_LMA != 0;
    if state.cr0 & bits::CR0_PG == 0 {
        return Some(linear & 0xffff_ffff);
    }
    if !long && linear >> 32 != 0 {
        return None;
    }
    let wide = long || state.cr4 & bits::CR4_PAE != 0;
    let (levels, mut table): (&[u32], u64) = match (long, wide) {
        (true, _) if state.cr4 & bits::CR4_LA57 != 0 => (&[48, 39, 30, 21, 12], state.cr3 & bits::ADDRESS),
        (true, _) => (&[39, 30, 21, 12], state.cr3 & bits::ADDRESS),
        (_, true) => (&[30, 21, 12], state.cr3 & 0xffff_ffe0),
        _ => (&[22, 12], state.cr3 & 0xffff_f000),
    };
    if long && !is_canonical(linear, levels[0] + 9) {
        return None;
    }
    let (size, index_bits) = if wide { (8, 9) } else { (4, 10) };
    for &shift in levels {
        let index = linear >> shift & ((1 << index_bits) - 1);
        let entry = read(table + index * size as u64, size)?;
        if entry & bits::PRESENT == 0 {
            return None;
        }
        let may_be_large = match (shift, wide) {
            (30, true) => long,
            (21, true) => true,
            (22, false) => state.cr4 & bits::CR4_PSE != 0,
            _ => false,
        };
        if shift == 12 || may_be_large && entry & bits::LARGE != 0 {
            let offset = (1u64 << shift) - 1;
            let frame = match (wide, shift) {
                (true, _) => entry & bits::ADDRESS & !offset,
                // PSE-36: bits 13 to 20 are address bits 32 to 39.
                (false, 22) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
                (false, _) => entry & 0xffff_f000,
            };
            return Some(frame | linear & offset);
        }
        table = entry & if wide { bits::ADDRESS } else { 0xffff_f000 };
    }
    None
}

/// True if the bits of `linear` from `bits - 1` on are equal.
fn is_canonical(linear: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    ((linear << unused) as i64 >> unused) as u64 == linear
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reset_state;
    use std::collections::HashMap;

    fn long() -> CpuState {
        let mut state = reset_state(0);
        (state.cr0, state.cr4, state.efer) = (1 << 31 | 1, 1 << 5, 0x500);
        state.cr3 = 0x1000;
        state
    }

    fn walk(state: &CpuState, memory: &[(u64, u64)], linear: u64) -> Option<u64> {
        let memory: HashMap<u64, u64> = memory.iter().copied().collect();
        translate(state, linear, |at, _| memory.get(&at).copied())
    }

    #[test]
    fn without_paging_an_address_is_itself() {
        assert_eq!(walk(&reset_state(0), &[], 0x1234_5678), Some(0x1234_5678));
    }

    #[test]
    fn four_levels_with_pages_of_each_size() {
        let top = 0xffff_8000_0000_0000u64;
        let tables = [
            (0x1000 + 8 * 256, 0x2003),
            (0x2000, 0x3003),
            (0x2008, 0x4000_0083),
            (0x3000, 0x4003),
            (0x3008, 0x60_0083),
            (0x4008, 1 << 63 | 0xabc_d003),
        ];
        let at = |offset| walk(&long(), &tables, top + offset);
        assert_eq!(at(0x1234), Some(0xabc_d234));
        assert_eq!(at(0x20_0321), Some(0x60_0321));
        assert_eq!(at(0x4012_3456), Some(0x4012_3456));
        assert_eq!(at(0), None, "not present");
        assert_eq!(walk(&long(), &tables, top ^ 1 << 50), None, "not canonical");
    }

    #[test]
    fn five_levels() {
        let mut state = long();
        state.cr4 |= 1 << 12;
        let tables = [
            (0x1008, 0x2001),
            (0x2000, 0x3001),
            (0x3000, 0x4001),
            (0x4000, 0x20_0081),
        ];
        assert_eq!(walk(&state, &tables, (1 << 48) + 5), Some(0x20_0005));
    }

    #[test]
    fn pae_and_legacy_tables() {
        let mut state = long();
        state.efer = 0;
        state.cr3 = 0x1020;
        let pae = [(0x1038, 0x2001), (0x2008, 0x3001), (0x3000, 0x1_2345_6001)];
        assert_eq!(walk(&state, &pae, 0xc020_0010), Some(0x1_2345_6010));
        assert_eq!(walk(&state, &pae, 1 << 32), None);
        (state.cr4, state.cr3) = (1 << 4, 0x1000);
        let legacy = [(0x1004, 0x2001), (0x2000, 0x7001), (0x1008, 0x0080_2081)];
        assert_eq!(walk(&state, &legacy, 0x40_0123), Some(0x7123));
        assert_eq!(walk(&state, &legacy, 0x80_0123), Some(0x1_0080_0123));
    }

    #[test]
    fn a_watchpoint_is_touched_by_each_of_its_bytes() {
        let watch = |linear, len| Watchpoint {
            linear,
            len,
            kind: WatchKind::Access,
        };
        assert!(watch(8, 4).overlaps(11, 1) && watch(8, 4).overlaps(0, 9) && watch(8, 1).overlaps(1, 8));
        assert!(!watch(8, 4).overlaps(12, 8) && !watch(8, 4).overlaps(0, 8));
        assert!(watch(u64::MAX, 1).overlaps(u64::MAX - 3, 4));
        assert!(!watch(0, 8).overlaps(u64::MAX - 7, 8));
    }
}
