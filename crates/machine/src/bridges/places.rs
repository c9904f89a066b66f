//! Where devices are on PCI: on bus 0, or alone behind a root port. Part of the guest's ABI.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ostler_pci::{Location, PortIdentity};

use super::topology::{
    DISPLAY, FIRST_DEVICE, FIRST_ROOT_PORT, HOST_BRIDGE, LPC_BRIDGE, MAX_DEVICES, ROOT_PORTS,
};
use crate::Error;

/// Slots of bus 0 that are the platform's own.
const CHIPSET: [u8; 2] = [HOST_BRIDGE.device, LPC_BRIDGE.device];

/// A place on PCI, written as `01:00.0`.
///
/// The bus is 0, or that which a root port is called by ([`Port::bus`]). Which number the guest gives it follows from the order in which
/// it walks the bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The bus.
    pub bus: u8,
    /// The slot (device number), 0 to 31.
    pub slot: u8,
    /// The function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Function 0 of a slot of bus 0.
    pub const fn root(slot: u8) -> Self {
        Self {
            bus: 0,
            slot,
            function: 0,
        }
    }

    /// The device behind the root port of this bus.
    pub const fn behind(bus: u8) -> Self {
        Self {
            bus,
            slot: 0,
            function: 0,
        }
    }

    /// Slot and function.
    pub const fn location(self) -> Location {
        Location {
            device: self.slot,
            function: self.function,
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.slot, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = String;

    /// Reads `BUS:SLOT.FUNCTION` in hexadecimal digits, as `lspci` writes it; a domain before it has to be 0.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is no place on PCI; write bus, slot and function as 01:00.0, slots to 1f, functions to 7"
            )
        };
        let part = |digits: &str, most: usize, limit: u8| {
            let good = (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let value = u8::from_str_radix(digits, 16)
                .ok()
                .filter(|value| good && *value <= limit);
            value.ok_or_else(refuse)
        };
        let rest = text.strip_prefix("0000:").unwrap_or(text);
        let (bus, rest) = rest.split_once(':').ok_or_else(refuse)?;
        let (slot, function) = rest.split_once('.').ok_or_else(refuse)?;
        Ok(Self {
            bus: part(bus, 2, u8::MAX)?,
            slot: part(slot, 2, 31)?,
            function: part(function, 1, 7)?,
        })
    }
}

/// A root port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// What the bus behind it is called, from 1.
    pub bus: u8,
    /// Where the port is on bus 0.
    pub at: Location,
    /// What the guest reads of it.
    pub identity: PortIdentity,
}

impl Port {
    fn address(&self) -> PciAddress {
        PciAddress {
            bus: 0,
            slot: self.at.device,
            function: self.at.function,
        }
    }
}

/// Where everything is that the chipset does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// The root ports.
    pub ports: Vec<Port>,
    /// The functions of the machine's configuration, in their order.
    pub functions: Vec<PciAddress>,
    /// The watchdog, if there is one.
    pub watchdog: Option<PciAddress>,
    /// The display, if there is one.
    pub display: Option<PciAddress>,
}

/// Why devices cannot be where they are to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Two of them are to be there.
    #[error("two devices are to be at {0} on PCI; give one of them another place")]
    Taken(PciAddress),
    /// The chipset is there.
    #[error("{0} on PCI is the platform's own; use the slots 01 to 1e of bus 00, or a root port's bus")]
    Chipset(PciAddress),
    /// A slot has a number from 0 to 31, a function one from 0 to 7.
    #[error("there is no place {0} on PCI; slots are 00 to 1f, functions 0 to 7")]
    NoPlace(PciAddress),
    /// No root port is called by that bus.
    #[error("{0} on PCI is behind no root port; add one for that bus, or use another bus")]
    NoPort(PciAddress),
    /// A root port leads to one device.
    #[error("{0} on PCI cannot be: behind a root port there is slot 00 with function 0 alone")]
    BehindPort(PciAddress),
    /// Guests look for further functions where there is a first one.
    #[error("{0} on PCI is not seen by guests without a device at function 0 of that slot; place one there")]
    NoFunction0(PciAddress),
    /// Buses behind root ports count from 1.
    #[error("a root port has a bus from 01 to ff, not 00")]
    PortBus,
    /// Two root ports are called by one bus.
    #[error("two root ports have the bus {0:02x}; give one of them another")]
    PortTwice(u8),
    /// Bridges would have to forward what is VGA's.
    #[error("the display cannot be at {0} on PCI; it has to be on bus 00")]
    Display(PciAddress),
    /// Not as many places as functions.
    #[error("there are places on PCI for {places} devices, not for {devices}")]
    Count {
        /// Places.
        places: usize,
        /// Devices.
        devices: usize,
    },
}

