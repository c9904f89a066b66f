//! One vCPU: entering guest mode, and handing on why it was left.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Instant;

use kvm_bindings::{KVM_RUN_X86_SMM, kvm_guest_debug, kvm_run};
use kvm_ioctls::VcpuFd;
use ostler_accel::{
    CpuState, CpuidLeaf, DebugCause, DebugLimits, DebugRequest, Error, Exit, ExitCause, Initiator, Kick,
    TimeSpent, Vcpu, VcpuStats, model,
};

use crate::debug::{self, Debugging, Meaning};
use crate::exit::{Reason, decode};
use crate::hyperv;
use crate::kick::Kicker;
use crate::state::{self, nested};
use crate::stats;
use crate::sys;
use crate::vm::Shared;

/// Entries that finish what is pending take: an instruction has at most a few parts, each of which leaves once more.
const MAX_PENDING_PARTS: usize = 16;

/// A vCPU on KVM.
pub struct KvmVcpu {
    id: u32,
    fd: VcpuFd,
    kicker: Arc<Kicker>,
    stats: Arc<VcpuStats>,
    msrs: state::Msrs,
    /// The guest can run guests of its own.
    nests: bool,
    /// It has Hyper-V's synthetic interrupt controller.
    has_synic: bool,
    /// Bytes of the mapping of `kvm_run`.
    run_size: usize,
    /// The last exit left an instruction half done; the next entry completes it.
    pending: bool,
    /// The guest is at an instruction boundary and `kvm_run` tells the truth about whether it takes interrupts.
    boundary: bool,
    /// When the last exit was handed to user mode.
    handed_out: Option<Instant>,
    debugging: Debugging,
    /// What the last debug exit was for.
    cause: DebugCause,
    vm: Arc<Shared>,
}

impl KvmVcpu {
    /// Wraps the fresh vCPU `fd`, which answers CPUID by `cpuid`.
    pub fn new(id: u32, fd: VcpuFd, cpuid: &[CpuidLeaf], vm: Arc<Shared>) -> Result<Self, Error> {
        let kernel_stats = crate::sys::stats_fd(&fd).ok();
        let stats = Arc::new(VcpuStats::default());
        let thread = Arc::new(AtomicI32::new(0));
        let kicker = Arc::new(Kicker::new(&fd, stats.clone(), thread.clone())?);
        stats::attach(&stats, kernel_stats, thread);
        vm.add_vcpu(id, kicker.clone());
        let has_synic = model::hyperv::has_synic(cpuid);
        if has_synic {
            vm.synic.add_vcpu(id);
        }
        let msrs = state::Msrs::of(&fd, &vm.msrs, cpuid)?;
        let run_size = vm.fd.run_size();
        Ok(Self {
            id,
            fd,
            kicker,
            stats,
            msrs,
            nests: nested::is_offered(cpuid),
            has_synic,
            run_size,
            pending: false,
            boundary: false,
            handed_out: None,
            debugging: Debugging::default(),
            cause: DebugCause::Step,
            vm,
        })
    }

