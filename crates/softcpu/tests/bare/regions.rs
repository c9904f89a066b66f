//! The guests of `main.rs` with code that is interpreted once and then translated with the blocks that it leads to.

mod basic;
mod bounds;
mod changing_code;
mod changing_map;
mod common;
mod crossing;
mod debug;
mod debugger;
mod exceptions;
mod hostile;
mod kernel;
mod paravirtual;
mod prepared;
mod smm;
mod strings;
mod system;

use ostler_softcpu::vm::Engine;

/// How the guests execute.
const ENGINE: Engine = Engine::Translator { after: 1 };
