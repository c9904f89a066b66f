//! The traits that an accelerator implements.

use std::sync::Arc;

use ostler_bus::{DoorbellRegistry, Msi, MsiSink};
use ostler_memory::RamSlot;

use crate::{
    CpuState, CpuidLeaf, DebugLimits, DebugRequest, Error, Exit, KickSource, Profiler, SyntheticInterrupts,
    VcpuStats,
};

/// Which accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's /dev/kvm.
    Kvm,
    /// x86-64 in software.
    Soft,
}

impl Kind {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kvm => "kvm",
            Kind::Soft => "soft",
        }
    }
}

/// What a virtual machine is made from.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// How many vCPUs there can be; their ids and x2APIC ids are 0 to `cpus - 1`.
    pub cpus: u32,
    /// The memory map.
    pub slots: Vec<RamSlot>,
}

/// A way to run guest instructions.
pub trait Accelerator: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Every CPUID leaf that it can give a guest on this host; CPU models are cut down to this.
    fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, Error>;

    /// Makes a virtual machine without vCPUs.
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, Error>;
}

/// A virtual machine: its memory map, its interrupt fabric (every vCPU has a LAPIC inside the accelerator), its doorbells.
pub trait Vm: MsiSink + DoorbellRegistry {
    /// Makes vCPU `id`, in the state after RESET.
    fn create_vcpu(&self, id: u32, cpuid: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error>;

    /// Replaces the memory map as a whole. A vCPU has the new map when it enters guest mode next; one that is in guest mode comes
    /// out of it and enters again soon. Memory that both maps have stays reachable all the time.
    fn set_slots(&self, slots: Vec<RamSlot>) -> Result<(), Error>;

    /// Waits until no vCPU uses a memory map from before the last [`Vm::set_slots`]. Not on a vCPU's thread.
    fn settle(&self) {}

    /// Tells the message that each IOAPIC pin sends, so that the end of a level-triggered one arrives as
    /// [`Exit::EndOfInterrupt`]. Called whenever the guest reprograms the IOAPIC.
    fn set_ioapic_pins(&self, pins: &[IoapicPin]) -> Result<(), Error>;

    /// Connects the 8259 pair, whose interrupts reach vCPU 0 through LINT0 as ExtINT.
    fn set_external_interrupts(&self, source: Arc<dyn ExternalInterrupts>);

    /// The 8259's output rose: vCPU 0 has to look at it. Safe to call from any thread, also from within `source`'s owner.
    fn external_interrupt_raised(&self);

    /// Turns the dirty log on or off. Guest writes are then added to the slots' page trackers by [`Vm::sync_dirty`].
    fn set_dirty_log(&self, on: bool) -> Result<(), Error>;

    /// Moves what the accelerator knows of guest writes into the slots' page trackers.
    fn sync_dirty(&self) -> Result<(), Error>;

    /// The paravirtual clock (kvmclock) in nanoseconds since the guest's boot.
    fn clock(&self) -> Result<u64, Error>;

    /// Sets the paravirtual clock. No vCPU may be in guest mode.
    fn set_clock(&self, nanoseconds: u64) -> Result<(), Error>;

    /// System management mode, where the accelerator has it. A virtual machine is without it until
    /// [`SystemManagement::set_slots`] is called: an SMI that comes before that is lost.
    fn system_management(&self) -> Option<&dyn SystemManagement> {
        None
    }

    /// Hyper-V's synthetic interrupts from outside, where the accelerator has them.
    fn synthetic_interrupts(&self) -> Option<&dyn SyntheticInterrupts> {
        None
    }

    /// Says where the guest's code spends its time; `None` where the host's hardware executes it unseen.
    fn profiler(&self) -> Option<Arc<dyn Profiler>> {
        None
    }
}

/// System management mode of a virtual machine (SDM vol. 3, chapter 32).
pub trait SystemManagement: Send + Sync {
    /// As [`Vm::set_slots`], with two maps: `normal`, and `smm` for vCPUs in system management mode.
    fn set_slots(&self, normal: Vec<RamSlot>, smm: Vec<RamSlot>) -> Result<(), Error>;