    /// Enters guest mode until there is something for user mode.
    fn enter(&mut self) -> Result<Reason, Error> {
        loop {
            self.give_smi()?;
            if self.kicker.take_mail() {
                hyperv::deliver(&self.fd, &self.vm, self.id)?;
            }
            if self.id == 0 {
                self.offer_external_interrupt()?;
            }
            self.kicker.enter();
            let result = self.fd.run().map(drop);
            self.kicker.leave();
            self.pending = false;
            self.boundary = true;
            let reason = match result {
                Ok(()) => decode(self.fd.get_kvm_run(), self.run_size),
                Err(error) => match error.errno() {
                    libc::EINTR => Reason::Interrupted,
                    // A processor that waits for its start-up IPI was woken for something else.
                    libc::EAGAIN => continue,
                    _ => return Err(Error::host("run the guest", error)),
                },
            };
            match reason {
                Reason::InterruptWindow => {}
                Reason::HypervPages => hyperv::deliver(&self.fd, &self.vm, self.id)?,
                Reason::Hypercall { input, parameter } => self.answer_hypercall(input, parameter),
                Reason::EndOfMessage => self.end_message()?,
                Reason::Debug { exception, pc, dr6 } => match self.debugging.meaning(exception, pc, dr6) {
                    Meaning::ForDebugger(cause) => {
                        self.cause = cause;
                        return Ok(reason);
                    }
                    Meaning::ForGuest(exception) => self.give_back(exception)?,
                },
                Reason::Interrupted => {
                    if self.kicker.take() {
                        return Ok(Reason::Interrupted);
                    }
                }
                reason => {
                    self.pending = matches!(reason, Reason::Port { .. } | Reason::Mmio { .. });
                    self.boundary = !self.pending;
                    return Ok(reason);
                }
            }
        }
    }

    /// Lets KVM have an SMI that came: the guest takes it at its next instruction boundary outside system management mode.
    ///
    /// While the vCPU waits to be started, the SMI waits too, since with one KVM would not sleep; the guest takes it after the
    /// first exit from then on.
    fn give_smi(&self) -> Result<(), Error> {
        if !self.kicker.has_smi() {
            return Ok(());
        }
        // Within an instruction the vCPU runs, and KVM is not to act on an INIT by the question.
        if !self.pending && !state::is_started(state::mp_state(&self.fd)?) {
            return Ok(());
        }
        self.kicker.take_smi();
        self.fd
            .smi()
            .map_err(|e| Error::host("give a vCPU a system management interrupt", e))
    }

    /// Whether the vCPU was in system management mode when it left guest mode last.
    fn in_smm(&mut self) -> bool {
        u32::from(self.fd.get_kvm_run().flags) & KVM_RUN_X86_SMM != 0
    }

    /// Delivers the 8259's interrupt if the guest can take it now, else asks KVM to leave when it can.
    ///
    /// The vector goes in as an interrupt on its way to the guest (KVM_SET_VCPU_EVENTS) instead of by KVM_INTERRUPT: the
    /// latter parks it where no state call finds it, and a kick before the next entry would lose it from a saved state.
    fn offer_external_interrupt(&mut self) -> Result<(), Error> {
        let mut pending = self.vm.external.pending();
        if pending && self.boundary && self.fd.get_kvm_run().ready_for_interrupt_injection != 0 {
            if let Some(now) = state::ready_for_external(&self.fd)? {
                if let Some(vector) = self.vm.external.acknowledge() {
                    if self.is_within_a_guest()? {
                        // The guest decides whether it or its guest has the interrupt, and KVM knows what it decided.
                        sys::park_interrupt(&self.fd, vector)
                            .map_err(|e| Error::host("interrupt a guest of the guest", e))?;
                    } else {
                        state::inject_external(&self.fd, now, vector)?;
                    }
                    self.boundary = false;
                }
                pending = self.vm.external.pending();
            } else {
                self.boundary = false;
            }
        }
        self.fd.get_kvm_run().request_interrupt_window = pending.into();
        Ok(())
    }

    /// After a change of state: what `kvm_run` says of interrupts is old. If the 8259 has one, the next entry comes straight
    /// back and knows; without that, a CPU that is now in HLT would sleep through it.
    fn look_again_at_external(&mut self) {
        self.boundary = false;
        if self.id == 0 && self.vm.external.pending() {
            self.kicker.interrupt();
        }
    }

    /// Completes the instruction that the last exit interrupted, without running another.
    fn finish_pending(&mut self) -> Result<(), Error> {
        if !self.pending {
            return Ok(());
        }
        self.kicker.only_finish();
        let mut result = Ok(());
        for _ in 0..MAX_PENDING_PARTS {
            match self.fd.run().map(drop) {
                Ok(()) => {}
                Err(error) if error.errno() == libc::EINTR => break,
                Err(error) => {
                    result = Err(Error::host("finish an instruction of the guest", error));
                    break;
                }
            }
        }
        self.kicker.finished();
        self.pending = false;
        result
    }

