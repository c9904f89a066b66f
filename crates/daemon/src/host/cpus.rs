//! Lists of the host's CPUs, as `0-3,^2,8`.

use std::fmt;
use std::str::FromStr;

use rustix::thread::CpuSet;

/// A list of CPUs, not empty, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

impl CpuList {
    /// Those whose bits are set, the lowest first; `None` if there are none.
    pub fn from_bits(bits: &[u8]) -> Option<Self> {
        let limit = CpuSet::MAX_CPU.min(bits.len() * 8);
        let set = (0..limit).filter(|cpu| bits[cpu / 8] >> (cpu % 8) & 1 == 1);
        let cpus: Vec<u32> = set.map(|cpu| cpu as u32).collect();
        (!cpus.is_empty()).then_some(Self(cpus))
    }

    /// Every CPU that the host has.
    pub fn all() -> Self {
        Self((0..super::present()).collect())
    }

    /// Their numbers, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }

    /// A bit for each CPU, the lowest first, in `length` bytes.
    pub fn bits(&self, length: usize) -> Vec<u8> {
        let mut bits = vec![0; length];
        for cpu in &self.0 {
            if let Some(byte) = bits.get_mut((cpu / 8) as usize) {
                *byte |= 1 << (cpu % 8);
            }
        }
        bits
    }

    /// As the kernel takes it.
    pub fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        for cpu in &self.0 {
            set.set(*cpu as usize);
        }
        set
    }

    /// Whether this is every CPU that the host has.
    pub fn is_all(&self) -> bool {
        (0..super::present()).all(|cpu| self.0.contains(&cpu))
    }
}

impl FromStr for CpuList {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut cpus = std::collections::BTreeSet::new();
        let number = |text: &str| {
            let cpu: u32 = text.trim().parse().map_err(drop)?;
            if cpu as usize >= CpuSet::MAX_CPU {
                Err(())
            } else {
                Ok(cpu)
            }
        };
        for part in text.split(',') {
            if let Some(not) = part.trim().strip_prefix('^') {
                cpus.remove(&number(not)?);
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(());
            }
            cpus.extend(first..=last);
        }
        if cpus.is_empty() {
            Err(())
        } else {
            Ok(Self(cpus.into_iter().collect()))
        }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|before, after| after - before == 1);
        for (number, run) in runs.enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match run {
                [one] => write!(f, "{one}")?,
                [first, .., last] => write!(f, "{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, written) in [("0-3,^2,8", "0-1,3,8"), ("5", "5"), (" 1 - 2 ,0", "0-2")] {
            let list: CpuList = text.parse().unwrap();
            assert_eq!(list.to_string(), written);
            assert_eq!(CpuList::from_bits(&list.bits(2)), Some(list));
        }
        for bad in ["", "a", "3-1", "^1", "1024", "0-4294967295", "1,,2"] {
            assert_eq!(bad.parse::<CpuList>(), Err(()), "{bad}");
        }
        assert_eq!(CpuList::from_bits(&[0, 0]), None);
    }
}
