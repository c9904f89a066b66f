//! CPUID as an instruction, and what this CPU can offer.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use ostler_accel::CpuidLeaf;
use ostler_accel::model::{PARAVIRTUAL_FEATURES, features, xsave_size};

use super::lapic;
use crate::state::{Cpu, cr4, reg};

/// Physical address bits of every model.
pub const PHYSICAL_BITS: u32 = 40;

/// The answer to `leaf` and `subleaf` in a list sorted by both.
fn answer(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> CpuidLeaf {
    let first = leaves.partition_point(|l| l.leaf < leaf);
    leaves[first..]
        .iter()
        .take_while(|l| l.leaf == leaf)
        .find(|l| l.subleaf.is_none_or(|s| s == subleaf))
        .copied()
        .unwrap_or_default()
}

/// True if this CPU's model has the feature called `name`.
pub fn has(cpu: &Cpu, name: &str) -> bool {
    features::has(&cpu.cpuid, name)
}

/// The components that XCR0 may enable.
pub fn xcr0_bits(cpu: &Cpu) -> u64 {
    u64::from(answer(&cpu.cpuid, 0xd, 0).eax)
}

/// MAXPHYADDR.
pub fn physical_bits(cpu: &Cpu) -> u32 {
    match answer(&cpu.cpuid, 0x8000_0008, 0).eax & 0xff {
        0 => 36,
        bits => bits.min(52),
    }
}

/// CPUID.
pub fn execute(cpu: &mut Cpu) {
    let leaf = cpu.gpr[reg::RAX] as u32;
    let subleaf = cpu.gpr[reg::RCX] as u32;
    let mut found = answer(&cpu.cpuid, leaf, subleaf);
    match leaf {
        1 => {
            const OSXSAVE: u32 = 1 << 27;
            const APIC: u32 = 1 << 9;
            if cpu.cr4 & cr4::OSXSAVE != 0 {
                found.ecx |= OSXSAVE;
            }
            if cpu.lapic.base() & lapic::BASE_ENABLE == 0 {
                found.edx &= !APIC;
            }
        }
        // A subleaf past the last still names itself and the CPU.
        0xb => {
            found.edx = cpu.id;
            found.ecx |= subleaf & 0xff;
        }
        0xd if subleaf == 0 => found.ebx = xsave_size(&cpu.cpuid, cpu.xcr0 as u32),
        0xd if subleaf == 1 => found.ebx = xsave_size(&cpu.cpuid, cpu.xcr0 as u32),
        0x8000_0001 if cpu.lapic.base() & lapic::BASE_ENABLE == 0 => found.edx &= !(1 << 9),
        _ => {}
    }
    for (register, value) in [
        (reg::RAX, found.eax),
        (reg::RBX, found.ebx),
        (reg::RCX, found.ecx),
        (reg::RDX, found.edx),
    ] {
        cpu.gpr[register] = u64::from(value);
    }
}

/// Features that this CPU implements itself, whatever the host.
const OWN: &[&str] = &[
    "fpu",
    "vme",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "pni",
    "cx16",
    "pcid",
    "x2apic",
    "tsc_deadline_timer",
    "rdrand",
    "hypervisor",
    "fsgsbase",
    "tsc_adjust",
    "smep",
    "erms",
    "invpcid",
    "rdseed",
    "smap",
    "umip",
    "rdpid",
    "fsrm",
    "spec_ctrl",
    "stibp",
    "arch_capabilities",
    "ssbd",
    "lahf_lm",
    "cr8_legacy",
    "topoext",
    "syscall",
    "nx",
    "pdpe1gb",
    "rdtscp",
    "lm",
    "constant_tsc",
    "ibpb",
    "amd_ssbd",
    "amd_ssb_no",
    "lfence_rdtsc",
    "null_sel_clr_base",
    "srso_no",
    "tsa_sq_no",
    "tsa_l1_no",
];
/// Features whose instructions run on the host's own CPU, if it has them.
const FROM_HOST: &[&str] = &[
    "ssse3",
    "sse4_1",
    "sse4_2",
    "popcnt",
    "pclmulqdq",
    "aes",
    "movbe",
    "abm",
    "misalignsse",
    "3dnowprefetch",
    "mmxext",
    "adx",
    "sha_ni",
    "clflushopt",
    "clwb",
];
/// The same for those with YMM state: they need the host's XSAVE, too.
const FROM_HOST_YMM: &[&str] = &["avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "vaes", "vpclmulqdq"];
/// XSAVE itself and the parts of it that are offered with it.
const XSAVE: &[&str] = &["xsave", "xsaveopt", "xsavec", "xgetbv1"];

/// What the host's CPU answers.
fn host(leaf: u32, subleaf: u32) -> CpuidLeaf {
    let highest = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > highest {
        return CpuidLeaf::default();
    }
    let r = __cpuid_count(leaf, subleaf);
    CpuidLeaf {
        leaf,
        subleaf: Some(subleaf),
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

fn host_has(name: &str) -> bool {
    features::named(name).is_some_and(|f| f.register.of(&host(f.leaf, f.subleaf)) & f.mask() != 0)
}

/// The names of all features that this CPU offers on this host.
fn offered() -> Vec<&'static str> {
    let mut names = OWN.to_vec();
    names.extend(FROM_HOST.iter().filter(|n| host_has(n)));
    if std::is_x86_feature_detected!("avx") {
        names.extend(XSAVE);
        names.extend(FROM_HOST_YMM.iter().filter(|n| host_has(n)));
    }
    names
}

fn leaf(leaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
    CpuidLeaf {
        leaf,
        subleaf: None,
        eax,
        ebx,
        ecx,
        edx,
    }
}

fn sub(number: u32, subleaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
    CpuidLeaf {
        subleaf: Some(subleaf),
        ..leaf(number, eax, ebx, ecx, edx)
    }
}

/// Three registers' worth of text, as in leaf 0 and the brand string.
fn text(bytes: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|n| {
        u32::from_le_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]])
    })
}

