//! Domain XML: what a guest is.

mod clock;
mod cpu;
mod devices;
mod edit;
mod features;
mod fill;
mod general;
mod hyperv;
mod life;
mod memory;
mod os;
mod security;
mod tuning;
mod vcpu;

use std::ops::Deref;
use std::sync::{Arc, LazyLock};

pub use clock::Clock;
pub use cpu::{Cpu, CpuFeature, CpuMatch, CpuMode, FeaturePolicy, Topology};
pub use devices::{
    Bandwidth, Cache, Character, CharacterSource, CharacterTarget, Common, Controller, Devices, Disk,
    DiskBus, DiskDevice, DiskSource, Filesystem, Interface, InterfaceModel, InterfaceSource, Io, Memballoon,
    MemoryDevice, MemoryKind, PciAddress, PortForward, Rate, Rng, RngRate, Video, VideoModel, Vlan, Vsock,
    Watchdog, WatchdogAction, WatchdogModel,
};
pub use features::Features;
pub use fill::Live;
pub(crate) use fill::sort;
pub use general::DomainType;
pub use hyperv::Enlightenment;
pub use life::{Action, Life};
pub use memory::Memory;
pub use os::{BootDevice, Firmware, Kernel, Nvram, Os};
pub use tuning::{CpuQuota, CpuTune, MemoryTune};
pub use vcpu::Vcpus;

use crate::table::{Finding, Schema, check, findings};
use crate::tree::{Element, read, write};
use crate::value::{Random, Uuid, object_name};
use crate::{Defaults, Error};

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let mut families = vec![
        &general::FAMILY,
        &memory::FAMILY,
        &vcpu::FAMILY,
        &tuning::FAMILY,
        &os::FAMILY,
        &features::FAMILY,
        &hyperv::FAMILY,
        &cpu::FAMILY,
        &clock::FAMILY,
        &life::FAMILY,
    ];
    families.extend(devices::FAMILIES);
    families.push(&security::FAMILY);
    Schema::new("domain", families)
});

/// A definition: the document that is kept and given back, and what it says.
///
/// The fields of [`DomainModel`] can be read as its own. It does not change; an edit makes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The document. A tree of it takes ten times the memory, and few of the many guests of a host are looked at.
    text: Arc<str>,
    model: DomainModel,
    /// Its devices have names that last as long as its run.
    runs: bool,
}

/// What a definition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainModel {
    /// Which accelerator is wished for.
    pub kind: DomainType,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// A line for people.
    pub title: Option<String>,
    /// A text for people.
    pub description: Option<String>,
    /// The VM generation ID, if the guest has such a device.
    pub generation_id: Option<Uuid>,
    /// RAM.
    pub memory: Memory,
    /// CPUs.
    pub vcpus: Vcpus,
    /// Where its threads run.
    pub tune: CpuTune,
    /// Limits of the host's memory.
    pub memory_tune: MemoryTune,
    /// Weight of its disk I/O.
    pub io_weight: Option<u32>,
    /// What it starts with.
    pub os: Os,
    /// Features of the machine.
    pub features: Features,
    /// What the guest sees of Hyper-V's interface.
    pub hyperv: Vec<Enlightenment>,
    /// The CPU that it sees.
    pub cpu: Cpu,
    /// Its clock.
    pub clock: Clock,
    /// What its end means.
    pub life: Life,
    /// Its devices.
    pub devices: Devices,
}

impl Deref for Domain {
    type Target = DomainModel;

    fn deref(&self) -> &DomainModel {
        &self.model
    }
}

impl Domain {
    /// Reads a definition and fills in what it does not say.
    ///
    /// `random` gives the UUID and addresses of cards that are missing. What a dump of a running guest says more is left out.
    pub fn define(xml: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let domain = Self::from_tree(read(xml)?, false, defaults, random)?;
        domain.check_text(xml)
    }

    /// Reads what [`Domain::xml`] wrote of a guest that runs: its devices keep the names that they have.
    pub fn read_running(xml: &str, defaults: &Defaults, random: Random<'_>) -> Result<Self, Error> {
        let domain = Self::from_tree(read(xml)?, true, defaults, random)?;
        domain.check_text(xml)
    }

    /// What was filled in may have made the document longer than one may be. One that was read as it is can be read again.
    fn check_text(self, read_from: &str) -> Result<Self, Error> {
        if *self.text != *read_from {
            read(&self.text)?;
        }
        Ok(self)
    }

    /// The guest as it is from its start on: each device has a name that stays its own while others come and go.
    pub fn started(&self) -> Self {
        let mut tree = self.tree();
        fill::aliases(&mut tree);
        fill::sort(&SCHEMA, &mut tree);
        Self {
            text: write(&tree).into(),
            model: self.model.clone(),
            runs: true,
        }
    }

    /// The same guest after a change of its document.
    pub fn edit(
        &self,
        change: impl FnOnce(&mut Element),
        defaults: &Defaults,
        random: Random<'_>,
    ) -> Result<Self, Error> {
        let mut tree = self.tree();
        change(&mut tree);
        Self::from_tree(tree, self.runs, defaults, random)?.check_text("")
    }

