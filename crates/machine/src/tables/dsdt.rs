//! The DSDT: PCI root, devices that no bus finds, CPUs, S5 and S3.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If,
    Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, Notify, ONE, Or, Package, PackageBuilder, Path,
    ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};

use ostler_bus::Range;

use super::{Description, cpus};
use crate::bridges::{PIRQ_ISA, topology};
use crate::chips::pm::{SLEEP_TYPE_MEMORY, SLEEP_TYPE_OFF};
use crate::layout::{COM1, COM1_IRQ, FW_CFG, GENERATION_ID, GENERATION_ID_SIZE, PM_BASE, PVPANIC};

/// PCI host bridge capabilities (PCI Firmware 3.2, 4.5.1).
const HOST_BRIDGE_UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// What is handed to the guest: native hotplug, PME, AER, the PCIe capability; not SHPC, which is not there.
const OSC_GRANTED: u8 = 0x1d;

/// The general-purpose event that tells of a new VM generation ID: QEMU's.
pub const GENERATION_ID_EVENT: u8 = 5;

/// The DSDT's definition block, without the table header.
pub fn body(machine: &Description) -> Vec<u8> {
    let mut body = Vec::new();
    interrupt_model(&mut body);
    sleep_state("_S5_", SLEEP_TYPE_OFF, &mut body);
    if machine.suspend {
        sleep_state("_S3_", SLEEP_TYPE_MEMORY, &mut body);
    }
    let mut system_bus = Vec::new();
    pci_root(machine, &mut system_bus);
    motherboard(machine, &mut system_bus);
    cpus::processors(machine.cpus.len(), machine.cpu_hotplug, &mut system_bus);
    if machine.generation_id {
        generation_id(&mut system_bus);
    }
    body.extend(Scope::raw("\\_SB_".into(), system_bus));
    if machine.generation_id {
        generation_id_event(&mut body);
    }
    if machine.cpu_hotplug {
        cpus::event(&mut body);
    }
    body
}

/// What the guest writes to enter a sleep state (ACPI 6.5, 7.4.2).
fn sleep_state(name: &str, sleep_type: u8, body: &mut Vec<u8>) {
    let values = Package::new(vec![&sleep_type, &sleep_type, &ZERO, &ZERO]);
    Name::new(name.into(), &values).to_aml_bytes(body);
}

/// The device by which guests find the VM generation ID: by its compatible ID, so the other one is ours. Its address is in two halves.
fn generation_id(body: &mut Vec<u8>) {
    let (low, high) = (GENERATION_ID as u32, (GENERATION_ID >> 32) as u32);
    let page = Memory32Fixed::new(false, low, GENERATION_ID_SIZE as u32);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"OSTL0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&page])),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(body);
}

/// What the guest does when the ID changes: it tells the device's driver.
fn generation_id_event(body: &mut Vec<u8>) {
    let device: Path = "\\_SB_.VGEN".into();
    let mut handler = Vec::new();
    let name = format!("_E{GENERATION_ID_EVENT:02X}");
    Method::new(
        name.as_str().into(),
        0,
        false,
        vec![&Notify::new(&device, &0x80u8)],
    )
    .to_aml_bytes(&mut handler);
    body.extend(Scope::raw("\\_GPE".into(), handler));
}

/// Bytes that are AML already.
pub(super) struct Raw(pub Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The guest says which interrupt controllers it uses.
fn interrupt_model(body: &mut Vec<u8>) {
    Name::new("PICF".into(), &ZERO).to_aml_bytes(body);
    let model: Path = "PICF".into();
    Method::new("_PIC".into(), 1, false, vec![&Store::new(&model, &Arg(0))]).to_aml_bytes(body);
}

fn pci_root(machine: &Description, body: &mut Vec<u8>) {
    let windows = machine.windows;
    let memory32: Vec<_> = around(windows.memory32, machine.ecam)
        .into_iter()
        .map(|window| {
            let last = (window.base + window.len - 1) as u32;
            let cacheable = AddressSpaceCacheable::NotCacheable;
            AddressSpace::<u32>::new_memory(cacheable, true, window.base as u32, last, None)
        })
        .collect();
    let memory64 = AddressSpace::<u64>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        windows.memory64.base,
        windows.memory64.base + windows.memory64.len - 1,
        None,
    );
    let buses = AddressSpace::<u16>::new_bus_number(0, (machine.ecam.len >> 20).saturating_sub(1) as u16);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::<u16>::new_io(0, 0xcf7, None);
    let high_ports = AddressSpace::<u16>::new_io(0xd00, 0xffff, None);
    let mut all: Vec<&dyn Aml> = vec![&buses, &config_ports, &low_ports, &high_ports];
    all.extend(memory32.iter().map(|window| window as &dyn Aml));
    all.push(&memory64);
    let mut resources = Vec::new();
    ResourceTemplate::new(all).to_aml_bytes(&mut resources);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_ADR".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CRS".into(), &Raw(resources)),
            &Name::new("PRTA".into(), &routes(topology::gsi)),
            &Name::new("PRTP".into(), &routes(|pirq| PIRQ_ISA[usize::from(pirq)])),
            &Method::new(
                "_PRT".into(),
                0,
                false,
                vec![
                    &If::new(&Path::new("\\PICF"), vec![&Return::new(&Path::new("PRTA"))]),
                    &Return::new(&Path::new("PRTP")),
                ],
            ),
            &Raw(operating_system_capabilities()),
            &Raw(isa_bridge(machine)),
        ],
    )
    .to_aml_bytes(body);
}

