//! What a guest can have, for clients to look at: `<domainCapabilities>`. What a guest can have is an argument; that a kind is in
//! the table does not yet mean that the guest's process has it.

use crate::object::with_text;
use crate::tree::{Element, write};

/// What a guest can have. A list that is empty means that there is no such thing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainCapabilities {
    /// Path of this program.
    pub emulator: String,
    /// Whether KVM runs it; else it is the software CPU.
    pub kvm: bool,
    /// The version of the platform.
    pub machine: String,
    /// Most CPUs.
    pub max_cpus: u32,
    /// Kinds of firmware that are chosen for a guest: `bios`, `efi`.
    pub firmware: Vec<String>,
    /// Paths of firmware.
    pub loaders: Vec<String>,
    /// Whether it can be firmware with secure boot, which needs system management mode.
    pub secure_boot: bool,
    /// Whether the host's own CPU can be shown.
    pub host_passthrough: bool,
    /// Named models, and whether this host can run them.
    pub models: Vec<(String, bool)>,
    /// The model that is nearest the host's, if that mode is there.
    pub host_model: Option<String>,
    /// Where memory can come from: `anonymous`, `memfd`.
    pub memory_sources: Vec<String>,
    /// `disk`, `cdrom`.
    pub disk_devices: Vec<String>,
    /// `virtio`, `sata`.
    pub disk_buses: Vec<String>,
    /// Models of graphics cards.
    pub video: Vec<String>,
    /// Models of entropy sources.
    pub rng: Vec<String>,
    /// Drivers of shared folders: `virtiofs`.
    pub filesystem: Vec<String>,
    /// Enlightenments of Hyper-V's interface.
    pub hyperv: Vec<String>,
    /// Types of channels.
    pub channel: Vec<String>,
}

impl DomainCapabilities {
    /// The document.
    pub fn xml(&self) -> String {
        let mut root = Element::new("domainCapabilities");
        let kind = if self.kvm { "kvm" } else { "qemu" };
        for (name, text) in [
            ("path", &*self.emulator),
            ("domain", kind),
            ("machine", &*self.machine),
            ("arch", "x86_64"),
        ] {
            root = with_text(root, name, Some(text));
        }
        let root = root
            .with_child(Element::new("vcpu").with("max", self.max_cpus.to_string()))
            .with_child(supported("iothreads", false))
            .with_child(self.os())
            .with_child(self.cpu())
            .with_child(list("memoryBacking", &[("sourceType", &self.memory_sources)]))
            .with_child(self.devices());
        let features = [
            ("gic", false),
            ("vmcoreinfo", false),
            ("genid", true),
            ("backingStoreInput", false),
            ("backup", false),
            ("sev", false),
        ];
        let features = features
            .into_iter()
            .fold(Element::new("features"), |element, (name, there)| {
                element.with_child(supported(name, there))
            });
        let features = match self.hyperv.is_empty() {
            true => features,
            false => features.with_child(list("hyperv", &[("features", &self.hyperv)])),
        };
        write(&root.with_child(features))
    }

    fn os(&self) -> Element {
        let mut loader = supported("loader", !self.loaders.is_empty());
        for path in &self.loaders {
            loader = with_text(loader, "value", Some(path));
        }
        if !self.loaders.is_empty() {
            let yes_no = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
            let secure: &[&str] = if self.secure_boot { &["yes", "no"] } else { &["no"] };
            for (name, values) in [
                ("type", &["rom", "pflash"][..]),
                ("readonly", &["yes", "no"]),
                ("secure", secure),
            ] {
                loader = loader.with_child(values_of(name, &yes_no(values)));
            }
        }
        let mut os = supported("os", true);
        os = os.with_child(values_of("firmware", &self.firmware));
        os.with_child(loader)
    }

    fn cpu(&self) -> Element {
        let mode = |name: &str, there: bool| {
            Element::new("mode")
                .with("name", name)
                .with("supported", yes_no(there))
        };
        let mut passthrough = mode("host-passthrough", self.host_passthrough);
        if self.host_passthrough {
            passthrough = passthrough.with_child(values_of("hostPassthroughMigratable", &["on".to_owned()]));
        }
        let mut host_model = mode("host-model", self.host_model.is_some());
        if let Some(model) = &self.host_model {
            host_model = host_model.with_child(
                Element::new("model")
                    .with("fallback", "forbid")
                    .with_text(&**model),
            );
        }
        let mut custom = mode("custom", !self.models.is_empty());
        for (model, usable) in &self.models {
            let element = Element::new("model")
                .with("usable", yes_no(*usable))
                .with("vendor", "unknown");
            custom = custom.with_child(element.with_text(&**model));
        }
        Element::new("cpu")
            .with_child(passthrough)
            .with_child(mode("maximum", false))
            .with_child(host_model)
            .with_child(custom)
    }

    fn devices(&self) -> Element {
        let random = if self.rng.is_empty() {
            vec![]
        } else {
            vec!["random".to_owned(), "builtin".to_owned()]
        };
        Element::new("devices")
            .with_child(list(
                "disk",
                &[("diskDevice", &self.disk_devices), ("bus", &self.disk_buses)],
            ))
            .with_child(supported("graphics", false))
            .with_child(list("video", &[("modelType", &self.video)]))
            .with_child(supported("hostdev", false))
            .with_child(list("rng", &[("model", &self.rng), ("backendModel", &random)]))
            .with_child(list("filesystem", &[("driverType", &self.filesystem)]))
            .with_child(supported("tpm", false))
            .with_child(supported("redirdev", false))
            .with_child(list("channel", &[("type", &self.channel)]))
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn supported(name: &str, there: bool) -> Element {
    Element::new(name).with("supported", yes_no(there))
}

fn values_of(name: &str, values: &[String]) -> Element {
    values
        .iter()
        .fold(Element::new("enum").with("name", name), |element, value| {
            with_text(element, "value", Some(value))
        })
}

/// Something that is there if the first of its lists has an entry.
fn list(name: &str, lists: &[(&str, &Vec<String>)]) -> Element {
    let there = lists.first().is_some_and(|(_, values)| !values.is_empty());
    let lists = lists.iter().filter(|_| there);
    lists.fold(supported(name, there), |element, (name, values)| {
        element.with_child(values_of(name, values))
    })
}