/// Every leaf that this CPU can give a guest on this host; `tsc_khz` is the frequency of the TSC.
///
/// The CPU calls itself an AMD processor: x2APIC, TSC deadline and the KVM clock work there as on Intel's, its SYSCALL works in
/// compatibility mode as ours does, and models of both accelerators agree where the project is tested. ARCH_CAPABILITIES states that
/// none of the known side channels needs a work-around, which is true of a CPU that does not speculate on guest privileges.
pub fn supported(tsc_khz: u64) -> Vec<CpuidLeaf> {
    /// Family 0x19 (Zen 3), model 1, stepping 1.
    const SIGNATURE: u32 = 0x00a0_0f11;
    let [auth, enti, c_amd, _] = text(b"AuthenticAMD\0\0\0\0");
    let brand = b"Ostler software CPU, x86-64                     ";
    let khz = tsc_khz.min(u64::from(u32::MAX)) as u32;
    let mut leaves = vec![
        leaf(0, 0x16, auth, c_amd, enti),
        leaf(1, SIGNATURE, 0, 0, 0),
        leaf(6, 1 << 2, 0, 0, 0),
        sub(7, 0, 0, 0, 0, 0),
        // Crystal clock of 1 GHz, which is also the LAPIC timer's: TSC = crystal * khz / 10^6.
        leaf(0x15, 1_000_000, khz, 1_000_000_000, 0),
        leaf(0x16, khz / 1000, khz / 1000, 100, 0),
        leaf(0x4000_0000, 0x4000_0010, 0x4b4d_564b, 0x564b_4d56, 0x4d),
        leaf(0x4000_0001, PARAVIRTUAL_FEATURES, 0, 0, 0),
        leaf(0x4000_0010, khz, 1_000_000, 0, 0),
        leaf(0x8000_0000, 0x8000_0021, auth, c_amd, enti),
        leaf(0x8000_0001, SIGNATURE, 0, 0, 0),
        leaf(0x8000_0005, 0xff48_ff40, 0xff48_ff40, 0x2008_0140, 0x2008_0140),
        leaf(0x8000_0006, 0x5c00_2200, 0x6c00_4200, 0x0200_6140, 0x0080_9140),
        leaf(0x8000_0007, 0, 0, 0, 0),
        leaf(0x8000_0008, PHYSICAL_BITS | 48 << 8, 0, 0, 0),
        sub(0x8000_001d, 0, 0x121, 63 | 7 << 22, 63, 0),
        sub(0x8000_001d, 1, 0x122, 63 | 7 << 22, 63, 0),
        sub(0x8000_001d, 2, 0x143, 63 | 7 << 22, 1023, 2),
        sub(0x8000_001d, 3, 0x163, 63 | 15 << 22, 16383, 1),
        leaf(0x8000_001e, 0, 0, 0, 0),
        leaf(0x8000_0021, 0, 0, 0, 0),
    ];
    for n in 0..3u32 {
        let mut piece = [0u8; 16];
        piece.copy_from_slice(&brand[16 * n as usize..][..16]);
        let [a, b, c, d] = text(&piece);
        leaves.push(leaf(0x8000_0002 + n, a, b, c, d));
    }
    let names = offered();
    if names.contains(&"xsave") {
        leaves.push(sub(0xd, 0, 7, 576, 832, 0));
        leaves.push(sub(0xd, 1, 0, 0, 0, 0));
        leaves.push(sub(0xd, 2, 256, 576, 0, 0));
    }
    for feature in names.iter().filter_map(|n| features::named(n)) {
        let place = leaves
            .iter_mut()
            .find(|l| l.leaf == feature.leaf && l.subleaf.unwrap_or(0) == feature.subleaf);
        if let Some(place) = place {
            *feature.register.of_mut(place) |= feature.mask();
        }
    }
    repeat_for_amd(&mut leaves);
    leaves.sort_by_key(|l| (l.leaf, l.subleaf));
    leaves
}

