//! One guest: its definition, and its process while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ostler_libvirt::types::{Domain as WireDomain, StateAndReason, Uuid};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::Live as XmlLive;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::Definition;
use crate::console::ConsoleStream;
use crate::events::{Events, Lifecycle};
use crate::guest::{Attached, Control, GuestProcess, Notice, RunFiles};
use crate::uuid;

/// A guest. Where more than one is needed, they are taken in this order: the job, the devices, the state.
pub struct Domain {
    /// What identifies it.
    pub uuid: Uuid,
    /// Held by whoever starts, ends or defines it.
    pub job: Mutex<()>,
    /// Held by whoever changes the devices of the guest that runs.
    devices: Mutex<()>,
    state: Mutex<DomainState>,
    /// The process is gone, or a device.
    gone: Condvar,
}

/// What there is to know of a guest.
pub struct DomainState {
    /// What it is called.
    pub name: String,
    /// The definition that lasts; none for one that is there while it runs only.
    pub persistent: Option<Arc<Definition>>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Its process.
    pub live: Option<Live>,
    /// Why it does not run (`virDomainShutoffReason`).
    pub off_reason: i32,
}

/// A guest's process.
pub struct Live {
    /// The number of this run.
    pub id: i32,
    /// What it is: what it was started as, with the devices that came and went.
    pub definition: Arc<Definition>,
    /// Its devices as its process knows them, by alias.
    pub devices: BTreeMap<String, Attached>,
    /// The CD-ROM drives whose trays are open, by alias.
    pub open_trays: BTreeSet<String>,
    /// How much it has of its memory devices, in bytes, by alias.
    pub plugged: BTreeMap<String, u64>,
    /// When root ports, by their buses, lost their devices.
    pub emptied: BTreeMap<u8, Instant>,
    /// Since when this daemon knows the guest. Root ports may have lost devices just before.
    pub known_since: Instant,
    /// The number of the next device that is plugged in.
    pub next_plug: u32,
    /// Its CID, if it has a vsock.
    pub cid: Option<u32>,
    /// Its real-time clock.
    pub rtc: RtcState,
    /// How it is talked to.
    pub control: Arc<Control>,
    /// What the host knows of it.
    pub process: Arc<GuestProcess>,
    /// Where its sockets are.
    pub files: RunFiles,
    /// Its CPUs are held.
    pub paused: bool,
    /// It sleeps.
    pub asleep: bool,
    /// Why it runs (`virDomainRunningReason`).
    pub run_reason: i32,
    /// The consoles that clients have, by alias.
    pub consoles: BTreeMap<String, Arc<ConsoleStream>>,
    /// Somebody ends it.
    pub destroying: bool,
    /// When it powers off, it is to start again.
    pub rebooting: bool,
    /// It said itself that it is over.
    pub shut_down: bool,
    /// It powered off, rather than being ended or reset for the last time.
    pub powered_off: bool,
    /// Its kernel panicked.
    pub panicked: bool,
}

/// A guest's real-time clock, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RtcState {
    /// By which it was ahead of UTC at the start.
    pub start: i64,
    /// By which the guest has set it forward since.
    #[serde(skip)]
    pub moved: i64,
}

impl RtcState {
    /// Notes what the clock shows now, which is C's `struct tm`.
    fn found(&mut self, shown: &Value) {
        // Between the guest's answer and our look at the time some of it passes.
        const UNSURE: i64 = 2;
        let part = |name: &str, first: i64| shown[name].as_i64().map(|value| value.saturating_add(first));
        let small = |name: &str, first: i64| part(name, first).and_then(|value| i8::try_from(value).ok());
        let ahead = || {
            let year = i16::try_from(part("tm_year", 1900)?).ok()?;
            let date = (year, small("tm_mon", 1)?, small("tm_mday", 0)?);
            ostler_launch::rtc::ahead(
                date,
                (small("tm_hour", 0)?, small("tm_min", 0)?, small("tm_sec", 0)?),
            )
        };
        if let Some(moved) = ahead().map(|ahead| ahead - self.start) {
            self.moved = if moved.abs() <= UNSURE { 0 } else { moved };
        }
    }
}

