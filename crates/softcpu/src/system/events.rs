//! What waits at an instruction boundary: INIT, start-up, NMI, the timer, interrupts (SDM vol. 3, 7.9 and 11.8).

use std::sync::atomic::Ordering;

use ostler_accel::{ExitCause, KickSource, PendingEvents};

use super::interrupt::{Event, Source, enter};
use super::lapic::Posted;
use super::{interrupt, paravirtual, reset, smm};
use crate::fault::{Result, Stop, vector};
use crate::flags::bit;
use crate::host;
use crate::shared::attention;
use crate::state::{Activity, Cpu};

/// Makes the engine call [`service`] before its next block.
pub fn request(cpu: &Cpu) {
    cpu.shared.attention.fetch_or(attention::EVENT, Ordering::Relaxed);
}

/// RFLAGS.IF, the task priority or the like changed: what waits may be deliverable now.
pub fn flags_changed(cpu: &mut Cpu) {
    let waits = interrupt_waits(cpu);
    cpu.held = waits || cpu.nmis_pending != 0;
    if (waits && cpu.rflags_rest & bit::IF != 0) || (cpu.nmis_pending != 0 && !cpu.nmi_masked) {
        request(cpu);
    }
}

/// True if an interrupt could be taken if RFLAGS.IF and the shadow allowed it.
fn interrupt_waits(cpu: &Cpu) -> bool {
    cpu.lapic.in_flight.is_some() || cpu.lapic.deliverable().is_some() || external_waits(cpu)
}

/// True if the 8259 pair, wired to vCPU 0, has an interrupt.
fn external_waits(cpu: &Cpu) -> bool {
    cpu.id == 0
        && cpu.lapic.takes_external()
        && cpu
            .vm
            .external
            .load()
            .as_ref()
            .is_some_and(|source| source.pending())
}

/// See [`super::take_posted`].
pub fn take_posted(cpu: &mut Cpu) {
    if let Some(posted) = cpu.shared.lapic.take() {
        absorb(cpu, &posted);
    }
}

/// Takes over what other threads posted and what the clock brought.
fn collect(cpu: &mut Cpu) {
    take_posted(cpu);
    if cpu.lapic.next_deadline().is_some() {
        let now = host::tsc();
        if cpu.lapic.check_timer(now) {
            cpu.shared.stats.count_kick(KickSource::Timer);
        }
    }
}

fn absorb(cpu: &mut Cpu, posted: &Posted) {
    cpu.lapic.accept(posted);
    if posted.smi && cpu.vm.smm.load(Ordering::Relaxed) {
        cpu.smm.pending = true;
    }
    if cpu.smm.active {
        // Both wait for the end of system management mode.
        cpu.smm.init_pending |= posted.init;
        if cpu.smm.init_pending {
            cpu.smm.startup_pending = posted.sipi.or(cpu.smm.startup_pending);
        }
    } else {
        start_again(cpu, posted.init, posted.sipi);
    }
    cpu.nmis_pending = PendingEvents::wait(cpu.nmis_pending, posted.nmis, cpu.nmi_masked);
    if posted.unhalt {
        if cpu.activity == Activity::Halted {
            cpu.activity = Activity::Running;
        } else {
            cpu.lapic.unhalted = true;
        }
    }
}

/// INIT and a start-up IPI, outside system management mode.
fn start_again(cpu: &mut Cpu, init: bool, startup: Option<u8>) {
    if init {
        reset::init(cpu);
    }
    if let Some(page) = startup
        && cpu.activity == Activity::WaitForSipi
    {
        reset::start_up(cpu, page);
    }
}

/// After RSM: what waited for the end of system management mode.
pub fn left_smm(cpu: &mut Cpu) {
    let init = std::mem::take(&mut cpu.smm.init_pending);
    let startup = cpu.smm.startup_pending.take();
    start_again(cpu, init, startup);
    cpu.held = true;
    request(cpu);
}

/// See [`super::service_events`].
pub fn service(cpu: &mut Cpu) -> Result<bool> {
    let delivered = deliver_first(cpu);
    cpu.held = cpu.nmis_pending != 0 || interrupt_waits(cpu);
    delivered
}

fn deliver_first(cpu: &mut Cpu) -> Result<bool> {
    collect(cpu);
    paravirtual::follow_clock(cpu);
    if matches!(cpu.activity, Activity::WaitForSipi | Activity::Shutdown) {
        return Ok(false);
    }
    if cpu.debugging.steps() && cpu.activity == Activity::Running {
        // A step is one of the program, not one into what happens to wait. HLT still ends by it.
        request(cpu);
        return Ok(false);
    }
    if cpu.smm.pending && !cpu.smm.active {
        if cpu.shadow {
            request(cpu);
            return Ok(false);
        }
        smm::enter(cpu);
        return Ok(true);
    }
    let nmi = cpu.nmis_pending != 0 && !cpu.nmi_masked;
    let maskable = cpu.rflags_rest & bit::IF != 0 && interrupt_waits(cpu);
    if !nmi && !maskable {
        return Ok(false);
    }
    if cpu.shadow {
        // Due after the next instruction.
        request(cpu);
        return Ok(false);
    }
    cpu.activity = Activity::Running;
    if nmi {
        deliver(cpu, vector::NMI)?;
        cpu.nmis_pending -= 1;
        cpu.nmi_masked = true;
        return Ok(true);
    }
    let Some(vector) = take_interrupt(cpu) else {
        return Ok(false);
    };
    cpu.lapic.in_flight = Some(vector);
    deliver(cpu, vector)?;
    cpu.lapic.in_flight = None;
    cpu.shared.stats.count_exit(ExitCause::Interrupt);
    paravirtual::update_steal_time(cpu);
    Ok(true)
}

/// The next vector, out of the controller.
fn take_interrupt(cpu: &mut Cpu) -> Option<u8> {
    if let Some(vector) = cpu.lapic.in_flight {
        return Some(vector);
    }
    if external_waits(cpu) {
        let source = cpu.vm.external.load_full();
        if let Some(vector) = source.and_then(|s| s.acknowledge()) {
            return Some(vector);
        }
    }
    cpu.lapic.acknowledge()
}

fn deliver(cpu: &mut Cpu, vector: u8) -> Result<()> {
    let event = Event {
        vector,
        error_code: None,
        source: Source::External,
        return_rip: cpu.rip,
    };
    match enter(cpu, &event) {
        Err(Stop::Fault) => {
            // The fault takes the interrupt's place: it was acknowledged and is lost, as on hardware.
            match cpu.exception.take() {
                Some(exception) => interrupt::deliver(cpu, exception),
                None => Ok(()),
            }
        }
        done => done,
    }
}

/// HLT: sleeps unless something already waits.
pub fn halt(cpu: &mut Cpu) {
    if std::mem::take(&mut cpu.lapic.unhalted) {
        return;
    }
    cpu.activity = Activity::Halted;
    request(cpu);
}
