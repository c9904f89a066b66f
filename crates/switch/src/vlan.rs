//! VLAN numbers, sets of them, tags, and what becomes of a frame's tag on its way out (802.1Q-2005, clauses 6.7 and 9).

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Where a tag stands in a frame: behind the two addresses.
const TAG_AT: usize = 12;

/// A VLAN that frames can be in: 1 to 4094. 0 marks a priority tag, 4095 is reserved (802.1Q-2005, table 9-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// VLAN 1, the default PVID (802.1Q-2005, table 9-2).
    pub const DEFAULT: Self = Self(1);

    /// The VLAN of that number.
    pub fn new(number: u16) -> Result<Self, Error> {
        match number {
            1..=4094 => Ok(Self(number)),
            _ => Err(Error::Vlan(number.into())),
        }
    }

    /// Its number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// No VLAN.
    pub fn empty() -> Self {
        Self(Box::new([0; 64]))
    }

    /// All 4094 VLANs.
    pub fn all() -> Self {
        let mut set = Self(Box::new([u64::MAX; 64]));
        set.0[0] &= !1;
        set.0[63] &= !(1 << 63);
        set
    }

    /// Adds a VLAN.
    pub fn insert(&mut self, vlan: VlanId) {
        self.0[usize::from(vlan.0 / 64)] |= 1 << (vlan.0 % 64);
    }

    /// Removes a VLAN.
    pub fn remove(&mut self, vlan: VlanId) {
        self.0[usize::from(vlan.0 / 64)] &= !(1 << (vlan.0 % 64));
    }

    /// Whether `vlan` is in it.
    pub fn contains(&self, vlan: VlanId) -> bool {
        self.0[usize::from(vlan.0 / 64)] >> (vlan.0 % 64) & 1 != 0
    }

    /// The VLANs in order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        (1..4095).map(VlanId).filter(|&vlan| self.contains(vlan))
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(vlans: T) -> Self {
        let mut set = Self::empty();
        vlans.into_iter().for_each(|vlan| set.insert(vlan));
        set
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut first = 1;
        while first < 4095 {
            if !self.contains(VlanId(first)) {
                first += 1;
                continue;
            }
            let end = (first..4095).find(|&v| !self.contains(VlanId(v))).unwrap_or(4095);
            write!(f, "{comma}{first}")?;
            if end - first > 1 {
                write!(f, "-{}", end - 1)?;
            }
            comma = ",";
            first = end;
        }
        Ok(())
    }
}

impl FromStr for VlanSet {
    type Err = Error;

    /// Reads numbers and ranges with commas between them, such as `1,10-20`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::VlanText(text.chars().take(64).collect());
        let number = |part: &str| -> Result<VlanId, Error> {
            let number: u32 = part.trim().parse().map_err(|_| wrong())?;
            VlanId::new(u16::try_from(number).map_err(|_| Error::Vlan(number))?)
        };
        let mut set = Self::empty();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            (first.0..=last.0).for_each(|vlan| set.insert(VlanId(vlan)));
        }
        Ok(set)
    }
}

/// Which tags are the switch's own; the other kind is payload to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagType {
    /// Customer tags, EtherType 8100 (802.1Q): an ordinary switch.
    #[default]
    Customer,
    /// Service tags, EtherType 88A8 (802.1ad): a provider's switch, which takes customers' tagged frames as they are.
    Service,
}

impl TagType {
    /// The EtherType in front of such a tag.
    pub fn ether_type(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Service => 0x88a8,
        }
    }

    /// The kind of tag that is payload.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Customer => Self::Service,
            Self::Service => Self::Customer,
        }
    }
}

/// What is done with the tag of a frame when a port sends it. The frame itself is the one that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagAction {
    /// Send it as it came.
    Keep,
    /// Leave out the four bytes of the tag.
    Strip,
    /// Put these four bytes behind the addresses: EtherType and TCI.
    Push([u8; 4]),
    /// Put these four bytes in place of the tag.
    Replace([u8; 4]),
}

impl TagAction {
    /// What to send, in two parts of the frame with up to four bytes of tag between them, so that the frame need not be copied.
    #[inline]
    pub fn parts<'a>(&'a self, frame: &'a [u8]) -> [&'a [u8]; 3] {
        if matches!(self, Self::Keep) {
            return [frame, &[], &[]];
        }
        let (addresses, rest) = frame.split_at(frame.len().min(TAG_AT));
        let behind = rest.get(4..).unwrap_or_default();
        match self {
            Self::Keep => [frame, &[], &[]],
            Self::Strip => [addresses, &[], behind],
            Self::Push(tag) => [addresses, tag, rest],
            Self::Replace(tag) => [addresses, tag, behind],
        }
    }

    /// How many bytes longer the frame is when it is sent.
    pub fn growth(self) -> isize {
        match self {
            Self::Keep | Self::Replace(_) => 0,
            Self::Strip => -4,
            Self::Push(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 802.1Q-2005, table 9-2: 0 and 4095 are no VLANs.
    #[test]
    fn the_null_vlan_and_the_last_are_no_vlans() {
        assert_eq!(VlanId::new(0), Err(Error::Vlan(0)));
        assert_eq!(VlanId::new(4095), Err(Error::Vlan(4095)));
        assert!(VlanId::new(1).is_ok() && VlanId::new(4094).is_ok());
    }

    #[test]
    fn lists_are_read_and_shown() {
        for (text, shown) in [
            ("1", "1"),
            ("1,3,2", "1-3"),
            ("10-12,5,4094", "5,10-12,4094"),
            ("1-4094", "1-4094"),
        ] {
            assert_eq!(text.parse::<VlanSet>().unwrap().to_string(), shown);
        }
        assert_eq!(VlanSet::all(), "1-4094".parse().unwrap());
        for text in [
            "",
            "0",
            "4095",
            "5-",
            "-5",
            "7-5",
            "1,,2",
            "a",
            "70000",
            "99999999999",
        ] {
            assert!(text.parse::<VlanSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn tags_are_put_in_and_taken_out_between_the_parts() {
        let plain = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 9];
        let tagged = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0, 5, 8, 0, 9];
        assert_eq!(TagAction::Push([0x81, 0, 0, 5]).parts(&plain).concat(), tagged);
        assert_eq!(TagAction::Strip.parts(&tagged).concat(), plain);
        assert_eq!(TagAction::Keep.parts(&tagged).concat(), tagged);
        assert_eq!(
            TagAction::Replace([0x81, 0, 0x20, 7]).parts(&tagged).concat()[12..16],
            [0x81, 0, 0x20, 7]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(set) = text.parse::<VlanSet>() {
                prop_assert_eq!(set.to_string().parse::<VlanSet>().ok(), Some(set));
            }
        }

        #[test]
        fn parts_of_any_frame_have_the_length_they_should(frame in prop::collection::vec(any::<u8>(), 16..80)) {
            for action in [TagAction::Keep, TagAction::Strip, TagAction::Push([1; 4]), TagAction::Replace([2; 4])] {
                let sent: usize = action.parts(&frame).iter().map(|part| part.len()).sum();
                prop_assert_eq!(sent as isize, frame.len() as isize + action.growth());
            }
        }

        #[test]
        fn parts_of_a_short_frame_do_not_panic(frame in prop::collection::vec(any::<u8>(), 0..16)) {
            for action in [TagAction::Keep, TagAction::Strip, TagAction::Push([1; 4]), TagAction::Replace([2; 4])] {
                let _ = action.parts(&frame).concat();
            }
        }
    }
}