/// Numbers of libvirt: states and their reasons.
pub mod state {
    #![allow(missing_docs, reason = "the names are libvirt's")]
    pub const RUNNING: i32 = 1;
    pub const PAUSED: i32 = 3;
    pub const SHUTDOWN: i32 = 4;
    pub const SHUTOFF: i32 = 5;
    pub const PMSUSPENDED: i32 = 7;

    pub const RUNNING_UNKNOWN: i32 = 0;
    pub const RUNNING_BOOTED: i32 = 1;
    pub const RUNNING_UNPAUSED: i32 = 5;
    pub const RUNNING_WAKEUP: i32 = 8;
    pub const PAUSED_USER: i32 = 1;
    pub const PAUSED_STARTING: i32 = 11;
    pub const SHUTOFF_UNKNOWN: i32 = 0;
    pub const SHUTOFF_SHUTDOWN: i32 = 1;
    pub const SHUTOFF_DESTROYED: i32 = 2;
    pub const SHUTOFF_CRASHED: i32 = 3;
}

impl Domain {
    /// A guest that does not run.
    pub fn new(definition: &Definition, persistent: Option<Arc<Definition>>, autostart: bool) -> Arc<Self> {
        Arc::new(Self {
            uuid: definition.uuid,
            job: Mutex::new(()),
            devices: Mutex::new(()),
            state: Mutex::new(DomainState {
                name: definition.name.clone(),
                persistent,
                autostart,
                live: None,
                off_reason: state::SHUTOFF_UNKNOWN,
            }),
            gone: Condvar::new(),
        })
    }

    /// The state, which nobody else looks at meanwhile.
    pub fn state(&self) -> MutexGuard<'_, DomainState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from starting, ending and defining it.
    pub fn job(&self) -> MutexGuard<'_, ()> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from changing the devices of the guest that runs.
    pub fn devices(&self) -> MutexGuard<'_, ()> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest as clients name it.
    pub fn to_wire(&self) -> WireDomain {
        self.wire(&self.state())
    }

    /// The same for who has the state already.
    pub fn wire(&self, state: &DomainState) -> WireDomain {
        WireDomain {
            name: state.name.clone(),
            uuid: self.uuid,
            id: state.live.as_ref().map_or(-1, |live| live.id),
        }
    }

    /// How the guest that runs is talked to.
    pub fn control(&self) -> Result<Arc<Control>, RemoteError> {
        self.with_live(|live| live.control.clone())
    }

    /// Looks at the guest that runs.
    pub fn with_live<T>(&self, look: impl FnOnce(&mut Live) -> T) -> Result<T, RemoteError> {
        self.state().live.as_mut().map(look).ok_or_else(not_running)
    }

    /// Looks at the memory devices of a guest that ran while no daemon was there.
    pub(super) fn find_memory(&self) {
        let Ok(control) = self.control() else { return };
        let found = control.execute("query-memory-devices").unwrap_or_default();
        let _ = self.with_live(|live| {
            for device in found.as_array().into_iter().flatten() {
                let data = &device["data"];
                if let (Some(id), Some(size)) = (data["id"].as_str(), data["size"].as_u64()) {
                    live.memory_changed(id, size);
                }
            }
        });
    }

    /// Looks at the clock of a guest that ran while no daemon was there.
    pub(super) fn find_rtc(&self) {
        let Ok(control) = self.control() else { return };
        let wanted = json!({ "path": "/machine", "property": "rtc-time" });
        let Ok(shown) = control.execute_with("qom-get", wanted) else {
            return;
        };
        let _ = self.with_live(|live| live.rtc.found(&shown));
    }

