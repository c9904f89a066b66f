//! Where devices are on PCI: `addr=` of devices, `--root-port`.

use ostler_vmm::spec::PciPlace;

/// A root port as the user describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPortOption {
    /// Its place, on bus 0.
    pub place: PciPlace,
    /// What the bus behind it is called; its number among root ports, if nobody says.
    pub bus: Option<u8>,
}

/// The place after `addr=`.
pub(super) fn parse_place(text: &str) -> Result<PciPlace, String> {
    text.parse()
}

pub(super) fn parse_root_port(text: &str) -> Result<RootPortOption, String> {
    let (place, bus) = match text.split_once(",bus=") {
        Some((place, bus)) => (place, Some(bus)),
        None => (text, None),
    };
    let place = parse_place(place)?;
    if place.0.bus != 0 {
        return Err(format!("a root port is on bus 00, not at {place}"));
    }
    let bus = bus.map(|bus| {
        let digits = (1..=2).contains(&bus.len()) && bus.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u8::from_str_radix(bus, 16).ok().filter(|bus| digits && *bus != 0);
        number.ok_or_else(|| format!("\"{bus}\" is no bus of a root port; write 01 to ff"))
    });
    Ok(RootPortOption {
        place,
        bus: bus.transpose()?,
    })
}
