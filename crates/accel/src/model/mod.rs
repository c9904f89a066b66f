//! Named CPU models: which CPUID leaves a guest's CPUs answer.
//!
//! A model is a list of features that its name promises (the x86-64 psABI levels) and a list of system features that a
//! guest profits from and gets where the accelerator has them (x2APIC, TSC deadline, PCID, SMEP ...). [`build`] cuts
//! what the accelerator supports down to that, adds the topology of the one vCPU, and refuses a model that this host
//! cannot keep. What a guest could not take along when it moves is never offered, nor is what nobody tests: MONITOR,
//! performance counters and traces, and state beyond AVX-512. What KVM alone has is for who asks for it: protection keys, nested
//! virtualization, asynchronous page faults (`additions.rs`) and Hyper-V's interface (`hyperv.rs`). Of KVM's other paravirtual
//! features a guest gets those that both accelerators have.
//!
//! Vendor, family and model number are the accelerator's: on KVM the guest runs on the host's CPU with its errata, so a
//! guest has to see that; the software CPU states its own.

mod additions;
pub mod features;
pub mod hyperv;
mod msrs;
mod topology;

pub use msrs::saved_msrs;

use additions::{ADDITIONS, Addition};
use features::{AMD_ALIASES, FEATURES, Feature, Register, WORDS, find, named};

use crate::CpuidLeaf;

/// Largest number of vCPUs. The initial APIC id has 8 bits with 0xff as the broadcast, and the machine needs the ids above
/// these for its IOAPIC.
pub const MAX_CPUS: u32 = 240;

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No model has that name.
    #[error("there is no CPU model \"{name}\"; the models are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The host lacks features that the model's name promises.
    #[error(
        "this host cannot offer the CPU model \"{name}\": it lacks {missing}; choose another model, or \"max\""
    )]
    Missing {
        /// The model.
        name: String,
        /// What is missing, in /proc/cpuinfo's spelling.
        missing: String,
    },
    /// What is not to be there always is, or what is to be there never is.
    #[error("--cpu cannot do \"{wish}\"; behind the model's name these are understood: {known}")]
    Wish {
        /// What was asked for.
        wish: String,
        /// What can be asked for.
        known: String,
    },
    /// What was asked for besides is not there.
    #[error(
        "what {wish} in --cpu \"{model}\" asks for is not there: KVM has it on some hosts, the software CPU on none; leave it out"
    )]
    Absent {
        /// What was asked for.
        wish: String,
        /// The model with all wishes.
        model: String,
    },
    /// Something of Hyper-V's interface stands on something else.
    #[error("{wish} of a CPU model needs {needs} besides")]
    Needs {
        /// What was asked for.
        wish: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// More CPUs than a topology can have, none at all, or an id that is none of them.
    #[error("a guest cannot have CPU {cpu} of {cpus}; give it 1 to {MAX_CPUS} CPUs with --cpus")]
    Topology {
        /// The CPU asked for.
        cpu: u32,
        /// How many there are to be.
        cpus: u32,
    },
}

/// How a guest's CPUs hang together: one package, one thread a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Number of vCPUs.
    pub cpus: u32,
}

