//! The vCPU threads: enter guest mode, look up the exit, enter again.
//!
//! A thread runs while its [`Gate`] is open. The driver closes the gates to pause or reset the guest: it kicks the
//! vCPUs out of guest mode and waits until each stands at its gate, where it can be given a new state. No gate opens before
//! all CPUs have taken their states over: an INIT or start-up IPI that reached a CPU earlier would be lost by that.
//!
//! Who needs something of a CPU that only its thread can do sends it a [`Job`]: the thread does that at its gate, or comes back from
//! guest mode for it. A debugger can also freeze single CPUs, which then stay at their gates although the guest runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ostler_accel::{CpuState, Exit, Kick, KickSource, Vcpu, VcpuStats};
use ostler_machine::Machine;
use ostler_softcpu::emulate::Emulator;

use crate::Error;
use crate::driver::{DriverHandle, Notice};
use crate::gdb::Reports;
use crate::registers::Registers;

/// How long a CPU may take until it has done a job. It comes back from guest mode at once, and a device answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to do with a vCPU on its own thread.
pub(crate) type Job = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Hold,
    Run,
    End,
}

struct GateState {
    wanted: Wanted,
    /// The thread stands at the gate, or is gone.
    held: bool,
    /// The CPU cannot go on in its present state (triple fault, sleep, an error of the accelerator).
    dead: bool,
    /// To be loaded by the thread.
    load: Option<Box<CpuState>>,
    /// There was something to load, and the thread is not back at the gate since.
    loading: bool,
    /// The debugger holds this CPU.
    frozen: bool,
    /// The CPU is not in the guest: it stays at its gate whatever comes.
    parked: bool,
    /// To be done before the next entry.
    jobs: Vec<Job>,
    /// The thread is gone, and does no jobs.
    gone: bool,
}

/// What a thread does next that comes to its gate.
enum Pass {
    Load(Box<CpuState>),
    Work(Vec<Job>),
    Run,
    End,
}

