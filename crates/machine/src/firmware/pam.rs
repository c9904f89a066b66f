//! The programmable attribute map of the memory controller hub (82Q35, 5.1.14 to 5.1.20): which accesses to the last 256
//! KiB of the first megabyte go to RAM.

use ostler_bus::Range;

/// Start of what the map covers.
pub const START: u64 = 0xc_0000;
/// Its end (exclusive).
pub const END: u64 = 0x10_0000;
/// Registers.
pub const REGISTERS: usize = 7;
/// Pieces that are switched one by one.
pub const PIECES: usize = 13;

const PIECE_SIZE: u64 = 0x4000;
const LAST_PIECE: u64 = 0xf_0000;

/// Where accesses to a piece go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Reads go to RAM, not to ROM.
    pub read: bool,
    /// Writes go to RAM, else nowhere.
    pub write: bool,
}

/// The pieces, by their numbers.
pub fn piece(number: usize) -> Range {
    match number {
        0..12 => Range::new(START + number as u64 * PIECE_SIZE, PIECE_SIZE),
        _ => Range::new(LAST_PIECE, END - LAST_PIECE),
    }
}

/// The number of the piece at an address between [`START`] and [`END`].
pub fn piece_at(address: u64) -> usize {
    (address.clamp(START, LAST_PIECE) - START) as usize / PIECE_SIZE as usize
}

/// What registers PAM0 to PAM6 say about each piece: PAM0 has the last one in its upper half, each of the others two.
pub fn decode(registers: [u8; REGISTERS]) -> [Access; PIECES] {
    let access = |bits: u8| Access {
        read: bits & 1 != 0,
        write: bits & 2 != 0,
    };
    std::array::from_fn(|number| match number {
        12 => access(registers[0] >> 4),
        _ => access(registers[1 + number / 2] >> (4 * (number % 2))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_are_found_by_their_addresses() {
        let mut next = START;
        for number in 0..PIECES {
            let range = piece(number);
            assert_eq!(range.base, next);
            assert_eq!((piece_at(next), piece_at(next + range.len - 1)), (number, number));
            next += range.len;
        }
        assert_eq!(next, END);
    }

    #[test]
    fn each_register_switches_its_pieces_only() {
        for (register, upper, number) in [
            (0, true, 12),
            (1, false, 0),
            (1, true, 1),
            (4, false, 6),
            (6, true, 11),
        ] {
            for bits in 0..4u8 {
                let mut registers = [0; REGISTERS];
                registers[register] = if upper { bits << 4 } else { bits };
                for (at, access) in decode(registers).into_iter().enumerate() {
                    let bits = if at == number { bits } else { 0 };
                    let expected = Access {
                        read: bits & 1 != 0,
                        write: bits & 2 != 0,
                    };
                    assert_eq!(access, expected, "PAM{register}, piece {at}");
                }
            }
        }
        assert_eq!(
            decode([0x0f, 0, 0, 0, 0, 0, 0])[12],
            Access::default(),
            "PAM0 has no lower half"
        );
    }
}
