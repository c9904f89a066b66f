//! What a host can do, for clients to look at: `<capabilities>`. It says what it is told, nothing more.

use crate::object::with_text;
use crate::tree::{Element, write};

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its UUID.
    pub uuid: String,
    /// Its CPU's model, the vendor, and features beyond the model's.
    pub model: Option<String>,
    /// Vendor of the CPU.
    pub vendor: Option<String>,
    /// Features beyond the model's.
    pub features: Vec<String>,
    /// Sockets, dies, cores, threads.
    pub topology: [u32; 4],
    /// Sizes of pages in KiB.
    pub pages: Vec<u64>,
    /// How guests can be moved to other hosts: `tcp`; empty if not at all.
    pub migration: Vec<String>,
    /// Nodes of memory.
    pub cells: Vec<Cell>,
    /// What guests there can be.
    pub guests: Guests,
}

/// A node of memory with its CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// Its CPUs.
    pub cpus: Vec<HostCpu>,
}

/// A CPU of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCpu {
    /// Its number.
    pub id: u32,
    /// Number of its socket, die, core.
    pub place: [u32; 3],
    /// CPUs that share the core, as a list of numbers.
    pub siblings: String,
}

/// What guests there can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guests {
    /// Path of this program.
    pub emulator: String,
    /// Versions of the platform, the newest first.
    pub machines: Vec<String>,
    /// Most CPUs of a guest.
    pub max_cpus: u32,
    /// Whether there is KVM.
    pub kvm: bool,
}

impl Host {
    /// The document.
    pub fn xml(&self) -> String {
        let host = Element::new("host");
        let host = with_text(host, "uuid", Some(&self.uuid)).with_child(self.cpu());
        let mut host = host
            .with_child(Element::new("power_management"))
            .with_child(Element::new("iommu").with("support", "no"));
        if !self.migration.is_empty() {
            let transports = self
                .migration
                .iter()
                .fold(Element::new("uri_transports"), |element, transport| {
                    with_text(element, "uri_transport", Some(transport))
                });
            let migration = Element::new("migration_features").with_child(Element::new("live"));
            host = host.with_child(migration.with_child(transports));
        }
        host = host.with_child(self.topology());
        write(
            &Element::new("capabilities")
                .with_child(host)
                .with_child(self.guests.element()),
        )
    }

    fn cpu(&self) -> Element {
        let mut cpu = with_text(Element::new("cpu"), "arch", Some("x86_64"));
        cpu = with_text(cpu, "model", self.model.as_deref());
        cpu = with_text(cpu, "vendor", self.vendor.as_deref());
        let [sockets, dies, cores, threads] = self.topology;
        let mut topology = Element::new("topology");
        for (name, count) in [
            ("sockets", sockets),
            ("dies", dies),
            ("cores", cores),
            ("threads", threads),
        ] {
            topology.set(name, count.to_string());
        }
        // Without a model, clients could make nothing of the rest.
        if self.model.is_some() {
            cpu = cpu.with_child(topology);
            for feature in &self.features {
                cpu = cpu.with_child(Element::new("feature").with("name", &**feature));
            }
        }
        for size in &self.pages {
            cpu = cpu.with_child(
                Element::new("pages")
                    .with("unit", "KiB")
                    .with("size", size.to_string()),
            );
        }
        cpu
    }

    fn topology(&self) -> Element {
        let mut cells = Element::new("cells").with("num", self.cells.len().to_string());
        for cell in &self.cells {
            let memory = Element::new("memory")
                .with("unit", "KiB")
                .with_text(cell.memory.to_string());
            let mut cpus = Element::new("cpus").with("num", cell.cpus.len().to_string());
            for cpu in &cell.cpus {
                let mut element = Element::new("cpu").with("id", cpu.id.to_string());
                for (name, number) in ["socket_id", "die_id", "core_id"].into_iter().zip(cpu.place) {
                    element.set(name, number.to_string());
                }
                cpus = cpus.with_child(element.with("siblings", &*cpu.siblings));
            }
            let element = Element::new("cell").with("id", cell.id.to_string());
            cells = cells.with_child(element.with_child(memory).with_child(cpus));
        }
        Element::new("topology").with_child(cells)
    }
}

impl Guests {
    fn element(&self) -> Element {
        let mut arch = Element::new("arch").with("name", "x86_64");
        arch = with_text(arch, "wordsize", Some("64"));
        arch = with_text(arch, "emulator", Some(&self.emulator));
        let machine = |name: &str| {
            Element::new("machine")
                .with("maxCpus", self.max_cpus.to_string())
                .with_text(name)
        };
        for name in &self.machines {
            arch = arch.with_child(machine(name));
        }
        if let Some(newest) = self.machines.first() {
            arch = arch.with_child(machine("q35").with("canonical", &**newest));
        }
        for kind in ["qemu", "kvm"]
            .into_iter()
            .filter(|&kind| kind == "qemu" || self.kvm)
        {
            arch = arch.with_child(Element::new("domain").with("type", kind));
        }
        let toggle =
            |name: &str, toggle: &str| Element::new(name).with("default", "on").with("toggle", toggle);
        let features = Element::new("features")
            .with_child(toggle("acpi", "yes"))
            .with_child(toggle("apic", "no"));
        with_text(Element::new("guest"), "os_type", Some("hvm"))
            .with_child(arch)
            .with_child(features)
    }
}
