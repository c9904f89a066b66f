//! Guests without a platform: small programs, and bytes that no compiler writes.

mod basic;
mod common;
mod hostile;
mod system;
