//! Tiny bare-metal guests that check an accelerator.
//!
//! Each [`Guest`] is some dozens of instructions without an operating system, and a script for the other side: what the
//! platform does at each step, and what must have happened at the end. The same guests run on every accelerator, in
//! the accelerators' tests and in `ostler doctor --selftest`. Those of [`all`] need no more of a CPU than a /dev/kvm that
//! merely emulates has: no SSE, no software interrupts, no privilege changes. Those of [`demanding`] need a [`Helper`] there,
//! those of [`strict`] a host that QEMU does not emulate.
//!
//! | file | holds |
//! |---|---|
//! | `layout` | where things are: ports, memory |
//! | `images/` | the guests' instructions |
//! | `catalogue` | the guests: image, script, expectation |
//! | `stage` | the platform that they see |
//! | `play` | running one, on one accelerator or moving from one to another in the middle |

mod catalogue;
mod images;
mod layout;
mod play;
mod stage;

pub use catalogue::{all, demanding, strict};
pub use play::{Error, Helper, MakeHelper, Report, play, play_helped, play_moving};

use std::sync::Arc;

use stage::Stage;

/// Where a guest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In real mode, as after a firmware's jump to a boot sector.
    Real,
    /// In 64-bit mode with the lowest 4 GiB mapped one to one.
    Long,
}

/// How a guest is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It says so.
    Exit,
    /// By a triple fault.
    Shutdown,
}

/// What the platform does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Goes on.
    Continue,
    /// Saves the CPU, makes a new virtual machine, and goes on there.
    Move,
}

/// A tiny guest with its script.
pub struct Guest {
    /// Short name, without spaces.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub shows: &'static str,
    /// How many CPUs it uses.
    pub cpus: u32,
    /// Those that sleep in HLT when it is moved.
    sleepers: &'static [u32],
    mode: Mode,
    end: End,
    image: fn() -> &'static [u8],
    /// What it must print.
    prints: fn() -> String,
    /// Before it starts.
    prepare: fn(&Arc<Stage>) -> Result<(), String>,
    /// When it reports step `n`.
    step: fn(&Arc<Stage>, u32) -> Result<Next, String>,
    /// After its end.
    check: fn(&Stage) -> Result<(), String>,
}
