//! The table of doorbells.

/// Doorbells by address, read without locks.
#[derive(Default)]
pub struct DoorbellTable {}
