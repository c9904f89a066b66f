//! CPUs in the DSDT, and how a guest hears of those that come and leave (ACPI 6.5, 8.4 and 6.3).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Add, Arg, BufferData, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, LessThan, Local, Method, MethodCall, Mutex, Name, Notify, ONE,
    OpRegion, OpRegionSpace, Path, Release, ResourceTemplate, Return, Scope, Store, While, ZERO,
};

use super::dsdt::Raw;
use crate::chips::cpu_hotplug;
use crate::layout::CPU_HOTPLUG;

/// The general-purpose event that tells of CPUs that come or are to leave: QEMU's.
pub const CPU_EVENT: u8 = 2;

/// Notify values (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

const FOR_EVER: u16 = 0xffff;

fn name(cpu: usize) -> String {
    format!("C{cpu:03X}")
}

fn path(text: &str) -> Path {
    text.into()
}

fn bytes(items: &[&dyn Aml]) -> Raw {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.to_aml_bytes(&mut bytes));
    Raw(bytes)
}

/// The processor devices, in the scope of the system bus. With `hotplug` their state is asked for when it is needed.
pub fn processors(cpus: usize, hotplug: bool, body: &mut Vec<u8>) {
    if hotplug {
        controller(cpus, body);
    }
    for cpu in 0..cpus {
        processor(cpu, hotplug, body);
    }
}

fn processor(cpu: usize, hotplug: bool, body: &mut Vec<u8>) {
    let number = cpu as u32;
    let id = Name::new("_HID".into(), &"ACPI0007");
    let uid = Name::new("_UID".into(), &number);
    let mut all: Vec<&dyn Aml> = vec![&id, &uid];
    let methods = hotplug.then(|| methods(cpu));
    all.extend(methods.iter().map(|methods| methods as &dyn Aml));
    Device::new(path(&name(cpu)), all).to_aml_bytes(body);
}

/// What the guest calls to look at a CPU, to let go of it, and to say what became of that.
fn methods(cpu: usize) -> Raw {
    let number = cpu as u32;
    let call = |method: &str| path(&format!("\\_SB_.PRES.{method}"));
    let status = MethodCall::new(call("CSTA"), vec![&number]);
    let eject = MethodCall::new(call("CEJT"), vec![&number]);
    let report = MethodCall::new(call("COST"), vec![&number, &Arg(0), &Arg(1)]);
    // The entry that the MADT has of a CPU that is there.
    let entry = BufferData::new(super::acpi::local_apic(cpu, true).to_vec());
    let entry = Name::new("_MAT".into(), &entry);
    let status = Method::new("_STA".into(), 0, true, vec![&Return::new(&status)]).bytes();
    let report = Method::new("_OST".into(), 3, true, vec![&report]).bytes();
    let mut items: Vec<&dyn Aml> = vec![&entry, &status, &report];
    let eject = Method::new("_EJ0".into(), 1, true, vec![&eject]).bytes();
    if cpu != 0 {
        items.push(&eject);
    }
    bytes(&items)
}

/// An object as bytes, which outlive what it was made from.
trait Bytes {
    fn bytes(&self) -> Raw;
}

impl<T: Aml> Bytes for T {
    fn bytes(&self) -> Raw {
        bytes(&[self])
    }
}

/// The registers, and the methods that use them. The lock keeps the selector with what it was set for.
fn controller(cpus: usize, body: &mut Vec<u8>) {
    let ports = IO::new(CPU_HOTPLUG as u16, CPU_HOTPLUG as u16, 1, cpu_hotplug::SIZE as u8);
    let region = OpRegion::new(
        "PRST".into(),
        OpRegionSpace::SystemIO,
        &(CPU_HOTPLUG as u16),
        &(cpu_hotplug::SIZE as u8),
    )
    .bytes();
    let control = Field::new(
        "PRST".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![
            FieldEntry::Reserved(32),
            FieldEntry::Named(*b"CPEN", 1),
            FieldEntry::Named(*b"CINS", 1),
            FieldEntry::Named(*b"CRMV", 1),
            FieldEntry::Named(*b"CEJF", 1),
            FieldEntry::Reserved(4),
            FieldEntry::Named(*b"CCMD", 8),
        ],
    );
    let words = Field::new(
        "PRST".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![
            FieldEntry::Named(*b"CSEL", 32),
            FieldEntry::Reserved(32),
            FieldEntry::Named(*b"CDAT", 32),
        ],
    );
    Device::new(
        "PRES".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A06")),
            &Name::new("_UID".into(), &"CPU hotplug"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports])),
            &region,
            &control,
            &words,
            &Mutex::new("CPLK".into(), 0),
            &status(),
            &eject(),
            &report(),
            &tell(cpus),
            &scan(cpus),
        ],
    )
    .to_aml_bytes(body);
}