    fn tell(&self, told: &kvm_guest_debug) -> Result<(), Error> {
        self.fd
            .set_guest_debug(told)
            .map_err(|e| Error::host("let a debugger at a vCPU", e))
    }

    /// After the flags were written: KVM has forgotten that it was to step.
    fn keep_debugging(&self) -> Result<(), Error> {
        match self.debugging.current(self.vm.features.guest_debug)? {
            told if told.control == 0 => Ok(()),
            told => self.tell(&told),
        }
    }

    /// Lets the guest have an exception of its own that KVM took for the debugger's.
    fn give_back(&self, exception: u32) -> Result<(), Error> {
        let told = self
            .debugging
            .give_back(exception, self.vm.features.guest_debug)?;
        self.tell(&told)
    }

    /// The bytes of `kvm_run`'s mapping in `range`, which `decode` found inside it.
    fn run_bytes(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        let page: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: `decode` checked the range against the size of the mapping, which lives as long as `self.fd`; the kernel
        // touches it only during KVM_RUN, for which `self` must be borrowed again.
        unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>().add(range.start), range.len()) }
    }

    /// KVM reads the answer at the next entry.
    fn answer_hypercall(&mut self, input: u64, parameter: u64) {
        let answer = hyperv::answer(&self.vm, input, parameter);
        // SAFETY: the exit reason says that the kernel filled this member of the union; it is plain data.
        let call = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.hyperv.u.hcall };
        call.result = answer;
    }

    /// The guest's write of the register is done in KVM's name, whose timers send messages, too.
    fn end_message(&mut self) -> Result<(), Error> {
        // SAFETY: the exit reason says that the kernel filled this member of the union; it is plain data.
        let write = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.msr };
        // Not zero: a fault for the guest.
        write.error = (!self.has_synic).into();
        if self.has_synic {
            hyperv::end_message(&self.fd, &self.vm, self.id)?;
        }
        Ok(())
    }

    /// True if the registers are those of a guest of the guest.
    fn is_within_a_guest(&self) -> Result<bool, Error> {
        Ok(self.nests && nested::is_within(&self.fd)?)
    }

    /// Undoes what an older KVM does when an emulation fails: it queues #UD.
    fn forget_failed_emulation(&mut self) -> Result<(), Error> {
        if self.vm.features.exits_on_failure {
            Ok(())
        } else {
            state::drop_exception(&self.fd)
        }
    }
}

