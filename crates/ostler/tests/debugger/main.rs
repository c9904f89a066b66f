//! A debugger at a guest, through the binary.

#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "made for another test binary")]
#[path = "../command_line/tiny.rs"]
mod tiny;

mod bare;
mod gdb;
mod linux;
