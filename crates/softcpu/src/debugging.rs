//! A debugger outside of the guest. The guest has debug registers of its own (`system/debug.rs`), and sees nothing of this.
//!
//! A block ends before an instruction with a breakpoint, and one that begins there has an op before its first instruction, which
//! looks whether it is meant: breakpoints are linear addresses, blocks physical ones, so only the offset in the page is known when a
//! block is decoded. Such a block is never translated, and so is found by the interpreter each time.
//!
//! A page with watched bytes gets no tags in the TLB. On the slow path, an instruction that touches them is executed once more
//! by itself, and then the vCPU stops. A single step is an instruction by itself too.

use ostler_accel::{DebugCause, DebugRequest, WatchKind};

use crate::block::{OpRef, Outcome};
use crate::fault::{Result, Stop};
use crate::state::{Cpu, mode, seg};

/// Most breakpoints whose blocks are kept although they are gone: a debugger takes all away at each stop.
const MOST_KEPT: usize = 64;

/// What a debugger wants of a vCPU, and what it will be told.
#[derive(Debug, Default)]
pub struct Debugging {
    request: DebugRequest,
    /// The watchpoint that the instruction under way has touched.
    touched: Option<(u64, WatchKind)>,
    /// Why the vCPU is to leave before the next instruction.
    due: Option<DebugCause>,
}

impl Debugging {
    /// True while each instruction is a step.
    pub fn steps(&self) -> bool {
        self.request.step
    }

    /// True if some of the page at `linear` is watched.
    pub fn watches_page(&self, linear: u64) -> bool {
        let page = linear & !0xfff;
        self.request
            .watchpoints
            .iter()
            .any(|watch| watch.overlaps(page, 4096))
    }

    /// An instruction begins that executes by itself.
    pub fn begin(&mut self) {
        self.touched = None;
    }

    /// The instruction that executed by itself has retired, or its exception was delivered.
    pub fn end(&mut self, retired: bool) {
        let touched = self.touched.take().filter(|_| retired);
        if let Some((linear, kind)) = touched {
            self.due = Some(DebugCause::Watchpoint { linear, kind });
        } else if self.request.step {
            self.due.get_or_insert(DebugCause::Step);
        }
    }

    /// Why to leave now, if there is a reason. It is told once.
    pub fn take_due(&mut self) -> Option<DebugCause> {
        self.due.take()
    }

    fn has_breakpoint(&self, linear: u64) -> bool {
        !self.request.step && self.request.breakpoints.contains(&linear)
    }
}

/// Page offsets at which blocks are divided for breakpoints.
#[derive(Debug, Default)]
pub struct Divisions(Vec<u16>);

impl Divisions {
    /// True if a block must begin at page offset `offset`.
    pub fn contains(&self, offset: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&((offset & 0xfff) as u16))
    }

    /// Takes over the breakpoints of `request`. True if blocks that were decoded before are of no use any more.
    pub fn adapt(&mut self, request: &DebugRequest) -> bool {
        let mut wanted: Vec<u16> = request
            .breakpoints
            .iter()
            .map(|linear| (linear & 0xfff) as u16)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known = wanted.iter().all(|offset| self.0.contains(offset));
        let over = *request == DebugRequest::default() && !self.0.is_empty();
        if known && !over && self.0.len() <= MOST_KEPT.max(wanted.len()) {
            return false;
        }
        self.0 = wanted;
        true
    }
}

/// The op before an instruction that may have a breakpoint.
pub fn breakpoint_op(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let rip = op.rip(cpu);
    if !cpu.debugging.has_breakpoint(cpu.linear_of(rip)) {
        return op.continue_with_next(cpu);
    }
    cpu.rip = rip;
    cpu.debugging.due = Some(DebugCause::Breakpoint);
    Outcome::Halfway
}

impl Cpu {
    /// Replaces what the debugger wants. Between runs only.
    pub fn set_debugging(&mut self, request: &DebugRequest) {
        let old = std::mem::replace(&mut self.debugging.request, request.clone());
        self.debugging.touched = None;
        self.debugging.due = None;
        if old.watchpoints != request.watchpoints {
            self.flush_tlb(true);
        }
        self.update_mode();
    }

    /// Linear address of the instruction at `rip`.
    fn linear_of(&self, rip: u64) -> u64 {
        if self.is_long() {
            rip
        } else {
            self.segs[seg::CS].base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Looks whether the instruction at `rip`, which is to execute by itself, has a breakpoint.
    pub fn stops_at_breakpoint(&mut self) -> bool {
        !self.debugging.request.breakpoints.is_empty()
            && self.debugging.has_breakpoint(self.linear_of(self.rip))
    }

    /// Notes an access to watched bytes.
    ///
    /// # Errors
    /// [`Stop::Alone`] if the instruction that makes it is not executing by itself.
    #[inline]
    pub fn note_watched(&mut self, linear: u64, len: usize, write: bool) -> Result<()> {
        if self.debugging.request.watchpoints.is_empty() {
            return Ok(());
        }
        self.note_touched(linear, len as u64, write)
    }

    #[cold]
    fn note_touched(&mut self, linear: u64, len: u64, write: bool) -> Result<()> {
        let watchpoints = &self.debugging.request.watchpoints;
        let Some(watch) = watchpoints
            .iter()
            .find(|watch| watch.kind.includes(write) && watch.overlaps(linear, len))
        else {
            return Ok(());
        };
        if self.mmu.running.is_null() {
            // The delivery of an event is no instruction.
            return Ok(());
        }
        if self.mode & mode::ALONE == 0 {
            return Err(Stop::Alone);
        }
        self.debugging.touched = Some((watch.linear, watch.kind));
        Ok(())
    }
}
