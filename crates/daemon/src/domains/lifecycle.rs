//! Starting and ending guests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use ostler_libvirt::types::Domain as WireDomain;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::Action;
use serde_json::{Value, json};

use super::definition::Definition;
use super::domain::{Domain, DomainState, Live, not_running, state};
use super::plan::{MEMORY_DEVICE, Plan};
use super::{Domains, RunStatus, storage_failed};
use crate::events::Lifecycle;
use crate::files::{make_private_folder, write_durably};
use crate::groups::Limits;
use crate::guest::{Attached, Control, ControlError, GuestProcess, Launch, Notice, RunFiles, launch};

/// What a guest may take to end by itself once it was told to end at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run of a guest whose process is there.
pub(super) struct Run<'a> {
    pub files: &'a RunFiles,
    pub definition: Arc<Definition>,
    pub status: RunStatus,
    /// What is told once the run is noted.
    pub steps: &'a [Lifecycle],
}

fn unsupported(error: ostler_launch::Error) -> RemoteError {
    RemoteError::new(Code::ConfigUnsupported, error.to_string())
}

pub(super) fn refused(error: ControlError) -> RemoteError {
    let code = match error {
        ControlError::Refused(_) => Code::OperationFailed,
        ControlError::Silent => Code::OperationTimeout,
        ControlError::Over => return not_running(),
    };
    RemoteError::new(code, error.to_string())
}

/// The argument of `qom-set` that has a balloon tell its statistics every so many seconds.
pub fn balloon_period(seconds: u32) -> Value {
    json!({
        "path": "/machine/peripheral/balloon",
        "property": "guest-stats-polling-interval",
        "value": seconds,
    })
}

/// The argument of `qom-set` that asks a guest to have so many bytes of its memory device.
pub(super) fn requested_size(bytes: u64) -> Value {
    json!({
        "path": format!("/machine/peripheral/{MEMORY_DEVICE}"),
        "property": "requested-size",
        "value": bytes,
    })
}

/// Keeps what a daemon has to know that comes after this one.
pub(super) fn keep(files: &RunFiles, definition: &Definition, status: &RunStatus) -> Result<(), RemoteError> {
    let status = serde_json::to_vec(status).map_err(|e| RemoteError::new(Code::Internal, e.to_string()))?;
    write_durably(&files.definition(), definition.xml.as_bytes()).map_err(storage_failed)?;
    write_durably(&files.status(), &status).map_err(storage_failed)
}

/// Has a daemon know that comes after this one that the guest has not got everything yet. It need not last: no guest outlives its host.
fn mark_unsettled(files: &RunFiles) -> Result<(), RemoteError> {
    fs::write(files.unsettled(), []).map_err(storage_failed)
}

/// The guest has everything.
pub(super) fn mark_settled(files: &RunFiles) {
    if let Err(error) = fs::remove_file(files.unsettled()) {
        // The next daemon does it once more.
        crate::log::note!("\"{}\" stays: {error}", files.unsettled().display());
    }
}

impl Live {
    /// Whether the guest that is over starts anew: somebody asked for that, or its definition.
    fn starts_again(&self) -> bool {
        let life = &self.definition.life;
        match self {
            Self { destroying: true, .. } => false,
            Self { panicked: true, .. } => life.crash == Action::Restart,
            Self {
                shut_down: true,
                rebooting,
                powered_off,
                ..
            } => *rebooting || *powered_off && life.poweroff == Action::Restart,
            _ => false,
        }
    }
}

impl Domains {
    /// Starts a guest that is there.
    pub fn start(self: &Arc<Self>, domain: &Arc<Domain>, paused: bool) -> Result<WireDomain, RemoteError> {
        let _job = domain.job();
        let definition = domain.state().current()?.clone();
        self.start_as(domain, definition, paused)
    }

    /// Starts a guest that is there while it runs only, or one that is defined in another form for this run.
    pub fn create(self: &Arc<Self>, xml: &str, paused: bool) -> Result<WireDomain, RemoteError> {
        let definition = Arc::new(Definition::read(xml)?);
        let (domain, is_new) = self.claim(&definition)?;
        let _job = domain.job();
        self.start_as(&domain, definition, paused).inspect_err(|_| {
            if is_new {
                self.list().remove(&domain.uuid);
            }
        })
    }

