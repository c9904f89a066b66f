//! The few KVM calls that kvm-ioctls lacks or wraps too narrowly.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_bindings::{
    CpuId, KVM_HYPERV_EVENTFD_DEASSIGN, KVMIO, kvm_cpuid2, kvm_hyperv_eventfd, kvm_interrupt, kvm_ioeventfd,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_iow_nr!(KVM_HYPERV_EVENTFD, KVMIO, 0xbd, kvm_hyperv_eventfd);
ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

/// What errno says.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// KVM_IOEVENTFD with every combination of width and value.
pub fn ioeventfd(vm: &VmFd, request: &kvm_ioeventfd) -> io::Result<()> {
    // SAFETY: the descriptor is a VM's and the kernel only reads the structure.
    checked(unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), request) }).map(drop)
}

/// Bytes of the XSAVE area that KVM exchanges by the plain calls.
pub const PLAIN_XSAVE_SIZE: usize = size_of::<kvm_xsave>();

/// Reads the XSAVE area; `size` is what KVM_CAP_XSAVE2 said for the VM, or 0 without it.
pub fn get_xsave(vcpu: &VcpuFd, size: usize) -> io::Result<Vec<u8>> {
    let mut area = vec![0u8; size.max(PLAIN_XSAVE_SIZE)];
    let request = if size != 0 {
        KVM_GET_XSAVE2()
    } else {
        KVM_GET_XSAVE()
    };
    // SAFETY: the descriptor is a vCPU's; the kernel writes at most the size that it announced for this VM (KVM_GET_XSAVE2)
    // or the size of the structure, and `area` is at least that large. Bytes need no alignment for a copy to user memory.
    checked(unsafe { ioctl_with_mut_ptr(vcpu, request, area.as_mut_ptr()) })?;
    Ok(area)
}

/// Writes the XSAVE area, which must have the size that [`get_xsave`] gives.
pub fn set_xsave(vcpu: &VcpuFd, area: &[u8], size: usize) -> io::Result<()> {
    if area.len() < size.max(PLAIN_XSAVE_SIZE) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is a vCPU's, and the kernel reads at most the size that it announced, checked above.
    checked(unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), area.as_ptr()) }).map(drop)
}

/// The descriptor of a vCPU's binary statistics (Linux 5.14).
pub fn stats_fd(vcpu: &VcpuFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is a vCPU's, and the call takes no argument.
    let fd = checked(unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// KVM_INTERRUPT: parks an external interrupt until the guest takes it.
pub fn park_interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let request = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a vCPU's and the kernel only reads the structure.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &request) }).map(drop)
}

/// KVM_GET_SUPPORTED_HV_CPUID of the device (Linux 5.11): fills `entries` and cuts them to what there is.
pub fn supported_hyperv(kvm: &Kvm, entries: &mut CpuId) -> io::Result<()> {
    // SAFETY: the descriptor is KVM's; the structure says how many entries it has room for, and the kernel writes no more.
    checked(unsafe { ioctl_with_mut_ptr(kvm, KVM_GET_SUPPORTED_HV_CPUID(), entries.as_mut_fam_struct_ptr()) })
        .map(drop)
}

/// KVM_HYPERV_EVENTFD (Linux 4.17): HvSignalEvent by `connection` signals `event`, or is the unknown connection's again.
pub fn hyperv_eventfd(vm: &VmFd, connection: u32, event: Option<&EventFd>) -> io::Result<()> {
    let request = kvm_hyperv_eventfd {
        conn_id: connection,
        fd: event.map_or(-1, AsRawFd::as_raw_fd),
        flags: event.map_or(KVM_HYPERV_EVENTFD_DEASSIGN, |_| 0),
        ..Default::default()
    };
    // SAFETY: the descriptor is a VM's and the kernel only reads the structure.
    checked(unsafe { ioctl_with_ref(vm, KVM_HYPERV_EVENTFD(), &request) }).map(drop)
}

/// Maps the first page of a vCPU's `kvm_run` a second time, for whoever kicks it.
pub fn map_run_page(vcpu: &VcpuFd) -> io::Result<std::ptr::NonNull<u8>> {
    // SAFETY: a fresh shared mapping, placed by the kernel, of a descriptor that is open.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            RUN_PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            vcpu.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    std::ptr::NonNull::new(page.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Bytes that [`map_run_page`] maps.
pub const RUN_PAGE_SIZE: usize = 4096;
