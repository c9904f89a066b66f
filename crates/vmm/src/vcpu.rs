//! The vCPU threads: enter guest mode, look up the exit, enter again.
//!
//! A thread runs while its [`Gate`] is open. The driver closes the gates to pause or reset the guest: it kicks the
//! vCPUs out of guest mode and waits until each stands at its gate, where it can be given a new state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ostler_accel::{CpuState, Exit, Kick, KickSource, Vcpu, VcpuStats};
use ostler_machine::Machine;
use ostler_softcpu::emulate::Emulator;

use crate::Error;
use crate::driver::{DriverHandle, Notice};

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
    /// The CPU cannot go on in its present state (triple fault, an error of the accelerator).
    dead: bool,
    /// To be loaded before the next entry.
    load: Option<Box<CpuState>>,
}

/// Where a vCPU's thread waits while its guest is held.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    fn new(first: CpuState) -> Self {
        let load = Some(Box::new(first));
        let state = GateState {
            wanted: Wanted::Hold,
            held: false,
            dead: false,
            load,
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

    fn is_open(&self) -> bool {
        self.state().wanted == Wanted::Run
    }

    /// Stands at the gate until it opens. Returns false if the thread is to end, else the state to load, if any.
    fn pass(&self) -> Option<Option<Box<CpuState>>> {
        let mut state = self.state();
        loop {
            match state.wanted {
                Wanted::End => return None,
                Wanted::Run if !state.dead || state.load.is_some() => {
                    state.held = false;
                    state.dead = false;
                    return Some(state.load.take());
                }
                _ => {}
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
        self.changed.notify_all();
    }
}

/// What a vCPU's thread works with.
pub(crate) struct Surroundings {
    pub machine: Arc<Machine>,
    pub driver: DriverHandle,
    /// For instructions that KVM cannot emulate; the software CPU needs none.
    pub emulator: Option<Emulator>,
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
    /// Starts the thread of CPU `index`; it waits at its gate, with `first` to be loaded.
    pub fn start(
        index: u32,
        vcpu: Box<dyn Vcpu>,
        first: CpuState,
        mut surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let gate = Arc::new(Gate::new(first));
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
        Ok(Self {
            gate,
            kicker,
            stats,
            thread_id,
            thread: Some(thread),
        })
    }

    /// The CPU's counters.
    pub fn stats(&self) -> &Arc<VcpuStats> {
        &self.stats
    }

    /// The thread's id, once it has started.
    pub fn thread_id(&self) -> Arc<AtomicI32> {
        self.thread_id.clone()
    }

    /// Gives the CPU a new state; it must be held.
    pub fn load(&self, state: CpuState) {
        self.gate.state().load = Some(Box::new(state));
    }

    /// Lets the CPU run.
    pub fn run(&self) {
        self.gate.want(Wanted::Run);
    }

    /// Asks the CPU to leave guest mode.
    fn ask(&self, wanted: Wanted) {
        self.gate.want(wanted);
        self.kicker.kick(KickSource::Control);
    }
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
    while let Some(load) = gate.pass() {
        let loaded = match load {
            Some(state) => vcpu.set_state(&state),
            None => Ok(()),
        };
        let stopped = match loaded {
            Ok(()) => execute(&mut *vcpu, gate, surroundings),
            Err(error) => Err(Notice::Failed(format!("CPU {index} cannot start: {error}"))),
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
fn execute(vcpu: &mut dyn Vcpu, gate: &Gate, surroundings: &mut Surroundings) -> Result<(), Notice> {
    loop {
        match vcpu.run() {
            Ok(Exit::Kicked) if gate.is_open() => {}
            Ok(Exit::Kicked) => return Ok(()),
            Ok(Exit::Shutdown) => return Err(Notice::TripleFault),
            Ok(Exit::EmulationFailed) => emulate(vcpu, surroundings)?,
            Ok(access) => answer(&surroundings.machine, access),
            Err(error) => return Err(Notice::Failed(error.to_string())),
        }
    }
}

/// Carries an access to the device that it is for.
fn answer(machine: &Machine, exit: Exit<'_>) {
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
        Exit::Kicked | Exit::Shutdown | Exit::EmulationFailed => {}
    }
}

/// Hands the instruction at `rip`, which KVM could not emulate, to the software CPU, and the CPU goes on behind it.
/// The accelerator has counted it.
fn emulate(vcpu: &mut dyn Vcpu, surroundings: &mut Surroundings) -> Result<(), Notice> {
    let Some(emulator) = &mut surroundings.emulator else {
        return Err(Notice::Failed("it cannot emulate an instruction".into()));
    };
    let machine = &surroundings.machine;
    match emulator.help(vcpu, &mut |exit| answer(machine, exit)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Notice::TripleFault),
        Err(error) => Err(Notice::Failed(error.to_string())),
    }
}
