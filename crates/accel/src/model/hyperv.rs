//! Hyper-V's interface, which Windows looks for, by the enlightenments that were asked for (Hypervisor Top Level Functional
//! Specification 6.0b, chapter 2: leaves 0x40000000 to 0x40000005).
//!
//! An accelerator that has it lists it as the second interface of its guests, from [`OFFERED`] on, where no guest looks for it.
//! A guest that is given it finds it first, at 0x40000000, and KVM's own behind it.

use super::Error;
use super::features::{Register, find};
use crate::CpuidLeaf;

/// Where an accelerator lists what it has of the interface.
pub const OFFERED: u32 = 0x4000_0100;

/// Where a guest looks for the first interface of its hypervisor, and for further ones.
const FIRST: u32 = 0x4000_0000;
const SECOND: u32 = 0x4000_0100;

/// "Microsoft Hv" in EBX, ECX, EDX.
const VENDOR: [u32; 3] = [0x7263_694d, 0x666f_736f, 0x7648_2074];
/// "Hv#1" in EAX of leaf 1.
const INTERFACE: u32 = 0x3123_7648;

/// Leaves of the interface from its first one on.
const VERSION: u32 = 2;
const FEATURES: u32 = 3;
const RECOMMENDATIONS: u32 = 4;
const LIMITS: u32 = 5;

/// What every guest with the interface has: hypercalls (`FEATURES` EAX), and CPUs that come (`FEATURES` EDX), which is said for
/// Windows, as KVM has nothing to do with it.
const HYPERCALLS: u32 = 1 << 5;
const CPUS_COME: u32 = 1 << 3;
/// With a synthetic interrupt controller, messages and events by hypercall (`FEATURES` EBX).
const MESSAGES_AND_EVENTS: u32 = 1 << 4 | 1 << 5;
/// A CPU that spins never tells (`RECOMMENDATIONS` EBX).
const SPIN_FOREVER: u32 = u32::MAX;

/// The name before the number of retries.
const SPINLOCKS: &str = "hv-spinlocks";
/// As the daemon's definitions have it (libvirt: at least 4095).
const LEAST_RETRIES: u32 = 0xfff;

/// Something of the interface that can be asked for.
#[derive(Debug, PartialEq, Eq)]
struct Enlightenment {
    name: &'static str,
    bits: &'static [(u32, Register, u32)],
    needs: &'static [&'static str],
}

const fn enlightenment(
    name: &'static str,
    bits: &'static [(u32, Register, u32)],
    needs: &'static [&'static str],
) -> Enlightenment {
    Enlightenment { name, bits, needs }
}

const SYNIC: Enlightenment = enlightenment("hv-synic", &[(FEATURES, Register::Eax, 1 << 2)], &["hv-vpindex"]);

const ENLIGHTENMENTS: &[Enlightenment] = &[
    enlightenment("hv-relaxed", &[(RECOMMENDATIONS, Register::Eax, 1 << 5)], &[]),
    enlightenment(
        "hv-vapic",
        &[
            (FEATURES, Register::Eax, 1 << 4),
            (RECOMMENDATIONS, Register::Eax, 1 << 3),
        ],
        &[],
    ),
    enlightenment("hv-vpindex", &[(FEATURES, Register::Eax, 1 << 6)], &[]),
    enlightenment("hv-runtime", &[(FEATURES, Register::Eax, 1)], &[]),
    SYNIC,
    enlightenment(
        "hv-stimer",
        &[(FEATURES, Register::Eax, 1 << 3)],
        &["hv-synic", "hv-time"],
    ),
    enlightenment(
        "hv-stimer-direct",
        &[(FEATURES, Register::Edx, 1 << 19)],
        &["hv-stimer"],
    ),
    enlightenment("hv-time", &[(FEATURES, Register::Eax, 1 << 1 | 1 << 9)], &[]),
    enlightenment("hv-reset", &[(FEATURES, Register::Eax, 1 << 7)], &[]),
    enlightenment(
        "hv-frequencies",
        &[
            (FEATURES, Register::Eax, 1 << 11),
            (FEATURES, Register::Edx, 1 << 8),
        ],
        &[],
    ),
    // With sets of CPUs beyond the first 64.
    enlightenment(
        "hv-tlbflush",
        &[(RECOMMENDATIONS, Register::Eax, 1 << 2 | 1 << 11)],
        &["hv-vpindex"],
    ),
    enlightenment(
        "hv-ipi",
        &[(RECOMMENDATIONS, Register::Eax, 1 << 10 | 1 << 11)],
        &["hv-vpindex"],
    ),
];

/// All that can be asked for, as it is written.
pub(super) fn names() -> impl Iterator<Item = String> {
    let plain = ENLIGHTENMENTS.iter().map(|e| e.name.to_owned());
    plain.chain([format!("{SPINLOCKS}=RETRIES")])
}

/// True if an accelerator that supports these leaves has the interface. Whose it is does not matter: KVM says its own.
fn is_offered(supported: &[CpuidLeaf]) -> bool {
    find(supported, OFFERED + 1, 0).is_some_and(|leaf| leaf.eax == INTERFACE)
}