    /// Starts a guest as `definition` says. The caller has the job.
    fn start_as(
        self: &Arc<Self>,
        domain: &Arc<Domain>,
        definition: Arc<Definition>,
        paused: bool,
    ) -> Result<WireDomain, RemoteError> {
        if domain.state().live.is_some() {
            return Err(RemoteError::new(
                Code::OperationInvalid,
                "domain is already running",
            ));
        }
        // In the order in which libvirt's clients know it.
        let steps = match paused {
            true => [Lifecycle::StartedBooted, Lifecycle::SuspendedPaused],
            false => [Lifecycle::ResumedUnpaused, Lifecycle::StartedBooted],
        };
        let files = &self.files(&domain.uuid);
        let (name, uuid, id) = (definition.name.clone(), domain.uuid, self.new_id());
        let run = Run {
            files,
            definition: Arc::new(definition.started()),
            status: RunStatus::new(id, paused),
            steps: &steps,
        };
        self.boot(domain, run)?;
        Ok(WireDomain { name, uuid, id })
    }

    /// Starts the process, and notes that the guest runs.
    fn boot(self: &Arc<Self>, domain: &Arc<Domain>, run: Run<'_>) -> Result<(), RemoteError> {
        let folder = run.files.folder.clone();
        self.boot_in_folder(domain, run).inspect_err(|_| {
            self.cids.give_back(&domain.uuid);
            // Nothing of it runs.
            self.groups.remove(&crate::uuid::format(&domain.uuid));
            let _ = fs::remove_dir_all(&folder);
        })
    }

    fn boot_in_folder(self: &Arc<Self>, domain: &Arc<Domain>, mut run: Run<'_>) -> Result<(), RemoteError> {
        let files = run.files;
        let plan = Plan::of(&run.definition)?;
        run.status.rtc.start = plan.rtc.offset().map_err(unsupported)?;
        run.status.cid = self.cids.take(&domain.uuid, plan.vsock.as_ref())?;
        make_private_folder(&files.folder).map_err(|e| RemoteError::new(Code::System, e.to_string()))?;
        let start = Launch {
            name: &run.definition.name,
            plan: &plan,
            files,
            variables: &self.store.variables(&domain.uuid),
            outside: &self.outside,
            paused: run.status.paused,
            cid: run.status.cid,
            rtc_offset: run.status.rtc.start,
            groups: &self.groups,
            uuid: &domain.uuid,
            limits: Limits::of(&run.definition),
        };
        // Should we be killed right after the start, the guest is found by what was kept before, and its devices with it.
        let devices = launch(&start, &self.kvm, |devices| {
            run.status.devices = devices.clone();
            mark_unsettled(files)?;
            keep(files, &run.definition, &run.status)
        })?;
        let (id, definition) = (run.status.id, run.definition.clone());
        let settled = self
            .adopt(domain, run)
            .and_then(|()| self.settle(domain, &definition, &plan))
            .inspect(|()| mark_settled(files));
        settled.inspect_err(|_| {
            // What cannot be looked after is not left running.
            if let Ok(control) = domain.control() {
                let _ = control.execute("quit");
            }
            self.forget_run(domain, id);
            devices.values().for_each(Attached::delete_port);
        })
    }

    /// Brings a guest that has just been started to what its definition asks for beyond its specification. It may be done more than
    /// once: a daemon may be killed in the middle.
    pub(super) fn settle(
        &self,
        domain: &Domain,
        definition: &Definition,
        plan: &Plan,
    ) -> Result<(), RemoteError> {
        let Ok((control, process, devices)) =
            domain.with_live(|live| (live.control.clone(), live.process.clone(), live.devices.clone()))
        else {
            // It is over already.
            return Ok(());
        };
        let run = |command: &str, arguments| match control.execute_with(command, arguments) {
            Ok(_) | Err(ControlError::Over) => Ok(()),
            Err(error) => Err(refused(error)),
        };
        for card in plan.cards.iter().filter(|card| !card.link) {
            if let Some(attached) = devices.get(&card.alias) {
                run("set_link", json!({ "name": attached.id, "up": false }))?;
            }
        }
        let memory = &definition.memory;
        if plan.balloon.is_some() && memory.current < memory.initial(&definition.devices.memories) {
            run("balloon", json!({ "value": memory.current }))?;
        }
        let balloon = definition
            .devices
            .memballoon
            .as_ref()
            .filter(|balloon| balloon.present);
        if let Some(period) = balloon.and_then(|balloon| balloon.stats_period) {
            run("qom-set", balloon_period(period))?;
        }
        if let Some(memory) = &plan.memory_device {
            run("qom-set", requested_size(memory.requested))?;
        }
        super::pins::apply(definition, &process)?;
        self.limit_threads(domain)?;
        self.plug_later_cpus(domain, &plan.later_vcpus)
    }