/// Leaf 0x80000001 EDX repeats bits of leaf 1 EDX.
fn repeat_for_amd(leaves: &mut [CpuidLeaf]) {
    let basic = leaves.iter().find(|l| l.leaf == 1).map_or(0, |l| l.edx);
    for l in leaves.iter_mut().filter(|l| l.leaf == 0x8000_0001) {
        l.edx |= basic & features::AMD_ALIASES;
    }
}

#[cfg(test)]
mod tests {
    use ostler_accel::model::{self, Topology};

    use super::*;

    #[test]
    fn the_levels_of_the_psabi_can_be_built() {
        let supported = supported(2_500_000);
        for name in ["x86-64-v1", "x86-64-v2", "max"] {
            model::build(name, &supported, Topology { cpus: 2 }, 1).unwrap();
        }
    }

    #[test]
    fn every_name_in_the_lists_is_a_feature() {
        for name in OWN.iter().chain(FROM_HOST).chain(FROM_HOST_YMM).chain(XSAVE) {
            assert!(features::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_offered_because_the_host_has_it_can_be_executed() {
        // No instructions of their own, or such as SSE has as well.
        const WITHOUT: &[&str] = &["misalignsse", "3dnowprefetch", "mmxext"];
        for name in FROM_HOST.iter().chain(FROM_HOST_YMM) {
            let feature = features::named(name).unwrap();
            let mut leaf = CpuidLeaf {
                leaf: feature.leaf,
                subleaf: Some(feature.subleaf),
                ..CpuidLeaf::default()
            };
            *feature.register.of_mut(&mut leaf) = feature.mask();
            assert_eq!(
                crate::native::features::executes(&[leaf]),
                !WITHOUT.contains(name),
                "{name}"
            );
        }
    }

    #[test]
    fn the_time_leaves_agree() {
        let leaves = supported(2_345_678);
        let crystal = answer(&leaves, 0x15, 0);
        let hz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
        assert_eq!(hz, 2_345_678_000);
        assert_eq!(answer(&leaves, 0x4000_0010, 0).eax, 2_345_678);
        assert_eq!(answer(&leaves, 0x4000_0010, 1234).ebx, 1_000_000);
    }

    #[test]
    fn an_absent_leaf_reads_as_zeroes() {
        let leaves = supported(1_000_000);
        assert_eq!(answer(&leaves, 0x7fff_ffff, 0), CpuidLeaf::default());
        assert_eq!(answer(&leaves, 7, 1), CpuidLeaf::default());
        assert_ne!(answer(&leaves, 0x8000_001d, 3), CpuidLeaf::default());
    }
}
