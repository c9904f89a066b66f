//! A guest as management sees it: what it is made of, and what can be added and taken away while it runs.
//!
//! One thread owns the manager, that of the control socket; so nothing here has a lock. The guest's state belongs to the
//! [driver](crate::driver) all the same.
//!
//! | file | holds |
//! |---|---|
//! | `cpus` | CPUs that come and go |
//! | `slots` | devices that are plugged into root ports, and unplugged |
//! | `nodes` | block nodes: `blockdev-add` |
//! | `netdevs` | network back ends: `netdev_add` |
//! | `media` | media of CD-ROM drives: `eject`, `blockdev-change-medium` |
//! | `fdsets` | descriptors that clients handed over |

mod cpus;
mod fdsets;
mod media;
mod netdevs;
mod nodes;
mod slots;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ostler_accel::{CpuState, Profiler};
use ostler_bus::{Msi, MsiSink};
use ostler_display::Card;
use ostler_machine::{Machine, PciAddress};
use ostler_memory::GuestRam;
use ostler_virtio::Platform;
use ostler_virtio::balloon::BalloonControl;
use ostler_virtio::mem::MemControl;
use serde_json::{Value, json};

use crate::console::Console;
use crate::devices::{DiskPart, NamedDevice, NetPart, Part, PmemPart, SataDrive};
use crate::driver::{DriverHandle, State};
use crate::registers::Registers;
use crate::spec::{AcceleratorSpec, ConsoleSpec, GuestSpec, WatchdogAction};
use crate::vcpu::CpuView;

pub(crate) use cpus::{CpuNews, Seat};
pub(crate) use fdsets::{ClientFds, FdSets};
pub(crate) use media::{Which, drive_path};
pub(crate) use netdevs::Netdevs;
pub(crate) use nodes::{Node, Nodes, Origin};
pub(crate) use slots::{Device, Place, port_name};

/// How long a CPU may take to tell its registers.
const PATIENCE: Duration = Duration::from_secs(5);

/// A console as management lists it.
pub(crate) struct NamedConsole {
    pub name: &'static str,
    /// "null", "stdio", "file" or "unix".
    pub leads_to: &'static str,
    pub console: Arc<Console>,
}

impl NamedConsole {
    pub fn new(name: &'static str, spec: &ConsoleSpec, console: Arc<Console>) -> Self {
        let leads_to = match spec {
            ConsoleSpec::None => "null",
            ConsoleSpec::Terminal { .. } => "stdio",
            ConsoleSpec::File { .. } => "file",
            ConsoleSpec::Socket { .. } => "unix",
        };
        Self {
            name,
            leads_to,
            console,
        }
    }
}

/// Sends each of the CPUs that are there an NMI, as a message (SDM vol. 3, 11.11).
pub(crate) fn inject_nmi(msi: &dyn MsiSink, cpus: &[bool]) {
    const DELIVERY_NMI: u32 = 4 << 8;
    let there = (0u64..).zip(cpus).filter(|(_, present)| **present);
    for (cpu, _) in there {
        msi.signal(Msi {
            address: 0xfee0_0000 | cpu << 12,
            data: DELIVERY_NMI,
        });
    }
}

/// What happens when the guest lets its watchdog run out; it can be chosen anew while the guest runs.
#[derive(Clone)]
pub(crate) struct WatchdogSwitch(Arc<Mutex<WatchdogAction>>);

impl WatchdogSwitch {
    pub fn new(action: WatchdogAction) -> Self {
        Self(Arc::new(Mutex::new(action)))
    }

    pub fn action(&self) -> WatchdogAction {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, action: WatchdogAction) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = action;
    }
}

/// What the manager is made of.
pub(crate) struct Parts {
    pub driver: DriverHandle,
    pub machine: Arc<Machine>,
    pub platform: Platform,
    pub watchdog: WatchdogSwitch,
    pub cpus: Vec<CpuView>,
    pub cpu_news: CpuNews,
    pub profiler: Option<Arc<dyn Profiler>>,
    pub registers: Arc<Registers>,
    pub devices: Vec<NamedDevice>,
    /// Where each of them is.
    pub places: Vec<PciAddress>,
    pub drives: Vec<SataDrive>,
    pub display: Option<Arc<Card>>,
    pub consoles: Vec<NamedConsole>,
}

/// A guest under management.
pub(crate) struct Manager {
    pub spec: GuestSpec,
    pub started: Instant,
    pub driver: DriverHandle,
    pub machine: Arc<Machine>,
    pub cpu_news: CpuNews,
    pub profiler: Option<Arc<dyn Profiler>>,
    pub registers: Arc<Registers>,
    pub consoles: Vec<NamedConsole>,
    pub nodes: Nodes,
    pub netdevs: Netdevs,
    pub fdsets: FdSets,
    pub watchdog: WatchdogSwitch,
    /// The display, if there is one.
    pub display: Option<Arc<Card>>,
    /// What is at the SATA controller.
    pub drives: Vec<SataDrive>,
    /// Whether clients were told that the tray of each of these is open.
    trays_told: Vec<bool>,
    /// Every CPU that there can be.
    seats: Vec<Seat>,
    platform: Platform,
    devices: Vec<Device>,
    /// When each root port that was in use lost its device.
    emptied: BTreeMap<u8, Instant>,
    events: Vec<Value>,
}

