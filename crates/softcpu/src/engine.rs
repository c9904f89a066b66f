//! The run loop: from block to block, with a look at everything else in between.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ostler_accel::{DebugCause, ExitCause};

use crate::block::{Block, BlockCache, Outcome};
use crate::fault::Stop;
use crate::host;
use crate::profile;
use crate::shared::{QUIESCENT, attention};
use crate::state::{Activity, Cpu, PendingExit, mode, reg};
use crate::system;

/// Instructions between two looks at the clock.
const CLOCK_INTERVAL: u64 = 20_000;

/// Why [`run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// [`Cpu::exit`] says what user mode has to do.
    Request,
    /// A level-triggered interrupt with this vector ended.
    Ended(u8),
    /// Someone kicked.
    Kicked,
    /// Triple fault.
    Shutdown,
    /// The debugger is to hear of this.
    Debug(DebugCause),
}

/// Runs guest instructions until user mode is needed. The vCPU is in guest mode meanwhile: it acknowledges epochs.
pub fn run(cpu: &mut Cpu, cache: &mut BlockCache) -> Left {
    enter_guest(cpu);
    let left = run_inside(cpu, cache);
    cpu.sync_x87();
    cpu.mmu.running = std::ptr::null();
    cpu.shared.acknowledged.store(QUIESCENT, Ordering::SeqCst);
    left
}

/// Executes one instruction, or delivers its exception. True if user mode has to answer a request first: then call it again.
pub fn step(cpu: &mut Cpu, cache: &mut BlockCache) -> bool {
    acknowledge(cpu);
    cpu.replay.rewind();
    let outcome = match cache.find(cpu, true) {
        Ok(block) => one_block(cpu, block),
        Err(stop) => stop.into(),
    };
    let left = finish(cpu, cache, outcome, Some(false));
    cpu.mmu.running = std::ptr::null();
    cpu.sync_x87();
    left == Some(Left::Request)
}

/// From now on this vCPU executes: whoever raises an epoch waits for it, so take note of the current one first.
fn enter_guest(cpu: &mut Cpu) {
    let epoch = acknowledge(cpu);
    if epoch != cpu.mmu.write_epoch {
        cpu.mmu.drop_writes(epoch);
    }
}

/// Says that no write tag older than the current epoch, which it returns, is in use any more; the caller drops them.
fn acknowledge(cpu: &Cpu) -> u64 {
    loop {
        let epoch = cpu.vm.write_epoch.load(Ordering::SeqCst);
        cpu.shared.acknowledged.store(epoch, Ordering::SeqCst);
        // An epoch raised before the store saw us outside; one raised after it will set our attention bit.
        if cpu.vm.write_epoch.load(Ordering::SeqCst) == epoch {
            return epoch;
        }
    }
}

/// What [`prepare`] found.
enum Ready {
    /// Execute; `true` asks for a single instruction.
    Go(bool),
    /// Leave.
    Leave(Left),
}

fn run_inside(cpu: &mut Cpu, cache: &mut BlockCache) -> Left {
    // A state that was restored may have brought an exception with it.
    deliver(cpu);
    loop {
        let alone = match prepare(cpu) {
            Ready::Go(alone) => alone,
            Ready::Leave(left) => return left,
        };
        if cache.is_full() {
            cache.evict(cpu);
        }
        let traced = match if alone { system::begin_step(cpu) } else { Ok(false) } {
            Ok(traced) => traced,
            Err(_) => {
                deliver(cpu);
                cpu.debugging.end(false);
                continue;
            }
        };
        let outcome = match cache.find(cpu, alone) {
            Ok(block) if alone => one_block(cpu, block),
            Ok(block) => chain(cpu, cache, block),
            Err(stop) => stop.into(),
        };
        if let Some(left) = finish(cpu, cache, outcome, alone.then_some(traced)) {
            return left;
        }
    }
}

