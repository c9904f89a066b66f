//! The host's CPU as the oracle: random user-mode instruction sequences run natively in a jailed child process and in a tiny guest,
//! and must leave the same registers, defined flags, vector and x87 state, memory and exception. 64-bit code is translated before
//! it executes first; the same is interpreted in the tests of `interpreted.rs`.
//!
//! Random bytes, which the host must not execute, do the same in the interpreter and translated (`random_code.rs`).
//!
//! `OSTLER_DIFFERENTIAL=1000000` sets how many sequences run, `OSTLER_RANDOM_CODE=10000000` how many blocks of random code, `DIFF_SEED=n`
//! where the seeds start (a failure prints its own).

mod compare;
mod generator;
mod guest;
mod machine_state;
mod minimise;
mod native;
mod open;
mod random_code;
mod regressions;
mod rng;
mod sequence;
mod sequences;
mod translated;

use ostler_softcpu::vm::Engine;

/// How the guest executes.
const ENGINE: Engine = Engine::Translator { after: 0 };
