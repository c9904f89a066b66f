//! On whose behalf a thread handles an exit.
//!
//! Some devices ask who accesses them: the flash of a firmware's variables takes writes from system management mode only, and a
//! command that raises an SMI raises it on the processor that writes it. The accelerator says it before each exit.

use std::cell::Cell;

/// The vCPU behind the access that a device is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initiator {
    /// vCPU id.
    pub vcpu: u32,
    /// It is in system management mode.
    pub smm: bool,
}

thread_local! {
    static INITIATOR: Cell<Option<Initiator>> = const { Cell::new(None) };
}

/// The vCPU whose access this thread handles; `None` on a thread that runs none.
pub fn initiator() -> Option<Initiator> {
    INITIATOR.get()
}

/// Called by an accelerator on a vCPU's thread, before it leaves for user mode.
pub fn set_initiator(initiator: Initiator) {
    INITIATOR.set(Some(initiator));
}

/// True if this thread handles an access from system management mode.
pub fn in_smm() -> bool {
    initiator().is_some_and(|initiator| initiator.smm)
}
