//! What the host and its guests can do, for clients to look at.

use std::path::{Path, PathBuf};

use ostler_accel::{CpuidLeaf, model};
use ostler_launch::firmware;
use ostler_libvirt::types::Uuid;
use ostler_libvirt_xml::capabilities::{Cell, Guests, Host, HostCpu};
use ostler_libvirt_xml::domain_capabilities::DomainCapabilities;
use ostler_vmm::spec::{MAX_CPUS, MachineType, newest_machine};

use crate::uuid;

/// Where the path of this program is told to clients that want to see it.
fn emulator() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/ostler"));
    path.display().to_string()
}

/// `<capabilities>` of the host `host_uuid`; `kvm`: whether there are guests of that type.
pub fn of_host(host_uuid: &Uuid, kvm: bool) -> String {
    let topology = super::topology();
    let features = super::cpu::of_host();
    let (model, features) = match super::cpu::nearest(&features) {
        Some((model, more)) => (Some(model.to_owned()), more.into_iter().collect()),
        None => (None, Vec::new()),
    };
    let host = Host {
        uuid: uuid::format(host_uuid),
        // In the words of our own models, so that it can be compared with them.
        model,
        vendor: super::cpu::vendor(),
        features,
        topology: [
            topology.sockets * topology.nodes,
            1,
            topology.cores,
            topology.threads,
        ],
        pages: super::pages::sizes().into_iter().map(u64::from).collect(),
        migration: Vec::new(),
        cells: super::nodes()
            .iter()
            .map(|(node, cpus)| cell(*node, cpus))
            .collect(),
        guests: Guests {
            emulator: emulator(),
            // The newest one first.
            machines: MachineType::ALL
                .iter()
                .rev()
                .map(|machine| machine.name().to_owned())
                .collect(),
            max_cpus: MAX_CPUS,
            kvm,
        },
    };
    host.xml()
}

fn cell(node: u32, cpus: &[u32]) -> Cell {
    let cpu = |id: &u32| {
        let folder = format!("/sys/devices/system/cpu/cpu{id}/topology");
        let text = |name: &str| super::read(Path::new(&folder).join(name)).trim().to_owned();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        HostCpu {
            id: *id,
            place: [number("physical_package_id"), number("die_id"), number("core_id")],
            siblings: text("thread_siblings_list"),
        }
    };
    Cell {
        id: node,
        memory: super::memory(Some(node)).unwrap_or_default().total,
        cpus: cpus.iter().map(cpu).collect(),
    }
}

/// `<domainCapabilities>` of guests on KVM, where it supports these leaves, or the software CPU, with (`smm`) or without system
/// management mode.
pub fn of_guests(kvm: Option<&[CpuidLeaf]>, smm: bool) -> String {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let (bios, uefi) = firmware::found();
    let mut kinds = Vec::new();
    let mut loaders = Vec::new();
    for (kind, image) in [("bios", bios), ("efi", uefi)] {
        if let Some(image) = image {
            kinds.push(kind.to_owned());
            loaders.push(image.display().to_string());
        }
    }
    let capabilities = DomainCapabilities {
        emulator: emulator(),
        kvm: kvm.is_some(),
        machine: newest_machine(),
        max_cpus: MAX_CPUS,
        firmware: kinds,
        loaders,
        secure_boot: smm,
        host_passthrough: true,
        models: model::names()
            .into_iter()
            .map(|name| (name.to_owned(), true))
            .collect(),
        host_model: Some("max".into()),
        memory_sources: texts(&["anonymous"]),
        disk_devices: texts(&["disk", "cdrom"]),
        disk_buses: texts(&["virtio", "sata"]),
        video: texts(&["vga", "none", "bochs"]),
        rng: texts(&["virtio"]),
        filesystem: match ostler_launch::porter::find_virtiofsd() {
            Some(_) => texts(&["virtiofs"]),
            None => Vec::new(),
        },
        hyperv: kvm.map_or_else(Vec::new, enlightenments),
        channel: texts(&["pty", "unix"]),
    };
    capabilities.xml()
}

/// The elements of `<hyperv>` that a guest can have of an accelerator that supports these leaves.
fn enlightenments(supported: &[CpuidLeaf]) -> Vec<String> {
    // Two are no elements of their own: a kind of timer, and the clock, which is a `<timer>`.
    model::hyperv::names_in(supported)
        .filter_map(|name| name.strip_prefix("hv-"))
        .filter(|name| !matches!(*name, "stimer-direct" | "time"))
        .map(str::to_owned)
        .collect()
}
