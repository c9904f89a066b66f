//! Making a failing sequence short.

use super::Sides;
use super::generator::Sequence;
use super::machine_state::Registers;

/// Leaves pieces out for as long as the two sides still disagree.
pub fn sequence(sides: &mut Sides, failing: &Sequence, registers: &Registers, memory: &[u8]) -> Sequence {
    let mut best = failing.clone();
    let mut index = best.pieces.len();
    while index > 0 {
        index -= 1;
        let mut shorter = best.clone();
        shorter.pieces.remove(index);
        if sides.disagree(&shorter, registers, memory) {
            best = shorter;
            index = index.min(best.pieces.len());
        }
    }
    best
}
