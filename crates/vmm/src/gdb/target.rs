//! What the protocol works on.

use ostler_accel::{CpuState, DebugCause, WatchKind};

use crate::driver::Request;

/// Which addresses are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Linear ones, through the page tables that a CPU uses now.
    Virtual {
        /// The CPU.
        cpu: usize,
    },
    /// Guest-physical ones.
    Physical,
}

/// What the client calls a breakpoint or watchpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointKind {
    /// A breakpoint; there can be many.
    Software,
    /// A breakpoint that changes nothing in memory.
    Hardware,
    /// A watchpoint.
    Watch(WatchKind),
}

/// A breakpoint or watchpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub kind: PointKind,
    /// Linear address.
    pub linear: u64,
    /// Bytes of a watchpoint; of a breakpoint something that only the client's processor knows.
    pub len: u64,
}

/// Why a point could not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPoint {
    /// This accelerator has no points of that kind.
    Unsupported,
    /// Too many, or nothing is mapped there.
    Refused,
}

/// What a CPU does when the guest goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It stays where it is.
    Stay,
    /// It runs.
    Run,
    /// It executes one instruction.
    Step,
}

/// Why the guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A client asked for it.
    Asked,
    /// A CPU met something of the debugger's. The kind is that of a breakpoint, where it is one.
    Met(DebugCause, PointKind),
}

/// A stop of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The CPU that it is about.
    pub cpu: usize,
    pub reason: Reason,
}

/// The guest is over, or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// A guest as a debugger sees it. CPUs are counted from 0.
pub trait Target {
    /// How many CPUs it can have; at least one.
    fn cpus(&self) -> usize;
    /// Whether this one is there; the first always is.
    fn has_cpu(&self, cpu: usize) -> bool {
        cpu < self.cpus()
    }
    /// Holds all CPUs.
    fn stop(&mut self) -> Result<(), Gone>;
    /// Goes on; `moves` has one for each CPU. A stop that waits since the last one comes back at once.
    fn resume(&mut self, moves: &[Move]) -> Result<Option<Stop>, Gone>;
    /// A CPU's registers.
    fn registers(&mut self, cpu: usize) -> Option<CpuState>;
    /// Changes a CPU's registers.
    fn set_registers(&mut self, cpu: usize, state: &CpuState) -> bool;
    /// Guest-physical address of a linear one on a CPU.
    fn translate(&mut self, cpu: usize, linear: u64) -> Option<u64>;
    /// Reads as many bytes as there are in a row, and says how many.
    fn read(&mut self, space: Space, address: u64, into: &mut [u8]) -> usize;
    /// Writes all of `bytes`, or as far as there is memory; false if that was not all.
    fn write(&mut self, space: Space, address: u64, bytes: &[u8]) -> bool;
    /// Sets a point; one that is set already stays. Where it has to be found in memory, the page tables of `cpu` have it.
    fn insert(&mut self, point: Point, cpu: usize) -> Result<(), NoPoint>;
    /// Takes a point away, if it is there.
    fn remove(&mut self, point: Point);
    /// Asks the state driver for something. The error is one sentence.
    fn ask(&mut self, request: Request) -> Result<(), String>;
    /// The name of the guest's state.
    fn state(&self) -> &'static str;
}
