//! From a definition to what is started. What a definition may ask for and a guest's process does not have yet is a sentence that
//! names it: a guest never starts without something that its owner wanted.

mod boot;
mod cards;
mod cpu;
mod disks;
mod memory_device;
mod places;
mod sockets;
mod streams;

pub use boot::{Boot, Store};
pub use cards::{Card, CardSource, NetworkPort};
pub use disks::{Disk, Image};
pub use memory_device::{ID as MEMORY_DEVICE, MemoryDevice, Persistent};
pub use places::has_places;
pub use sockets::{Share, ShareSource, Vsock};
pub use streams::{Stream, Streams};

use ostler_launch::RtcStart;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain as xml;
use ostler_vmm::spec::{BalloonSpec, Guid, OnReset, PciSpec, WatchdogAction, check_cpus};

use super::definition::Definition;

/// What a guest cannot have, in a sentence.
type Lacks = String;

/// A display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisplayModel {
    /// VGA with Bochs' VBE registers.
    Vga,
    /// A frame buffer with these registers and nothing of VGA.
    Plain,
}

/// A guest to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whether KVM runs it, or the software CPU.
    pub kvm: bool,
    /// The platform's version.
    pub machine: String,
    /// The CPU model by our names.
    pub cpu_model: String,
    /// RAM in bytes.
    pub memory: u64,
    /// What can come to that.
    pub memory_device: Option<MemoryDevice>,
    /// Files that are memory of it.
    pub persistent: Vec<Persistent>,
    /// Bytes of the huge pages that it is in, 0 for the host's default.
    pub huge_pages: Option<u64>,
    /// CPUs that it starts with: the first ones.
    pub vcpus: u32,
    /// CPUs that there can be, where they come and go.
    pub max_vcpus: Option<u32>,
    /// The numbers of CPUs that are plugged in right after the start, as there is a gap before them.
    pub later_vcpus: Vec<u32>,
    /// What it starts with.
    pub boot: Boot,
    /// Its disks: virtio ones in their order, then SATA drives in that of their ports.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// Its consoles and channels.
    pub streams: Streams,
    /// Where its devices are on PCI; `None` for one after the other.
    pub pci: Option<PciSpec>,
    /// Its sources of entropy, by their aliases.
    pub rngs: Vec<String>,
    /// Its balloon.
    pub balloon: Option<BalloonSpec>,
    /// What its watchdog does.
    pub watchdog: Option<WatchdogAction>,
    /// Folders of the host.
    pub shares: Vec<Share>,
    /// Its sockets to the host.
    pub vsock: Option<Vsock>,
    /// Its display.
    pub display: Option<DisplayModel>,
    /// Its generation ID.
    pub generation_id: Option<Guid>,
    /// What its real-time clock shows at the start.
    pub rtc: RtcStart,
    /// Whether it can sleep.
    pub suspend: bool,
    /// What a reset does.
    pub on_reset: OnReset,
}

impl Plan {
    /// What is started for a definition, or the first thing that cannot be.
    pub fn of(definition: &Definition) -> Result<Self, RemoteError> {
        Self::read(definition).map_err(|lacks| RemoteError::new(Code::ConfigUnsupported, lacks))
    }

    fn read(definition: &Definition) -> Result<Self, Lacks> {
        let model: &xml::Domain = definition;
        memory(model)?;
        let devices = &model.devices;
        let disks = disks::read(model)?;
        let streams = streams::read(devices)?;
        let cpus = &model.vcpus;
        let vcpus = cpus.without_gap();
        check_cpus(cpus.max.into()).map_err(|error| error.to_string())?;
        Ok(Self {
            kvm: model.kind == xml::DomainType::Kvm,
            machine: model.os.machine.clone(),
            cpu_model: cpu::model(model)?,
            memory: definition.ram(),
            huge_pages: model.memory.huge_pages,
            memory_device: memory_device::pluggable(devices)?,
            persistent: memory_device::persistent(devices)?,
            vcpus,
            max_vcpus: Some(cpus.max).filter(|max| *max > cpus.current),
            later_vcpus: cpus.there().split_off(vcpus as usize),
            boot: boot::read(model, &disks)?,
            cards: cards::read(devices)?,
            pci: places::read(definition, &streams)?,
            streams,
            rngs: rngs(devices)?,
            balloon: balloon(devices),
            watchdog: watchdog(devices)?,
            shares: sockets::shares(devices)?,
            vsock: sockets::vsock(devices)?,
            display: display(devices)?,
            generation_id: model.generation_id.map(|id| Guid(id.0)),
            rtc: rtc(&model.clock),
            suspend: model.life.suspend_to_memory,
            on_reset: on_reset(model)?,
            disks,
        })
    }
}

