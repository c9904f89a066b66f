//! The device: opening it, what it can do, making a VM.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_PMU_CAPABILITY,
    KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_cpuid_entry2, kvm_enable_cap,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use ostler_accel::{Accelerator, CpuidLeaf, Error, Kind, Vm, VmConfig};

use crate::routes::MIRRORED_PINS;
use crate::state::nested;
use crate::vm::KvmVm;
use crate::{halt, hyperv};

/// Where Intel hosts that cannot run real mode natively keep a page table for it: below the firmware's 16 MiB, in no
/// one's way (3 pages of task state follow it).
const IDENTITY_MAP_GPA: u64 = 0xfeff_c000;
const TSS_GPA: usize = 0xfeff_d000;

/// CPUID.1:ECX bits that KVM offers and does not always list: two through the LAPIC, and the mark of a virtual machine,
/// without which Linux looks for neither the paravirtual clock nor anything else of KVM.
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;

/// The host's KVM.
#[derive(Debug)]
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens /dev/kvm.
    pub fn open() -> Result<Self, Error> {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(Path::new("/dev/kvm"))
            .map_err(|e| Error::host("open /dev/kvm", e))?;
        Self::from_fd(file.into())
    }

    /// Takes over a descriptor of /dev/kvm that someone else opened.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        // SAFETY: the descriptor is open and ours; whether it is KVM's is asked next, and any other refuses the call.
        let fd = unsafe { kvm_ioctls::Kvm::from_raw_fd(fd.into_raw_fd()) };
        match fd.get_api_version() {
            version if version == KVM_API_VERSION as i32 => Ok(Self { fd }),
            version if version < 0 => Err(Error::host(
                "speak KVM on this descriptor",
                io::Error::last_os_error(),
            )),
            version => Err(Error::Unsupported(format!(
                "the host's KVM speaks interface version {version}, not {KVM_API_VERSION}"
            ))),
        }
    }

    /// True if guests can have system management mode (KVM_CAP_X86_SMM, and a second address space for it).
    pub fn has_system_management(&self) -> bool {
        let spaces = self.fd.check_extension_raw(KVM_CAP_MULTI_ADDRESS_SPACE.into());
        self.fd.check_extension(Cap::X86Smm) && spaces > 1
    }

    /// Turns on what every VM of ours needs, and what helps where it is there.
    fn enable_capabilities(&self, vm: &VmFd, cpus: u32) -> Result<VmFeatures, Error> {
        if !vm.check_extension(Cap::SplitIrqchip) {
            return Err(Error::Unsupported(
                "the host's KVM has no split interrupt controller; Linux 4.4 or newer is needed".into(),
            ));
        }
        let split = [u64::from(MIRRORED_PINS), 0, 0, 0];
        enable(vm, KVM_CAP_SPLIT_IRQCHIP, split)
            .map_err(|e| Error::host("split the interrupt controller", e))?;
        let ids = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        if vm.check_extension(Cap::X2ApicApi) {
            enable(vm, KVM_CAP_X2APIC_API, [u64::from(ids), 0, 0, 0])
                .map_err(|e| Error::host("use 32-bit x2APIC ids", e))?;
        } else if cpus > 255 {
            return Err(Error::Unsupported(
                "the host's KVM has no 32-bit x2APIC ids; give the guest at most 255 CPUs".into(),
            ));
        }
        halt::poll_for_the_pace_of_the_host(vm);
        // Counters cannot move to another processor. An older KVM shows a few that the guest's CPUID does not name.
        if vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()) & KVM_PMU_CAP_DISABLE as i32 != 0 {
            enable(
                vm,
                KVM_CAP_PMU_CAPABILITY,
                [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0],
            )
            .map_err(|e| Error::host("switch performance counters off", e))?;
        }
        let exits_on_failure = vm.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) > 0
            && enable(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, [1, 0, 0, 0]).is_ok();
        Ok(VmFeatures {
            xsave_size: usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0),
            xcrs: vm.check_extension(Cap::Xcrs),
            pv_by_cpuid: vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0,
            exits_on_failure,
            hyperv_by_cpuid: vm.check_extension_raw(KVM_CAP_HYPERV_ENFORCE_CPUID.into()) > 0,
            read_only_slots: vm.check_extension(Cap::ReadonlyMem),
            max_slots: self.fd.get_nr_memslots(),
            smm: self.has_system_management(),
            guest_debug: u32::try_from(vm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into())).unwrap_or(0),
        })
    }
}