fn cause(reason: &Reason) -> ExitCause {
    match reason {
        Reason::Port { write: false, .. } => ExitCause::PortRead,
        Reason::Port { write: true, .. } => ExitCause::PortWrite,
        Reason::Mmio { write: false, .. } => ExitCause::MmioRead,
        Reason::Mmio { write: true, .. } => ExitCause::MmioWrite,
        Reason::EndOfInterrupt { .. } => ExitCause::EndOfInterrupt,
        Reason::Interrupted => ExitCause::Kick,
        Reason::Shutdown => ExitCause::Shutdown,
        Reason::EmulationFailed => ExitCause::EmulationFailed,
        Reason::InterruptWindow
        | Reason::HypervPages
        | Reason::Hypercall { .. }
        | Reason::EndOfMessage
        | Reason::Reset
        | Reason::Debug { .. }
        | Reason::Broken(_) => ExitCause::Other,
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        if let Some(since) = self.handed_out.take() {
            self.stats
                .add_time(TimeSpent::User, since.elapsed().as_nanos() as u64);
        }
        let reason = self.enter()?;
        self.stats.count_exit(cause(&reason));
        ostler_accel::set_initiator(Initiator {
            vcpu: self.id,
            smm: self.in_smm(),
        });
        // Time after a kick is a pause, not work for the guest.
        let pauses = matches!(reason, Reason::Interrupted | Reason::Debug { .. });
        self.handed_out = (!pauses).then(Instant::now);
        Ok(match reason {
            Reason::Port {
                port,
                width,
                write,
                data,
            } => {
                let data = self.run_bytes(data);
                if write {
                    Exit::PortWrite { port, width, data }
                } else {
                    Exit::PortRead { port, width, data }
                }
            }
            Reason::Mmio { gpa, len, write } => {
                // SAFETY: the exit reason says that the kernel filled this member of the union; it is plain data.
                let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
                let data = &mut mmio.data[..len];
                if write {
                    Exit::MmioWrite { gpa, data }
                } else {
                    Exit::MmioRead { gpa, data }
                }
            }
            Reason::EndOfInterrupt { vector } => {
                self.vm.routes.end_of_interrupt(vector);
                Exit::EndOfInterrupt { vector }
            }
            Reason::Shutdown => Exit::Shutdown,
            Reason::Reset => Exit::Reset,
            Reason::EmulationFailed => {
                if self.is_within_a_guest()? {
                    return Err(Error::Unsupported(
                        "KVM cannot emulate an instruction of a guest of the guest".into(),
                    ));
                }
                self.forget_failed_emulation()?;
                Exit::EmulationFailed
            }
            Reason::Broken(what) => {
                return Err(Error::host("run the guest", std::io::Error::other(what)));
            }
            Reason::Debug { .. } => Exit::Debug(self.cause),
            Reason::Interrupted
            | Reason::InterruptWindow
            | Reason::HypervPages
            | Reason::Hypercall { .. }
            | Reason::EndOfMessage => Exit::Kicked,
        })
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        self.finish_pending()?;
        self.give_smi()?;
        if self.nests {
            nested::refuse_within(&self.fd)?;
        }
        let mut state = state::save(&self.fd, &self.vm, &self.msrs)?;
        state.smm.pending |= self.kicker.has_smi();
        Ok(state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.finish_pending()?;
        if self.nests {
            nested::leave(&self.fd)?;
        }
        // The state says whether one waits.
        self.kicker.take_smi();
        state::restore(&self.fd, &self.vm, &self.msrs, state)?;
        if state.smm.pending && !state::is_started(state.mp) {
            self.kicker.raise_smi();
        }
        self.look_again_at_external();
        Ok(())
    }

    fn instruction_state(&mut self) -> Result<CpuState, Error> {
        self.finish_pending()?;
        if self.in_smm() {
            return Err(Error::Unsupported(
                "an instruction of system management mode, which KVM cannot emulate, is not handed over"
                    .into(),
            ));
        }
        state::for_instruction(&self.fd, &self.vm)
    }

    fn finish_instruction(&mut self, before: &CpuState, after: &CpuState) -> Result<(), Error> {
        state::after_instruction(&self.fd, &self.vm, before, after)?;
        self.keep_debugging()?;
        self.look_again_at_external();
        Ok(())
    }

    fn set_debug(&mut self, request: &DebugRequest) -> Result<(), Error> {
        self.finish_pending()?;
        let told = self.debugging.set(request, self.vm.features.guest_debug)?;
        self.tell(&told)
    }

    fn debug_limits(&self) -> DebugLimits {
        debug::LIMITS
    }

    fn registers(&mut self) -> Result<CpuState, Error> {
        self.finish_pending()?;
        state::for_instruction(&self.fd, &self.vm)
    }

    fn set_registers(&mut self, state: &CpuState) -> Result<(), Error> {
        self.finish_pending()?;
        state::set_registers(&self.fd, &self.vm, state)?;
        self.keep_debugging()?;
        self.look_again_at_external();
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }

    fn stats(&self) -> Arc<VcpuStats> {
        self.stats.clone()
    }
}
