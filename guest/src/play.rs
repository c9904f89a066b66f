//! Running a tiny guest, on one accelerator or moving from one to another in the middle.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ostler_accel::bare_metal::{identity_map, long_mode_state};
use ostler_accel::model::{self, Topology};
use ostler_accel::{
    Accelerator, CpuState, CpuidLeaf, DescriptorTable, Exit, ExitCause, KickSource, MpState, Vcpu, VmConfig,
    reset_state,
};
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot};

use crate::layout::*;
use crate::stage::{After, Stage};
use crate::{End, Guest, Mode};

/// How long a guest may take; the slowest needs some milliseconds on hardware and half a second where CPUs are emulated.
const LIMIT: Duration = Duration::from_secs(60);
/// Entries within which a kicked CPU must come back.
const MAX_ENTRIES_AFTER_KICK: usize = 64;

/// How often CPUs are asked to stop for a move.
const KICK_INTERVAL: Duration = Duration::from_millis(2);

/// Executes instructions that an accelerator cannot.
pub trait Helper: Send {
    /// Executes the one at which `vcpu` left with [`Exit::EmulationFailed`]; ports and devices are reached through `io`. False if
    /// the CPU shut down.
    fn help(
        &mut self,
        vcpu: &mut dyn Vcpu,
        io: &mut dyn FnMut(Exit<'_>),
    ) -> Result<bool, ostler_accel::Error>;
}

/// Makes the helper of CPU `n` of a guest with this memory and this CPUID.
pub type MakeHelper<'a> = &'a dyn Fn(u32, Vec<RamSlot>, &[CpuidLeaf]) -> Box<dyn Helper>;

/// What a play that went well tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Instructions that the accelerator could not execute.
    pub handed_over: u64,
    /// AVX was on.
    pub avx: bool,
}

/// A CPU of the play.
struct Actor {
    cpu: u32,
    vcpu: Box<dyn Vcpu>,
    helper: Option<Box<dyn Helper>>,
}

/// How a play failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The accelerator refused something.
    #[error("tiny guest \"{guest}\": {source}")]
    Accelerator {
        /// Which guest.
        guest: &'static str,
        /// What the accelerator said.
        source: ostler_accel::Error,
    },
    /// The guest, or what the accelerator made of it, is not as expected.
    #[error("tiny guest \"{guest}\" went wrong: {what}")]
    Wrong {
        /// Which guest.
        guest: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// Runs `guest` on `accelerator`. One that is moved goes to a new virtual machine of the same.
pub fn play(accelerator: &dyn Accelerator, guest: &Guest) -> Result<(), Error> {
    play_moving(accelerator, accelerator, guest)
}

/// Runs `guest` on `from`; at the step at which it is moved, its state goes to a new virtual machine on `to`.
pub fn play_moving(from: &dyn Accelerator, to: &dyn Accelerator, guest: &Guest) -> Result<(), Error> {
    play_on([from, to], guest, None).map(drop)
}

/// The same with a helper for what the accelerators cannot execute.
pub fn play_helped(
    from: &dyn Accelerator,
    to: &dyn Accelerator,
    guest: &Guest,
    make: MakeHelper<'_>,
) -> Result<Report, Error> {
    play_on([from, to], guest, Some(make))
}

fn play_on(
    [from, to]: [&dyn Accelerator; 2],
    guest: &Guest,
    make: Option<MakeHelper<'_>>,
) -> Result<Report, Error> {
    let wrong = |what: String| Error::Wrong {
        guest: guest.name,
        what,
    };
    let refused = |source| Error::Accelerator {
        guest: guest.name,
        source,
    };
    let ram = load(guest).map_err(wrong)?;
    let has_avx = has_avx(from).map_err(refused)? && has_avx(to).map_err(refused)?;
    ram.write_obj(u32::from(has_avx), GuestAddress(HAS_AVX))
        .map_err(|e| wrong(e.to_string()))?;
    let starts = (0..guest.cpus)
        .map(|cpu| start_state(guest, cpu, has_avx))
        .collect();
    let (mut stage, mut actors) = set_up(from, guest, ram.clone(), starts, None, make).map_err(refused)?;
    (guest.prepare)(&stage).map_err(wrong)?;
    let mut after = run_all(&stage, guest, &mut actors)?;
    let mut report = Report {
        avx: has_avx,
        ..Report::default()
    };
    report.add(&actors);
    if after == After::Move {
        let states = actors
            .iter_mut()
            .map(|actor| save(guest, actor))
            .collect::<Result<_, _>>()
            .map_err(refused)?;
        let ram = copy(&ram).map_err(wrong)?;
        drop(actors);
        (stage, actors) = set_up(to, guest, ram, states, Some(&stage), make).map_err(refused)?;
        after = run_all(&stage, guest, &mut actors)?;
        report.add(&actors);
        if after == After::Move {
            return Err(wrong("it asked to be moved twice".into()));
        }
    }
    judge(&stage, guest).map_err(wrong)?;
    Ok(report)
}

impl Report {
    fn add(&mut self, actors: &[Actor]) {
        self.handed_over += actors
            .iter()
            .map(|actor| actor.vcpu.stats().exits(ExitCause::EmulationFailed))
            .sum::<u64>();
    }
}

fn has_avx(accelerator: &dyn Accelerator) -> Result<bool, ostler_accel::Error> {
    let leaves = cpuid(&accelerator.supported_cpuid()?, 1, 0)?;
    Ok(model::has_feature(&leaves, "avx") && model::has_feature(&leaves, "xsave"))
}

/// What CPU `cpu` of `cpus` answers CPUID by.
fn cpuid(supported: &[CpuidLeaf], cpus: u32, cpu: u32) -> Result<Vec<CpuidLeaf>, ostler_accel::Error> {
    model::build("max", supported, Topology { cpus }, cpu)
        .map_err(|e| ostler_accel::Error::Unsupported(e.to_string()))
}

/// RAM with the image, a descriptor table and page tables.
fn load(guest: &Guest) -> Result<Arc<GuestRam>, String> {
    let ram = ostler_memory::allocate(RAM_SIZE, RamOptions::default()).map_err(|e| e.to_string())?;
    identity_map(&ram, TABLES).map_err(|e| e.to_string())?;
    let gdt: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    let descriptors: Vec<u8> = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let write = |bytes: &[u8], at| {
        ram.write_slice(bytes, GuestAddress(at))
            .map_err(|e| e.to_string())
    };
    write(&descriptors, GDT)?;
    write((guest.image)(), IMAGE)?;
    Ok(ram)
}

fn copy(ram: &GuestRam) -> Result<Arc<GuestRam>, String> {
    let new = ostler_memory::allocate(RAM_SIZE, RamOptions::default()).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; RAM_SIZE as usize];
    ram.read_slice(&mut bytes, GuestAddress(0))
        .map_err(|e| e.to_string())?;
    new.write_slice(&bytes, GuestAddress(0))
        .map_err(|e| e.to_string())?;
    Ok(new)
}