fn memory(model: &xml::Domain) -> Result<(), Lacks> {
    let memory = &model.memory;
    if memory.locked {
        return Err("memory cannot be <locked> in the host's RAM".into());
    }
    let has_balloon = model
        .devices
        .memballoon
        .as_ref()
        .is_some_and(|balloon| balloon.present);
    if memory.current < memory.initial(&model.devices.memories) && !has_balloon {
        return Err("<currentMemory> below <memory> needs a <memballoon>".into());
    }
    Ok(())
}

fn rtc(clock: &xml::Clock) -> RtcStart {
    match clock {
        xml::Clock::Utc => RtcStart::Utc,
        xml::Clock::LocalTime => RtcStart::Local,
        xml::Clock::TimeZone(name) => RtcStart::Zone(name.clone()),
        &xml::Clock::Variable { adjustment, local } => match local {
            true => RtcStart::AheadOfLocal(adjustment),
            false => RtcStart::Ahead(adjustment),
        },
        xml::Clock::Absolute(second) => RtcStart::At(i64::try_from(*second).unwrap_or(i64::MAX)),
    }
}

fn rngs(devices: &xml::Devices) -> Result<Vec<String>, Lacks> {
    if devices.rngs.iter().any(|rng| rng.rate.is_some()) {
        return Err("an <rng> gives as much as is asked for: its <rate> cannot be limited".into());
    }
    let alias = |rng: &xml::Rng| rng.common.alias.clone().unwrap_or_default();
    Ok(devices.rngs.iter().map(alias).collect())
}

fn display(devices: &xml::Devices) -> Result<Option<DisplayModel>, Lacks> {
    let mut displays = devices.videos.iter().filter_map(|video| match video.model {
        xml::VideoModel::Vga => Some(DisplayModel::Vga),
        xml::VideoModel::Bochs => Some(DisplayModel::Plain),
        xml::VideoModel::None | xml::VideoModel::Other => None,
    });
    match (displays.next(), displays.next()) {
        (_, Some(_)) => {
            Err("a guest has one display at most: one <video> with the model 'vga' or 'bochs'".into())
        }
        (display, None) => Ok(display),
    }
}

fn balloon(devices: &xml::Devices) -> Option<BalloonSpec> {
    let balloon = devices.memballoon.as_ref().filter(|balloon| balloon.present)?;
    Some(BalloonSpec {
        deflate_on_oom: balloon.autodeflate,
        free_page_reporting: balloon.free_page_reporting,
    })
}

fn watchdog(devices: &xml::Devices) -> Result<Option<WatchdogAction>, Lacks> {
    let Some(watchdog) = &devices.watchdog else {
        return Ok(None);
    };
    if watchdog.model == xml::WatchdogModel::Itco {
        return Err("the <watchdog> 'itco' is not there; there is 'i6300esb'".into());
    }
    Ok(Some(match watchdog.action {
        xml::WatchdogAction::Reset => WatchdogAction::Reset,
        xml::WatchdogAction::Shutdown => WatchdogAction::Shutdown,
        xml::WatchdogAction::Poweroff => WatchdogAction::Poweroff,
        xml::WatchdogAction::Pause => WatchdogAction::Pause,
        xml::WatchdogAction::None => WatchdogAction::None,
        xml::WatchdogAction::InjectNmi => WatchdogAction::InjectNmi,
        xml::WatchdogAction::Dump => {
            return Err(
                "a <watchdog> cannot write the guest's memory to a file: its action cannot be 'dump'".into(),
            );
        }
    }))
}

fn on_reset(model: &xml::Domain) -> Result<OnReset, Lacks> {
    let life = &model.life;
    let kept = [
        ("on_poweroff", life.poweroff),
        ("on_reboot", life.reboot),
        ("on_crash", life.crash),
    ];
    if let Some((name, _)) = kept.iter().find(|(_, action)| *action == xml::Action::Preserve) {
        return Err(format!(
            "a guest that is over cannot be looked at: <{name}> cannot be 'preserve'"
        ));
    }
    if life.dump_core {
        return Err(
            "a guest's memory cannot be written to a file: <on_crash> cannot begin with 'coredump'".into(),
        );
    }
    Ok(match life.reboot {
        xml::Action::Destroy => OnReset::End,
        _ => OnReset::Restart,
    })
}

#[cfg(test)]
mod tests;