/// A method of the registers that works with CPU `selected`.
fn locked(name: &str, arguments: u8, selected: &dyn Aml, steps: &[&dyn Aml]) -> Raw {
    let select = Store::new(&path("CSEL"), selected).bytes();
    let steps = bytes(steps);
    let (acquire, release) = (Acquire::new("CPLK".into(), FOR_EVER), Release::new("CPLK".into()));
    Method::new(
        path(name),
        arguments,
        true,
        vec![&acquire, &select, &steps, &release, &Return::new(&Local(0))],
    )
    .bytes()
}

/// `_STA` of CPU 0 to n (ACPI 6.5, 6.3.7): all of it, or nothing.
fn status() -> Raw {
    const THERE: u8 = 0x0f;
    let present = Equal::new(&path("CPEN"), &ONE).bytes();
    let there = Store::new(&Local(0), &THERE).bytes();
    let steps: [&dyn Aml; 2] = [
        &Store::new(&Local(0), &ZERO).bytes(),
        &If::new(&present, vec![&there]).bytes(),
    ];
    locked("CSTA", 1, &Arg(0), &steps)
}

/// The guest has let go.
fn eject() -> Raw {
    let steps: [&dyn Aml; 2] = [
        &Store::new(&Local(0), &ZERO).bytes(),
        &Store::new(&path("CEJF"), &ONE).bytes(),
    ];
    locked("CEJT", 1, &Arg(0), &steps)
}

/// What became of a request: event and status.
fn report() -> Raw {
    const EVENT: u8 = 1;
    const STATUS: u8 = 2;
    let store = |name: &str, value: &dyn Aml| Store::new(&path(name), value).bytes();
    let steps: [&dyn Aml; 5] = [
        &store("CCMD", &EVENT),
        &store("CDAT", &Arg(1)),
        &store("CCMD", &STATUS),
        &store("CDAT", &Arg(2)),
        &Store::new(&Local(0), &ZERO).bytes(),
    ];
    locked("COST", 3, &Arg(0), &steps)
}

/// Tells CPU `Arg0` that `Arg1` is the matter.
fn tell(cpus: usize) -> Raw {
    let cases = (0..cpus).fold(Raw(Vec::new()), |mut all, cpu| {
        let device = path(&format!("\\_SB_.{}", name(cpu)));
        let notify = Notify::new(&device, &Arg(1)).bytes();
        let is_it = Equal::new(&Arg(0), &(cpu as u32)).bytes();
        all.0.extend(If::new(&is_it, vec![&notify]).bytes().0);
        all
    });
    Method::new("CTFY".into(), 2, true, vec![&cases]).bytes()
}

/// Looks at every CPU: which came, and which is to leave.
fn scan(cpus: usize) -> Raw {
    let case = |flag: &str, matter: u8| {
        let is_set = Equal::new(&path(flag), &ONE).bytes();
        let notify = MethodCall::new("CTFY".into(), vec![&Local(1), &matter]).bytes();
        let clear = Store::new(&path(flag), &ONE).bytes();
        If::new(&is_set, vec![&notify, &clear]).bytes()
    };
    let count = cpus as u32;
    let more = LessThan::new(&Local(1), &count).bytes();
    let each = While::new(
        &more,
        vec![
            &Store::new(&path("CSEL"), &Local(1)).bytes(),
            &case("CINS", DEVICE_CHECK),
            &case("CRMV", EJECT_REQUEST),
            &Add::new(&Local(1), &Local(1), &ONE).bytes(),
        ],
    )
    .bytes();
    let steps: [&dyn Aml; 3] = [
        &Store::new(&Local(0), &ZERO).bytes(),
        &Store::new(&Local(1), &ZERO).bytes(),
        &each,
    ];
    locked("CSCN", 0, &ZERO, &steps)
}

/// What the guest does when a CPU comes or is to leave.
pub fn event(body: &mut Vec<u8>) {
    let scan = MethodCall::new("\\_SB_.PRES.CSCN".into(), Vec::new()).bytes();
    let name = format!("_E{CPU_EVENT:02X}");
    let handler = Method::new(path(&name), 0, false, vec![&scan]).bytes();
    body.extend(Scope::raw("\\_GPE".into(), handler.0));
}
