//! Reproducible randomness.

/// SplitMix64: small, and good enough to choose test cases.
#[derive(Debug, Clone)]
pub struct Rng(u64);

/// Values at which arithmetic changes its mind.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// Floating-point numbers of interest, as pairs of single or one double: zeroes, ones, denormals, infinities, NaNs, the largest, halves.
const FLOATS: [u64; 16] = [
    0x0000_0000_8000_0000,
    0x3f80_0000_bf80_0000,
    0x0000_0001_0080_0000,
    0x7f80_0000_ff80_0000,
    0x7fc0_0000_7fa0_0000,
    0x7f7f_ffff_0040_0000,
    0x3f00_0000_4b00_0001,
    0x4f00_0000_cf00_0000,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x0000_0000_0000_0001,
    0x7ff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0x7ff4_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x43e0_0000_0000_0000,
];

impl Rng {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A value for a general register.
    pub fn integer(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => self.pick(&EDGES),
            2 => self.next() & 0xff,
            _ => self.next() >> self.below(64),
        }
    }

    /// Eight bytes of a vector register or of memory.
    pub fn lane(&mut self) -> u64 {
        match self.below(4) {
            0 => self.integer(),
            1 => self.pick(&FLOATS),
            2 => {
                let exponent = 0x3fe + self.next() % 4;
                exponent << 52 | self.next() >> 12
            }
            _ => {
                let single = |bits: u64| (0x7d + bits % 5) << 23 | bits >> 9 & 0x7f_ffff;
                single(self.next() & 0xffff_ffff) << 32 | single(self.next() & 0xffff_ffff)
            }
        }
    }
}
