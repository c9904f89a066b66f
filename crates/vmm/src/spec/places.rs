//! Where a guest's devices are on PCI.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ostler_machine::{MachineType, PciAddress, Places, Port, standard_ports};
use ostler_pci::PortIdentity;
use serde::{Deserialize, Serialize};

use super::{DiskBus, GuestSpec};
use crate::Error;

/// The name of the watchdog among devices with places; it has none in the control protocol.
pub const WATCHDOG: &str = "watchdog";
/// That of the display.
pub const DISPLAY: &str = "display";
/// Slots of bus 0 that devices may have, the first one first.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=30;

/// A place on PCI, written as `01:00.0`. The bus is 0, or [`RootPortSpec::bus`] of a root port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciPlace(pub PciAddress);

impl PciPlace {
    /// The place with these numbers.
    pub const fn new(bus: u8, slot: u8, function: u8) -> Self {
        Self(PciAddress { bus, slot, function })
    }
}

impl fmt::Display for PciPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PciPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for PciPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PciPlace> for String {
    fn from(place: PciPlace) -> Self {
        place.to_string()
    }
}

/// A root port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPortSpec {
    /// What the bus behind it is called in places, from 1. Guests number buses in the order of the ports' own places.
    pub bus: u8,
    /// Its own place, on bus 0.
    pub place: PciPlace,
    /// Its number, as guests read it of the link.
    #[serde(default)]
    pub number: u8,
    /// Nothing comes and goes in it while the guest runs. So it is too where a device stays for the guest's life.
    #[serde(default)]
    pub fixed: bool,
}

/// Where devices are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciSpec {
    /// The root ports; `None` for the platform's four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<RootPortSpec>>,
    /// Devices by their names: [`GuestSpec::functions`], [`WATCHDOG`], [`DISPLAY`]. Others get the first slots of bus 0 that are free.
    #[serde(default)]
    pub devices: BTreeMap<String, PciPlace>,
}

/// Whether the device of this name may go while the guest runs: those of kinds that may come, too.
fn may_go(name: &str) -> bool {
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    ["disk", "net", "rng", "vsock", "fs"].contains(&kind)
}

/// The name of an entropy source by its number from 0.
pub fn rng_name(index: u32) -> String {
    match index {
        0 => "rng".into(),
        _ => format!("rng{index}"),
    }
}

impl GuestSpec {
    /// The names of what is on PCI, SATA and what follows below aside, in the order in which it is made.
    pub fn functions(&self) -> Vec<String> {
        let virtio = |(_, disk): &(usize, &super::DiskSpec)| disk.bus == DiskBus::Virtio;
        let disks = self.disks.iter().enumerate().filter(virtio);
        let mut names: Vec<String> = disks.map(|(index, _)| format!("disk{index}")).collect();
        let numbered =
            |kind: &'static str, count: usize| (0..count).map(move |index| format!("{kind}{index}"));
        names.extend(numbered("net", self.nets.len()));
        let single = |name: &str, present: bool| present.then(|| name.to_owned());
        names.extend(single("console", self.has_virtio_console()));
        names.extend((0..self.rngs).map(rng_name));
        names.extend(single("balloon", self.balloon.is_some()));
        names.extend(single("vsock", self.vsock.is_some()));
        names.extend(numbered("fs", self.shares.len()));
        names.extend(single("vmem0", self.max_memory.is_some()));
        names.extend(numbered("pmem", self.pmem.len()));
        names
    }

    /// Where everything is.
    pub fn places(&self) -> Result<Places, Error> {
        let names = self.functions();
        let bad = |error: String| Error::Specification(error);
        let Some(wish) = &self.pci else {
            let places = Places::standard(names.len(), self.watchdog.is_some(), self.display.is_some());
            return places.map_err(|error| bad(error.to_string()));
        };
        if self.machine_type()? == MachineType::Q35V1 {
            return Err(bad(format!(
                "devices of the machine type {} have no places of their own on PCI; use {}",
                self.machine,
                MachineType::NEWEST.name()
            )));
        }
        let others = [
            (WATCHDOG, self.watchdog.is_some()),
            (DISPLAY, self.display.is_some()),
        ];
        let others = others.into_iter().filter(|(_, present)| *present);
        let all: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .chain(others.map(|(name, _)| name))
            .collect();
        if let Some(unknown) = wish.devices.keys().find(|name| !all.contains(&name.as_str())) {
            return Err(bad(format!(
                "the guest has no device {unknown:?} that could have a place on PCI"
            )));
        }
        let ports = wish.ports();
        let found = wish.place_all(&all, &ports).map_err(bad)?;
        let places = Places {
            ports,
            functions: names.iter().map(|name| found[name.as_str()]).collect(),
            watchdog: found.get(WATCHDOG).copied(),
            display: found.get(DISPLAY).copied(),
        };
        places.check().map_err(|error| bad(error.to_string()))?;
        Ok(places)
    }

    /// Whether there is the device of the virtio console and of named ports.
    pub(crate) fn has_virtio_console(&self) -> bool {
        self.console != super::ConsoleSpec::None || !self.channels.is_empty()
    }
}

impl PciSpec {
    fn ports(&self) -> Vec<Port> {
        let stay = self.devices.iter().filter(|(name, _)| !may_go(name));
        let fixed: BTreeSet<u8> = stay.map(|(_, place)| place.0.bus).collect();
        let port = |port: &RootPortSpec| Port {
            bus: port.bus,
            at: port.place.0.location(),
            identity: PortIdentity {
                // As with QEMU: guests name cards by their places then, not by a number of the slot.
                slot: 0,
                number: port.number,
                hotplug: !port.fixed && !fixed.contains(&port.bus),
            },
        };
        match &self.ports {
            Some(ports) => ports.iter().map(port).collect(),
            None => {
                let mut ports = standard_ports();
                for port in &mut ports {
                    port.identity.hotplug = !fixed.contains(&port.bus);
                }
                ports
            }
        }
    }

