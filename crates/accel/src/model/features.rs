//! The feature bits of CPUID that a model can name (SDM vol. 2, CPUID; APM vol. 3, appendix E).

use crate::CpuidLeaf;

/// A register of a CPUID answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// The register's value in `leaf`.
    pub fn of(self, leaf: &CpuidLeaf) -> u32 {
        match self {
            Self::Eax => leaf.eax,
            Self::Ebx => leaf.ebx,
            Self::Ecx => leaf.ecx,
            Self::Edx => leaf.edx,
        }
    }

    /// The register in `leaf`, to be changed.
    pub fn of_mut(self, leaf: &mut CpuidLeaf) -> &mut u32 {
        match self {
            Self::Eax => &mut leaf.eax,
            Self::Ebx => &mut leaf.ebx,
            Self::Ecx => &mut leaf.ecx,
            Self::Edx => &mut leaf.edx,
        }
    }
}

/// Where a feature's bit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The name, as /proc/cpuinfo spells it.
    pub name: &'static str,
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; 0 where the leaf ignores it.
    pub subleaf: u32,
    /// Register of the answer.
    pub register: Register,
    /// Bit number.
    pub bit: u32,
}

/// The feature words: every bit outside them passes or stays as the accelerator gives it.
pub const WORDS: &[(u32, u32, Register)] = &[
    (1, 0, Register::Ecx),
    (1, 0, Register::Edx),
    (7, 0, Register::Ebx),
    (7, 0, Register::Ecx),
    (7, 0, Register::Edx),
    (7, 1, Register::Eax),
    (7, 1, Register::Ebx),
    (7, 1, Register::Ecx),
    (7, 1, Register::Edx),
    (7, 2, Register::Edx),
    (0xd, 1, Register::Eax),
    (0x8000_0001, 0, Register::Ecx),
    (0x8000_0001, 0, Register::Edx),
    (0x8000_0007, 0, Register::Edx),
    (0x8000_0008, 0, Register::Ebx),
    (0x8000_0021, 0, Register::Eax),
    (0x8000_0021, 0, Register::Ebx),
    (0x8000_0021, 0, Register::Ecx),
];

macro_rules! features {
    ($( $leaf:literal / $sub:literal $reg:ident { $($bit:literal $name:literal)* } )*) => {
        /// Every feature that has a name here.
        pub const FEATURES: &[Feature] = &[
            $($(Feature { name: $name, leaf: $leaf, subleaf: $sub, register: Register::$reg, bit: $bit },)*)*
        ];
    };
}

