//! A mix in the manner of CoreMark: a linked list that is searched, reversed and sorted; matrices of small integers; a
//! state machine over text; and a CRC over all that comes out. Written from the benchmark's description.

use super::random::Random;

/// Elements of the list.
const NODES: usize = 256;
/// Rows and columns of the matrices.
const SIDE: usize = 16;
/// No node.
const END: u16 = u16::MAX;

/// What a round works on.
pub struct Mix {
    nodes: Vec<Node>,
    head: u16,
    left: [[i16; SIDE]; SIDE],
    right: [[i16; SIDE]; SIDE],
    input: Vec<u8>,
    crc: u16,
}

#[derive(Clone, Copy)]
struct Node {
    next: u16,
    key: i16,
    value: i16,
}

impl Mix {
    pub fn new() -> Self {
        let mut random = Random::new(1);
        let nodes = (0..NODES)
            .map(|index| Node {
                next: if index + 1 < NODES { index as u16 + 1 } else { END },
                key: random.below(1000) as i16,
                value: random.next() as i16,
            })
            .collect();
        let mut matrix = || std::array::from_fn(|_| std::array::from_fn(|_| random.below(200) as i16 - 100));
        let (left, right) = (matrix(), matrix());
        let words: [&[u8]; 8] = [
            b"512",
            b"-87.5",
            b"+1.6e-3",
            b"0xf",
            b"e9",
            b"..2",
            b"73e+21",
            b"T0.3e-1F",
        ];
        let mut input = Vec::new();
        while input.len() < 2000 {
            input.extend(words[random.below(8) as usize]);
            input.push(b',');
        }
        Self {
            nodes,
            head: 0,
            left,
            right,
            input,
            crc: 0,
        }
    }

    /// One round of everything; the CRC so far.
    pub fn round(&mut self) -> u16 {
        for key in (0..1000).step_by(37) {
            let found = self.find(key);
            self.crc = crc16(self.crc, found);
        }
        self.reverse();
        self.sort(|node| node.key);
        self.sort(|node| node.value);
        for bias in 0..4 {
            let sum = self.multiply(bias);
            self.crc = crc16(self.crc, sum as u16);
        }
        for count in count_states(&self.input) {
            self.crc = crc16(self.crc, count as u16);
        }
        self.crc
    }

    /// How many steps it takes to the first element with `key` or more.
    fn find(&self, key: i16) -> u16 {
        let (mut at, mut steps) = (self.head, 0);
        while at != END {
            let node = self.nodes[usize::from(at)];
            if node.key >= key && node.value & 1 == 0 {
                break;
            }
            steps += 1;
            at = node.next;
        }
        steps
    }

    fn reverse(&mut self) {
        let (mut at, mut behind) = (self.head, END);
        while at != END {
            let node = &mut self.nodes[usize::from(at)];
            let next = node.next;
            node.next = behind;
            (behind, at) = (at, next);
        }
        self.head = behind;
    }

    /// Merges runs of 1, 2, 4 ... elements, as lists are sorted without room.
    fn sort(&mut self, by: fn(&Node) -> i16) {
        let mut width = 1;
        loop {
            let (mut left, mut merges) = (self.head, 0);
            let (mut head, mut tail) = (END, END);
            while left != END {
                merges += 1;
                let (mut right, mut left_len) = (left, 0);
                while left_len < width && right != END {
                    right = self.nodes[usize::from(right)].next;
                    left_len += 1;
                }
                let mut right_len = width;
                while left_len > 0 || (right_len > 0 && right != END) {
                    let from_left = left_len > 0
                        && (right_len == 0
                            || right == END
                            || by(&self.nodes[usize::from(left)]) <= by(&self.nodes[usize::from(right)]));
                    let taken = if from_left {
                        left_len -= 1;
                        let next = self.nodes[usize::from(left)].next;
                        std::mem::replace(&mut left, next)
                    } else {
                        right_len -= 1;
                        let next = self.nodes[usize::from(right)].next;
                        std::mem::replace(&mut right, next)
                    };
                    if tail == END {
                        head = taken;
                    } else {
                        self.nodes[usize::from(tail)].next = taken;
                    }
                    tail = taken;
                }
                left = right;
            }
            if tail != END {
                self.nodes[usize::from(tail)].next = END;
            }
            self.head = head;
            if merges <= 1 {
                return;
            }
            width *= 2;
        }
    }

