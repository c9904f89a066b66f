//! A definition: libvirt's document, and the model of what it says.

use std::ops::Deref;
use std::sync::Arc;

use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::Domain as Model;
use ostler_libvirt_xml::tree::Element;
use ostler_libvirt_xml::{Defaults, Error as XmlError, Random};
use ostler_vmm::spec;

use crate::uuid;

/// A definition, or what a guest that runs was started as. Its model's fields can be read as its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    model: Model,
    /// What identifies the guest.
    pub uuid: Uuid,
    /// The document as it is kept.
    pub xml: Arc<str>,
}

/// What becomes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there from now on.
    Attach,
    /// It is there no more.
    Detach,
    /// It is another.
    Update,
    /// It is there no more; the text is its alias.
    DetachAlias,
}

/// Randomness for changes that are to have the same outcome twice: in a definition, and in the guest that runs.
pub struct Seed([u8; 16]);

impl Seed {
    /// A new one.
    pub fn new() -> Result<Self, RemoteError> {
        uuid::random().map(Self).map_err(no_random)
    }
}

/// What is filled in where a document does not say it.
fn defaults() -> Defaults {
    Defaults {
        machine: spec::newest_machine(),
        cpu_model: "max".into(),
        memballoon: true,
    }
}

fn no_random(error: std::io::Error) -> RemoteError {
    RemoteError::new(Code::System, format!("no random bits: {error}"))
}

/// A document's error as clients know it.
pub fn refused(error: &XmlError) -> RemoteError {
    match error {
        XmlError::Xml(why) => RemoteError::new(Code::Xml, why.clone()),
        XmlError::NoName => RemoteError::new(Code::Xml, error.to_string()),
        XmlError::Unsupported(why) => RemoteError::new(Code::ConfigUnsupported, why.clone()),
        XmlError::NoSource(device) => RemoteError::new(Code::NoSource, device.clone()),
        XmlError::NoDevice(why) => RemoteError::new(Code::DeviceMissing, why.clone()),
    }
}

/// Makes a model with random bits of the host.
fn with_random(
    make: impl FnOnce(&Defaults, Random<'_>) -> Result<Model, XmlError>,
) -> Result<Definition, RemoteError> {
    let mut failed = None;
    let made = make(&defaults(), &mut |bytes| {
        if let Err(error) = uuid::fill_random(bytes) {
            failed = Some(error);
        }
    });
    match failed {
        Some(error) => Err(no_random(error)),
        None => made.map_err(|error| refused(&error)).and_then(Definition::new),
    }
}

impl Definition {
    /// Reads a definition, and fills in what it does not say.
    pub fn read(text: &str) -> Result<Self, RemoteError> {
        with_random(|defaults, random| Model::define(text, defaults, random))
    }

    /// Reads what was kept of a guest that runs.
    pub fn read_running(text: &str) -> Result<Self, RemoteError> {
        with_random(|defaults, random| Model::read_running(text, defaults, random))
    }

    fn new(model: Model) -> Result<Self, RemoteError> {
        let unsupported =
            |error: ostler_vmm::Error| RemoteError::new(Code::ConfigUnsupported, error.to_string());
        spec::check_name(&model.name).map_err(unsupported)?;
        spec::check_cpus(model.vcpus.max.into()).map_err(unsupported)?;
        spec::check_memory(memory(&model)).map_err(unsupported)?;
        Ok(Self {
            uuid: model.uuid.0,
            xml: model.xml(true),
            model,
        })
    }

    /// The document for clients; `secure`: with passwords.
    pub fn inactive_xml(&self, secure: bool) -> Result<String, RemoteError> {
        // Of a guest that is there only while it runs: without what the start has given it.
        let definition = Self::read(&self.xml)?;
        Ok(definition.model.xml(secure).to_string())
    }

    /// The guest from its start on: its devices have names that last.
    pub fn started(&self) -> Self {
        let model = self.model.started();
        Self {
            uuid: self.uuid,
            xml: model.xml(true),
            model,
        }
    }

    /// The same guest with a device more, less, or changed.
    pub fn change(&self, change: Change, device: &str, seed: &Seed) -> Result<Self, RemoteError> {
        let mut at = 0;
        let mut random = |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = seed.0[at % seed.0.len()];
                at += 1;
            }
        };
        let made = match change {
            Change::Attach => self.model.attach(device, &defaults(), &mut random),
            Change::Detach => self.model.detach(device, &defaults(), &mut random),
            Change::Update => self.model.update(device, &defaults(), &mut random),
            Change::DetachAlias => self.model.detach_alias(device, &defaults(), &mut random),
        };
        made.map_err(|error| refused(&error)).and_then(Self::new)
    }

    /// The same guest after a change of its document.
    pub fn edit(&self, change: impl FnOnce(&mut Element)) -> Result<Self, RemoteError> {
        with_random(|defaults, random| self.model.edit(change, defaults, random))
    }

    /// RAM in bytes that the guest starts with.
    pub fn ram(&self) -> u64 {
        memory(&self.model)
    }

    /// RAM in bytes with all that memory devices can have.
    pub fn all_ram(&self) -> u64 {
        self.model.memory.bytes.next_multiple_of(4096)
    }
}

