//! What every accelerator offers, and the guest CPU state that they share.
//!
//! An accelerator runs guest instructions and leaves ([`Exit`]) for what it cannot do itself. There are two: `kvm` (the
//! host's /dev/kvm) and `softcpu` (x86-64 in software). The traits are small on purpose: state moves as a whole
//! ([`CpuState`]), so that a guest saved on one accelerator resumes on the other.

pub mod bare_metal;
mod clock;
pub mod debug;
mod error;
mod exit;
mod initiator;
pub mod model;
pub mod probe;
mod profile;
mod state;
mod stats;
mod synthetic;
mod vm;

pub use debug::{DebugCause, DebugLimits, DebugRequest, WatchKind, Watchpoint};
pub use error::Error;
pub use exit::Exit;
pub use initiator::{Initiator, in_smm, initiator, set_initiator};
pub use profile::{HotSpot, Profile, Profiler, Symbol};
pub use state::{
    CpuState, CpuidLeaf, DescriptorTable, LapicState, MAX_XSAVE_SIZE, MpState, Msr, PendingEvents, Segment,
    SmmState, reset_state,
};
pub use stats::{Effort, ExitCause, KickSource, TimeSpent, VcpuStats};
pub use synthetic::{SyntheticConnection, SyntheticInterrupts, SyntheticSource};
pub use vm::{
    Accelerator, ExternalInterrupts, IoapicPin, Kick, Kind, SmiTarget, SystemManagement, Vcpu, Vm, VmConfig,
};