/// A model: what its name promises.
struct Model {
    name: &'static str,
    required: &'static [&'static [&'static str]],
}

/// What every x86-64 has, with the platform's minimum.
const BASELINE: &[&str] = &[
    "fpu", "de", "pse", "tsc", "msr", "pae", "cx8", "apic", "sep", "mtrr", "pge", "cmov", "pat", "clflush",
    "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm",
];
/// psABI level 2.
const LEVEL_2: &[&str] = &["pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt", "lahf_lm"];
/// psABI level 3.
const LEVEL_3: &[&str] = &[
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
];
/// What models take along wherever the accelerator has it: nothing here changes what programs compute.
const SYSTEM: &[&str] = &[
    "vme",
    "mce",
    "mca",
    "pse36",
    "x2apic",
    "tsc_deadline_timer",
    "hypervisor",
    "pcid",
    "rdrand",
    "fsgsbase",
    "tsc_adjust",
    "smep",
    "smap",
    "erms",
    "fsrm",
    "invpcid",
    "rdseed",
    "umip",
    "rdpid",
    "clflushopt",
    "pdpe1gb",
    "rdtscp",
    "constant_tsc",
    "spec_ctrl",
    "stibp",
    "ssbd",
    "arch_capabilities",
    "ibpb",
    "amd_ssbd",
    "amd_ssb_no",
    "cr8_legacy",
    "topoext",
    "cmp_legacy",
    "ht",
    "lfence_rdtsc",
    "null_sel_clr_base",
    "srso_no",
    "tsa_sq_no",
    "tsa_l1_no",
    "mmxext",
    "fxsr_opt",
    "3dnowprefetch",
    "misalignsse",
];
/// Parts of XSAVE that come with it.
const XSAVE_PARTS: &[&str] = &["xsaveopt", "xsavec", "xgetbv1", "xsaveerptr"];
/// Not offered by itself, not even by `max`.
const NEVER: &[&str] = &[
    // Nested virtualization, and what needs the host's help.
    "monitor",
    "vmx",
    "smx",
    "svm",
    "sgx",
    "sgx_lc",
    // Performance counters and traces.
    "pdcm",
    "dtes64",
    "ds_cpl",
    "dts",
    "intel_pt",
    "arch_lbr",
    "arch_perfmon_ext",
    "perfctr_core",
    "perfctr_nb",
    "perfctr_llc",
    "ibs",
    "lwp",
    // State that `trim_xsave` cuts, and how it is saved.
    "mpx",
    "pku",
    "ospke",
    "pks",
    "shstk",
    "ibt",
    "uintr",
    "kl",
    "amx_bf16",
    "amx_tile",
    "amx_int8",
    "amx_fp16",
    "amx_complex",
    "apx_f",
    "xsaves",
    "xfd",
];
/// Leaves that describe those: SGX, counters, traces, tiles, key locker; SVM, encryption, resource control, IBS.
const NEVER_LEAVES: &[u32] = &[
    0xa,
    0xf,
    0x10,
    0x12,
    0x14,
    0x19,
    0x1b,
    0x1c,
    0x1d,
    0x1e,
    0x23,
    0x8000_000a,
    0x8000_001b,
    0x8000_001c,
    0x8000_001f,
    0x8000_0020,
    0x8000_0022,
];
/// Converged vector ISA (AVX10), which only `max` has.
const AVX10_LEAF: u32 = 0x24;

/// KVM's paravirtual features (leaf 0x40000001 EAX) that both accelerators have, so that a guest can move between them: the
/// clock by its old and its new registers, ports that need no delay, steal time, ends of interrupts that need no exit, unhalting,
/// IPIs and yielding by hypercall, and a clock that is the same on all CPUs.
pub const PARAVIRTUAL_FEATURES: u32 =
    1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 13 | 1 << 24;

const MODELS: &[Model] = &[
    Model {
        name: "x86-64-v1",
        required: &[BASELINE],
    },
    Model {
        name: "x86-64-v2",
        required: &[BASELINE, LEVEL_2],
    },
    Model {
        name: "x86-64-v3",
        required: &[BASELINE, LEVEL_2, LEVEL_3],
    },
];
/// All that the accelerator supports on this host; the second is the same by the name that KVM users know.
const ALL_SUPPORTED: &[&str] = &["max", "host"];

/// What can be left out of a model, as by `max,-x2apic`: system features whose absence both accelerators enforce.
const OPTIONAL: &[&str] = &["x2apic", "tsc_deadline_timer", "pcid", "invpcid", "smep", "umip"];

/// The names that [`build`] knows.
pub fn names() -> Vec<&'static str> {
    MODELS
        .iter()
        .map(|m| m.name)
        .chain(ALL_SUPPORTED.iter().copied())
        .collect()
}

/// The features that the model of this name promises; none for a name that is not known, or stands for what there is (`max`).
pub fn promises(name: &str) -> Option<Vec<&'static str>> {
    let model = MODELS.iter().find(|model| model.name == name)?;
    Some(model.required.iter().copied().flatten().copied().collect())
}

/// True if `name` can be had beyond a model on KVM, as by `max,+svm`.
pub fn is_addition(name: &str) -> bool {
    Addition::named(name).is_some()
}

/// Looks at what stands behind a model's name, as [`build`] does before it looks at a host.
///
/// # Errors
/// A feature that always or never is there, and something that cannot be without something else.
pub fn check_wishes(model: &str) -> Result<(), Error> {
    Wishes::parse(model).map(drop)
}

