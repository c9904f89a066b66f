//! Legacy integer instructions.

pub mod address;
