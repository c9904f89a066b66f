//! Which model-specific registers belong to the state of a CPU with given CPUID leaves.

use super::has_feature;
use crate::CpuidLeaf;

/// What every model has, in the order in which it is to be restored. IA32_TSC is first, so that a TSC deadline that follows
/// is compared with the right clock; TSC_ADJUST is before it, because setting it moves the TSC.
const ALWAYS: &[u32] = &[
    0x10, // TSC
    0x174,
    0x175,
    0x176, // SYSENTER_CS, _ESP, _EIP
    0x1a0, // MISC_ENABLE
    0x277, // PAT
    0x2ff, // MTRR default type
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084, // STAR, LSTAR, CSTAR, SFMASK
    0xc000_0100,
    0xc000_0101,
    0xc000_0102, // FS base, GS base, kernel GS base
];
/// KVM's paravirtual registers by the bit of leaf 0x40000001 EAX that offers them.
const PARAVIRTUAL: &[(u32, u32)] = &[
    (0, 0x11),
    (0, 0x12), // old clock
    (3, 0x4b56_4d00),
    (3, 0x4b56_4d01), // clock
    (4, 0x4b56_4d02), // asynchronous page faults
    (5, 0x4b56_4d03), // steal time
    (6, 0x4b56_4d04), // end of interrupt
];

/// The MSRs that make up the state of a CPU that answers `leaves`, in the order in which they are to be set.
///
/// IA32_APIC_BASE and EFER are members of [`crate::CpuState`] and not in the list.
pub fn saved_msrs(leaves: &[CpuidLeaf]) -> Vec<u32> {
    let mut msrs = Vec::new();
    if has_feature(leaves, "tsc_adjust") {
        msrs.push(0x3b);
    }
    msrs.extend_from_slice(ALWAYS);
    if has_feature(leaves, "mtrr") {
        msrs.extend(0x200..0x210);
        msrs.extend([0x250, 0x258, 0x259]);
        msrs.extend(0x268..0x270);
    }
    if has_feature(leaves, "spec_ctrl") {
        msrs.push(0x48);
    }
    if has_feature(leaves, "rdtscp") || has_feature(leaves, "rdpid") {
        msrs.push(0xc000_0103);
    }
    if has_feature(leaves, "mca") {
        msrs.extend([0x17a, 0x17b]);
    }
    if has_feature(leaves, "tsc_deadline_timer") {
        msrs.push(0x6e0);
    }
    let offered = super::find(leaves, 0x4000_0001, 0).map_or(0, |l| l.eax);
    msrs.extend(
        PARAVIRTUAL
            .iter()
            .filter(|(bit, _)| offered & (1 << bit) != 0)
            .map(|(_, msr)| msr),
    );
    msrs
}
