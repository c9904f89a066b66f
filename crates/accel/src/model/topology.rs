//! The leaves that differ from vCPU to vCPU: APIC ids and how CPUs share caches.

use super::Topology;
use super::features::{Feature, named};
use crate::CpuidLeaf;

/// Bits that hold the number of a CPU in its package: 0 for one CPU.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// Writes the topology of vCPU `cpu` into `leaves`. `cpu` is below `topology.cpus`, which is at most [`super::MAX_CPUS`].
pub fn apply(leaves: &mut Vec<CpuidLeaf>, topology: Topology, cpu: u32) {
    let cpus = topology.cpus;
    leaves.retain(|l| !matches!(l.leaf, 0xb | 0x1f));
    leaves.extend(extended_topology(cpus, cpu));
    set(leaves, "ht", cpus > 1);
    for leaf in leaves.iter_mut() {
        match leaf.leaf {
            // Leaf 0xB has to be within reach.
            0 => leaf.eax = leaf.eax.max(0xb),
            1 => leaf.ebx = leaf.ebx & 0xff | 8 << 8 | (1 << id_bits(cpus)).min(255) << 16 | cpu << 24,
            4 => leaf.eax = leaf.eax & 0x3fff | intel_sharing(leaf.eax, cpus),
            // NC and ApicIdSize (APM vol. 3, E.4.7).
            0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | (cpus - 1) | id_bits(cpus) << 12,
            0x8000_001d => leaf.eax = leaf.eax & 0x3fff | amd_sharing(leaf.eax, cpus),
            0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (cpu, cpu, 0, 0),
            _ => {}
        }
    }
    if leaves.iter().any(|l| l.leaf == 0x8000_001e) {
        set(leaves, "cmp_legacy", cpus > 1);
    }
}

/// Leaf 0xB: one thread a core, all cores in one package (SDM vol. 2, CPUID leaf 0BH).
fn extended_topology(cpus: u32, cpu: u32) -> [CpuidLeaf; 3] {
    let level = |subleaf, shift, count, kind: u32| CpuidLeaf {
        leaf: 0xb,
        subleaf: Some(subleaf),
        eax: shift,
        ebx: count,
        ecx: subleaf | kind << 8,
        edx: cpu,
    };
    [
        level(0, 0, 1, 1),
        level(1, id_bits(cpus), cpus, 2),
        level(2, 0, 0, 0),
    ]
}

/// Bits 14 to 31 of leaf 4 EAX: who shares the cache, and how many cores the package has.
fn intel_sharing(eax: u32, cpus: u32) -> u32 {
    const NO_CACHE: u32 = 0;
    if eax & 0x1f == NO_CACHE {
        return 0;
    }
    let ids = (1u32 << id_bits(cpus)) - 1;
    let sharing = if eax >> 5 & 7 >= 3 { ids } else { 0 };
    sharing << 14 | ids.min(63) << 26
}

/// Bits 14 to 25 of leaf 0x8000001D EAX: the last level is the package's, the others a core's.
fn amd_sharing(eax: u32, cpus: u32) -> u32 {
    let shared = eax & 0x1f != 0 && eax >> 5 & 7 >= 3;
    if shared { (cpus - 1) << 14 } else { 0 }
}

fn set(leaves: &mut [CpuidLeaf], name: &str, on: bool) {
    let Some(&Feature {
        leaf,
        subleaf,
        register,
        bit,
        ..
    }) = named(name)
    else {
        return;
    };
    for found in leaves
        .iter_mut()
        .filter(|l| l.leaf == leaf && l.subleaf.unwrap_or(0) == subleaf)
    {
        let word = register.of_mut(found);
        *word = if on { *word | 1 << bit } else { *word & !(1 << bit) };
    }
}