/// Between instructions: attention bits, events, the clock.
fn prepare(cpu: &mut Cpu) -> Ready {
    if cpu.replay.is_active() {
        // An instruction is under way: nothing may come between.
        cpu.replay.rewind();
        return Ready::Go(true);
    }
    cpu.mmu.running = std::ptr::null();
    loop {
        if let Some(cause) = cpu.debugging.take_due() {
            cpu.shared.stats.count_exit(ExitCause::Other);
            return Ready::Leave(Left::Debug(cause));
        }
        let bits = cpu.shared.attention.load(Ordering::SeqCst);
        if bits & attention::DROP_WRITES != 0 {
            cpu.shared
                .attention
                .fetch_and(!attention::DROP_WRITES, Ordering::SeqCst);
            enter_guest(cpu);
        }
        if bits & attention::SAMPLE != 0 {
            profile::take_sample(cpu);
        }
        if let Some(vector) = cpu.ended.pop() {
            cpu.shared.stats.count_exit(ExitCause::EndOfInterrupt);
            return Ready::Leave(Left::Ended(vector));
        }
        if bits & attention::KICK != 0 {
            cpu.shared.attention.fetch_and(!attention::KICK, Ordering::SeqCst);
            cpu.shared.stats.count_exit(ExitCause::Kick);
            return Ready::Leave(Left::Kicked);
        }
        cpu.shared
            .attention
            .fetch_and(!attention::EVENT, Ordering::SeqCst);
        match system::service_events(cpu) {
            Ok(_) => {}
            Err(Stop::Exit) => return Ready::Leave(Left::Request),
            Err(_) => deliver(cpu),
        }
        match cpu.activity {
            Activity::Running => break,
            Activity::Shutdown => {
                cpu.shared.stats.count_exit(ExitCause::Shutdown);
                return Ready::Leave(Left::Shutdown);
            }
            Activity::Halted | Activity::WaitForSipi => sleep(cpu),
        }
    }
    if (cpu.shadow || cpu.mode & mode::ALONE != 0) && cpu.stops_at_breakpoint() {
        cpu.shared.stats.count_exit(ExitCause::Other);
        return Ready::Leave(Left::Debug(DebugCause::Breakpoint));
    }
    cpu.account_if_due();
    cpu.look_at = cpu.instructions + CLOCK_INTERVAL;
    let alone = std::mem::take(&mut cpu.shadow) || cpu.mode & mode::ALONE != 0;
    Ready::Go(alone)
}

/// Sleeps until something happens or the LAPIC's timer fires.
fn sleep(cpu: &mut Cpu) {
    cpu.sync_x87();
    let limit = cpu.lapic.next_deadline().map(|deadline| {
        let ticks = deadline.saturating_sub(host::tsc());
        Duration::from_nanos((u128::from(ticks) * 1_000_000 / u128::from(cpu.vm.tsc_khz.max(1))) as u64)
    });
    if limit == Some(Duration::ZERO) {
        return;
    }
    cpu.shared.stats.count_exit(ExitCause::Halt);
    cpu.account_sleep();
    cpu.shared.acknowledged.store(QUIESCENT, Ordering::SeqCst);
    cpu.shared.sleep(limit);
    enter_guest(cpu);
    cpu.account_wake();
}

fn enter_block(cpu: &mut Cpu, block: &Block) -> Outcome {
    cpu.gpr[reg::RIP_BASE] = block.rip_base(cpu.rip);
    cpu.instructions += u64::from(block.instructions);
    cpu.mmu.running = &raw const block.host;
    let op = block.entry();
    (op.handler)(cpu, op)
}

/// Executes a block of a single instruction, which may write to its own bytes.
fn one_block(cpu: &mut Cpu, block: &Block) -> Outcome {
    cpu.debugging.begin();
    let before = cpu.mode;
    cpu.mode |= mode::ALONE;
    let outcome = enter_block(cpu, block);
    if cpu.mode == before | mode::ALONE {
        cpu.mode = before;
    }
    correct_count(cpu, block, outcome);
    outcome
}

/// Takes back the instructions that a stopped block did not execute.
fn correct_count(cpu: &mut Cpu, block: &Block, outcome: Outcome) {
    if outcome as u32 >= Outcome::Fault as u32 {
        cpu.instructions -= u64::from(block.instructions_left(cpu));
    }
}