/// The root ports of a machine whose owner wants no others: each with a slot's number.
pub fn standard_ports() -> Vec<Port> {
    let port = |n: u8| Port {
        bus: n + 1,
        at: Location::device(FIRST_ROOT_PORT + n),
        identity: PortIdentity {
            slot: u16::from(n) + 1,
            number: n + 1,
            hotplug: true,
        },
    };
    (0..ROOT_PORTS).map(port).collect()
}

impl Places {
    /// Where devices are whose owner does not say: one slot after the other.
    pub fn standard(functions: usize, watchdog: bool, display: bool) -> Result<Self, Error> {
        let devices = functions + usize::from(watchdog);
        if devices > MAX_DEVICES {
            return Err(Error::TooManyDevices(devices));
        }
        let mut slots = (FIRST_DEVICE..).take(devices).map(PciAddress::root);
        Ok(Self {
            ports: standard_ports(),
            functions: slots.by_ref().take(functions).collect(),
            watchdog: slots.next(),
            display: display.then(|| PciAddress::root(DISPLAY.device)),
        })
    }

    /// The root port of this bus.
    pub fn port(&self, bus: u8) -> Option<&Port> {
        self.ports.iter().find(|port| port.bus == bus)
    }

    /// Checks that guests can find every device, and each where it is.
    pub fn check(&self) -> Result<(), PlaceError> {
        let mut buses = BTreeSet::new();
        for port in &self.ports {
            if port.bus == 0 {
                return Err(PlaceError::PortBus);
            }
            if !buses.insert(port.bus) {
                return Err(PlaceError::PortTwice(port.bus));
            }
        }
        if let Some(display) = self.display.filter(|display| display.bus != 0) {
            return Err(PlaceError::Display(display));
        }
        let ports = self.ports.iter().map(Port::address);
        let devices = self.functions.iter().chain(&self.watchdog).chain(&self.display);
        let mut used = BTreeSet::new();
        for place in ports.chain(devices.copied()) {
            self.check_place(place)?;
            if !used.insert(place) {
                return Err(PlaceError::Taken(place));
            }
        }
        let lonely = |place: &&PciAddress| {
            !used.contains(&PciAddress {
                function: 0,
                ..**place
            })
        };
        match used.iter().find(lonely) {
            Some(place) => Err(PlaceError::NoFunction0(*place)),
            None => Ok(()),
        }
    }

    fn check_place(&self, place: PciAddress) -> Result<(), PlaceError> {
        if place.slot > 31 || place.function > 7 {
            return Err(PlaceError::NoPlace(place));
        }
        if place.bus == 0 {
            return match CHIPSET.contains(&place.slot) {
                true => Err(PlaceError::Chipset(place)),
                false => Ok(()),
            };
        }
        if self.port(place.bus).is_none() {
            return Err(PlaceError::NoPort(place));
        }
        match (place.slot, place.function) {
            (0, 0) => Ok(()),
            _ => Err(PlaceError::BehindPort(place)),
        }
    }