fn start_state(guest: &Guest, cpu: u32, has_avx: bool) -> CpuState {
    const CR4_OSXSAVE: u64 = 1 << 18;
    const X87_SSE_AVX: u64 = 7;
    if cpu != 0 {
        return reset_state(cpu);
    }
    match guest.mode {
        Mode::Long => {
            let mut state = long_mode_state(0, IMAGE, STACK, TABLES);
            state.gdtr = DescriptorTable { base: GDT, limit: 23 };
            if has_avx {
                state.cr4 |= CR4_OSXSAVE;
                state.xcr0 = X87_SSE_AVX;
            }
            state
        }
        Mode::Real => {
            let mut state = reset_state(0);
            state.rip = IMAGE;
            state.segments[1].selector = 0;
            state.segments[1].base = 0;
            state
        }
    }
}

fn set_up(
    accelerator: &dyn Accelerator,
    guest: &Guest,
    ram: Arc<GuestRam>,
    states: Vec<CpuState>,
    earlier: Option<&Stage>,
    make: Option<MakeHelper<'_>>,
) -> Result<(Arc<Stage>, Vec<Actor>), ostler_accel::Error> {
    let supported = accelerator.supported_cpuid()?;
    let vm = accelerator.create_vm(VmConfig {
        cpus: guest.cpus,
        slots: RamSlot::all_of(&ram),
    })?;
    let mut actors = Vec::new();
    for (cpu, state) in (0..).zip(states) {
        let cpuid = cpuid(&supported, guest.cpus, cpu)?;
        let mut vcpu = vm.create_vcpu(cpu, &cpuid)?;
        vcpu.set_state(&state)?;
        let helper = make.map(|make| make(cpu, RamSlot::all_of(&ram), &cpuid));
        actors.push(Actor { cpu, vcpu, helper });
    }
    let stage = Arc::new(Stage::new(vm, ram, earlier));
    stage.set_kickers(actors.iter().map(|actor| actor.vcpu.kicker()).collect());
    Ok((stage, actors))
}

