//! Running a tiny guest, on one accelerator or moving from one to another in the middle.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ostler_accel::bare_metal::{identity_map, long_mode_state};
use ostler_accel::model::{self, Topology};
use ostler_accel::{
    Accelerator, CpuState, DescriptorTable, Exit, KickSource, MpState, Vcpu, VmConfig, reset_state,
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
    let wrong = |what: String| Error::Wrong {
        guest: guest.name,
        what,
    };
    let refused = |source| Error::Accelerator {
        guest: guest.name,
        source,
    };
    let ram = load(guest).map_err(wrong)?;
    let starts = (0..guest.cpus).map(|cpu| start_state(guest, cpu)).collect();
    let (mut stage, mut vcpus) = set_up(from, guest, ram.clone(), starts, None).map_err(refused)?;
    (guest.prepare)(&stage).map_err(wrong)?;
    if run_all(&stage, guest, &mut vcpus)? == After::Move {
        let states = vcpus
            .iter_mut()
            .map(|vcpu| save(&mut **vcpu))
            .collect::<Result<_, _>>()
            .map_err(refused)?;
        let ram = copy(&ram).map_err(wrong)?;
        drop(vcpus);
        (stage, vcpus) = set_up(to, guest, ram, states, Some(&stage)).map_err(refused)?;
        if run_all(&stage, guest, &mut vcpus)? == After::Move {
            return Err(wrong("it asked to be moved twice".into()));
        }
    }
    judge(&stage, guest).map_err(wrong)
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

fn start_state(guest: &Guest, cpu: u32) -> CpuState {
    if cpu != 0 {
        return reset_state(cpu);
    }
    match guest.mode {
        Mode::Long => {
            let mut state = long_mode_state(0, IMAGE, STACK, TABLES);
            state.gdtr = DescriptorTable { base: GDT, limit: 23 };
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

type Vcpus = Vec<Box<dyn Vcpu>>;

fn set_up(
    accelerator: &dyn Accelerator,
    guest: &Guest,
    ram: Arc<GuestRam>,
    states: Vec<CpuState>,
    earlier: Option<&Stage>,
) -> Result<(Arc<Stage>, Vcpus), ostler_accel::Error> {
    let supported = accelerator.supported_cpuid()?;
    let vm = accelerator.create_vm(VmConfig {
        cpus: guest.cpus,
        slots: RamSlot::all_of(&ram),
    })?;
    let topology = Topology { cpus: guest.cpus };
    let mut vcpus = Vec::new();
    for (cpu, state) in (0..).zip(states) {
        let cpuid = model::build("max", &supported, topology, cpu)
            .map_err(|e| ostler_accel::Error::Unsupported(e.to_string()))?;
        let mut vcpu = vm.create_vcpu(cpu, &cpuid)?;
        vcpu.set_state(&state)?;
        vcpus.push(vcpu);
    }
    let stage = Arc::new(Stage::new(vm, ram, earlier));
    stage.set_kickers(vcpus.iter().map(|vcpu| vcpu.kicker()).collect());
    Ok((stage, vcpus))
}

/// Runs every CPU on a thread of its own until the guest ends, is to be moved, or has taken too long.
fn run_all(stage: &Arc<Stage>, guest: &Guest, vcpus: &mut Vcpus) -> Result<After, Error> {
    let (done, ended) = channel::<()>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = vcpus
            .iter_mut()
            .map(|vcpu| {
                let done = done.clone();
                scope.spawn(move || {
                    let result = run_one(stage, guest, &mut **vcpu);
                    if result.is_err() {
                        stage.end(None);
                    }
                    drop(done);
                    result
                })
            })
            .collect();
        drop(done);
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
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

fn run_one(stage: &Arc<Stage>, guest: &Guest, vcpu: &mut dyn Vcpu) -> Result<After, ostler_accel::Error> {
    while !stage.is_over() {
        let exit = vcpu.run()?;
        match stage.handle(guest, exit) {
            After::Again => {}
            after => return Ok(after),
        }
    }
    Ok(After::Leave)
}

/// Completes what is pending and takes the state.
fn save(vcpu: &mut dyn Vcpu) -> Result<CpuState, ostler_accel::Error> {
    vcpu.kicker().kick(KickSource::Control);
    for _ in 0..MAX_ENTRIES_AFTER_KICK {
        if matches!(vcpu.run()?, Exit::Kicked) {
            let state = vcpu.state()?;
            debug_assert_eq!(state.mp, MpState::Runnable);
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