/// What can be asked for of an accelerator that supports these leaves, without `=RETRIES`.
pub fn names_in(supported: &[CpuidLeaf]) -> impl Iterator<Item = &'static str> {
    let there = is_offered(supported);
    let plain = ENLIGHTENMENTS
        .iter()
        .filter(|enlightenment| enlightenment.is_in(supported));
    plain
        .map(|enlightenment| enlightenment.name)
        .chain([SPINLOCKS])
        .filter(move |_| there)
}

impl Enlightenment {
    fn is_in(&self, supported: &[CpuidLeaf]) -> bool {
        self.bits.iter().all(|(number, register, mask)| {
            find(supported, OFFERED + number, 0).is_some_and(|leaf| register.of(leaf) & mask == *mask)
        })
    }
}

/// What of the interface a guest is to have.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    enlightenments: Vec<&'static Enlightenment>,
    retries: Option<u32>,
}

impl Wanted {
    /// Takes `wish`; false if it is none of these.
    pub fn add(&mut self, wish: &str) -> bool {
        if let Some(retries) = wish
            .strip_prefix(SPINLOCKS)
            .and_then(|rest| rest.strip_prefix('='))
        {
            self.retries = retries
                .parse()
                .ok()
                .filter(|&retries: &u32| retries >= LEAST_RETRIES);
            return self.retries.is_some();
        }
        let found = ENLIGHTENMENTS.iter().find(|e| e.name == wish);
        self.enlightenments.extend(found);
        found.is_some()
    }

    /// Refuses what cannot be without something else.
    pub fn check(&self) -> Result<(), Error> {
        for enlightenment in &self.enlightenments {
            if let Some(missing) = enlightenment.needs.iter().find(|name| !self.has(name)) {
                return Err(Error::Needs {
                    wish: enlightenment.name,
                    needs: missing,
                });
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.enlightenments.iter().any(|e| e.name == name)
    }

    /// The first that is asked for.
    fn first(&self) -> Option<&'static str> {
        let spinlocks = self.retries.map(|_| SPINLOCKS);
        self.enlightenments.first().map(|e| e.name).or(spinlocks)
    }

    /// Gives `leaves` the interface as far as it is wanted, out of what is `supported`; else there is none of it. The error is the
    /// name of what is not supported.
    pub fn apply(&self, leaves: &mut Vec<CpuidLeaf>, supported: &[CpuidLeaf]) -> Result<(), &'static str> {
        leaves.retain(|leaf| !(OFFERED..OFFERED + 0x100).contains(&leaf.leaf));
        let Some(first) = self.first() else {
            return Ok(());
        };
        let offered = |number: u32| find(supported, OFFERED + number, 0);
        let Some(version) = offered(VERSION).filter(|_| is_offered(supported)) else {
            return Err(first);
        };
        let mut features = leaf(FIRST + FEATURES, [HYPERCALLS, 0, 0, CPUS_COME]);
        let mut recommendations = leaf(
            FIRST + RECOMMENDATIONS,
            [0, self.retries.unwrap_or(SPIN_FOREVER), 0, 0],
        );
        for enlightenment in &self.enlightenments {
            if !enlightenment.is_in(supported) {
                return Err(enlightenment.name);
            }
            for (number, register, mask) in enlightenment.bits {
                let answer = if *number == FEATURES {
                    &mut features
                } else {
                    &mut recommendations
                };
                *register.of_mut(answer) |= mask;
            }
        }
        if self.has(SYNIC.name) {
            features.ebx |= MESSAGES_AND_EVENTS;
        }
        move_to_second(leaves);
        let [ebx, ecx, edx] = VENDOR;
        leaves.extend([
            leaf(FIRST, [FIRST + LIMITS, ebx, ecx, edx]),
            leaf(FIRST + 1, [INTERFACE, 0, 0, 0]),
            CpuidLeaf {
                leaf: FIRST + VERSION,
                ..*version
            },
            features,
            recommendations,
        ]);
        leaves.extend(offered(LIMITS).map(|limits| CpuidLeaf {
            leaf: FIRST + LIMITS,
            ..*limits
        }));
        Ok(())
    }
}

/// What was first is second.
fn move_to_second(leaves: &mut [CpuidLeaf]) {
    for leaf in leaves {
        if (FIRST..SECOND).contains(&leaf.leaf) {
            leaf.leaf += SECOND - FIRST;
            if leaf.leaf == SECOND {
                leaf.eax = leaf.eax.saturating_add(SECOND - FIRST);
            }
        }
    }
}

fn leaf(number: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidLeaf {
    CpuidLeaf {
        leaf: number,
        subleaf: None,
        eax,
        ebx,
        ecx,
        edx,
    }
}

/// True if a CPU that answers `leaves` shows its guest Hyper-V's interface.
pub fn is_shown(leaves: &[CpuidLeaf]) -> bool {
    find(leaves, FIRST, 0).is_some_and(|leaf| [leaf.ebx, leaf.ecx, leaf.edx] == VENDOR)
}

/// True if a CPU that answers `leaves` has Hyper-V's synthetic interrupt controller.
pub fn has_synic(leaves: &[CpuidLeaf]) -> bool {
    is_shown(leaves)
        && find(leaves, FIRST + FEATURES, 0).is_some_and(|leaf| {
            SYNIC
                .bits
                .iter()
                .all(|(_, register, mask)| register.of(leaf) & mask != 0)
        })
}

#[cfg(test)]
mod tests;