/// What one VM's KVM can do.
#[derive(Debug, Clone, Copy)]
pub struct VmFeatures {
    /// Bytes of the XSAVE area by KVM_CAP_XSAVE2, or 0 without it.
    pub xsave_size: usize,
    /// XCR0 can be set: the host has XSAVE.
    pub xcrs: bool,
    /// KVM can hold back the paravirtual MSRs that the guest's CPUID does not offer.
    pub pv_by_cpuid: bool,
    /// The same for what the guest's CPUID does not offer of Hyper-V's interface.
    pub hyperv_by_cpuid: bool,
    /// A failed emulation leaves the guest untouched; without it, KVM has queued #UD.
    pub exits_on_failure: bool,
    /// ROM slots are possible.
    pub read_only_slots: bool,
    /// How many memory slots there can be in each address space.
    pub max_slots: usize,
    /// There is system management mode, with an address space of its own.
    pub smm: bool,
    /// The flags that KVM_SET_GUEST_DEBUG knows, or 0 where KVM does not tell.
    pub guest_debug: u32,
}

/// Makes `vcpu` keep to its CPUID where paravirtual features are concerned.
pub fn enforce_paravirtual(vcpu: &VcpuFd) -> Result<(), Error> {
    vcpu.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [1, 0, 0, 0],
        ..Default::default()
    })
    .map_err(|e| Error::host("hold back paravirtual features that a vCPU does not offer", e))
}

/// Turns a capability of a VM on.
pub(crate) fn enable(vm: &VmFd, cap: u32, args: [u64; 4]) -> Result<(), kvm_ioctls::Error> {
    vm.enable_cap(&kvm_enable_cap {
        cap,
        args,
        ..Default::default()
    })
}

impl Accelerator for Kvm {
    fn kind(&self) -> Kind {
        Kind::Kvm
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, Error> {
        let entries = self
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| Error::host("list the CPU features that KVM supports", e))?;
        let deadline = self.fd.check_extension(Cap::TscDeadlineTimer);
        // Without this KVM does not tell whether a vCPU is within a guest of the guest.
        let nests = self.fd.check_extension(Cap::NestedState);
        let own = entries.as_slice().iter().map(|entry| {
            let mut leaf = leaf_of(entry);
            if leaf.leaf == 1 {
                leaf.ecx |= LEAF1_ECX_X2APIC | LEAF1_ECX_HYPERVISOR;
                leaf.ecx |= if deadline { LEAF1_ECX_TSC_DEADLINE } else { 0 };
            }
            if !nests {
                nested::take_from(&mut leaf);
            }
            leaf
        });
        Ok(own.chain(hyperv::supported(&self.fd)?).collect())
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, Error> {
        let most = self.fd.get_max_vcpus();
        if config.cpus == 0 || config.cpus as usize > most {
            return Err(Error::Unsupported(format!(
                "KVM on this host runs guests with 1 to {most} CPUs, not {}; choose another number with --cpus",
                config.cpus
            )));
        }
        let vm = self
            .fd
            .create_vm()
            .map_err(|e| Error::host("create a virtual machine", e))?;
        let features = self.enable_capabilities(&vm, config.cpus)?;
        vm.set_identity_map_address(IDENTITY_MAP_GPA)
            .map_err(|e| Error::host("place the identity map of a virtual machine", e))?;
        vm.set_tss_address(TSS_GPA)
            .map_err(|e| Error::host("place the task state of a virtual machine", e))?;
        let msrs = crate::state::supported_msrs(&self.fd)?;
        Ok(Arc::new(KvmVm::new(vm, features, msrs, config)?))
    }
}

/// One of KVM's entries in our form.
pub fn leaf_of(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf {
        leaf: entry.function,
        subleaf: (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index),
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

/// The CPUID table in KVM's form.
pub fn cpuid_entries(leaves: &[CpuidLeaf]) -> Result<CpuId, Error> {
    let entries: Vec<kvm_cpuid_entry2> = leaves
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.leaf,
            index: leaf.subleaf.unwrap_or(0),
            flags: leaf.subleaf.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| {
        Error::Unsupported(format!(
            "a CPU model with {} CPUID leaves; KVM takes at most {KVM_MAX_CPUID_ENTRIES}",
            leaves.len()
        ))
    })
}
