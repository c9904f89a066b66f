//! What a guest gets beyond its model because it was asked for by name: what KVM has and the software CPU has not, so that a guest
//! with it can run on KVM alone.

use super::features::{Register, find};
use crate::CpuidLeaf;

/// KVM's own features, as it lists them (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;

/// Something that can be had besides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addition {
    /// What it is asked for by, behind a `+`.
    pub name: &'static str,
    leaf: u32,
    register: Register,
    /// All of these bits, or none.
    mask: u32,
    /// The leaf that describes it further, which guests without it do not see.
    described_by: Option<u32>,
}

pub(super) const ADDITIONS: &[Addition] = &[
    // Protection keys. Their state is in the XSAVE area.
    Addition {
        name: "pku",
        leaf: 7,
        register: Register::Ecx,
        mask: 1 << 3,
        described_by: None,
    },
    // AMD's virtualization; the leaf has its revision, its address spaces, and what of it there is (nested paging ...).
    Addition {
        name: "svm",
        leaf: 0x8000_0001,
        register: Register::Ecx,
        mask: 1 << 2,
        described_by: Some(0x8000_000a),
    },
    // Intel's, described by MSRs, which KVM has.
    Addition {
        name: "vmx",
        leaf: 1,
        register: Register::Ecx,
        mask: 1 << 5,
        described_by: None,
    },
    // Asynchronous page faults: KVM_FEATURE_ASYNC_PF, and KVM_FEATURE_ASYNC_PF_INT, by which the guest hears that a page came.
    Addition {
        name: "kvm-asyncpf",
        leaf: KVM_FEATURES,
        register: Register::Eax,
        mask: 1 << 4 | 1 << 14,
        described_by: None,
    },
];

impl Addition {
    /// The addition of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ADDITIONS.iter().find(|addition| addition.name == name)
    }

    /// Adds it to `leaves` out of what is `supported`; false if it is not.
    pub fn give(&self, leaves: &mut Vec<CpuidLeaf>, supported: &[CpuidLeaf]) -> bool {
        if find(supported, self.leaf, 0).is_none_or(|leaf| self.register.of(leaf) & self.mask != self.mask) {
            return false;
        }
        for leaf in leaves.iter_mut() {
            if leaf.leaf == self.leaf && leaf.subleaf.unwrap_or(0) == 0 {
                *self.register.of_mut(leaf) |= self.mask;
            }
        }
        let described = |leaf: &&CpuidLeaf| Some(leaf.leaf) == self.described_by;
        leaves.extend(supported.iter().filter(described));
        true
    }
}