    /// Notes that the CPUs are held or go on, and tells whoever wants to know; true if this is news.
    pub fn set_paused(&self, paused: bool, events: &Events) {
        let mut guard = self.state();
        let Some(live) = &mut guard.live else { return };
        if live.paused == paused {
            return;
        }
        live.paused = paused;
        live.run_reason = state::RUNNING_UNPAUSED;
        let step = match paused {
            true => Lifecycle::SuspendedPaused,
            false => Lifecycle::ResumedUnpaused,
        };
        events.lifecycle(&self.wire(&guard), step);
    }

    /// Notes that it went to sleep or woke up, and tells whoever wants to know.
    fn set_asleep(&self, asleep: bool, events: &Events) {
        let mut guard = self.state();
        let Some(live) = &mut guard.live else { return };
        if live.asleep == asleep {
            return;
        }
        live.asleep = asleep;
        live.run_reason = state::RUNNING_WAKEUP;
        let step = match asleep {
            true => Lifecycle::PmSuspended,
            false => Lifecycle::StartedWakeup,
        };
        let wire = self.wire(&guard);
        events.lifecycle(&wire, step);
        events.sleep(&wire, asleep);
    }

    /// Takes in what the guest's process told; its end is for others to handle.
    pub fn take(&self, notice: &Notice, events: &Events) {
        match notice {
            Notice::Paused => self.set_paused(true, events),
            Notice::Resumed => self.set_paused(false, events),
            Notice::Asleep => self.set_asleep(true, events),
            Notice::Awake => self.set_asleep(false, events),
            Notice::Reset => {
                // That ends a sleep too.
                self.set_asleep(false, events);
                events.reboot(&self.to_wire());
            }
            Notice::Shutdown {
                by_guest,
                powered_off,
            } => {
                let mut guard = self.state();
                let Some(live) = &mut guard.live else { return };
                live.shut_down = true;
                live.powered_off = *powered_off;
                if live.destroying || live.rebooting {
                    return;
                }
                let step = match by_guest {
                    true => Lifecycle::ShutdownByGuest,
                    false => Lifecycle::ShutdownByHost,
                };
                events.lifecycle(&self.wire(&guard), step);
            }
            Notice::Panicked => {
                let mut guard = self.state();
                let Some(live) = &mut guard.live else { return };
                live.panicked = true;
                events.lifecycle(&self.wire(&guard), Lifecycle::CrashedPanicked);
            }
            Notice::Balloon { actual } => events.balloon(&self.to_wire(), actual >> 10),
            Notice::Watchdog { action } => events.watchdog(&self.to_wire(), action),
            Notice::Memory { id, size } => {
                let mut guard = self.state();
                let changed = guard
                    .live
                    .as_mut()
                    .and_then(|live| live.memory_changed(id, *size));
                if let Some(alias) = changed {
                    events.memory_device(&self.wire(&guard), &alias, *size >> 10);
                }
            }
            Notice::RtcSet { moved } => {
                let mut guard = self.state();
                let Some(live) = &mut guard.live else { return };
                live.rtc.moved = *moved;
                let offset = live.rtc.start.saturating_add(*moved);
                events.rtc_set(&self.wire(&guard), offset);
            }
            Notice::TrayMoved { id, open } => {
                let mut guard = self.state();
                let moved = guard.live.as_mut().and_then(|live| live.tray_moved(id, *open));
                if let Some(alias) = moved {
                    events.tray_moved(&self.wire(&guard), &alias, *open);
                }
            }
            Notice::DeviceDeleted { .. } | Notice::CpuGone | Notice::Gone => {}
        }
    }

    /// Waits until the process is gone; false if it takes longer than `patience`.
    pub fn wait_for_end(&self, id: i32, patience: Duration) -> bool {
        self.wait_while(patience, |state| {
            state.live.as_ref().is_some_and(|live| live.id == id)
        })
    }

    /// Waits until the device of this alias is gone, or the guest; false if it takes longer than `patience`.
    pub fn wait_for_device(&self, alias: &str, patience: Duration) -> bool {
        let has_it = |state: &DomainState| {
            let live = state.live.as_ref();
            live.is_some_and(|live| live.devices.contains_key(alias))
        };
        self.wait_while(patience, has_it)
    }