/// What came before the block that is looked for.
enum From<'a> {
    /// A block of the interpreter, and how it ended.
    Interpreted(&'a Block, Outcome),
    /// A jump of the host code of a block.
    Translated(&'a Block, usize),
    /// Nothing that could be linked.
    Elsewhere,
}

/// Executes the host code of `block` and what it leads to.
fn enter_translated<'a>(cpu: &mut Cpu, cache: &mut BlockCache, block: &Block) -> (Outcome, From<'a>) {
    cpu.gpr[reg::RIP_BASE] = block.rip_base(cpu.rip);
    let (left, last) = cache.enter(cpu, block.code());
    let from = match (last, left.link()) {
        // SAFETY: the block is in the cache, which is emptied only between chains.
        (Some(last), Some(link)) => From::Translated(unsafe { &*last }, link),
        _ => From::Elsewhere,
    };
    (left.outcome(), from)
}

/// Executes `block` in the interpreter.
fn enter_interpreted<'a>(cpu: &mut Cpu, block: &'a Block) -> (Outcome, From<'a>) {
    let outcome = enter_block(cpu, block);
    correct_count(cpu, block, outcome);
    let from = match outcome {
        Outcome::Next | Outcome::Taken => From::Interpreted(block, outcome),
        _ => From::Elsewhere,
    };
    (outcome, from)
}

/// Executes `block` and those after it for as long as nothing else has to be looked at.
fn chain(cpu: &mut Cpu, cache: &mut BlockCache, first: &Block) -> Outcome {
    let mut block = first;
    loop {
        if block.code().is_null() {
            cache.heat_up(cpu, block);
        }
        let (outcome, from) = if block.code().is_null() {
            enter_interpreted(cpu, block)
        } else {
            enter_translated(cpu, cache, block)
        };
        if outcome as u32 > Outcome::Jump as u32 {
            return outcome;
        }
        if cpu.shared.attention.load(Ordering::Relaxed) != 0 || cpu.instructions >= cpu.look_at {
            return Outcome::Look;
        }
        if let From::Interpreted(from, outcome) = from
            && let Some(next) = from.link(outcome)
            && next.may_enter(cpu)
        {
            block = next;
            continue;
        }
        if cache.is_full() {
            return Outcome::Look;
        }
        match cache.find(cpu, false) {
            Ok(next) => {
                match from {
                    From::Interpreted(from, outcome) => from.set_link(outcome, next),
                    From::Translated(from, link) => cache.link(from, link, next),
                    From::Elsewhere => {}
                }
                block = next;
            }
            Err(stop) => return stop.into(),
        }
    }
}

/// After a chain ended by `outcome`. `alone` is set if it was a single instruction, and says whether RFLAGS.TF was set before it.
fn finish(cpu: &mut Cpu, cache: &mut BlockCache, outcome: Outcome, alone: Option<bool>) -> Option<Left> {
    match outcome {
        Outcome::Exit => return Some(Left::Request),
        Outcome::Alone => {
            // Once more by itself: then it may write to its own block.
            cpu.replay.rewind();
            let outcome = match cache.find(cpu, true) {
                Ok(block) => one_block(cpu, block),
                Err(stop) => stop.into(),
            };
            return finish(cpu, cache, outcome, alone);
        }
        Outcome::Fault => {
            cpu.replay.clear();
            deliver(cpu);
            cpu.debugging.end(false);
        }
        _ => {
            cpu.replay.clear();
            if let Some(traced) = alone {
                retired_alone(cpu, traced);
            }
            cpu.debugging.end(true);
        }
    }
    None
}

/// After an instruction retired on its own: shadows end, traps are due.
fn retired_alone(cpu: &mut Cpu, traced: bool) {
    if let Some(trap) = system::debug_trap(cpu, traced) {
        if cpu.activity == Activity::Halted {
            // The trap of a HLT ends it.
            cpu.activity = Activity::Running;
        }
        cpu.exception = Some(trap);
        deliver(cpu);
    }
}

/// Delivers the exception that was raised. What stops its delivery for user mode is done again after that.
pub(crate) fn deliver(cpu: &mut Cpu) {
    let Some(exception) = cpu.exception.take() else {
        return;
    };
    // What its delivery writes to is no instruction's access.
    cpu.mmu.running = std::ptr::null();
    if system::deliver(cpu, exception).is_err() && cpu.exit != PendingExit::None {
        // A stack or descriptor table in a device's memory: no processor promises anything then.
        cpu.activity = Activity::Shutdown;
    }
}
