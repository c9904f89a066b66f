//! Hyper-V's interface on KVM: what KVM has of it, and what it leaves to user mode, which is to say no.

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC, KVM_CAP_SYS_HYPERV_CPUID,
    KVM_MAX_CPUID_ENTRIES, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VcpuFd};
use ostler_accel::model::hyperv;
use ostler_accel::{CpuidLeaf, Error};

use crate::kvm::leaf_of;
use crate::sys;

/// Where Hyper-V's leaves begin (Hypervisor Top Level Functional Specification 6.0b, 2.4).
const FIRST_LEAF: u32 = 0x4000_0000;

/// Call codes of HvPostMessage and HvSignalEvent, and what they answer for a connection that is none; what other calls answer
/// (the same specification, chapters 11 and 4, and appendix B).
const POST_MESSAGE: u64 = 0x5c;
const SIGNAL_EVENT: u64 = 0x5d;
const INVALID_CONNECTION: u64 = 0x12;
const INVALID_CALL: u64 = 0x2;

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
        // The first form of it: KVM clears the pages that the guest places. With the second one that would be for user mode, which
        // has no messages of its own to put there.
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

/// What the hypercall with this input value answers: there are no connections and no calls but KVM's own.
pub fn answer(input: u64) -> u64 {
    match input & 0xffff {
        POST_MESSAGE | SIGNAL_EVENT => INVALID_CONNECTION,
        _ => INVALID_CALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypercall_finds_neither_connections_nor_calls() {
        for (input, status) in [
            (0x5c, 0x12),
            (0x1_005d, 0x12),
            (0, 2),
            (0xffff, 2),
            (1 << 16 | 0x50, 2),
        ] {
            assert_eq!(answer(input), status, "{input:#x}");
        }
    }
}
