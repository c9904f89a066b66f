//! The sequences of `main.rs` in the interpreter.

mod compare;
mod generator;
mod guest;
mod machine_state;
mod minimise;
mod native;
mod open;
mod regressions;
mod rng;
mod sequence;
mod sequences;

use ostler_softcpu::vm::Engine;

/// How the guest executes.
const ENGINE: Engine = Engine::Interpreter;
