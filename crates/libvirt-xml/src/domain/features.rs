//! Features of the machine: `<features>`.

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;

const ROWS: &[Row] = &[
    kept("pae", "", "always there"),
    honoured("acpi", "", "ACPI tables"),
    honoured(
        "apic",
        "",
        "an I/O APIC and local APICs; without it the guest has no more than one CPU",
    ),
    kept("apic@eoi", "on|off", "the accelerator decides"),
    kept("hap", "", "the accelerator decides").whole(),
    kept("viridian", "", "of another hypervisor"),
    kept("privnet", "", "of containers"),
    honoured("hyperv", "", "Hyper-V's interface, as far as it is asked for"),
    kept("kvm/hidden@state", "off", ""),
    refused(
        "kvm/hidden@state",
        "on",
        "the accelerator cannot be hidden from the guest",
    ),
    kept("kvm/{hint-dedicated,poll-control,pv-ipi,dirty-ring}", "", "hints").whole(),
    kept("pvspinlock@state", "on|off", "the accelerator decides"),
    kept("pmu@state", "on|off", "there are no performance counters"),
    kept("vmport@state", "on|off", "there is no VMware port"),
    kept(
        "smm@state",
        "on|off",
        "a guest has system management mode where its firmware needs it",
    ),
    kept("smm/tseg", "", "the firmware chooses").whole(),
    kept("ioapic@driver", "kvm|qemu", "the I/O APIC is ours"),
    kept("vmcoreinfo@state", "on|off", "there is no such device"),
    kept("msrs@unknown", "ignore|fault", "the accelerator decides"),
    kept(
        "{ps2,async-teardown}@{state,enabled}",
        "",
        "of newer versions of libvirt",
    ),
    kept("tcg", "", "the size of the code cache follows the guest").whole(),
    refused(
        "{xen,capabilities,gic,hpt,htm,nested-hv,ccf-assist,cfpc,sbbc,ibs}",
        "",
        "of other architectures or hypervisors",
    )
    .whole(),
];

pub(crate) const FAMILY: Family = Family::of("features", ROWS);

/// Features of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// ACPI tables.
    pub acpi: bool,
    /// An I/O APIC.
    pub apic: bool,
}

impl Features {
    pub(crate) fn read(root: &Element) -> Self {
        let has = |name: &str| {
            root.child("features")
                .is_some_and(|features| features.child(name).is_some())
        };
        Self {
            acpi: has("acpi"),
            apic: has("apic"),
        }
    }
}