features! {
    1 / 0 Ecx {
        0 "pni" 1 "pclmulqdq" 2 "dtes64" 3 "monitor" 4 "ds_cpl" 5 "vmx" 6 "smx" 9 "ssse3" 12 "fma" 13 "cx16" 15 "pdcm"
        17 "pcid" 19 "sse4_1" 20 "sse4_2" 21 "x2apic" 22 "movbe" 23 "popcnt" 24 "tsc_deadline_timer" 25 "aes" 26 "xsave"
        28 "avx" 29 "f16c" 30 "rdrand" 31 "hypervisor"
    }
    1 / 0 Edx {
        0 "fpu" 1 "vme" 2 "de" 3 "pse" 4 "tsc" 5 "msr" 6 "pae" 7 "mce" 8 "cx8" 9 "apic" 11 "sep" 12 "mtrr" 13 "pge"
        14 "mca" 15 "cmov" 16 "pat" 17 "pse36" 19 "clflush" 21 "dts" 23 "mmx" 24 "fxsr" 25 "sse" 26 "sse2" 28 "ht"
    }
    7 / 0 Ebx {
        0 "fsgsbase" 1 "tsc_adjust" 2 "sgx" 3 "bmi1" 5 "avx2" 7 "smep" 8 "bmi2" 9 "erms" 10 "invpcid" 14 "mpx" 18 "rdseed"
        19 "adx" 20 "smap" 23 "clflushopt" 24 "clwb" 25 "intel_pt" 29 "sha_ni"
    }
    7 / 0 Ecx { 2 "umip" 3 "pku" 4 "ospke" 7 "shstk" 9 "vaes" 10 "vpclmulqdq" 22 "rdpid" 23 "kl" 30 "sgx_lc" 31 "pks" }
    7 / 0 Edx {
        4 "fsrm" 5 "uintr" 19 "arch_lbr" 20 "ibt" 22 "amx_bf16" 24 "amx_tile" 25 "amx_int8" 26 "spec_ctrl" 27 "stibp"
        29 "arch_capabilities" 31 "ssbd"
    }
    7 / 1 Eax { 8 "arch_perfmon_ext" 21 "amx_fp16" }
    7 / 1 Edx { 8 "amx_complex" 21 "apx_f" }
    0xd / 1 Eax { 0 "xsaveopt" 1 "xsavec" 2 "xgetbv1" 3 "xsaves" 4 "xfd" }
    0x80000001 / 0 Ecx {
        0 "lahf_lm" 1 "cmp_legacy" 2 "svm" 4 "cr8_legacy" 5 "abm" 6 "sse4a" 7 "misalignsse" 8 "3dnowprefetch" 10 "ibs"
        15 "lwp" 22 "topoext" 23 "perfctr_core" 24 "perfctr_nb" 28 "perfctr_llc"
    }
    0x80000001 / 0 Edx {
        11 "syscall" 20 "nx" 22 "mmxext" 25 "fxsr_opt" 26 "pdpe1gb" 27 "rdtscp" 29 "lm"
    }
    0x80000007 / 0 Edx { 8 "constant_tsc" }
    0x80000008 / 0 Ebx { 0 "clzero" 2 "xsaveerptr" 12 "ibpb" 24 "amd_ssbd" 26 "amd_ssb_no" }
    0x80000021 / 0 Eax { 2 "lfence_rdtsc" 6 "null_sel_clr_base" 29 "srso_no" }
    0x80000021 / 0 Ecx { 1 "tsa_sq_no" 2 "tsa_l1_no" }
}

/// The bits that Intel's and AMD's leaf 0x80000001 EDX shares with leaf 1 EDX (AMD repeats them).
pub const AMD_ALIASES: u32 = 0x0183_f3ff;

/// The feature of that name.
pub fn named(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.name == name)
}

impl Feature {
    /// The feature's bit as a mask.
    pub fn mask(&self) -> u32 {
        1 << self.bit
    }

    /// True if `leaves` have the feature.
    pub fn is_in(&self, leaves: &[CpuidLeaf]) -> bool {
        find(leaves, self.leaf, self.subleaf).is_some_and(|l| self.register.of(l) & self.mask() != 0)
    }
}

/// The answer to `leaf` and `subleaf` in `leaves`, if it is listed.
pub fn find(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> Option<&CpuidLeaf> {
    leaves
        .iter()
        .find(|l| l.leaf == leaf && l.subleaf.is_none_or(|s| s == subleaf))
}

/// True if `leaves` have the feature called `name`.
///
/// # Panics
/// If no feature has that name; names are constants of the program.
pub fn has(leaves: &[CpuidLeaf], name: &str) -> bool {
    named(name)
        .unwrap_or_else(|| panic!("no CPUID feature is called {name}"))
        .is_in(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_features_share_a_bit_or_a_name_and_each_is_in_a_word() {
        for (i, a) in FEATURES.iter().enumerate() {
            assert!(WORDS.contains(&(a.leaf, a.subleaf, a.register)), "{}", a.name);
            for b in &FEATURES[i + 1..] {
                assert_ne!(a.name, b.name);
                assert_ne!(
                    (a.leaf, a.subleaf, a.register, a.bit),
                    (b.leaf, b.subleaf, b.register, b.bit)
                );
            }
        }
    }
}
