//! Port numbers and sets of ports.

use std::fmt;

/// Most ports a switch has. STP has 12 bits for a port number (802.1D-2004, 9.2.7).
pub const MAX_PORTS: usize = 1024;

const WORDS: usize = MAX_PORTS / 64;

/// A port of the switch, by its place: 0 to [`MAX_PORTS`] - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(u16);

impl PortIndex {
    /// The port at `place`, if a switch may have one there.
    pub fn new(place: usize) -> Option<Self> {
        (place < MAX_PORTS).then_some(Self(place as u16))
    }

    /// Its place.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PortSet([u64; WORDS]);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Adds or removes `port`.
    pub fn set(&mut self, port: PortIndex, member: bool) {
        let (word, bit) = (port.get() / 64, 1 << (port.get() % 64));
        if member {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// Has the set brought into the caches; the number says nothing.
    pub(crate) fn touch(&self) -> u64 {
        self.0[0] | self.0[WORDS - 1]
    }

    /// Whether `port` is in it.
    pub fn contains(&self, port: PortIndex) -> bool {
        self.0[port.get() / 64] >> (port.get() % 64) & 1 != 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The ports that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The ports that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// The ports that are in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The ports in order.
    pub fn iter(&self) -> impl Iterator<Item = PortIndex> + use<> {
        let words = self.0;
        (0..WORDS).flat_map(move |place| {
            let mut word = words[place];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(PortIndex((place * 64) as u16 + bit as u16))
            })
        })
    }
}

impl FromIterator<PortIndex> for PortSet {
    fn from_iter<T: IntoIterator<Item = PortIndex>>(ports: T) -> Self {
        let mut set = Self::EMPTY;
        for port in ports {
            set.set(port, true);
        }
        set
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(PortIndex::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_out_in_order_and_once() {
        let places = [0, 1, 63, 64, 500, MAX_PORTS - 1];
        let ports: Vec<_> = places.iter().filter_map(|&p| PortIndex::new(p)).collect();
        let set: PortSet = ports.iter().rev().copied().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), ports);
        assert!(PortIndex::new(MAX_PORTS).is_none());
        let one: PortSet = [ports[3]].into_iter().collect();
        assert_eq!(set.and(&one), one);
        assert!(!set.without(&one).contains(ports[3]));
        assert_eq!(set.without(&one).or(&one), set);
    }
}
