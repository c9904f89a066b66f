//! Hyper-V's interface on KVM: what KVM has of it, and what it leaves to user mode.
//!
//! | file | idea |
//! |---|---|
//! | `calls` | the hypercalls that KVM leaves to us, as values |
//! | `pages` | a message slot, an event flag in the guest's memory |
//! | `book` | connections, and what waits in them |
//! | `listener` | the thread that hears of events |
//! | `synic` | all of these for a VM, and what KVM has to know of them |

mod book;
mod calls;
mod listener;
mod pages;
mod synic;

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC, KVM_CAP_SYS_HYPERV_CPUID,
    KVM_MAX_CPUID_ENTRIES, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VcpuFd};
use ostler_accel::model::hyperv;
use ostler_accel::{CpuidLeaf, Error};

use crate::kvm::leaf_of;
use crate::sys;

pub use synic::{END_OF_MESSAGE, Synic, answer, deliver, end_message};

/// Where Hyper-V's leaves begin (Hypervisor Top Level Functional Specification 6.0b, 2.4).
const FIRST_LEAF: u32 = 0x4000_0000;

/// What this KVM has of the interface, as the second one of its guests. Nothing before Linux 5.11.
pub fn supported(kvm: &Kvm) -> Result<Vec<CpuidLeaf>, Error> {
    if kvm.check_extension_raw(KVM_CAP_SYS_HYPERV_CPUID.into()) <= 0 {
        return Ok(Vec::new());
    }
    let failed = |e| Error::host("list what KVM has of Hyper-V's interface", e);
    let mut entries =
        CpuId::new(KVM_MAX_CPUID_ENTRIES).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
    sys::supported_hyperv(kvm, &mut entries).map_err(failed)?;
    Ok(entries
        .as_slice()
        .iter()
        .map(leaf_of)
        .map(|leaf| CpuidLeaf {
            leaf: leaf.leaf.wrapping_sub(FIRST_LEAF).wrapping_add(hyperv::OFFERED),
            subleaf: None,
            ..leaf
        })
        .collect())
}

/// Gives `vcpu` what its CPUID shows of the interface, and holds back what it does not show.
pub fn switch_on(vcpu: &VcpuFd, kvm_enforces: bool, cpuid: &[CpuidLeaf]) -> Result<(), Error> {
    if !hyperv::is_shown(cpuid) {
        return Ok(());
    }
    if kvm_enforces {
        enable(vcpu, KVM_CAP_HYPERV_ENFORCE_CPUID, 1)
            .map_err(|e| Error::host("hold back what a vCPU does not show of Hyper-V's interface", e))?;
    }
    if hyperv::has_synic(cpuid) {
        // The first form of it: KVM clears the pages that the guest places, which are the guest's own memory. The second one is for
        // who puts pages of the hypervisor over these, which would be memory that moves apart from the guest's.
        enable(vcpu, KVM_CAP_HYPERV_SYNIC, 0)
            .map_err(|e| Error::host("give a vCPU Hyper-V's interrupt controller", e))?;
    }
    Ok(())
}

fn enable(vcpu: &VcpuFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    vcpu.enable_cap(&kvm_enable_cap {
        cap,
        args: [argument, 0, 0, 0],
        ..Default::default()
    })
}
