//! Devices at places of their owner's choice: in any slot and function of bus 0, and behind root ports that share slots.

use std::sync::Arc;

use ostler_machine::{Error, PciAddress, PlaceError, Places, Port};
use ostler_pci::{Location, PciFunction, PortIdentity};

use crate::bench::{Bench, Parts};
use crate::card::Card;

const CARD: u32 = 0x5678_1234;
const SEVERAL: u32 = 0x80 << 16;

/// Root ports as libvirt has them: eight in slot 2, then slot 3. Those of `fixed` take nothing while the guest runs.
fn ports(count: u8, fixed: &[u8]) -> Vec<Port> {
    let port = |n: u8| Port {
        bus: n + 1,
        at: Location {
            device: 2 + n / 8,
            function: n % 8,
        },
        identity: PortIdentity {
            slot: 0,
            number: 0x10 + n,
            hotplug: !fixed.contains(&(n + 1)),
        },
    };
    (0..count).map(port).collect()
}

fn built(ports: Vec<Port>, places: &[&str]) -> Result<(Bench, Vec<Arc<Card>>), Error> {
    let cards: Vec<Arc<Card>> = places.iter().map(|_| Card::new(0)).collect();
    let parts = Parts {
        functions: cards
            .iter()
            .map(|card| card.clone() as Arc<dyn PciFunction>)
            .collect(),
        places: Some(Places {
            ports,
            functions: places.iter().map(|place| place.parse().unwrap()).collect(),
            ..Places::default()
        }),
        ..Parts::default()
    };
    Ok((parts.build()?, cards))
}

/// A register of the function at a place, by the number that the guest's bus has.
fn config(bench: &Bench, place: &str, register: u32) -> u32 {
    let place: PciAddress = place.parse().unwrap();
    let register = u32::from(place.function) << 8 | register;
    bench.config_on(place.bus.into(), place.slot.into(), register)
}

#[test]
fn devices_are_where_they_are_said_to_be() {
    const PLACES: [&str; 5] = ["0d:00.0", "0e:00.0", "00:10.0", "00:11.0", "00:11.3"];
    let (bench, cards) = built(ports(14, &[13, 14]), &PLACES).unwrap();
    for _ in 0..2 {
        for place in PLACES {
            assert_eq!(config(&bench, place, 0), CARD, "{place}");
            let memory = config(&bench, place, 0x10) & !0xf;
            assert_eq!(bench.readl(memory.into()), 0xa0a0_a0a0, "{place}");
            // The last of many root ports has I/O ports too, as its device needs some.
            let io = config(&bench, place, 0x20) & !3;
            assert_eq!(bench.inl(io.into()), 0xa4a4_a4a4, "{place}");
        }
        for empty in ["01:00.0", "00:01.0", "00:10.1", "00:11.1", "0d:01.0"] {
            assert_eq!(config(&bench, empty, 0), u32::MAX, "{empty}");
        }
        // Buses have the numbers that firmware would give them, and guests look for functions where there are some.
        for (bus, port) in (1..).zip(ports(14, &[])) {
            let place = format!("00:{:02x}.{}", port.at.device, port.at.function);
            assert_eq!(
                config(&bench, &place, 0x18) & 0xff_ffff,
                bus << 16 | bus << 8,
                "{place}"
            );
        }
        for (place, several) in [
            ("00:02.0", true),
            ("00:03.0", true),
            ("00:10.0", false),
            ("00:11.0", true),
        ] {
            assert_eq!(config(&bench, place, 0xc) & SEVERAL != 0, several, "{place}");
        }
        bench.machine.reset().unwrap();
    }
    // INTA behind a port is INTA of the port's slot, whatever the port's function is: slot 3 has PIRQH.
    bench.ioapic(23, 1 << 15 | 0x50);
    cards[0].interrupt(true);
    let messages = bench.messages();
    assert!(
        !messages.is_empty() && messages.iter().all(|msi| msi.data == 0xc050),
        "{messages:?}"
    );
}

#[test]
fn a_fixed_port_keeps_its_device() {
    let (bench, _cards) = built(ports(2, &[1]), &["01:00.0"]).unwrap();
    let express = |register| {
        let mut at = config(&bench, "00:02.0", 0x34) & 0xff;
        while config(&bench, "00:02.0", at) & 0xff != 0x10 {
            at = config(&bench, "00:02.0", at) >> 8 & 0xff;
        }
        at + register
    };
    let hotplug = 1 << 6 | 1 << 1;
    assert_eq!(
        config(&bench, "00:02.0", express(0x14)) & hotplug,
        0,
        "slot capabilities"
    );
    assert_eq!(
        config(&bench, "00:02.0", express(0x0c)) >> 24,
        0x10,
        "port number"
    );
    // Power off, as a driver would switch it.
    bench.set_config(0, 2, express(0x18), [0, 4]);
    assert_eq!(config(&bench, "01:00.0", 0), CARD);
    assert!(matches!(
        bench.machine.plug(0, Card::new(0)),
        Err(Error::NoHotplug(1))
    ));
    bench.machine.plug(1, Card::new(0)).unwrap();
    assert!(
        bench.machine.plug(2, Card::new(0)).is_err(),
        "there are two ports"
    );
    let slots: Vec<u8> = bench.machine.slots().map(|(slot, _)| slot).collect();
    assert_eq!(slots, [0, 1]);
}

#[test]
fn what_cannot_be_is_not_built() {
    let refused = |places: &[&str]| built(ports(2, &[]), places).err().unwrap();
    for (places, says) in [
        (&["03:00.0"][..], "behind no root port"),
        (&["00:02.0"], "two devices"),
        (&["00:1f.0"], "the platform's own"),
        (&["00:04.1"], "function 0"),
    ] {
        let error = refused(places);
        assert!(matches!(error, Error::Place(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let parts = Parts {
        watchdog: true,
        places: Some(Places::default()),
        ..Parts::default()
    };
    let error = parts.build().err().unwrap();
    assert!(matches!(error, Error::Place(PlaceError::Count { .. })), "{error}");
}
