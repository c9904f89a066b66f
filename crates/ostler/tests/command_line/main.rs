//! The binary as a user meets it: tiny guests on the software CPU, no files but those made here.

mod bad_input;
mod consoles;
mod control;
mod life;
mod nobody;
mod sight;
mod terminal;
mod tiny;