/// What of `window` lies below `hole`, and what above it.
fn around(window: Range, hole: Range) -> Vec<Range> {
    let end = window.base + window.len;
    let (hole_start, hole_end) = (
        hole.base.clamp(window.base, end),
        (hole.base + hole.len).clamp(window.base, end),
    );
    [(window.base, hole_start), (hole_end, end)]
        .into_iter()
        .filter(|(start, end)| start < end)
        .map(|(start, end)| Range::new(start, end - start))
        .collect()
}

/// The interrupt of each pin of each slot on bus 0 (ACPI 6.5, 6.2.13).
fn routes(number: impl Fn(u8) -> u8) -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for device in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(device) << 16 | 0xffff;
            let interrupt = number(topology::pirq(device, pin));
            routes.add_element(&Package::new(vec![&address, &pin, &ZERO, &interrupt]));
        }
    }
    routes
}

/// Grants native control of PCI Express features to a guest that asks (PCI Firmware 3.2, 4.5).
fn operating_system_capabilities() -> Vec<u8> {
    let (status, control): (Path, Path) = ("CDW1".into(), "CDW3".into());
    let masked = [
        &If::new(
            &NotEqual::new(&Arg(1), &ONE),
            vec![&Or::new(&status, &status, &0x08u8)],
        ) as &dyn Aml,
        &And::new(&Local(0), &control, &OSC_GRANTED),
        &If::new(
            &NotEqual::new(&Local(0), &control),
            vec![&Or::new(&status, &status, &0x10u8)],
        ),
        &Store::new(&control, &Local(0)),
    ]
    .iter()
    .fold(Vec::new(), |mut bytes, item| {
        item.to_aml_bytes(&mut bytes);
        bytes
    });
    let mut bytes = Vec::new();
    Method::new(
        "_OSC".into(),
        4,
        false,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new(HOST_BRIDGE_UUID)),
                vec![&CreateDWordField::new(&control, &Arg(3), &8u8), &Raw(masked)],
            ),
            &Else::new(vec![&Or::new(&status, &status, &0x04u8)]),
            &Return::new(&Arg(3)),
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

fn isa_bridge(machine: &Description) -> Vec<u8> {
    let mut devices = Vec::new();
    let irq = |n: u8| Interrupt::new(true, true, false, false, u32::from(n));
    let ports = |base: u64, len: u8| IO::new(base as u16, base as u16, 1, len);
    if machine.serial {
        device(
            "COM1",
            "PNP0501",
            &[&ports(COM1, 8), &irq(COM1_IRQ)],
            &mut devices,
        );
    }
    device("RTC_", "PNP0B00", &[&ports(0x70, 2), &irq(8)], &mut devices);
    device(
        "KBD_",
        "PNP0303",
        &[&ports(0x60, 1), &ports(0x64, 1), &irq(1)],
        &mut devices,
    );
    let mut bytes = Vec::new();
    let address = u32::from(topology::LPC_BRIDGE.device) << 16;
    Device::new(
        "ISA_".into(),
        vec![&Name::new("_ADR".into(), &address), &Raw(devices)],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

fn device(name: &str, id: &str, resources: &[&dyn Aml], body: &mut Vec<u8>) {
    Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec())),
        ],
    )
    .to_aml_bytes(body);
}

/// Addresses that belong to the board, and the devices for guests under a hypervisor.
fn motherboard(machine: &Description, body: &mut Vec<u8>) {
    let resources: [&dyn Aml; 2] = [
        &Memory32Fixed::new(true, machine.ecam.base as u32, machine.ecam.len as u32),
        &IO::new(PM_BASE as u16, PM_BASE as u16, 1, 0x80),
    ];
    device("MBRD", "PNP0C02", &resources, body);
    hypervisor_device(
        "PEVT",
        "QEMU0001",
        &[&IO::new(PVPANIC as u16, PVPANIC as u16, 1, 1)],
        body,
    );
    hypervisor_device(
        "FWCF",
        "QEMU0002",
        &[&IO::new(FW_CFG as u16, FW_CFG as u16, 1, 12)],
        body,
    );
}

fn hypervisor_device(name: &str, id: &'static str, resources: &[&dyn Aml], body: &mut Vec<u8>) {
    Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &id),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec())),
        ],
    )
    .to_aml_bytes(body);
}
