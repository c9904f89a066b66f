//! What a tiny guest needs to start in 64-bit mode: page tables and a CPU state.

use ostler_memory::GuestRam;
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use crate::{CpuState, DescriptorTable, Error, Segment, reset_state};

/// Bytes that [`identity_map`] writes: one table of the top level, one of the next, four of the third.
pub const TABLES_SIZE: u64 = 6 * 4096;

const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;
const TWO_MIB: u64 = 2 << 20;

/// Writes page tables at `at` (page aligned) that map the lowest 4 GiB one to one by pages of 2 MiB, writable and
/// executable, for the supervisor. `at` is then what CR3 takes.
pub fn identity_map(ram: &GuestRam, at: u64) -> Result<(), Error> {
    let table = |n: u64| at + n * 4096;
    let mut entries = vec![(table(0), table(1) | PRESENT_WRITABLE)];
    for gigabyte in 0..4 {
        entries.push((table(1) + gigabyte * 8, table(2 + gigabyte) | PRESENT_WRITABLE));
    }
    // The third level is contiguous: 2,048 entries of 2 MiB.
    for page in 0..2048 {
        entries.push((
            table(2) + page * 8,
            (page * TWO_MIB) | PRESENT_WRITABLE | LARGE_PAGE,
        ));
    }
    for (gpa, entry) in entries {
        ram.write_obj(entry, GuestAddress(gpa))
            .map_err(|_| Error::BadState(format!("page tables at {at:#x} do not fit into guest memory")))?;
    }
    Ok(())
}

/// CPU `cpu` in 64-bit mode at privilege level 0 with flat segments, interrupts off, page tables at `cr3`, about to execute
/// `rip` with its stack at `rsp`. There is no descriptor table yet: segments must not be loaded before the guest made one.
pub fn long_mode_state(cpu: u32, rip: u64, rsp: u64, cr3: u64) -> CpuState {
    let mut state = reset_state(cpu);
    let data = Segment {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        rights: 0xc093,
    };
    state.segments = [data; 6];
    state.segments[1] = Segment {
        selector: 0x08,
        base: 0,
        limit: u32::MAX,
        rights: 0xa09b,
    };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.rip = rip;
    state.gpr[4] = rsp;
    state.cr0 = 0x8005_0033;
    state.cr3 = cr3;
    state.cr4 = 0x620;
    state.efer = 0xd00;
    state
}