    /// A place for each device: its own, or the first free slot.
    fn place_all<'a>(
        &self,
        all: &[&'a str],
        ports: &[Port],
    ) -> Result<BTreeMap<&'a str, PciAddress>, String> {
        let own = self.devices.values().filter(|place| place.0.bus == 0);
        let mut used: BTreeSet<u8> = own.map(|place| place.0.slot).collect();
        used.extend(ports.iter().map(|port| port.at.device));
        let mut free = SLOTS.filter(|slot| !used.contains(slot));
        let place = |&name: &&'a str| {
            let place = match self.devices.get(name) {
                Some(place) => place.0,
                None => PciAddress::root(
                    free.next()
                        .ok_or("bus 00 of PCI has no slot left for all devices")?,
                ),
            };
            Ok((name, place))
        };
        all.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{drives, spec};

    fn placed(devices: &[(&str, &str)], ports: &[(u8, &str)]) -> GuestSpec {
        let mut spec = spec();
        spec.machine = MachineType::NEWEST.name().into();
        spec.disks = drives(3, DiskBus::Virtio);
        spec.disks[1].bus = DiskBus::Sata;
        spec.rngs = 1;
        let port = |(bus, place): &(u8, &str)| RootPortSpec {
            bus: *bus,
            place: place.parse().unwrap(),
            number: 0,
            fixed: false,
        };
        spec.pci = Some(PciSpec {
            ports: Some(ports.iter().map(port).collect()),
            devices: devices
                .iter()
                .map(|(name, place)| ((*name).into(), place.parse().unwrap()))
                .collect(),
        });
        spec
    }

    fn refused(spec: &GuestSpec) -> String {
        spec.places().unwrap_err().to_string()
    }

    #[test]
    fn devices_are_where_they_are_said_to_be_and_others_in_free_slots() {
        let mut spec = placed(
            &[("disk2", "01:00.0"), ("rng", "00:01.0"), ("balloon", "02:00.0")],
            &[(1, "00:02.0"), (2, "00:02.2"), (7, "00:02.1")],
        );
        spec.watchdog = Some(Default::default());
        spec.balloon = Some(crate::spec::BalloonSpec {
            deflate_on_oom: false,
            free_page_reporting: false,
        });
        spec.pci.as_mut().unwrap().ports.as_mut().unwrap()[2].fixed = true;
        assert_eq!(spec.functions(), ["disk0", "disk2", "rng", "balloon"]);
        let places = spec.places().unwrap();
        let written: Vec<String> = places.functions.iter().map(PciAddress::to_string).collect();
        assert_eq!(written, ["00:03.0", "01:00.0", "00:01.0", "02:00.0"]);
        assert_eq!(places.watchdog, Some(PciAddress::root(4)));
        assert_eq!(places.display, None);
        let hotplug: Vec<(u8, bool)> = places
            .ports
            .iter()
            .map(|port| (port.bus, port.identity.hotplug))
            .collect();
        // A disk may go, a balloon may not; and what is said to be fixed is.
        assert_eq!(hotplug, [(1, true), (2, false), (7, false)]);
        // Without root ports of its own a guest has the platform's.
        spec.pci.as_mut().unwrap().ports = None;
        let ports: Vec<u8> = spec
            .places()
            .unwrap()
            .ports
            .iter()
            .map(|port| port.at.device)
            .collect();
        assert_eq!(ports, [16, 17, 18, 19]);
        // The specification is handed over as text.
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""disk2":"01:00.0""#), "{text}");
        assert_eq!(serde_json::from_str::<GuestSpec>(&text).unwrap(), spec);
        assert!(serde_json::from_str::<GuestSpec>(&text.replace("01:00.0", "01:20.0")).is_err());
    }

    #[test]
    fn what_cannot_be_is_told_before_the_start() {
        for (devices, ports, says) in [
            (
                &[("disk0", "01:00.0")][..],
                &[][..],
                "01:00.0 on PCI is behind no root port",
            ),
            (&[("disk0", "00:1f.0")], &[], "the platform's own"),
            (
                &[("disk0", "00:02.0")],
                &[(1, "00:02.0")],
                "two devices are to be at 00:02.0",
            ),
            (&[("disk0", "00:03.1")], &[], "without a device at function 0"),
            (
                &[("disk0", "01:00.1")],
                &[(1, "00:02.0")],
                "behind a root port there is",
            ),
            (&[("disk1", "00:03.0")], &[], "no device \"disk1\""),
            (&[("display", "00:01.0")], &[], "no device \"display\""),
            (&[], &[(0, "00:02.0")], "01 to ff"),
            (&[], &[(3, "00:02.0"), (3, "00:03.0")], "bus 03"),
        ] {
            let spec = placed(devices, ports);
            let said = refused(&spec);
            assert!(said.contains(says), "{devices:?} {ports:?}: {said}");
            assert!(spec.validate(100).is_err());
        }
        let mut spec = placed(&[], &[]);
        spec.machine = MachineType::Q35V1.name().into();
        assert!(refused(&spec).contains("ostler-q35-2"), "{}", refused(&spec));
        let ports: Vec<(u8, String)> = SLOTS.map(|slot| (slot, format!("00:{slot:02x}.0"))).collect();
        let ports: Vec<(u8, &str)> = ports.iter().map(|(bus, place)| (*bus, place.as_str())).collect();
        assert!(refused(&placed(&[], &ports)).contains("no slot left"));
    }
}
