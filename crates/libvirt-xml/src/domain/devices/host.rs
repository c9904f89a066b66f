//! Devices of the host, and others that are not there: `<hostdev>`, `<redirdev>`, `<tpm>`, `<panic>` and their like.

use crate::table::{Family, kept, refused};

/// `<hostdev>`.
pub(crate) const HOSTDEV: Family = Family::of(
    "devices/hostdev",
    &[refused("", "", "devices of the host are not passed on")],
);
/// `<redirdev>`.
pub(crate) const REDIRDEV: Family = Family::of(
    "devices/redirdev",
    &[kept("", "", "there is no USB to redirect").whole()],
);
/// `<redirfilter>`.
pub(crate) const REDIRFILTER: Family = Family::of(
    "devices/redirfilter",
    &[kept("", "", "there is no USB to redirect").whole()],
);
/// `<smartcard>`.
pub(crate) const SMARTCARD: Family = Family::of(
    "devices/smartcard",
    &[refused("", "", "there are no smart cards")],
);
/// `<tpm>`.
pub(crate) const TPM: Family = Family::of(
    "devices/tpm",
    &[refused(
        "",
        "",
        "there is no TPM, and a guest may keep keys in one",
    )],
);
/// `<nvram>`.
pub(crate) const NVRAM: Family = Family::of("devices/nvram", &[refused("", "", "of other architectures")]);
/// `<panic>`.
pub(crate) const PANIC: Family = Family::of(
    "devices/panic",
    &[kept(
        "",
        "",
        "a guest's panic is seen by its triple fault or reset only",
    )
    .whole()],
);
/// `<shmem>`.
pub(crate) const SHMEM: Family = Family::of(
    "devices/shmem",
    &[refused("", "", "memory is not shared between guests")],
);
/// `<iommu>`.
pub(crate) const IOMMU: Family = Family::of("devices/iommu", &[refused("", "", "the platform has no IOMMU")]);
/// `<lease>`.
pub(crate) const LEASE: Family = Family::of(
    "devices/lease",
    &[refused("", "", "there is no lock manager that leases")],
);
/// `<crypto>`.
pub(crate) const CRYPTO: Family = Family::of("devices/crypto", &[refused("", "", "there is no such device")]);