    /// Waits until the guest has just these CPUs, or is over; false if it takes longer than `patience`.
    pub fn wait_for_cpus(&self, id: i32, there: &[u32], patience: Duration) -> bool {
        self.wait_while(patience, |state| {
            let live = state.live.as_ref().filter(|live| live.id == id);
            live.is_some_and(|live| live.definition.vcpus.there() != there)
        })
    }

    fn wait_while(&self, patience: Duration, is_so: impl Fn(&DomainState) -> bool) -> bool {
        let end = Instant::now() + patience;
        let mut guard = self.state();
        while is_so(&guard) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.gone.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Wakes those that wait for an end.
    pub fn tell_end(&self) {
        self.gone.notify_all();
    }
}

impl DomainState {
    /// What it is doing.
    pub fn state_and_reason(&self) -> StateAndReason {
        let (state, reason) = match &self.live {
            None => (state::SHUTOFF, self.off_reason),
            Some(live) if live.shut_down && !live.rebooting => (state::SHUTDOWN, 0),
            Some(live) if live.paused => (state::PAUSED, live.run_reason_paused()),
            Some(live) if live.asleep => (state::PMSUSPENDED, 0),
            Some(live) => (state::RUNNING, live.run_reason),
        };
        StateAndReason { state, reason }
    }

    /// What it runs as, or would be started as.
    pub fn current(&self) -> Result<&Arc<Definition>, RemoteError> {
        let live = self.live.as_ref().map(|live| &live.definition);
        live.or(self.persistent.as_ref()).ok_or_else(|| {
            RemoteError::new(
                Code::OperationInvalid,
                format!("the guest '{}' is gone", self.name),
            )
        })
    }
}

impl Live {
    /// The host's interfaces of its cards, by alias.
    pub fn ports(&self) -> BTreeMap<String, String> {
        let port = |(alias, attached): (&String, &Attached)| Some((alias.clone(), attached.port.clone()?));
        self.devices.iter().filter_map(port).collect()
    }

    /// Notes how the tray of a drive stands, by the name that the guest's process has for it. Returns the drive's alias.
    pub fn tray_moved(&mut self, drive: &str, open: bool) -> Option<String> {
        let mut devices = self.devices.iter();
        let (alias, _) = devices.find(|(_, attached)| attached.id == drive)?;
        match open {
            true => self.open_trays.insert(alias.clone()),
            false => self.open_trays.remove(alias),
        };
        Some(alias.clone())
    }

    /// Notes how much it has of a memory device, by the name that the guest's process has for it. Returns the device's alias.
    pub fn memory_changed(&mut self, device: &str, bytes: u64) -> Option<String> {
        let mut devices = self.devices.iter();
        let (alias, _) = devices.find(|(_, attached)| attached.id == device)?;
        self.plugged.insert(alias.clone(), bytes);
        Some(alias.clone())
    }

    /// The document as it is shown now; `secure`: with passwords.
    pub fn xml(&self, secure: bool) -> String {
        let live = XmlLive {
            id: self.id.unsigned_abs(),
            ports: self.ports(),
            open_trays: self.open_trays.clone(),
            plugged: self.plugged.clone(),
            cid: self.cid,
            clock_moved: self.rtc.moved,
            ..XmlLive::default()
        };
        self.definition.live_xml(&live, secure)
    }

    fn run_reason_paused(&self) -> i32 {
        match self.run_reason {
            state::PAUSED_STARTING => state::PAUSED_STARTING,
            _ => state::PAUSED_USER,
        }
    }
}

/// The error that a call needs a guest that runs.
pub fn not_running() -> RemoteError {
    RemoteError::new(Code::OperationInvalid, "domain is not running")
}

/// The error that there is no such guest.
pub fn no_domain(uuid: &Uuid, name: &str) -> RemoteError {
    RemoteError::new(
        Code::NoDomain,
        format!("no domain with matching uuid '{}' ({name})", uuid::format(uuid)),
    )
}
