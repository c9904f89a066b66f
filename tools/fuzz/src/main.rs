//! libFuzzer around the entries that the crates have for it (`src/fuzzing.rs` in each). OSTLER_FUZZ names the one.

#![no_main]

use std::sync::LazyLock;

type Target = fn(&[u8]);

/// The name of a target is that of its folder in `corpus/`.
const TARGETS: &[(&str, Target)] = &[
    ("hostnet-netlink", ostler_hostnet::fuzzing::netlink),
    ("hostnet-ovsdb", ostler_hostnet::fuzzing::ovsdb),
    ("libvirt-arguments", ostler_libvirt::fuzzing::arguments),
    ("libvirt-packets", ostler_libvirt::fuzzing::packets),
    ("libvirt-xml-domain", ostler_libvirt_xml::fuzzing::domain),
    ("libvirt-xml-objects", ostler_libvirt_xml::fuzzing::objects),
    ("machine-kernel", ostler_machine::fuzzing::kernel),
    ("netio-ring", ostler_netio::fuzzing::ring),
    ("netio-stream", ostler_netio::fuzzing::stream),
    ("switch-frames", ostler_switch::fuzzing::frames),
    ("switchd-config", ostler_switchd::fuzzing::config),
    ("usernet-dhcp", ostler_usernet::fuzzing::dhcp),
    ("usernet-dhcp6", ostler_usernet::fuzzing::dhcp6),
    ("usernet-dns", ostler_usernet::fuzzing::dns),
    ("usernet-frames", ostler_usernet::fuzzing::frames),
    ("usernet-ndp", ostler_usernet::fuzzing::ndp),
    ("vhost-user", ostler_vhost_user::fuzzing::front_end),
    ("virtio-mem", ostler_virtio::fuzzing::mem),
    ("virtio-vring", ostler_virtio::fuzzing::vring),
    ("vmm-gdb", ostler_vmm::fuzzing::gdb),
    ("vmm-qmp", ostler_vmm::fuzzing::qmp),
];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("OSTLER_FUZZ").unwrap_or_default();
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            panic!("OSTLER_FUZZ is '{wanted}'; say one of: {}", names.join(" "));
        }
    }
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET(input));