/// Where a vCPU's thread waits while its guest is held.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    fn new(first: CpuState, parked: bool) -> Self {
        let load = Some(Box::new(first));
        let state = GateState {
            wanted: Wanted::Hold,
            held: false,
            dead: false,
            load,
            loading: true,
            frozen: false,
            parked,
            jobs: Vec::new(),
            gone: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, wanted: Wanted) {
        self.state().wanted = wanted;
        self.changed.notify_all();
    }

    fn wait_until_held(&self) {
        let mut state = self.state();
        while !state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// True if the CPU may enter guest mode again straight away.
    fn is_open(&self) -> bool {
        let state = self.state();
        state.wanted == Wanted::Run && !state.frozen && !state.parked
    }

    fn take_jobs(&self) -> Vec<Job> {
        std::mem::take(&mut self.state().jobs)
    }

    /// True once `job` will be done, false if there is no one to do it. Also says whether the CPU may be in guest mode.
    fn submit(&self, job: Job) -> (bool, bool) {
        let mut state = self.state();
        if state.gone {
            return (false, false);
        }
        state.jobs.push(job);
        self.changed.notify_all();
        (true, !state.held)
    }

    fn set_frozen(&self, frozen: bool) {
        self.state().frozen = frozen;
        self.changed.notify_all();
    }

    /// Puts the CPU into the guest or takes it out, in state `next`.
    fn park(&self, parked: bool, next: CpuState) {
        let mut state = self.state();
        state.parked = parked;
        if !state.gone {
            state.load = Some(Box::new(next));
            state.loading = true;
        }
        self.changed.notify_all();
    }

    fn load(&self, next: CpuState) {
        let mut state = self.state();
        state.load = Some(Box::new(next));
        state.loading = true;
        self.changed.notify_all();
    }

    fn wait_until_loaded(&self) {
        let mut state = self.state();
        while state.loading {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stands at the gate until there is something to do.
    fn pass(&self) -> Pass {
        let mut state = self.state();
        loop {
            if state.wanted == Wanted::End {
                return Pass::End;
            }
            if let Some(next) = state.load.take() {
                state.held = false;
                state.dead = false;
                return Pass::Load(next);
            }
            state.loading = false;
            if !state.jobs.is_empty() {
                return Pass::Work(std::mem::take(&mut state.jobs));
            }
            if state.wanted == Wanted::Run && !state.frozen && !state.parked && !state.dead {
                state.held = false;
                self.changed.notify_all();
                return Pass::Run;
            }
            state.held = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn leave_for_good(&self) {
        let mut state = self.state();
        state.held = true;
        state.dead = true;
        state.loading = false;
        state.gone = true;
        // Whoever waits for them hears that they are dropped.
        state.jobs.clear();
        self.changed.notify_all();
    }
}

/// What a vCPU's thread works with.
pub(crate) struct Surroundings {
    pub machine: Arc<Machine>,
    pub driver: DriverHandle,
    /// For instructions that KVM cannot emulate; the software CPU needs none.
    pub emulator: Option<Emulator>,
    /// Where stops for the debugger are reported, if there can be one.
    pub reports: Option<Arc<Reports>>,
    /// Where the places of exits are counted.
    pub registers: Arc<Registers>,
}

/// One vCPU and its thread.
pub(crate) struct VcpuThread {
    gate: Arc<Gate>,
    kicker: Arc<dyn Kick>,
    stats: Arc<VcpuStats>,
    thread_id: Arc<AtomicI32>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Starts the thread of CPU `index`; it waits at its gate, with `first` to be loaded. One that is `parked` is not in the guest
    /// yet.
    pub fn start(
        index: u32,
        vcpu: Box<dyn Vcpu>,
        (first, parked): (CpuState, bool),
        mut surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let gate = Arc::new(Gate::new(first, parked));
        let thread_id = Arc::new(AtomicI32::new(0));
        let (kicker, stats) = (vcpu.kicker(), vcpu.stats());
        let (its_gate, its_id) = (gate.clone(), thread_id.clone());
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                its_id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
                let driver = surroundings.driver.clone();
                if catch_unwind(AssertUnwindSafe(|| {
                    live(index, vcpu, &its_gate, &mut surroundings)
                }))
                .is_err()
                {
                    driver.notice(Notice::Failed(format!(
                        "the thread of CPU {index} met an error of ostler's own"
                    )));
                }
                its_gate.leave_for_good();
            });
        let thread = thread.map_err(|source| Error::host("start a vCPU's thread", source))?;
        // Its id is known from here on.
        gate.wait_until_held();
        Ok(Self {
            gate,
            kicker,
            stats,
            thread_id,
            thread: Some(thread),
        })
    }

    /// What management sees of it.
    pub fn view(&self) -> CpuView {
        CpuView {
            stats: self.stats.clone(),
            thread_id: self.thread_id.clone(),
            handle: self.handle(),
        }
    }

    /// Gives the CPU a new state; it must be held.
    pub fn load(&self, state: CpuState) {
        self.gate.load(state);
    }

    /// What a debugger needs of the CPU.
    pub fn handle(&self) -> CpuHandle {
        CpuHandle {
            gate: self.gate.clone(),
            kicker: self.kicker.clone(),
        }
    }

    /// Asks the CPU to leave guest mode.
    fn ask(&self, wanted: Wanted) {
        self.gate.want(wanted);
        self.kicker.kick(KickSource::Control);
    }
}

/// A way to one CPU for whoever looks into it.
#[derive(Clone)]
pub(crate) struct CpuHandle {
    gate: Arc<Gate>,
    kicker: Arc<dyn Kick>,
}

impl CpuHandle {
    /// Has `work` done on the CPU's thread, between two instructions; `None` if that cannot be.
    pub fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        self.call_within(PATIENCE, work)
    }

    /// The same where it must not take longer than `patience`.
    fn call_within<R: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, result) = sync_channel(1);
        let (accepted, may_run) = self.gate.submit(Box::new(move |vcpu| {
            // Whoever asked may have given up.
            let _ = sender.send(work(vcpu));
        }));
        if may_run {
            self.kicker.kick(KickSource::Control);
        }
        if accepted {
            result.recv_timeout(patience).ok()
        } else {
            None
        }
    }

    /// Puts the CPU into the guest, in the state `fresh`, which it has when this returns: what reached it before is forgotten.
    pub fn put_in(&self, fresh: CpuState) {
        self.gate.park(false, fresh);
        self.gate.wait_until_loaded();
    }

    /// Takes the CPU out of the guest: it executes nothing any more, and stands in the state `fresh`. Waits for nothing.
    pub fn take_out(&self, fresh: CpuState) {
        self.gate.park(true, fresh);
        self.kicker.kick(KickSource::Control);
    }

    /// True if the CPU is in the guest.
    pub fn is_in(&self) -> bool {
        !self.gate.state().parked
    }

    /// Keeps the CPU from running, or no longer. It does not come back from guest mode for this.
    pub fn set_frozen(&self, frozen: bool) {
        self.gate.set_frozen(frozen);
    }
}

