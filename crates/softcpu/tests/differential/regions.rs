//! The sequences of `main.rs`, interpreted once and then translated with the blocks that they lead to.

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
const ENGINE: Engine = Engine::Translator { after: 1 };