    /// The chipset's SMI# pin: a vCPU takes the interrupt at its next instruction boundary outside system management mode. Safe to
    /// call from any thread.
    fn raise_smi(&self, to: SmiTarget);
}

/// Which vCPUs an SMI of the chipset is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmiTarget {
    /// All of them.
    All,
    /// One, by its id.
    One(u32),
}

/// One virtual CPU. It lives on one thread, which calls [`Vcpu::run`] in a loop.
pub trait Vcpu: Send {
    /// Runs guest instructions until something is needed from user mode. HLT sleeps inside.
    fn run(&mut self) -> Result<Exit<'_>, Error>;

    /// The whole state. Only after [`Exit::Kicked`] or before the first run.
    fn state(&mut self) -> Result<CpuState, Error>;

    /// Replaces the whole state, in the order that the hardware needs.
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error>;

    /// What the instruction behind [`Exit::EmulationFailed`] works on: registers, XSAVE area, events, and the MSRs that
    /// instructions use by themselves. Other MSRs are missing, and the LAPIC's registers are not filled in.
    fn instruction_state(&mut self) -> Result<CpuState, Error> {
        Err(Error::Unsupported(
            "this accelerator executes every instruction itself".into(),
        ))
    }

    /// Takes over what that instruction made of `before`. What it cannot change is left alone, because others do meanwhile:
    /// the LAPIC, which takes messages at any time, the clocks, and the MSRs that are the same in `before` and `after`.
    fn finish_instruction(&mut self, before: &CpuState, after: &CpuState) -> Result<(), Error> {
        let _ = (before, after);
        Err(Error::Unsupported(
            "this accelerator executes every instruction itself".into(),
        ))
    }

    /// From now on, [`Vcpu::run`] leaves with [`Exit::Debug`] where `request` says; an empty one ends that. Only when
    /// [`Vcpu::state`] may be asked for.
    fn set_debug(&mut self, request: &DebugRequest) -> Result<(), Error>;

    /// What [`Vcpu::set_debug`] can do.
    fn debug_limits(&self) -> DebugLimits;

    /// What a debugger looks at: all of the state but the LAPIC's registers, and MSRs as far as programs have a say in them. Only
    /// when [`Vcpu::state`] may be asked for.
    fn registers(&mut self) -> Result<CpuState, Error> {
        self.state()
    }

    /// Takes over general, segment, control, debug and vector registers, EFER and IA32_KERNEL_GS_BASE. The rest stays as it
    /// is, because others change it meanwhile; so does CR8, which is the LAPIC's.
    fn set_registers(&mut self, state: &CpuState) -> Result<(), Error>;

    /// A handle by which other threads bring this vCPU back from guest mode.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// The vCPU's counters.
    fn stats(&self) -> Arc<VcpuStats>;
}

/// Brings a vCPU back from guest mode.
pub trait Kick: Send + Sync {
    /// The current or next [`Vcpu::run`] returns [`Exit::Kicked`] soon.
    fn kick(&self, source: KickSource);
}

/// What an IOAPIC pin sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoapicPin {
    /// The message; its data has bit 15 set for a level-triggered pin.
    pub msi: Msi,
    /// A masked pin sends nothing, but its message still decides about end-of-interrupt exits.
    pub masked: bool,
    /// What a level-triggered pin sent waits for its end (remote IRR).
    pub in_service: bool,
}

/// The 8259 pair as a CPU sees it.
pub trait ExternalInterrupts: Send + Sync {
    /// True while the INTR output is high.
    fn pending(&self) -> bool;
    /// The interrupt-acknowledge cycle: the vector to deliver. Called once for each interrupt taken.
    fn acknowledge(&self) -> Option<u8>;
}
