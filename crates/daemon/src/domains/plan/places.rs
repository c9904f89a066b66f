//! Where devices are on PCI: where their definition says.

use ostler_libvirt_xml::domain as xml;
use ostler_vmm::spec::{DISPLAY, MachineType, PciPlace, PciSpec, RootPortSpec, WATCHDOG, rng_name};

use super::super::definition::Definition;
use super::{Lacks, Streams};

/// So many root ports are free for what comes while a guest runs.
const FREE_PORTS: usize = 4;

/// Whether a guest's devices are where its definition says.
pub fn has_places(definition: &Definition) -> bool {
    MachineType::from_name(&definition.os.machine) != Some(MachineType::Q35V1)
}

/// Where devices are; `None` for one after the other, as guests of the first machine type have them for life.
pub(super) fn read(definition: &Definition, streams: &Streams) -> Result<Option<PciSpec>, Lacks> {
    let model: &xml::Domain = definition;
    if !has_places(definition) {
        return Ok(None);
    }
    let mut ports = Vec::new();
    for controller in &model.devices.controllers {
        let is_port = controller.kind == "pci" && controller.model.as_deref() == Some("pcie-root-port");
        let (Some(place), true) = (controller.common.address, is_port) else {
            continue;
        };
        ports.push(RootPortSpec {
            bus: u8::try_from(controller.index)
                .map_err(|_| "a root port has an index up to 255".to_owned())?,
            place: place_of(place),
            number: controller.port,
            fixed: !controller.hotplug,
        });
    }
    let spare = model.spare_ports(FREE_PORTS).into_iter();
    ports.extend(spare.map(|(bus, place)| RootPortSpec {
        bus,
        place: place_of(place),
        number: place.slot << 3 | place.function,
        fixed: false,
    }));
    Ok(Some(PciSpec {
        ports: Some(ports),
        devices: devices(&model.devices, streams),
    }))
}

fn place_of(address: xml::PciAddress) -> PciPlace {
    PciPlace::new(address.bus, address.slot, address.function)
}

/// Devices by the names that a guest's process gives them.
fn devices(devices: &xml::Devices, streams: &Streams) -> std::collections::BTreeMap<String, PciPlace> {
    let mut found: Vec<(String, &xml::Common)> = Vec::new();
    let virtio = |disk: &&xml::Disk| disk.bus == xml::DiskBus::Virtio;
    numbered(
        &mut found,
        "disk",
        devices.disks.iter().filter(virtio).map(|disk| &disk.common),
    );
    numbered(
        &mut found,
        "net",
        devices.interfaces.iter().map(|card| &card.common),
    );
    numbered(
        &mut found,
        "fs",
        devices.filesystems.iter().map(|share| &share.common),
    );
    let rngs = (0..).zip(&devices.rngs);
    found.extend(rngs.map(|(index, rng)| (rng_name(index), &rng.common)));
    let files = devices.memories.iter();
    let files = files.filter(|memory| matches!(memory.kind, xml::MemoryKind::Persistent { .. }));
    numbered(&mut found, "pmem", files.map(|file| &file.common));
    let mut memories = devices.memories.iter();
    let plugged = memories.find(|memory| matches!(memory.kind, xml::MemoryKind::Pluggable { .. }));
    let console = devices
        .controllers
        .iter()
        .find(|controller| controller.kind == "virtio-serial");
    let console = console.filter(|_| streams.console.is_some() || !streams.channels.is_empty());
    let balloon = devices.memballoon.as_ref().filter(|balloon| balloon.present);
    let mut displays = devices.videos.iter();
    let display = displays.find(|video| matches!(video.model, xml::VideoModel::Vga | xml::VideoModel::Bochs));
    let singles = [
        ("vmem0", plugged.map(|memory| &memory.common)),
        ("console", console.map(|controller| &controller.common)),
        ("balloon", balloon.map(|balloon| &balloon.common)),
        ("vsock", devices.vsock.as_ref().map(|vsock| &vsock.common)),
        (
            WATCHDOG,
            devices.watchdog.as_ref().map(|watchdog| &watchdog.common),
        ),
        (DISPLAY, display.map(|video| &video.common)),
    ];
    found.extend(
        singles
            .into_iter()
            .filter_map(|(name, common)| Some((name.to_owned(), common?))),
    );
    let placed = found.into_iter();
    placed
        .filter_map(|(name, common)| Some((name, place_of(common.address?))))
        .collect()
}

fn numbered<'a>(
    found: &mut Vec<(String, &'a xml::Common)>,
    kind: &str,
    all: impl Iterator<Item = &'a xml::Common>,
) {
    found.extend(
        all.enumerate()
            .map(|(index, common)| (format!("{kind}{index}"), common)),
    );
}
