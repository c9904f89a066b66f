//! Model-specific registers.

/// Every MSR that is no field of its own in [`crate::state::Cpu`].
#[derive(Debug, Clone, Default)]
pub struct Msrs {
    /// What is added to the host's TSC.
    pub tsc_offset: u64,
}
