//! Guests without a platform: small programs, and bytes that no compiler writes. Everything is translated at once; the same is
//! interpreted in the tests of `interpreted.rs`.

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
const ENGINE: Engine = Engine::Translator { after: 0 };