    fn multiply(&self, bias: i16) -> i32 {
        let mut sum = 0i32;
        for row in &self.left {
            for column in 0..SIDE {
                let mut cell = 0i32;
                for (left, right) in row.iter().zip(&self.right) {
                    cell += i32::from(left.wrapping_add(bias)) * i32::from(right[column]);
                }
                // Bits from the middle, so that no product can be left out.
                sum = sum.wrapping_add((cell >> 2 & 0xf) * (cell >> 5 & 0x7f));
            }
        }
        sum
    }
}

/// How often each state was the last of a word: is it an integer, a number with a point, one with an exponent, or none?
fn count_states(input: &[u8]) -> [u32; 7] {
    const START: usize = 0;
    const SIGN: usize = 1;
    const INTEGER: usize = 2;
    const POINT: usize = 3;
    const EXPONENT: usize = 4;
    const SCIENTIFIC: usize = 5;
    const INVALID: usize = 6;
    let mut counts = [0; 7];
    let mut state = START;
    for &byte in input {
        if byte == b',' {
            counts[state] += 1;
            state = START;
            continue;
        }
        state = match (state, byte) {
            (START, b'+' | b'-') => SIGN,
            (START | SIGN | INTEGER, b'0'..=b'9') => INTEGER,
            (START | SIGN | INTEGER, b'.') => POINT,
            (POINT, b'0'..=b'9') => POINT,
            (INTEGER | POINT, b'e' | b'E') => EXPONENT,
            (EXPONENT, b'+' | b'-') => SCIENTIFIC,
            (EXPONENT | SCIENTIFIC, b'0'..=b'9') => SCIENTIFIC,
            _ => INVALID,
        };
    }
    counts
}

fn crc16(crc: u16, word: u16) -> u16 {
    word.to_le_bytes().into_iter().fold(crc, crc16_byte)
}

/// CRC-16 with the reversed polynomial of CCITT, bit by bit.
fn crc16_byte(mut crc: u16, byte: u8) -> u16 {
    crc ^= u16::from(byte);
    for _ in 0..8 {
        crc = if crc & 1 != 0 {
            (crc >> 1) ^ 0x8408
        } else {
            crc >> 1
        };
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(mix: &Mix) -> Vec<i16> {
        let (mut at, mut keys) = (mix.head, Vec::new());
        while at != END {
            keys.push(mix.nodes[usize::from(at)].key);
            at = mix.nodes[usize::from(at)].next;
        }
        keys
    }

    #[test]
    fn the_list_is_reversed_and_sorted() {
        let mut mix = Mix::new();
        let mut expected = keys(&mix);
        assert_eq!(expected.len(), NODES);
        mix.reverse();
        expected.reverse();
        assert_eq!(keys(&mix), expected);
        mix.sort(|node| node.key);
        expected.sort();
        assert_eq!(keys(&mix), expected);
    }

    #[test]
    fn words_are_told_apart() {
        let counts = count_states(b"512,-87.5,+1.6e-3,x,73e+21,");
        assert_eq!(counts, [0, 0, 1, 1, 0, 2, 1]);
    }

    #[test]
    fn the_crc_is_the_known_one() {
        // The check value that catalogues give for CRC-16/KERMIT.
        assert_eq!(b"123456789".iter().copied().fold(0, crc16_byte), 0x2189);
        assert_eq!(crc16(0, 0x3231), b"12".iter().copied().fold(0, crc16_byte));
    }
}
