//! Lists of VLANs, such as `1,10-20`, and those of a port.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest VLAN (802.1Q-2018, 9.6).
const LAST: u16 = 4094;

/// VLANs in ascending order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanList(pub Vec<u16>);

impl VlanList {
    /// Of any numbers.
    pub fn new(vlans: impl IntoIterator<Item = u16>) -> Self {
        let mut vlans: Vec<u16> = vlans.into_iter().collect();
        vlans.sort_unstable();
        vlans.dedup();
        Self(vlans)
    }

    pub fn contains(&self, vlan: u16) -> bool {
        self.0.binary_search(&vlan).is_ok()
    }

    /// Those of both.
    fn with(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied())
    }

    /// Those that are not in `other`.
    fn without(&self, other: &Self) -> Self {
        Self::new(self.0.iter().copied().filter(|vlan| !other.contains(*vlan)))
    }
}

impl fmt::Display for VlanList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let follow = rest
                .iter()
                .zip(first..)
                .take_while(|(vlan, next)| **vlan == *next);
            let len = follow.count();
            match len {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[len - 1])?,
            }
            rest = &rest[len..];
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for VlanList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(vlan @ 1..=LAST) => Ok(vlan),
            _ => Err(format!("`{text}` is no VLAN; they are numbered 1 to {LAST}")),
        };
        let mut vlans = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("`{part}` ends before it begins"));
            }
            vlans.extend(first..=last);
        }
        Ok(Self::new(vlans))
    }
}

impl Serialize for VlanList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VlanList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A port's VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlans {
    /// Where untagged frames belong; without one they are dropped.
    pub pvid: Option<u16>,
    /// Sent with a tag.
    pub tagged: VlanList,
    /// Sent without.
    pub untagged: VlanList,
}

impl Vlans {
    /// Of one VLAN, for a station that knows nothing of VLANs.
    pub fn access(vlan: u16) -> Self {
        Self {
            pvid: Some(vlan),
            tagged: VlanList::default(),
            untagged: VlanList::new([vlan]),
        }
    }

    /// Of many, the native one without a tag.
    pub fn trunk(list: &VlanList, native: Option<u16>) -> Self {
        Self {
            pvid: native,
            tagged: list.without(&VlanList::new(native)),
            untagged: VlanList::new(native),
        }
    }

    /// With `list`, which it may have had in another way.
    pub fn add(&self, list: &VlanList, untagged: bool, pvid: bool) -> Self {
        let (tagged, others) = (self.tagged.without(list), self.untagged.without(list));
        let mut vlans = match untagged {
            true => Self {
                pvid: self.pvid,
                tagged,
                untagged: others.with(list),
            },
            false => Self {
                pvid: self.pvid,
                tagged: tagged.with(list),
                untagged: others,
            },
        };
        if pvid {
            vlans.pvid = list.0.first().copied();
        }
        vlans
    }

    /// Without `list`.
    pub fn remove(&self, list: &VlanList) -> Self {
        Self {
            pvid: self.pvid.filter(|pvid| !list.contains(*pvid)),
            tagged: self.tagged.without(list),
            untagged: self.untagged.without(list),
        }
    }

    /// Whether frames of `vlan` pass.
    pub fn contains(&self, vlan: u16) -> bool {
        self.tagged.contains(vlan) || self.untagged.contains(vlan)
    }
}

/// A port's VLANs on the command line.
#[derive(Args)]
pub struct VlanArgs {
    /// The VLAN of an access port.
    #[arg(long, value_name = "N", conflicts_with = "trunk", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// The VLANs of a trunk, such as 1,10-20.
    #[arg(long, value_name = "LIST")]
    trunk: Option<VlanList>,
    /// The VLAN of a trunk's untagged frames.
    #[arg(long, value_name = "N", requires = "trunk", value_parser = clap::value_parser!(u16).range(1..=4094))]
    native: Option<u16>,
}

impl VlanArgs {
    /// All VLANs that the port is to have, if any are said.
    pub fn vlans(&self) -> Option<Vlans> {
        let trunk = self.trunk.as_ref().map(|list| Vlans::trunk(list, self.native));
        trunk.or(self.vlan.map(Vlans::access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> VlanList {
        text.parse().unwrap()
    }

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(list("20,1,10-12,11").to_string(), "1,10-12,20");
        assert_eq!(list("").to_string(), "");
        for bad in ["0", "4095", "5-4", "a", "1,,2", "-", "1-", "1-2-3"] {
            assert!(bad.parse::<VlanList>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_vlan_is_tagged_or_untagged_and_not_both() {
        let port = Vlans::access(1).add(&list("10-12"), false, false);
        assert_eq!(port, Vlans::trunk(&list("10-12"), Some(1)));
        let port = port.add(&list("11"), true, true);
        assert_eq!(
            (port.pvid, port.tagged.to_string(), port.untagged.to_string()),
            (Some(11), "10,12".into(), "1,11".into())
        );
        let port = port.remove(&list("11-12"));
        assert_eq!((port.pvid, port.tagged.to_string()), (None, "10".into()));
    }

    proptest! {
        #[test]
        fn any_list_is_written_as_it_is_read(vlans in prop::collection::vec(1u16..=4094, 0..40)) {
            let list = VlanList::new(vlans);
            prop_assert_eq!(list.to_string().parse::<VlanList>().unwrap(), list);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9,-]{0,12}") {
            let _ = text.parse::<VlanList>();
        }
    }
}