    /// Connects to a guest that runs, notes it, and listens to it from now on.
    pub(super) fn adopt(self: &Arc<Self>, domain: &Arc<Domain>, run: Run<'_>) -> Result<(), RemoteError> {
        let unheard = |why: std::io::Error| {
            RemoteError::new(
                Code::Internal,
                format!("the guest's control socket does not answer: {why}"),
            )
        };
        let (control, listener) = Control::connect(&run.files.control()).map_err(unheard)?;
        let id = run.status.id;
        let (domains, theirs) = (self.clone(), domain.clone());
        let heard = move |notice: Notice| match notice {
            Notice::Gone => domains.gone(&theirs, id),
            Notice::CpuGone => domains.cpu_gone_soon(&theirs, id),
            Notice::DeviceDeleted { id: device } => domains.device_gone_soon(&theirs, id, device),
            notice => theirs.take(&notice, &domains.events),
        };
        // It is noted before it is heard, so that the first notice finds it.
        self.note(domain, run, control.clone());
        let found =
            listener
                .listen(heard)
                .map_err(unheard)
                .and_then(|()| match GuestProcess::find(&control) {
                    // It is over already, and had no threads to tell of.
                    Err(ControlError::Over) => Ok(None),
                    found => found.map(Some).map_err(refused),
                });
        match found {
            Ok(None) => Ok(()),
            Ok(Some(process)) => {
                let _ = domain.with_live(|live| live.process = Arc::new(process));
                Ok(())
            }
            Err(error) => {
                // What cannot be looked after is not left running.
                let _ = control.execute("quit");
                self.forget_run(domain, id);
                Err(error)
            }
        }
    }

    fn note(&self, domain: &Domain, run: Run<'_>, control: Arc<Control>) {
        let mut guard = domain.state();
        let RunStatus {
            id,
            paused,
            devices,
            next_plug,
            cid,
            rtc,
        } = run.status;
        guard.live = Some(Live {
            id,
            definition: run.definition,
            devices,
            open_trays: BTreeSet::new(),
            plugged: BTreeMap::new(),
            emptied: BTreeMap::new(),
            known_since: Instant::now(),
            next_plug,
            cid,
            rtc,
            control,
            process: Arc::new(GuestProcess::none()),
            files: run.files.clone(),
            paused,
            asleep: false,
            run_reason: match paused {
                true => state::PAUSED_STARTING,
                false => state::RUNNING_BOOTED,
            },
            consoles: BTreeMap::new(),
            destroying: false,
            rebooting: false,
            shut_down: false,
            powered_off: false,
            panicked: false,
        });
        let wire = domain.wire(&guard);
        for step in run.steps {
            self.events.lifecycle(&wire, *step);
        }
    }

    /// A run came to nothing.
    fn forget_run(&self, domain: &Domain, id: i32) {
        let mut guard = domain.state();
        if guard.live.as_ref().is_none_or(|live| live.id != id) {
            return;
        }
        let wire = domain.wire(&guard);
        guard.live = None;
        guard.off_reason = state::SHUTOFF_CRASHED;
        self.events.lifecycle(&wire, Lifecycle::StoppedFailed);
        self.after_end(domain, guard);
    }

    /// Wakes who waits for the end, and forgets a guest that was there only while it ran.
    fn after_end(&self, domain: &Domain, guard: MutexGuard<'_, DomainState>) {
        let is_transient = guard.persistent.is_none();
        // Before somebody starts it again.
        self.cids.give_back(&domain.uuid);
        drop(guard);
        domain.tell_end();
        if is_transient {
            self.list().remove(&domain.uuid);
        }
    }

