//! The guests of `main.rs` in the interpreter.

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
const ENGINE: Engine = Engine::Interpreter;