/// True if `leaves` have the feature called `name` (as in /proc/cpuinfo); false for a name that is not known.
pub fn has_feature(leaves: &[CpuidLeaf], name: &str) -> bool {
    named(name).is_some_and(|f| f.is_in(leaves))
}

/// The CPUID leaves of vCPU `cpu` of `model`, out of what the accelerator supports. A model is a name, and features that it is
/// to be without, or to have besides: `max,-x2apic,+pku,hv-relaxed`.
///
/// # Errors
/// An unknown name, a host that lacks what is promised or asked for, a feature that always or never is there, a topology that
/// cannot be.
pub fn build(
    model: &str,
    supported: &[CpuidLeaf],
    topology: Topology,
    cpu: u32,
) -> Result<Vec<CpuidLeaf>, Error> {
    if topology.cpus == 0 || topology.cpus > MAX_CPUS || cpu >= topology.cpus {
        return Err(Error::Topology {
            cpu,
            cpus: topology.cpus,
        });
    }
    let Wishes {
        name,
        without,
        with,
        hyperv,
    } = Wishes::parse(model)?;
    let absent = |wish: String| Error::Absent {
        wish,
        model: model.to_owned(),
    };
    let mut leaves = supported.to_vec();
    leaves.retain(|l| !NEVER_LEAVES.contains(&l.leaf));
    for feature in NEVER.iter().filter_map(|n| named(n)) {
        clear(&mut leaves, feature);
    }
    keep_common_paravirtual(&mut leaves);
    if !ALL_SUPPORTED.contains(&name) {
        let model = MODELS
            .iter()
            .find(|m| m.name == name)
            .ok_or_else(|| Error::Unknown {
                name: name.to_owned(),
                known: names().join(", "),
            })?;
        check_required(model, supported)?;
        keep_only(model, &mut leaves);
        leaves.retain(|l| l.leaf != AVX10_LEAF);
    }
    for feature in without {
        clear(&mut leaves, feature);
    }
    for addition in with {
        if !addition.give(&mut leaves, supported) {
            return Err(absent(format!("+{}", addition.name)));
        }
    }
    hyperv
        .apply(&mut leaves, supported)
        .map_err(|name| absent(name.to_owned()))?;
    trim_xsave(&mut leaves);
    topology::apply(&mut leaves, topology, cpu);
    leaves.sort_by_key(|l| (l.leaf, l.subleaf));
    Ok(leaves)
}

/// A model's name, and what stands behind it.
struct Wishes<'a> {
    name: &'a str,
    /// `-NAME`
    without: Vec<&'static Feature>,
    /// `+NAME`
    with: Vec<&'static Addition>,
    /// `hv-NAME`
    hyperv: hyperv::Wanted,
}

impl<'a> Wishes<'a> {
    fn parse(model: &'a str) -> Result<Self, Error> {
        let (name, wishes) = model.split_once(',').unwrap_or((model, ""));
        let mut parsed = Self {
            name,
            without: Vec::new(),
            with: Vec::new(),
            hyperv: hyperv::Wanted::default(),
        };
        for wish in wishes.split(',').filter(|wish| !wish.is_empty()) {
            if !parsed.take(wish) {
                return Err(Error::Wish {
                    wish: wish.to_owned(),
                    known: known_wishes(),
                });
            }
        }
        parsed.hyperv.check()?;
        Ok(parsed)
    }

    /// False if there is no such wish.
    fn take(&mut self, wish: &str) -> bool {
        let optional = |name: &str| OPTIONAL.contains(&name).then(|| named(name)).flatten();
        if let Some(feature) = wish.strip_prefix('-').and_then(optional) {
            self.without.push(feature);
        } else if let Some(addition) = wish.strip_prefix('+').and_then(Addition::named) {
            self.with.push(addition);
        } else {
            return self.hyperv.add(wish);
        }
        true
    }
}

fn known_wishes() -> String {
    let without = OPTIONAL.iter().map(|name| format!("-{name}"));
    let with = ADDITIONS.iter().map(|addition| format!("+{}", addition.name));
    without
        .chain(with)
        .chain(hyperv::names())
        .collect::<Vec<_>>()
        .join(", ")
}

fn check_required(model: &Model, supported: &[CpuidLeaf]) -> Result<(), Error> {
    let missing: Vec<_> = model
        .required
        .iter()
        .copied()
        .flatten()
        .copied()
        .filter(|n| !has_feature(supported, n))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Missing {
        name: model.name.to_owned(),
        missing: missing.join(", "),
    })
}