/// Guests have whole pages.
fn memory(model: &Model) -> u64 {
    let initial = model.memory.initial(&model.devices.memories);
    initial.next_multiple_of(4096)
}

impl Deref for Definition {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_libvirt_xml::domain::Live;
    use proptest::prelude::*;

    const XML: &str = "<?xml version='1.0'?>\n<!-- edited -->\n<domain type='qemu' id='7'>\n  <name>web</name>\n  \
        <title>The &lt;web&gt;</title>\n  <memory unit='MiB'>256</memory>\n  <vcpu placement='static'>2</vcpu>\n  \
        <os><type arch='x86_64'>hvm</type><kernel>/k</kernel></os>\n  \
        <devices><interface type='user'/></devices>\n</domain>\n";

    #[test]
    fn what_is_written_back_is_the_same_guest() {
        let definition = Definition::read(XML).unwrap();
        assert_eq!((definition.name.as_str(), definition.ram()), ("web", 256 << 20));
        assert_eq!(definition.title.as_deref(), Some("The <web>"));
        let again = Definition::read(&definition.xml).unwrap();
        assert_eq!(again, definition);
        let given = Live {
            id: 3,
            ..Live::default()
        };
        let live = definition.started().live_xml(&given, true);
        assert!(live.starts_with("<domain type='qemu' id='3'>"), "{live}");
        assert_eq!(Definition::read(&live).unwrap(), definition);
        let kept = Definition::read_running(&definition.started().xml).unwrap();
        assert_eq!(kept, definition.started());
        assert_eq!(*kept.inactive_xml(true).unwrap(), *definition.xml);
    }

    #[test]
    fn devices_of_a_guest_that_runs_keep_their_names() {
        let started = Definition::read(XML).unwrap().started();
        let seed = Seed::new().unwrap();
        let card = "<interface type='bridge'><source bridge='br0'/></interface>";
        let two = started.change(Change::Attach, card, &seed).unwrap();
        let names = |definition: &Definition| -> Vec<String> {
            let cards = definition.devices.interfaces.iter();
            cards.map(|card| card.common.alias.clone().unwrap()).collect()
        };
        assert_eq!(names(&two), ["net0", "net1"]);
        let other = two.change(Change::DetachAlias, "net0", &seed).unwrap();
        assert_eq!(names(&other), ["net1"]);
        let third = other.change(Change::Attach, "<interface type='user'/>", &Seed::new().unwrap());
        assert_eq!(names(&third.unwrap()), ["net1", "net0"]);
        // The same change of the definition gives the same card.
        let config = Definition::read(XML).unwrap();
        let config = config.change(Change::Attach, card, &seed).unwrap();
        assert_eq!(config.devices.interfaces[1].mac, two.devices.interfaces[1].mac);
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (from, to, code, says) in [
            ("<name>web</name>", "", Code::Xml, "missing name"),
            ("<name>web</name>", "<name>a/b</name>", Code::Xml, "'/'"),
            ("type='qemu'", "type='xen'", Code::ConfigUnsupported, "xen"),
            ("unit='MiB'", "unit='bit'", Code::Xml, "bit"),
            (">256<", ">99999999999999999999<", Code::Xml, "memory"),
            (">2<", ">0<", Code::Xml, "vcpu"),
            (">2<", ">999<", Code::ConfigUnsupported, "CPUs"),
            (">256<", ">1<", Code::ConfigUnsupported, "memory"),
            ("</domain>", "", Code::Xml, ""),
        ] {
            let error = Definition::read(&XML.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.detail.contains(says), "{says}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_definition_or_an_error(text in any::<String>(), at in 0..XML.len(), cut in 0..40usize) {
            let _ = Definition::read(&text);
            // One that is damaged in the middle.
            let mut damaged = XML.as_bytes().to_vec();
            damaged.splice(at..(at + cut).min(XML.len()), text.bytes());
            if let Ok(definition) = Definition::read(&String::from_utf8_lossy(&damaged)) {
                prop_assert_eq!(&Definition::read(&definition.xml).unwrap(), &definition);
            }
        }
    }
}
