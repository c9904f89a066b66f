//! Labels, encryption of guests, and what goes past libvirt: `<seclabel>`, `<launchSecurity>`, `<qemu:commandline>`.

use crate::table::{Family, Row, kept, refused};

const QEMU: &str = "options of QEMU have no meaning here";

const ROWS: &[Row] = &[
    kept(
        "seclabel",
        "",
        "files and processes keep the labels that they have",
    )
    .whole(),
    refused("launchSecurity", "", "memory of guests is not encrypted"),
    refused("qemu:commandline", "", QEMU),
    refused("qemu:capabilities", "", QEMU),
    refused("qemu:override", "", QEMU),
    refused("qemu:deprecation", "", QEMU),
    refused("lxc:namespace", "", "of containers"),
    refused("bhyve:commandline", "", "of another hypervisor"),
    refused("xen:commandline", "", "of another hypervisor"),
    refused("vmware:datacenterpath", "", "of another hypervisor"),
];

pub(crate) const FAMILY: Family = Family::root("Labels, encryption, options of others", ROWS);
