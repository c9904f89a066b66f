//! Model-specific registers.

/// Every MSR that is no field of its own in [`crate::state::Cpu`].
#[derive(Debug, Clone, Default)]
pub struct Msrs {
    /// What is added to the host's TSC.
    pub tsc_offset: u64,
}

/// Every MSR that is no field of its own in the plain state.
pub fn save(_cpu: &mut crate::state::Cpu) -> Vec<ostler_accel::Msr> {
    Vec::new()
}

/// Sets them.
pub fn restore(_cpu: &mut crate::state::Cpu, _msrs: &[ostler_accel::Msr]) -> Result<(), ostler_accel::Error> {
    Ok(())
}
