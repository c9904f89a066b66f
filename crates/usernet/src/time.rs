//! The clock of the core.

/// Milliseconds since some start; it never goes back.
pub type Millis = u64;
