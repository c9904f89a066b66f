//! The binary as a user meets it: tiny guests on the software CPU, no files but those made here.

mod bad_input;
mod consoles;
mod control;
mod hostile_clients;
mod life;
mod nobody;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "each test binary uses its own part of this module")]
mod process;
mod qmp_client;
mod qmp_like_qemu;
mod qmp_schema;
mod sight;
mod terminal;
mod tiny;
