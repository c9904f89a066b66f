//! SipHash-1-3 of one 64-bit number (Aumasson and Bernstein, "SipHash: a fast short-input PRF").
//!
//! The key is random, so nobody outside can tell which addresses meet in the table.

/// A key of 128 bits.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u64; 2]);

impl HashKey {
    /// The hash of the eight bytes of `number`, little-endian.
    #[inline]
    pub fn hash(self, number: u64) -> u64 {
        let [k0, k1] = self.0;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let length = 8u64 << 56;
        for word in [number, length] {
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        (0..3).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline]
fn round(v: &mut [u64; 4]) {
    let [a, b, c, d] = v;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    /// The standard library's hasher is the same function with a key of zeros.
    #[test]
    #[allow(deprecated)]
    fn it_is_siphash_1_3() {
        for number in [0u64, 1, 0x5254_0012_3456, u64::MAX] {
            let mut std = std::collections::hash_map::DefaultHasher::new();
            std.write(&number.to_le_bytes());
            assert_eq!(HashKey([0, 0]).hash(number), std.finish());
        }
    }

    #[test]
    fn another_key_is_another_function() {
        let low = |key: HashKey| (0..64u64).map(|n| key.hash(n) & 7).collect::<Vec<_>>();
        assert_ne!(low(HashKey([1, 2])), low(HashKey([1, 3])));
    }
}