/// Clears every feature bit that the model has neither by its name nor as a system feature.
fn keep_only(model: &Model, leaves: &mut [CpuidLeaf]) {
    let with_xsave = model.required.iter().copied().flatten().any(|n| *n == "xsave");
    let parts = if with_xsave { XSAVE_PARTS } else { &[] };
    let wanted = model
        .required
        .iter()
        .copied()
        .flatten()
        .chain(SYSTEM)
        .chain(parts);
    let wanted: Vec<&Feature> = FEATURES
        .iter()
        .filter(|f| wanted.clone().any(|n| *n == f.name))
        .collect();
    for leaf in leaves.iter_mut() {
        for &(number, subleaf, register) in WORDS {
            if leaf.leaf != number || leaf.subleaf.unwrap_or(0) != subleaf {
                continue;
            }
            let mut mask = wanted
                .iter()
                .filter(|f| (f.leaf, f.subleaf, f.register) == (number, subleaf, register))
                .fold(0, |mask, f| mask | f.mask());
            if (number, register) == (0x8000_0001, Register::Edx) {
                mask |= AMD_ALIASES;
            }
            *register.of_mut(leaf) &= mask;
        }
    }
}

fn keep_common_paravirtual(leaves: &mut [CpuidLeaf]) {
    const FEATURES_LEAF: u32 = 0x4000_0001;
    for leaf in leaves.iter_mut().filter(|l| l.leaf == FEATURES_LEAF) {
        leaf.eax &= PARAVIRTUAL_FEATURES;
        // Hints of this host, which the next one need not keep.
        leaf.edx = 0;
    }
}

fn clear(leaves: &mut [CpuidLeaf], feature: &Feature) {
    for leaf in leaves {
        if leaf.leaf == feature.leaf && leaf.subleaf.unwrap_or(0) == feature.subleaf {
            *feature.register.of_mut(leaf) &= !feature.mask();
        }
    }
}

/// Makes leaf 0xD agree with the features: no XSAVE, no leaf; no AVX, no YMM state.
fn trim_xsave(leaves: &mut Vec<CpuidLeaf>) {
    const X87_SSE: u32 = 3;
    const YMM: u32 = 1 << 2;
    const AVX512: u32 = 7 << 5;
    const PKRU: u32 = 1 << 9;
    if !has_feature(leaves, "xsave") {
        leaves.retain(|l| l.leaf != 0xd);
        return;
    }
    let mut keep = X87_SSE;
    if has_feature(leaves, "avx") {
        keep |= YMM;
    }
    if find(leaves, 7, 0).is_some_and(|l| l.ebx & (1 << 16) != 0) {
        keep |= AVX512;
    }
    if has_feature(leaves, "pku") {
        keep |= PKRU;
    }
    let mut components = 0;
    for leaf in leaves
        .iter_mut()
        .filter(|l| l.leaf == 0xd && l.subleaf == Some(0))
    {
        leaf.eax &= keep;
        leaf.edx = 0;
        components = leaf.eax;
    }
    leaves.retain(|l| l.leaf != 0xd || l.subleaf.unwrap_or(0) < 2 || components & bit(l.subleaf) != 0);
    let size = xsave_size(leaves, components);
    for leaf in leaves.iter_mut().filter(|l| l.leaf == 0xd) {
        match leaf.subleaf.unwrap_or(0) {
            0 => (leaf.ebx, leaf.ecx) = (xsave_size(&[], 1), size),
            // Supervisor components are not offered (no XSAVES).
            1 => (leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0),
            _ => {}
        }
    }
}

fn bit(subleaf: Option<u32>) -> u32 {
    subleaf.and_then(|s| 1u32.checked_shl(s)).unwrap_or(0)
}

/// Bytes of the standard-format XSAVE area for the user components in `xcr0` (SDM vol. 1, 13.4).
pub fn xsave_size(leaves: &[CpuidLeaf], xcr0: u32) -> u32 {
    const LEGACY_AND_HEADER: u32 = 576;
    leaves
        .iter()
        .filter(|l| l.leaf == 0xd && l.subleaf.unwrap_or(0) >= 2 && xcr0 & bit(l.subleaf) != 0)
        .map(|l| l.eax.saturating_add(l.ebx))
        .fold(LEGACY_AND_HEADER, u32::max)
}

#[cfg(test)]
mod tests;