    pub(crate) fn from_tree(
        mut tree: Element,
        runs: bool,
        defaults: &Defaults,
        random: Random<'_>,
    ) -> Result<Self, Error> {
        check(&SCHEMA, &tree)?;
        single(&tree)?;
        if !runs {
            fill::strip(&mut tree);
        }
        fill::fill(&mut tree, defaults, random)?;
        fill::sort(&SCHEMA, &mut tree);
        // Models know their aliases, which a definition does not have.
        let mut named = tree.clone();
        fill::aliases(&mut named);
        let model = DomainModel::read(&named)?;
        if runs {
            tree = named;
            fill::sort(&SCHEMA, &mut tree);
        }
        Ok(Self {
            text: write(&tree).into(),
            model,
            runs,
        })
    }

    /// The definition (`dumpxml --inactive`). `secure`: with passwords.
    pub fn xml(&self, secure: bool) -> Arc<str> {
        if secure {
            return self.text.clone();
        }
        let mut tree = self.tree();
        hide(&mut tree);
        write(&tree).into()
    }

    /// The guest as it runs (`dumpxml`): with number, aliases, and what it was given at the start.
    pub fn live_xml(&self, live: &Live, secure: bool) -> String {
        let mut tree = self.tree();
        if !secure {
            hide(&mut tree);
        }
        fill::live(&mut tree, live);
        fill::sort(&SCHEMA, &mut tree);
        write(&tree)
    }

    /// The root ports that would be added next, by index and place: so many that devices can come without restart of the guest to `free`
    /// ports, those of the document that no device uses included.
    pub fn spare_ports(&self, free: usize) -> Vec<(u8, PciAddress)> {
        let tree = self.tree();
        tree.child("devices")
            .map_or_else(Vec::new, |devices| fill::spare(devices, free))
    }

    /// The document's tree.
    pub fn tree(&self) -> Element {
        // It was read once, or checked that it can be.
        read(&self.text).unwrap_or_default()
    }
}

/// What becomes of every element and attribute of a document.
pub fn class(xml: &str) -> Result<Vec<Finding>, Error> {
    let tree = read(xml)?;
    Ok(findings(&SCHEMA, &tree))
}

/// Elements of a domain that may be there once only.
fn single(root: &Element) -> Result<(), Error> {
    let mut names: Vec<&str> = root.elements().map(|element| element.name.as_str()).collect();
    names.sort_unstable();
    match names
        .windows(2)
        .find(|two| two[0] == two[1] && !matches!(two[0], "seclabel" | "sysinfo"))
    {
        Some(two) => Err(Error::Xml(format!(
            "element '{}' is there more than once",
            two[0]
        ))),
        None => Ok(()),
    }
}

/// Takes passwords away.
fn hide(root: &mut Element) {
    let devices = root
        .child_mut("devices")
        .into_iter()
        .flat_map(Element::elements_mut);
    for graphics in devices.filter(|device| device.name == "graphics") {
        graphics.unset("passwd");
        graphics.unset("passwdValidTo");
    }
}

impl DomainModel {
    fn read(root: &Element) -> Result<Self, Error> {
        let vcpus = Vcpus::read(root)?;
        let model = Self {
            kind: match root.get("type") {
                Some("qemu") => DomainType::Software,
                _ => DomainType::Kvm,
            },
            name: object_name(root)?,
            uuid: root
                .child_text("uuid")
                .and_then(|uuid| uuid.parse().ok())
                .ok_or_else(|| Error::Xml("malformed uuid element".into()))?,
            title: root.child_text("title"),
            description: root.child_text("description"),
            generation_id: general::generation_id(root)?,
            memory: Memory::read(root)?,
            cpu: Cpu::read(root, vcpus.max)?,
            vcpus,
            tune: CpuTune::read(root)?,
            memory_tune: MemoryTune::read(root)?,
            io_weight: tuning::io_weight(root)?,
            os: Os::read(root)?,
            features: Features::read(root),
            hyperv: Enlightenment::read(root)?,
            clock: Clock::read(root)?,
            life: Life::read(root),
            devices: Devices::read(root)?,
        };
        model.check()?;
        Ok(model)
    }

    /// What no element can know of another.
    fn check(&self) -> Result<(), Error> {
        if self.title.as_ref().is_some_and(|title| title.contains('\n')) {
            return Err(Error::Xml("Domain title can't contain newlines".into()));
        }
        self.memory.check(&self.devices.memories)?;
        let mut orders = self.boot_orders();
        orders.sort_unstable();
        if orders.windows(2).any(|two| two[0] == two[1]) {
            return Err(Error::Xml("boot orders of two devices are the same".into()));
        }
        if !orders.is_empty() && !self.os.boot.is_empty() {
            return Err(Error::Unsupported(
                "per-device boot elements cannot be used together with os/boot elements".into(),
            ));
        }
        Ok(())
    }

    fn boot_orders(&self) -> Vec<u32> {
        let disks = self.devices.disks.iter().map(|disk| &disk.common);
        let interfaces = self.devices.interfaces.iter().map(|interface| &interface.common);
        disks
            .chain(interfaces)
            .filter_map(|common| common.boot_order)
            .collect()
    }

    /// Disks in the order in which the guest boots from them: by their own orders, or by `<boot dev>`. Others follow.
    pub fn boot_disks(&self) -> Vec<&Disk> {
        let mut disks: Vec<&Disk> = self.devices.disks.iter().collect();
        let kind = |disk: &Disk| match disk.device {
            DiskDevice::Disk => BootDevice::Disk,
            DiskDevice::Cdrom => BootDevice::Cdrom,
        };
        disks.sort_by_key(|disk| {
            let by_kind = self.os.boot.iter().position(|&device| device == kind(disk));
            (
                disk.boot_order().unwrap_or(u32::MAX),
                by_kind.unwrap_or(usize::MAX),
            )
        });
        disks
    }
}
