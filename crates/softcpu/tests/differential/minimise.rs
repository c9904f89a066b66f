//! Making a failing sequence short.

use super::machine_state::Registers;
use super::sequence::{Piece, Sequence};
use super::sequences::Sides;

/// Makes the sequence shorter for as long as the two sides still disagree.
pub fn sequence(sides: &mut Sides, failing: &Sequence, registers: &Registers, memory: &[u8]) -> Sequence {
    let mut best = failing.clone();
    loop {
        let shorter = shorter(&best.pieces)
            .into_iter()
            .map(|pieces| Sequence {
                long: best.long,
                pieces,
            })
            .find(|candidate| sides.disagree(candidate, registers, memory));
        match shorter {
            Some(shorter) => best = shorter,
            None => return best,
        }
    }
}

/// Every way to leave something out.
fn shorter(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut ways = Vec::new();
    for (index, piece) in pieces.iter().enumerate().rev() {
        let mut with = |new: &[Piece]| {
            ways.push([&pieces[..index], new, &pieces[index + 1..]].concat());
        };
        with(&[]);
        let body = match piece {
            Piece::Plain(_) | Piece::Jump { .. } => continue,
            Piece::Loop { body, .. } | Piece::Call { body, .. } | Piece::Saved { body, .. } => body,
        };
        with(body);
        for body in shorter(body) {
            let mut piece = piece.clone();
            if let Piece::Loop { body: old, .. }
            | Piece::Call { body: old, .. }
            | Piece::Saved { body: old, .. } = &mut piece
            {
                *old = body;
            }
            with(&[piece]);
        }
        if let Piece::Loop { times, .. } = piece
            && *times > 1
        {
            let mut fewer = piece.clone();
            if let Piece::Loop { times, .. } = &mut fewer {
                *times /= 2;
            }
            with(&[fewer]);
        }
    }
    ways
}
