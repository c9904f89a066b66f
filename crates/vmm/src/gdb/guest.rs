//! The guest that is debugged: its CPUs' threads, its memory, its state driver.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use ostler_accel::debug::translate;
use ostler_accel::{CpuState, DebugCause, DebugLimits, DebugRequest};
use ostler_memory::GuestRam;
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use super::patches::Patches;
use super::points::Points;
use super::target::{Gone, Move, NoPoint, Point, PointKind, Reason, Space, Stop, Target};
use crate::bell::Bell;
use crate::driver::{DriverHandle, Request};
use crate::vcpu::CpuHandle;

const PAGE: u64 = 4096;

/// Stops that CPUs met, for the debugger's thread.
pub(crate) struct Reports {
    queue: Mutex<VecDeque<(usize, DebugCause)>>,
    wanted: AtomicBool,
    bell: Arc<Bell>,
}

impl Reports {
    /// None yet; `bell` is rung for each.
    pub fn new(bell: Arc<Bell>) -> Self {
        Self {
            queue: Mutex::default(),
            wanted: AtomicBool::new(false),
            bell,
        }
    }

    /// True while there is a debugger.
    pub fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// CPU `cpu` stopped, and stays until it is let go on: there are never more reports than CPUs.
    pub fn post(&self, cpu: usize, cause: DebugCause) {
        self.queue().push_back((cpu, cause));
        self.bell.ring();
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<(usize, DebugCause)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a debugger is made for.
pub(crate) struct Parts {
    pub cpus: Vec<CpuHandle>,
    pub ram: Arc<GuestRam>,
    pub driver: DriverHandle,
    pub reports: Arc<Reports>,
}

/// A guest with a debugger.
pub(crate) struct Debugged {
    parts: Parts,
    limits: Option<DebugLimits>,
    points: Points,
    patches: Patches,
    /// What each CPU was asked for last.
    asked: Vec<DebugRequest>,
    /// Registers that were read since the CPUs stopped.
    states: Vec<Option<CpuState>>,
    /// Stops that were met while another one was told.
    waiting: VecDeque<Stop>,
}

impl Debugged {
    /// A guest whose CPUs know nothing of a debugger yet.
    pub fn new(parts: Parts) -> Self {
        let count = parts.cpus.len();
        Self {
            parts,
            limits: None,
            points: Points::default(),
            patches: Patches::default(),
            asked: vec![DebugRequest::default(); count],
            states: vec![None; count],
            waiting: VecDeque::new(),
        }
    }

    /// A client is there: stops are its business from now on.
    pub fn attach(&mut self) {
        self.parts.reports.wanted.store(true, Ordering::SeqCst);
    }

    /// The client is gone: nothing of it stays. `resume` lets a guest go on that the client had stopped.
    pub fn detach(&mut self, resume: bool) {
        self.parts.reports.wanted.store(false, Ordering::SeqCst);
        self.points = Points::default();
        self.patches.remove_all(&self.parts.ram);
        for cpu in 0..self.parts.cpus.len() {
            // One that does not answer has no guest any more.
            let _ = self.request(cpu, DebugRequest::default());
        }
        // After the calls, which let every CPU finish its report.
        self.thaw();
        self.parts.reports.queue().clear();
        self.waiting.clear();
        self.forget_states();
        if resume {
            let _ = self.ask_driver(Request::Resume);
        }
    }

    /// A CPU reported something: holds all, and says what it was. `None` if there is no report.
    pub fn take_stop(&mut self) -> Result<Option<Stop>, Gone> {
        if self.parts.reports.queue().is_empty() {
            return Ok(None);
        }
        self.stop()?;
        Ok(self.waiting.pop_front())
    }

    /// Turns the reports into stops. All CPUs are held.
    fn collect(&mut self) {
        let reports = std::mem::take(&mut *self.parts.reports.queue());
        for (cpu, cause) in reports {
            let kind = match cause {
                DebugCause::Breakpoint => self
                    .linear_rip(cpu)
                    .map_or(PointKind::Software, |linear| self.points.kind_at(linear)),
                DebugCause::Watchpoint { kind, .. } => PointKind::Watch(kind),
                DebugCause::Step => PointKind::Software,
            };
            self.waiting.push_back(Stop {
                cpu,
                reason: Reason::Met(cause, kind),
            });
        }
    }

    fn linear_rip(&mut self, cpu: usize) -> Option<u64> {
        let state = self.registers(cpu)?;
        let code = &state.segments[1];
        // Bit 13: 64-bit code, which has no base.
        let long = state.efer & 1 << 10 != 0 && code.rights & 1 << 13 != 0;
        Some(if long {
            state.rip
        } else {
            code.base.wrapping_add(state.rip) & 0xffff_ffff
        })
    }

    /// The first stop that still means something when the CPUs go on by `moves`. Breakpoints are met again by themselves, and
    /// a step that was not told is made once more.
    fn still_waiting(&mut self, moves: &[Move]) -> Option<Stop> {
        while let Some(stop) = self.waiting.pop_front() {
            let moved = moves.get(stop.cpu).is_some_and(|&one| one != Move::Stay);
            if moved
                && let Reason::Met(DebugCause::Watchpoint { linear, kind }, _) = stop.reason
                && self.points.watches(linear, kind)
            {
                return Some(stop);
            }
        }
        None
    }

    fn thaw(&self) {
        self.parts.cpus.iter().for_each(|cpu| cpu.set_frozen(false));
    }

    fn forget_states(&mut self) {
        self.states.fill(None);
    }

    fn request(&mut self, cpu: usize, request: DebugRequest) -> Result<(), Gone> {
        // KVM steps from where the CPU is when it is told so.
        if self.asked[cpu] == request && !request.step {
            return Ok(());
        }
        let wanted = request.clone();
        let done = self.parts.cpus[cpu].call(move |vcpu| vcpu.set_debug(&wanted));
        match done {
            Some(Ok(())) => {
                self.asked[cpu] = request;
                Ok(())
            }
            Some(Err(error)) => {
                tracing::warn!("CPU {cpu} does not take what its debugger wants: {error}");
                Ok(())
            }
            None => Err(Gone),
        }
    }

    fn ask_driver(&self, request: Request) -> Result<(), String> {
        let (sender, result) = sync_channel(1);
        let reply = Box::new(move |answer: Result<(), crate::driver::Refusal>| {
            // The channel has room for the one answer.
            let _ = sender.try_send(answer.map_err(|refusal| refusal.to_string()));
        });
        self.parts.driver.ask(request, reply);
        result.recv().unwrap_or_else(|_| Err("the guest is over".into()))
    }

    fn limits(&mut self) -> Option<DebugLimits> {
        if self.limits.is_none() {
            self.limits = self.parts.cpus.first()?.call(|vcpu| vcpu.debug_limits());
        }
        self.limits
    }

    /// Guest-physical address, and the bytes from there to the end of its page.
    fn place(&mut self, space: Space, address: u64) -> Option<(u64, usize)> {
        let physical = match space {
            Space::Physical => address,
            Space::Virtual { cpu } => self.translate(cpu, address)?,
        };
        Some((physical, (PAGE - physical % PAGE) as usize))
    }
}

impl Target for Debugged {
    fn cpus(&self) -> usize {
        self.parts.cpus.len()
    }

    fn has_cpu(&self, cpu: usize) -> bool {
        self.parts.cpus.get(cpu).is_some_and(CpuHandle::is_in)
    }

    fn stop(&mut self) -> Result<(), Gone> {
        self.ask_driver(Request::Pause).map_err(|_| Gone)?;
        self.forget_states();
        self.thaw();
        self.collect();
        Ok(())
    }

    fn resume(&mut self, moves: &[Move]) -> Result<Option<Stop>, Gone> {
        if let Some(stop) = self.still_waiting(moves) {
            return Ok(Some(stop));
        }
        self.forget_states();
        for (cpu, &one) in moves.iter().enumerate().take(self.cpus()) {
            self.parts.cpus[cpu].set_frozen(one == Move::Stay);
            let request = self.points.request(one == Move::Step, self.patches.linear());
            if one != Move::Stay {
                self.request(cpu, request)?;
            }
        }
        self.ask_driver(Request::Resume).map_err(|_| Gone)?;
        Ok(None)
    }

    fn registers(&mut self, cpu: usize) -> Option<CpuState> {
        if let Some(state) = self.states.get(cpu)? {
            return Some(state.clone());
        }
        let state = self.parts.cpus[cpu].call(|vcpu| vcpu.registers())?.ok()?;
        if !self.parts.driver.state().is_executing() {
            self.states[cpu] = Some(state.clone());
        }
        Some(state)
    }

    fn set_registers(&mut self, cpu: usize, state: &CpuState) -> bool {
        let Some(handle) = self.parts.cpus.get(cpu) else {
            return false;
        };
        self.states[cpu] = None;
        let state = state.clone();
        handle
            .call(move |vcpu| vcpu.set_registers(&state))
            .is_some_and(|done| done.is_ok())
    }

    fn translate(&mut self, cpu: usize, linear: u64) -> Option<u64> {
        let state = self.registers(cpu)?;
        let ram = &self.parts.ram;
        translate(&state, linear, |address, size| {
            let mut entry = [0; 8];
            ram.read_slice(entry.get_mut(..size)?, GuestAddress(address))
                .ok()?;
            Some(u64::from_le_bytes(entry))
        })
    }

    fn read(&mut self, space: Space, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some((physical, room)) = self.place(space, address.wrapping_add(done as u64)) else {
                break;
            };
            let end = done + room.min(into.len() - done);
            let piece = &mut into[done..end];
            if self.parts.ram.read_slice(piece, GuestAddress(physical)).is_err() {
                break;
            }
            self.patches.hide(physical, piece);
            done = end;
        }
        done
    }

    fn write(&mut self, space: Space, address: u64, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some((physical, room)) = self.place(space, address.wrapping_add(done as u64)) else {
                return false;
            };
            let end = done + room.min(bytes.len() - done);
            if !self.patches.write(&self.parts.ram, physical, &bytes[done..end]) {
                return false;
            }
            done = end;
        }
        true
    }

    fn insert(&mut self, point: Point, cpu: usize) -> Result<(), NoPoint> {
        let limits = self.limits().ok_or(NoPoint::Refused)?;
        let few = limits.points != usize::MAX;
        if few && point.kind == PointKind::Software {
            let physical = self.translate(cpu, point.linear).ok_or(NoPoint::Refused)?;
            return match self.patches.insert(&self.parts.ram, point.linear, physical) {
                true => Ok(()),
                false => Err(NoPoint::Refused),
            };
        }
        self.points.insert(point, &limits)
    }

    fn remove(&mut self, point: Point) {
        self.points.remove(point);
        if point.kind == PointKind::Software {
            self.patches.remove(&self.parts.ram, point.linear);
        }
    }

    fn ask(&mut self, request: Request) -> Result<(), String> {
        self.forget_states();
        self.ask_driver(request)
    }

    fn state(&self) -> &'static str {
        self.parts.driver.state().name()
    }
}