    /// The process of run `id` is gone: on the thread that listened to it.
    fn gone(self: &Arc<Self>, domain: &Arc<Domain>, id: i32) {
        // Its sockets and its group go with the process, before somebody starts the guest again.
        let Ok(Some(process)) = domain.with_live(|live| (live.id == id).then(|| live.process.clone())) else {
            return;
        };
        process.wait_for_end(PATIENCE);
        if self.groups.find(&domain.uuid).is_some() {
            self.groups.remove(&crate::uuid::format(&domain.uuid));
        }
        let mut guard = domain.state();
        let Some(live) = guard.live.as_mut().filter(|live| live.id == id) else {
            return;
        };
        live.devices.values().for_each(Attached::delete_port);
        if live.starts_again() {
            let definition = live.definition.clone();
            // Its clients see the end of the old process, and may come back.
            live.consoles.clear();
            live.devices.clear();
            drop(guard);
            return self.boot_again(domain, definition, id);
        }
        let (step, reason) = match live {
            Live { destroying: true, .. } => (Lifecycle::StoppedDestroyed, state::SHUTOFF_DESTROYED),
            Live { panicked: true, .. } => (Lifecycle::StoppedCrashed, state::SHUTOFF_CRASHED),
            Live { shut_down: true, .. } => (Lifecycle::StoppedShutdown, state::SHUTOFF_SHUTDOWN),
            _ => (Lifecycle::StoppedFailed, state::SHUTOFF_CRASHED),
        };
        // Before it is noted that it does not run: whoever starts it again makes a new folder.
        let _ = fs::remove_dir_all(&live.files.folder);
        let wire = domain.wire(&guard);
        guard.live = None;
        guard.off_reason = reason;
        self.events.lifecycle(&wire, step);
        self.after_end(domain, guard);
    }

    /// The guest powered off for a reboot: starts it again, as the same run.
    fn boot_again(self: &Arc<Self>, domain: &Arc<Domain>, definition: Arc<Definition>, id: i32) {
        let run = Run {
            files: &self.files(&domain.uuid),
            definition,
            status: RunStatus::new(id, false),
            steps: &[],
        };
        match self.boot(domain, run) {
            Ok(()) => self.events.reboot(&domain.to_wire()),
            Err(error) => {
                crate::log::note!("a guest does not start again: {error}");
                self.forget_run(domain, id);
            }
        }
    }

    /// Presses the guest's power button; with `again` it starts anew once it has powered off.
    pub fn press_power_button(&self, domain: &Domain, again: bool) -> Result<(), RemoteError> {
        let control = domain.control()?;
        let before = domain.with_live(|live| std::mem::replace(&mut live.rebooting, again))?;
        control
            .execute("system_powerdown")
            .map_err(refused)
            .inspect_err(|_| {
                // The guest did not hear of it.
                let _ = domain.with_live(|live| live.rebooting = before);
            })?;
        Ok(())
    }

    /// Holds the CPUs of a guest, or lets them go on.
    pub fn set_paused(&self, domain: &Domain, paused: bool) -> Result<(), RemoteError> {
        let control = domain.control()?;
        let (is_paused, asleep) = domain.with_live(|live| (live.paused, live.asleep))?;
        if asleep && !is_paused {
            return Err(RemoteError::new(
                Code::OperationInvalid,
                "domain is pmsuspended; wake it with dompmwakeup",
            ));
        }
        if !paused && !is_paused {
            return Err(RemoteError::new(
                Code::OperationInvalid,
                "domain is already running",
            ));
        }
        control
            .execute(if paused { "stop" } else { "cont" })
            .map_err(refused)?;
        // The notice may still be on its way; whoever called is to see it now.
        domain.set_paused(paused, &self.events);
        Ok(())
    }

    /// Executes a command of the guest's that takes no arguments.
    pub fn command(&self, domain: &Domain, command: &str) -> Result<(), RemoteError> {
        domain.control()?.execute(command).map_err(refused).map(drop)
    }

    /// Ends a guest at once.
    pub fn destroy(&self, domain: &Domain) -> Result<(), RemoteError> {
        let _job = domain.job();
        // Twice: a guest that is being started again for a reboot has another process after the first time.
        for _ in 0..2 {
            let (id, control, process) = domain.with_live(|live| {
                live.destroying = true;
                (live.id, live.control.clone(), live.process.clone())
            })?;
            // One that does not listen any more is ended below.
            let _ = control.execute("quit");
            if domain.wait_for_end(id, PATIENCE) {
                return Ok(());
            }
            process.kill();
            if domain.wait_for_end(id, PATIENCE) {
                return Ok(());
            }
        }
        Err(RemoteError::new(
            Code::OperationFailed,
            "the guest's process does not end; look at it with ps",
        ))
    }
}
