//! libFuzzer around the entries that the crates have for it (`src/fuzzing.rs` in each). OSTLER_FUZZ names the one.

#![no_main]

use std::sync::LazyLock;

type Target = fn(&[u8]);

/// The name of a target is that of its folder in `corpus/`.
const TARGETS: &[(&str, Target)] = &[
    ("ahci", ostler_ahci::fuzzing::ahci),
    ("bootdisk-configuration", ostler_bootdisk::fuzzing::configuration),
    ("bootdisk-image", ostler_bootdisk::fuzzing::image),
    ("daemon-changes", ostler_daemon::fuzzing::changes),
    ("display-ports", ostler_display::fuzzing::ports),
    ("e1000e", ostler_e1000e::fuzzing::e1000e),
    ("hostnet-netlink", ostler_hostnet::fuzzing::netlink),
    ("hostnet-ovsdb", ostler_hostnet::fuzzing::ovsdb),
    ("libvirt-arguments", ostler_libvirt::fuzzing::arguments),
    ("libvirt-packets", ostler_libvirt::fuzzing::packets),
    ("libvirt-xml-domain", ostler_libvirt_xml::fuzzing::domain),
    ("libvirt-xml-objects", ostler_libvirt_xml::fuzzing::objects),
    ("machine-chips", ostler_machine::fuzzing::chips),
    ("machine-kernel", ostler_machine::fuzzing::kernel),
    ("netio-ring", ostler_netio::fuzzing::ring),
    ("netio-stream", ostler_netio::fuzzing::stream),
    ("pci-topology", ostler_pci::fuzzing::topology),
    ("softcpu-instructions", ostler_softcpu::fuzzing::instructions),
    ("softcpu-lapic", ostler_softcpu::fuzzing::lapic),
    ("softcpu-translation", ostler_softcpu::fuzzing::translation),
    ("switch-frames", ostler_switch::fuzzing::frames),
    ("switchd-config", ostler_switchd::fuzzing::config),
    ("usernet-dhcp", ostler_usernet::fuzzing::dhcp),
    ("usernet-dhcp6", ostler_usernet::fuzzing::dhcp6),
    ("usernet-dns", ostler_usernet::fuzzing::dns),
    ("usernet-frames", ostler_usernet::fuzzing::frames),
    ("usernet-ndp", ostler_usernet::fuzzing::ndp),
    ("vhost-user", ostler_vhost_user::fuzzing::front_end),
    ("vhost-user-replies", ostler_vhost_user::front::fuzzing::back_end),
    ("vhost-user-card", ostler_vhost_user::card::fuzzing::rings),
    ("virtio-balloon", ostler_virtio::fuzzing::balloon),
    ("virtio-block", ostler_virtio::fuzzing::block),
    ("virtio-console", ostler_virtio::fuzzing::console),
    ("virtio-mem", ostler_virtio::fuzzing::mem),
    ("virtio-net", ostler_virtio::fuzzing::net),
    ("virtio-pmem", ostler_virtio::fuzzing::pmem),
    ("virtio-rng", ostler_virtio::fuzzing::rng),
    ("virtio-transport", ostler_virtio::fuzzing::transport),
    ("virtio-vring", ostler_virtio::fuzzing::vring),
    ("virtio-vsock", ostler_virtio::fuzzing::vsock),
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
