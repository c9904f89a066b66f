//! What calls about CPUs and foreign formats are given.

use crate::xdr::{List, xdr_struct};

/// Most CPUs that a common one is wanted of (`REMOTE_CPU_BASELINE_MAX`).
pub const MAX_BASELINE_CPUS: usize = 256;

xdr_struct! {
    /// Of CONNECT_BASELINE_CPU.
    BaselineCpuArgs {
        /// Documents, a CPU each.
        cpus: List<String, MAX_BASELINE_CPUS>,
        /// `virConnectBaselineCPUFlags`.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_COMPARE_HYPERVISOR_CPU.
    CompareHypervisorCpuArgs {
        /// Path of the program that runs guests.
        emulator: Option<String>,
        /// The architecture.
        arch: Option<String>,
        /// The platform.
        machine: Option<String>,
        /// `kvm` or `qemu`.
        kind: Option<String>,
        /// The CPU.
        cpu: String,
        /// `virConnectCompareCPUFlags`.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_BASELINE_HYPERVISOR_CPU.
    BaselineHypervisorCpuArgs {
        /// Path of the program that runs guests.
        emulator: Option<String>,
        /// The architecture.
        arch: Option<String>,
        /// The platform.
        machine: Option<String>,
        /// `kvm` or `qemu`.
        kind: Option<String>,
        /// Documents, a CPU each.
        cpus: List<String, MAX_BASELINE_CPUS>,
        /// `virConnectBaselineCPUFlags`.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_DOMAIN_XML_FROM_NATIVE and CONNECT_DOMAIN_XML_TO_NATIVE.
    NativeArgs {
        /// The foreign format.
        format: String,
        /// What is to be put into the other form.
        text: String,
        /// None.
        flags: u32,
    }
}