    /// The OpenFirmware path of a place, with what a device there is, by which firmware finds it.
    pub(crate) fn path(&self, place: PciAddress, device: &str) -> String {
        let unit = |at: Location| match at.function {
            0 => format!("{:x}", at.device),
            function => format!("{:x},{function:x}", at.device),
        };
        let bridge = self
            .port(place.bus)
            .map(|port| format!("pci-bridge@{}/", unit(port.at)));
        let bridge = bridge.unwrap_or_default();
        format!("/pci@i0cf8/{bridge}{device}@{}", unit(place.location()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(bus: u8, slot: u8, function: u8) -> Port {
        Port {
            bus,
            at: Location {
                device: slot,
                function,
            },
            identity: PortIdentity {
                slot: 0,
                number: bus,
                hotplug: true,
            },
        }
    }

    fn place(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    /// Two root ports in slot 2, and devices at these places.
    fn check(devices: &[&str]) -> Result<(), PlaceError> {
        let places = Places {
            ports: vec![port(1, 2, 0), port(2, 2, 1)],
            functions: devices.iter().map(|text| place(text)).collect(),
            ..Places::default()
        };
        places.check()
    }

    #[test]
    fn what_nobody_places_is_where_it_always_was() {
        let places = Places::standard(3, true, true).unwrap();
        let slots: Vec<String> = places.functions.iter().map(PciAddress::to_string).collect();
        assert_eq!(slots, ["00:01.0", "00:02.0", "00:03.0"]);
        assert_eq!(places.watchdog, Some(place("00:04.0")));
        assert_eq!(places.display, Some(place("00:1e.0")));
        let ports: Vec<(u8, u8)> = places
            .ports
            .iter()
            .map(|port| (port.bus, port.at.device))
            .collect();
        assert_eq!(ports, [(1, 16), (2, 17), (3, 18), (4, 19)]);
        places.check().unwrap();
        let bare = Places::standard(MAX_DEVICES, false, false).unwrap();
        assert_eq!((bare.watchdog, bare.display), (None, None));
        bare.check().unwrap();
        assert!(Places::standard(MAX_DEVICES, true, false).is_err());
    }

    #[test]
    fn what_cannot_be_is_told() {
        check(&["01:00.0", "02:00.0", "00:03.0", "00:03.7", "00:1e.0"]).unwrap();
        for (devices, error) in [
            (&["01:00.0", "01:00.0"][..], PlaceError::Taken(place("01:00.0"))),
            (&["00:02.1"], PlaceError::Taken(place("00:02.1"))),
            (&["00:00.0"], PlaceError::Chipset(place("00:00.0"))),
            (&["00:1f.3"], PlaceError::Chipset(place("00:1f.3"))),
            (&["03:00.0"], PlaceError::NoPort(place("03:00.0"))),
            (&["01:01.0"], PlaceError::BehindPort(place("01:01.0"))),
            (&["01:00.1"], PlaceError::BehindPort(place("01:00.1"))),
            (&["00:03.0", "00:04.2"], PlaceError::NoFunction0(place("00:04.2"))),
        ] {
            assert_eq!(check(devices), Err(error), "{devices:?}");
        }
        let mut places = Places {
            display: Some(PciAddress::behind(1)),
            ports: vec![port(1, 2, 0)],
            ..Places::default()
        };
        assert_eq!(places.check(), Err(PlaceError::Display(place("01:00.0"))));
        places.display = None;
        places.ports.push(port(1, 3, 0));
        assert_eq!(places.check(), Err(PlaceError::PortTwice(1)));
        places.ports = vec![port(0, 3, 0)];
        assert_eq!(places.check(), Err(PlaceError::PortBus));
        places.ports = vec![port(1, 3, 1)];
        assert_eq!(places.check(), Err(PlaceError::NoFunction0(place("00:03.1"))));
    }

    #[test]
    fn firmware_finds_disks_by_the_bridges_before_them() {
        let places = Places {
            ports: vec![port(1, 2, 0), port(9, 0x12, 3)],
            ..Places::default()
        };
        for (at, path) in [
            ("00:1a.0", "/pci@i0cf8/scsi@1a"),
            ("00:03.2", "/pci@i0cf8/scsi@3,2"),
            ("01:00.0", "/pci@i0cf8/pci-bridge@2/scsi@0"),
            ("09:00.0", "/pci@i0cf8/pci-bridge@12,3/scsi@0"),
        ] {
            assert_eq!(places.path(place(at), "scsi"), path);
        }
    }

    #[test]
    fn places_are_read_as_lspci_writes_them() {
        let all = PciAddress {
            bus: 0xff,
            slot: 31,
            function: 7,
        };
        assert_eq!(place("ff:1f.7"), all);
        assert_eq!(place("0000:FF:1F.7"), all);
        assert_eq!(place("1:0.0"), PciAddress::behind(1));
        for bad in [
            "",
            "1",
            "1:0",
            "01:00",
            "01:20.0",
            "01:00.8",
            "100:00.0",
            "1:+1.0",
            "0001:01:00.0",
            "01:00.0 ",
            "01:00.00",
            ":.",
            "0000::0.0",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_an_error(text in any::<String>(), near in "[0-9a-f:.x]{0,12}") {
            for text in [text, near] {
                if let Ok(place) = text.parse::<PciAddress>() {
                    prop_assert_eq!(place.to_string().parse::<PciAddress>(), Ok(place));
                }
            }
        }

        /// What is found good can be built: no two things are at one place, and everything has a bus.
        #[test]
        fn what_is_checked_fits(
            ports in proptest::collection::vec((0u8..4, 0u8..34, 0u8..9), 0..5),
            devices in proptest::collection::vec((0u8..5, 0u8..34, 0u8..9), 0..6)
        ) {
            let places = Places {
                ports: ports.iter().map(|&(bus, slot, function)| port(bus, slot, function)).collect(),
                functions: devices
                    .iter()
                    .map(|&(bus, slot, function)| PciAddress { bus, slot, function })
                    .collect(),
                ..Places::default()
            };
            if places.check().is_ok() {
                let all: Vec<PciAddress> = places.ports.iter().map(Port::address).chain(places.functions.clone()).collect();
                let different: BTreeSet<PciAddress> = all.iter().copied().collect();
                prop_assert_eq!(different.len(), all.len());
                for place in all {
                    prop_assert!(place.slot < 32 && place.function < 8);
                    prop_assert!(place.bus == 0 || places.port(place.bus).is_some());
                }
            }
        }
    }
}
