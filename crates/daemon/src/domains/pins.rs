//! Which of the host's CPUs a guest's threads may run on.

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::Element;

use super::definition::Definition;
use crate::guest::GuestProcess;
use crate::host::cpus::CpuList;

/// The host's CPUs that a CPU of the guest may run on: its own, those of all, or any.
pub fn of_vcpu(definition: &Definition, vcpu: u32) -> Result<Option<CpuList>, RemoteError> {
    let own = definition.tune.pins.iter().find(|(number, _)| *number == vcpu);
    let text = match own {
        Some((_, text)) => text.as_str(),
        None => definition.vcpus.cpuset.as_str(),
    };
    read(text)
}

/// The host's CPUs that the guest's other threads may run on: their own, those of all, or any.
pub fn of_emulator(definition: &Definition) -> Result<Option<CpuList>, RemoteError> {
    read(
        definition
            .tune
            .emulator
            .as_ref()
            .unwrap_or(&definition.vcpus.cpuset),
    )
}

fn read(text: &str) -> Result<Option<CpuList>, RemoteError> {
    if text.is_empty() {
        return Ok(None);
    }
    let list = text.parse().map(Some);
    list.map_err(|()| RemoteError::new(Code::Xml, format!("'{text}' is no list of CPUs of this host")))
}

/// Has a guest's threads run where its definition says.
pub fn apply(definition: &Definition, process: &GuestProcess) -> Result<(), RemoteError> {
    if let Some(list) = of_emulator(definition)? {
        pin_emulator(process, &list)?;
    }
    for vcpu in process.vcpu_numbers() {
        if let Some(list) = of_vcpu(definition, vcpu)? {
            pin_vcpu(process, vcpu, &list)?;
        }
    }
    Ok(())
}

/// Has the thread of a CPU that came run where the definition says. Until then it was one of the other threads.
pub fn apply_to_new(definition: &Definition, process: &GuestProcess, vcpu: u32) -> Result<(), RemoteError> {
    match (of_vcpu(definition, vcpu)?, of_emulator(definition)?) {
        (Some(list), _) => pin_vcpu(process, vcpu, &list),
        (None, Some(_)) => pin_vcpu(process, vcpu, &CpuList::all()),
        (None, None) => Ok(()),
    }
}

fn refused(list: &CpuList) -> impl Fn(std::io::Error) -> RemoteError {
    let text = list.to_string();
    move |error| {
        RemoteError::new(
            Code::System,
            format!("threads cannot be bound to the CPUs {text}: {error}"),
        )
    }
}

/// Binds the thread of one CPU; one that is not there is bound when it comes.
pub fn pin_vcpu(process: &GuestProcess, vcpu: u32, list: &CpuList) -> Result<(), RemoteError> {
    process.bind_vcpu(vcpu, list).map_err(refused(list))
}

/// Binds the threads that are no CPU's.
pub fn pin_emulator(process: &GuestProcess, list: &CpuList) -> Result<(), RemoteError> {
    process.bind_others(list).map_err(refused(list))
}

/// Writes the pin of one CPU into a document; `None` for any CPU of the host.
pub fn write_vcpu(root: &mut Element, vcpu: u32, list: Option<&CpuList>) {
    let number = vcpu.to_string();
    let tune = root.child_or_new("cputune");
    tune.remove_elements(|pin| pin.name == "vcpupin" && pin.get("vcpu") == Some(&number));
    if let Some(list) = list {
        let pin = Element::new("vcpupin")
            .with("vcpu", number)
            .with("cpuset", list.to_string());
        *tune = std::mem::take(tune).with_child(pin);
    }
    drop_empty(root);
}

/// Writes the pin of the other threads into a document; `None` for any CPU of the host.
pub fn write_emulator(root: &mut Element, list: Option<&CpuList>) {
    let tune = root.child_or_new("cputune");
    tune.remove_elements(|pin| pin.name == "emulatorpin");
    if let Some(list) = list {
        let pin = Element::new("emulatorpin").with("cpuset", list.to_string());
        *tune = std::mem::take(tune).with_child(pin);
    }
    drop_empty(root);
}

fn drop_empty(root: &mut Element) {
    root.remove_elements(|element| element.name == "cputune" && element.elements().next().is_none());
}