/// Runs every CPU on a thread of its own until the guest ends, is to be moved, or has taken too long.
fn run_all(stage: &Arc<Stage>, guest: &Guest, actors: &mut [Actor]) -> Result<After, Error> {
    let (done, ended) = channel::<()>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = actors
            .iter_mut()
            .map(|actor| {
                let done = done.clone();
                scope.spawn(move || {
                    let result = run_one(stage, guest, actor);
                    if result.is_err() {
                        stage.end(None);
                    }
                    drop(done);
                    result
                })
            })
            .collect();
        drop(done);
        let deadline = Instant::now() + LIMIT;
        while ended.recv_timeout(KICK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if stage.is_moving() {
                stage.kick_all();
            }
            if Instant::now() < deadline || stage.is_over() {
                continue;
            }
            let text = String::from_utf8_lossy(&stage.log().text).into_owned();
            stage.end(Some(format!("no end within {LIMIT:?}; it printed {text:?}")));
        }
        let mut after = After::Leave;
        for thread in threads {
            match thread.join() {
                Ok(Ok(After::Move)) => after = After::Move,
                Ok(Ok(_)) => {}
                Ok(Err(source)) => {
                    return Err(Error::Accelerator {
                        guest: guest.name,
                        source,
                    });
                }
                Err(_) => {
                    return Err(Error::Wrong {
                        guest: guest.name,
                        what: "its thread panicked".into(),
                    });
                }
            }
        }
        Ok(after)
    })
}

fn run_one(stage: &Arc<Stage>, guest: &Guest, actor: &mut Actor) -> Result<After, ostler_accel::Error> {
    while !stage.is_over() {
        let exit = actor.vcpu.run()?;
        let kicked = matches!(exit, Exit::Kicked);
        let after = match (exit, &mut actor.helper) {
            (Exit::EmulationFailed, Some(helper)) => helped(stage, guest, &mut *actor.vcpu, &mut **helper)?,
            (exit, _) => stage.handle(guest, exit),
        };
        match after {
            After::Again => {}
            after => return Ok(after),
        }
        if kicked && stage.is_moving() && may_be_saved(guest, actor)? {
            break;
        }
    }
    Ok(After::Leave)
}

/// Has `helper` execute an instruction of `vcpu`.
fn helped(
    stage: &Arc<Stage>,
    guest: &Guest,
    vcpu: &mut dyn Vcpu,
    helper: &mut dyn Helper,
) -> Result<After, ostler_accel::Error> {
    let mut after = After::Again;
    let went_on = helper.help(vcpu, &mut |exit| {
        let this = stage.handle(guest, exit);
        if this != After::Again {
            after = this;
        }
    })?;
    Ok(if went_on {
        after
    } else {
        stage.handle(guest, Exit::Shutdown)
    })
}

/// True if `actor`, which was just kicked, is where the guest's script wants it for a move.
fn may_be_saved(guest: &Guest, actor: &mut Actor) -> Result<bool, ostler_accel::Error> {
    let asleep = actor.vcpu.state()?.mp == MpState::Halted;
    Ok(asleep || !guest.sleepers.contains(&actor.cpu))
}

/// Completes what is pending and takes the state.
fn save(guest: &Guest, actor: &mut Actor) -> Result<CpuState, ostler_accel::Error> {
    actor.vcpu.kicker().kick(KickSource::Control);
    for _ in 0..MAX_ENTRIES_AFTER_KICK {
        if matches!(actor.vcpu.run()?, Exit::Kicked) {
            let state = actor.vcpu.state()?;
            let asleep = state.mp == MpState::Halted;
            if asleep != guest.sleepers.contains(&actor.cpu) {
                return Err(ostler_accel::Error::BadState(format!(
                    "CPU {} is {:?} at the move",
                    actor.cpu, state.mp
                )));
            }
            return Ok(state);
        }
    }
    Err(ostler_accel::Error::Unsupported(
        "a vCPU does not come back when it is kicked".into(),
    ))
}

fn judge(stage: &Stage, guest: &Guest) -> Result<(), String> {
    {
        let log = stage.log();
        if let Some(wrong) = &log.wrong {
            return Err(wrong.clone());
        }
        match guest.end {
            End::Exit if log.exit != Some(0) => {
                return Err(format!(
                    "it ended with {:?}, after a shutdown: {}",
                    log.exit, log.shutdown
                ));
            }
            End::Shutdown if !log.shutdown => return Err("it did not end by a triple fault".into()),
            _ => {}
        }
        let (printed, expected) = (String::from_utf8_lossy(&log.text).into_owned(), (guest.prints)());
        if printed != expected {
            return Err(format!("it printed {printed:?} instead of {expected:?}"));
        }
    }
    (guest.check)(stage)
}
