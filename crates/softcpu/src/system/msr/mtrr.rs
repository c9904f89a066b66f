//! Memory type range registers and PAT: kept and checked, without effect (SDM vol. 3, 12.11 and 12.12).

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
pub const CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;

const DEFAULT_TYPE: u32 = 0x2ff;
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// The registers.
#[derive(Debug, Clone, Default)]
pub struct Mtrrs {
    default_type: u64,
    variable: [u64; 16],
    fixed: [u64; 11],
}

/// True if `number` is one of the registers.
pub fn is_mtrr(number: u32) -> bool {
    number == DEFAULT_TYPE || matches!(number, 0x200..=0x20f) || FIXED.contains(&number)
}

fn is_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}

/// True if each byte of `value` is a memory type that PAT knows.
pub fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|b| matches!(b, 0 | 1 | 4 | 5 | 6 | 7))
}

impl Mtrrs {
    /// Reads register `number`, which [`is_mtrr`].
    pub fn read(&self, number: u32) -> u64 {
        match number {
            DEFAULT_TYPE => self.default_type,
            0x200..=0x20f => self.variable[(number - 0x200) as usize],
            _ => FIXED
                .iter()
                .position(|&n| n == number)
                .map_or(0, |at| self.fixed[at]),
        }
    }

    /// True if `value` has no reserved bit or memory type for register `number`.
    pub fn accepts(&self, number: u32, value: u64) -> bool {
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        match number {
            DEFAULT_TYPE => value & !0xcff == 0 && is_type(value),
            0x200..=0x20f if number & 1 == 0 => value & !(ADDRESS | 0xff) == 0 && is_type(value),
            0x200..=0x20f => value & !(ADDRESS | 1 << 11) == 0,
            _ => value.to_le_bytes().iter().all(|&b| is_type(u64::from(b))),
        }
    }

    /// Writes register `number`, which [`is_mtrr`], with a value that it [accepts](Self::accepts).
    pub fn write(&mut self, number: u32, value: u64) {
        match number {
            DEFAULT_TYPE => self.default_type = value,
            0x200..=0x20f => self.variable[(number - 0x200) as usize] = value,
            _ => {
                if let Some(at) = FIXED.iter().position(|&n| n == number) {
                    self.fixed[at] = value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_types_and_bits_are_refused() {
        let mtrrs = Mtrrs::default();
        assert!(mtrrs.accepts(0x2ff, 0xc06));
        assert!(!mtrrs.accepts(0x2ff, 0xc02));
        assert!(!mtrrs.accepts(0x2ff, 1 << 12));
        assert!(mtrrs.accepts(0x200, 0x8000_0006));
        assert!(!mtrrs.accepts(0x200, 1 << 52));
        assert!(mtrrs.accepts(0x201, 0xff_8000_0800));
        assert!(!mtrrs.accepts(0x201, 1));
        assert!(!mtrrs.accepts(0x250, 0x0606_0606_0606_0602));
        assert!(is_pat(0x0007_0406_0007_0406));
        assert!(!is_pat(2 << 56));
    }

    #[test]
    fn each_register_keeps_its_own_value() {
        let mut mtrrs = Mtrrs::default();
        let numbers: Vec<u32> = (0x200..0x300).filter(|&n| is_mtrr(n)).collect();
        assert_eq!(numbers.len(), 16 + 11 + 1);
        for &n in &numbers {
            mtrrs.write(n, u64::from(n));
        }
        for &n in &numbers {
            assert_eq!(mtrrs.read(n), u64::from(n));
        }
    }
}