/// What management sees of a CPU.
#[derive(Clone)]
pub(crate) struct CpuView {
    /// The CPU's counters.
    pub stats: Arc<VcpuStats>,
    thread_id: Arc<AtomicI32>,
    handle: CpuHandle,
}

impl CpuView {
    /// The way to the CPU.
    pub fn handle(&self) -> &CpuHandle {
        &self.handle
    }

    /// The id of the CPU's thread.
    pub fn thread_id(&self) -> i32 {
        self.thread_id.load(Ordering::Relaxed)
    }

    /// The CPU's state at one moment, whether it runs or is held; `None` if it does not tell within `patience`.
    pub fn inspect(&self, patience: Duration) -> Option<CpuState> {
        self.handle
            .call_within(patience, |vcpu| vcpu.state().ok())
            .flatten()
    }
}

/// Lets all CPUs run, once each has the state that it was given.
pub(crate) fn run_all(vcpus: &[VcpuThread]) {
    open_all(vcpus.iter().map(|vcpu| &*vcpu.gate));
}

fn open_all<'a>(gates: impl Iterator<Item = &'a Gate> + Clone) {
    gates.clone().for_each(Gate::wait_until_loaded);
    gates.for_each(|gate| gate.want(Wanted::Run));
}

/// Brings all CPUs out of guest mode; none executes when it returns.
pub(crate) fn hold_all(vcpus: &[VcpuThread]) {
    for vcpu in vcpus {
        vcpu.ask(Wanted::Hold);
    }
    for vcpu in vcpus {
        vcpu.gate.wait_until_held();
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.ask(Wanted::End);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn live(index: u32, mut vcpu: Box<dyn Vcpu>, gate: &Gate, surroundings: &mut Surroundings) {
    loop {
        let stopped = match gate.pass() {
            Pass::End => return,
            Pass::Load(state) => vcpu
                .set_state(&state)
                .map_err(|error| Notice::Failed(format!("CPU {index} cannot start: {error}"))),
            Pass::Work(jobs) => {
                do_all(jobs, &mut *vcpu);
                Ok(())
            }
            Pass::Run => execute(index, &mut *vcpu, gate, surroundings),
        };
        if let Err(notice) = stopped {
            let notice = match notice {
                Notice::Failed(message) => Notice::Failed(format!("CPU {index} stopped: {message}")),
                notice => notice,
            };
            gate.state().dead = true;
            surroundings.driver.notice(notice);
        }
    }
}

/// The loop: runs the guest until the gate closes, or until the CPU cannot go on.
fn execute(
    index: u32,
    vcpu: &mut dyn Vcpu,
    gate: &Gate,
    surroundings: &mut Surroundings,
) -> Result<(), Notice> {
    loop {
        match vcpu.run() {
            Ok(Exit::Kicked) => {
                do_all(gate.take_jobs(), vcpu);
                if !gate.is_open() {
                    return Ok(());
                }
            }
            Ok(Exit::Debug(cause)) => {
                if let Some(reports) = &surroundings.reports
                    && reports.are_wanted()
                {
                    // Frozen first: whoever reads the report finds it so.
                    gate.set_frozen(true);
                    reports.post(index as usize, cause);
                    return Ok(());
                }
            }
            // The driver brings this CPU to its gate.
            Ok(Exit::Reset) => surroundings.driver.notice(Notice::Reset),
            Ok(Exit::Shutdown) => return Err(Notice::TripleFault),
            Ok(Exit::EmulationFailed) => emulate(vcpu, surroundings)?,
            Ok(access) => answer(&surroundings.machine, &surroundings.registers, access),
            Err(error) => return Err(Notice::Failed(error.to_string())),
        }
        if surroundings.machine.is_asleep() {
            // It executes nothing behind the write that put the machine to sleep, until it is woken in another state.
            gate.state().dead = true;
            return Ok(());
        }
    }
}

fn do_all(jobs: Vec<Job>, vcpu: &mut dyn Vcpu) {
    for job in jobs {
        job(vcpu);
    }
}

/// Carries an access to the device that it is for.
fn answer(machine: &Machine, registers: &Registers, exit: Exit<'_>) {
    registers.note(&exit);
    match exit {
        Exit::PortRead { port, width, data } => {
            for item in data.chunks_mut(usize::from(width.max(1))) {
                machine.ports().read(port.into(), item);
            }
        }
        Exit::PortWrite { port, width, data } => {
            for item in data.chunks(usize::from(width.max(1))) {
                machine.ports().write(port.into(), item);
            }
        }
        Exit::MmioRead { gpa, data } => {
            machine.memory().read(gpa, data);
        }
        Exit::MmioWrite { gpa, data } => {
            machine.memory().write(gpa, data);
        }
        Exit::EndOfInterrupt { vector } => machine.end_of_interrupt(vector),
        Exit::Kicked | Exit::Shutdown | Exit::Reset | Exit::EmulationFailed | Exit::Debug(_) => {}
    }
}

/// Hands the instruction at `rip`, which KVM could not emulate, to the software CPU, and the CPU goes on behind it.
/// The accelerator has counted it.
fn emulate(vcpu: &mut dyn Vcpu, surroundings: &mut Surroundings) -> Result<(), Notice> {
    let Some(emulator) = &mut surroundings.emulator else {
        return Err(Notice::Failed("it cannot emulate an instruction".into()));
    };
    let (machine, registers) = (&surroundings.machine, &surroundings.registers);
    if let Some(slots) = machine.changed_slots() {
        emulator.use_slots(slots);
    }
    match emulator.help(vcpu, &mut |exit| answer(machine, registers, exit)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Notice::TripleFault),
        Err(error) => Err(Notice::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn no_cpu_runs_before_all_have_taken_over_their_states() {
        let gates = [0, 1].map(|id| Gate::new(ostler_accel::reset_state(id), false));
        let (first_ran, too_early) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for (id, gate) in gates.iter().enumerate() {
                let (first_ran, too_early) = (&first_ran, &too_early);
                scope.spawn(move || {
                    loop {
                        match gate.pass() {
                            Pass::Load(_) if id == 1 => {
                                // Time for the other to run ahead, if it may.
                                std::thread::sleep(Duration::from_millis(50));
                                too_early.fetch_or(first_ran.load(Ordering::SeqCst), Ordering::SeqCst);
                            }
                            Pass::Load(_) | Pass::Work(_) => {}
                            Pass::Run => {
                                first_ran.fetch_or(id == 0, Ordering::SeqCst);
                                while gate.is_open() {
                                    std::thread::yield_now();
                                }
                            }
                            Pass::End => return,
                        }
                    }
                });
            }
            open_all(gates.iter());
            // The same after a reset.
            gates.iter().for_each(|gate| gate.want(Wanted::Hold));
            gates.iter().for_each(Gate::wait_until_held);
            first_ran.store(false, Ordering::SeqCst);
            for (id, gate) in (0..).zip(&gates) {
                gate.load(ostler_accel::reset_state(id));
            }
            open_all(gates.iter());
            gates.iter().for_each(|gate| gate.want(Wanted::End));
        });
        assert!(!too_early.into_inner());
    }
}
