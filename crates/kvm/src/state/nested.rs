//! A guest that runs guests of its own (KVM's documentation, 4.114 KVM_GET_NESTED_STATE).
//!
//! What such a guest's CPU is within one of them is in no form but KVM's own, so that state is not carried anywhere: it is looked
//! at, refused, and ended by a reset.

use kvm_bindings::{
    KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_FORMAT_VMX, KVM_STATE_NESTED_GIF_SET,
    KVM_STATE_NESTED_GUEST_MODE, nested::KvmNestedStateBuffer,
};
use kvm_ioctls::VcpuFd;
use ostler_accel::model::features::named;
use ostler_accel::model::has_feature;
use ostler_accel::{CpuidLeaf, Error};

/// Bytes of a nested state that has no more than its header.
const HEADER: u32 = 128;
/// No address: the guest is not in VMX operation.
const NOWHERE: u64 = u64::MAX;

/// True if a CPU that answers `leaves` can run guests.
pub fn is_offered(leaves: &[CpuidLeaf]) -> bool {
    has_feature(leaves, "svm") || has_feature(leaves, "vmx")
}

/// Takes the features by which a CPU runs guests from what KVM can give.
pub fn take_from(leaf: &mut CpuidLeaf) {
    for feature in ["svm", "vmx"].into_iter().filter_map(named) {
        if leaf.leaf == feature.leaf {
            *feature.register.of_mut(leaf) &= !feature.mask();
        }
    }
}

fn read(fd: &VcpuFd) -> Result<KvmNestedStateBuffer, Error> {
    let mut state = KvmNestedStateBuffer::empty();
    fd.nested_state(&mut state)
        .map_err(|e| Error::host("ask whether a vCPU is within a guest of the guest", e))?;
    Ok(state)
}

fn has_flag(state: &KvmNestedStateBuffer, flag: u32) -> bool {
    u32::from(state.flags) & flag != 0
}

/// True if the vCPU is within a guest of the guest, so that its registers are that one's.
pub fn is_within(fd: &VcpuFd) -> Result<bool, Error> {
    read(fd).map(|state| has_flag(&state, KVM_STATE_NESTED_GUEST_MODE))
}

/// Refuses a vCPU that is more than its registers.
pub fn refuse_within(fd: &VcpuFd) -> Result<(), Error> {
    if is_plain(&read(fd)?) {
        return Ok(());
    }
    Err(Error::Unsupported(
        "the guest runs guests of its own, whose state cannot be carried; stop them first".into(),
    ))
}

/// True if registers and MSRs are all there is to a vCPU: with SVM, it is in no guest and takes interrupts (global interrupt
/// flag); with VMX, it is not in VMX operation.
fn is_plain(state: &KvmNestedStateBuffer) -> bool {
    if u32::from(state.format) == KVM_STATE_NESTED_FORMAT_VMX {
        // SAFETY: the format says which member of the union the kernel filled; it is plain data.
        let vmx = unsafe { state.hdr.vmx };
        return vmx.vmxon_pa == NOWHERE;
    }
    !has_flag(state, KVM_STATE_NESTED_GUEST_MODE) && has_flag(state, KVM_STATE_NESTED_GIF_SET)
}

/// Ends what guests of the guest the vCPU is within, as a reset does.
pub fn leave(fd: &VcpuFd) -> Result<(), Error> {
    let state = read(fd)?;
    if is_plain(&state) {
        return Ok(());
    }
    fd.set_nested_state(&outside(state.format))
        .map_err(|e| Error::host("take a vCPU out of a guest of the guest", e))
}

fn outside(format: u16) -> KvmNestedStateBuffer {
    let mut state = KvmNestedStateBuffer::empty();
    state.size = HEADER;
    state.format = format;
    if u32::from(format) == KVM_STATE_NESTED_FORMAT_SVM {
        state.flags = KVM_STATE_NESTED_GIF_SET as u16;
    } else {
        state.hdr.vmx.vmxon_pa = NOWHERE;
        state.hdr.vmx.vmcs12_pa = NOWHERE;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_to_run_guests_can_be_taken_and_nothing_else() {
        for number in [1, 0x8000_0001] {
            let mut leaf = CpuidLeaf {
                leaf: number,
                ecx: u32::MAX,
                edx: u32::MAX,
                ..Default::default()
            };
            assert!(is_offered(&[leaf]));
            take_from(&mut leaf);
            assert!(!is_offered(&[leaf]));
            assert_eq!((leaf.ecx.count_zeros(), leaf.edx), (1, u32::MAX));
        }
    }

    #[test]
    fn outside_of_all_guests_a_vcpu_is_plain() {
        for format in [KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_FORMAT_VMX] {
            let mut state = outside(format as u16);
            assert!(is_plain(&state), "{format}");
            assert_eq!(
                state.size as usize,
                size_of::<KvmNestedStateBuffer>() - size_of_val(&state.data)
            );
            state.flags |= KVM_STATE_NESTED_GUEST_MODE as u16;
            state.hdr.vmx.vmxon_pa = 0x1000;
            assert!(!is_plain(&state), "{format}");
        }
        let mut held_off = outside(KVM_STATE_NESTED_FORMAT_SVM as u16);
        held_off.flags = 0;
        assert!(!is_plain(&held_off), "interrupts are held off");
    }
}