impl Manager {
    pub fn new(spec: GuestSpec, parts: Parts) -> Self {
        let (mut nodes, mut netdevs) = (Nodes::default(), Netdevs::default());
        let mut devices = Vec::new();
        for (named, place) in parts.devices.into_iter().zip(parts.places) {
            match &named.part {
                Part::Disk(part) => nodes.built(&named.name, &part.image),
                Part::Net(part) => netdevs.built(&named.name, part.kind, part.backend.clone()),
                Part::Console
                | Part::Rng
                | Part::Balloon(_)
                | Part::Vsock(_)
                | Part::Share(_)
                | Part::Mem(_)
                | Part::Pmem(_) => {}
            }
            devices.push(Device::built(named, place));
        }
        for drive in &parts.drives {
            let built_with = drive
                .built_with
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(image) = built_with {
                nodes.built(&drive.name, &image);
            }
        }
        let seats = parts.cpus.into_iter().zip(parts.machine.cpus());
        let seats = seats.map(|(view, present)| Seat::new(view, present)).collect();
        Self {
            spec,
            started: Instant::now(),
            driver: parts.driver,
            seats,
            machine: parts.machine,
            cpu_news: parts.cpu_news,
            profiler: parts.profiler,
            registers: parts.registers,
            consoles: parts.consoles,
            nodes,
            netdevs,
            fdsets: FdSets::default(),
            trays_told: vec![false; parts.drives.len()],
            drives: parts.drives,
            display: parts.display,
            watchdog: parts.watchdog,
            platform: parts.platform,
            devices,
            emptied: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    pub fn state(&self) -> State {
        self.driver.state()
    }

    /// True if KVM runs the guest.
    pub fn on_kvm(&self) -> bool {
        matches!(self.spec.accelerator, AcceleratorSpec::Kvm { .. })
    }

    /// Every device, in the order in which they came.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.id() == id)
    }

    /// The disks among the devices.
    pub fn disks(&self) -> impl Iterator<Item = (&Device, &DiskPart)> {
        self.devices.iter().filter_map(|device| match &device.named.part {
            Part::Disk(part) => Some((device, part)),
            _ => None,
        })
    }

    /// The network cards among the devices.
    pub fn cards(&self) -> impl Iterator<Item = (&Device, &NetPart)> {
        self.devices.iter().filter_map(|device| match &device.named.part {
            Part::Net(part) => Some((device, part)),
            _ => None,
        })
    }

    /// The card with this id, or the one whose back end has it.
    pub fn card(&self, name: &str) -> Option<&NetPart> {
        let card = self.netdevs.get(name).and_then(|netdev| netdev.card.as_deref());
        let by_netdev = card.unwrap_or(name);
        let mut cards = self.cards();
        cards
            .find(|(device, _)| device.id() == by_netdev)
            .map(|(_, part)| part)
    }

    /// The memory balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonControl> {
        self.devices.iter().find_map(|device| match &device.named.part {
            Part::Balloon(control) => Some(control),
            _ => None,
        })
    }

    /// The memory that comes and goes, and its device's id.
    pub fn memory(&self) -> Option<(&str, &MemControl)> {
        self.devices.iter().find_map(|device| match &device.named.part {
            Part::Mem(control) => Some((device.id(), control)),
            _ => None,
        })
    }

    /// Persistent memory, with its devices' ids.
    pub fn persistent_memory(&self) -> impl Iterator<Item = (&str, PmemPart)> {
        self.devices.iter().filter_map(|device| match device.named.part {
            Part::Pmem(part) => Some((device.id(), part)),
            _ => None,
        })
    }

    /// Bytes of memory that came while the guest ran.
    pub fn plugged_memory(&self) -> u64 {
        self.memory().map_or(0, |(_, memory)| memory.plugged())
    }

    /// Bytes of memory that the guest has outside its balloon, as it says; all without one.
    pub fn balloon_memory(&self) -> u64 {
        let pages = self.balloon().map_or(0, BalloonControl::actual);
        let inside = u64::from(pages) * ostler_virtio::balloon::PAGE_SIZE;
        (self.spec.memory + self.plugged_memory()).saturating_sub(inside)
    }

    /// Guest memory.
    pub fn ram(&self) -> &GuestRam {
        &self.platform.ram
    }

    /// The registers of CPU `index`; `None` if it does not answer.
    pub fn registers(&self, index: usize) -> Option<CpuState> {
        self.cpu(index)?.inspect(PATIENCE)
    }

    /// Sends every CPU an NMI.
    pub fn inject_nmi(&self) {
        inject_nmi(&*self.platform.msi, &self.machine.cpus());
    }

    /// Every client is to be told of `event`.
    fn tell(&mut self, name: &'static str, data: Value) {
        self.events.push(json!({ "event": name, "data": data }));
    }

    /// What happened since the last call: events without their times.
    pub fn take_events(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.events)
    }
}
