//! x86-64 in software: an interpreter over cached blocks of decoded instructions.
//!
//! | folder or file | idea |
//! |---|---|
//! | [`state`] | the state of one vCPU, hot part first |
//! | [`flags`] | arithmetic flags in the host's own form |
//! | [`fault`] | how an instruction stops: exception, exit, retry |
//! | [`mmu`] | page walks, TLB arrays, loads and stores, MMIO replay |
//! | [`block`] | decoded blocks: decoding, cache, links between them |
//! | [`exec`] | legacy integer instructions, one file a family |
//! | [`native`] | instructions without system semantics that run on the host's CPU: x87, MMX, SSE, AVX, every VEX form, BMI, POPCNT, LZCNT, TZCNT, CRC32, ADX, AES, SHA, the XSAVE family |
//! | [`system`] | exceptions, segments, system instructions, MSRs, LAPIC, interrupts |
//! | `translate` | host code for blocks that are executed often |
//! | [`engine`] | the run loop |
//! | [`debugging`] | breakpoints, watchpoints and steps of a debugger outside of the guest |
//! | [`emulate`] | single instructions for the other accelerator |
//! | `profile` | where guest code spends its time: samples, and the guest kernel's own symbols |
//! | [`vm`] | the accelerator's traits |
//!
//! Every instruction commits its registers last. An instruction that faults, or that needs a device's answer, leaves the
//! state as it was, and is executed again from its start.

pub mod block;
pub mod debugging;
pub mod emulate;
pub mod engine;
pub mod exec;
pub mod fault;
pub mod flags;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod host;
pub mod mmu;
pub mod native;
mod profile;
pub mod shared;
pub mod state;
pub mod system;
mod translate;
pub mod vm;
