//! Where a guest's code spends its time.

use std::time::Duration;

/// Says where guest code spends its time. Nothing is sampled before the first look, nor long after the last one.
pub trait Profiler: Send + Sync {
    /// What was sampled in the last `newest`, with at most `spots` addresses; keeps sampling for that long. The first look
    /// finds nothing.
    fn look(&self, newest: Duration, spots: usize) -> Profile;
}

/// Samples by address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// How many samples there were.
    pub samples: u64,
    /// The addresses with most of them, those first.
    pub spots: Vec<HotSpot>,
}

/// An address at which the guest was found executing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSpot {
    /// Linear address.
    pub address: u64,
    /// At privilege level 3.
    pub user: bool,
    /// How often.
    pub samples: u64,
    /// What the guest's kernel calls it, where that is known.
    pub symbol: Option<Symbol>,
}

/// A place in a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The function's name: printable ASCII without spaces, though a guest chose it.
    pub name: String,
    /// Bytes from its start.
    pub offset: u64,
}
