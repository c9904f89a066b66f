//! From a device's pin to the two interrupt controllers, and what the tables say of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ostler_bus::Msi;
use ostler_pci::PciFunction;

use crate::bench::{Bench, Parts, eventually, kernel, machine};
use crate::card::Card;
use crate::tables::{Source, mp_entries, routes};

const LEVEL: u64 = 1 << 15;
/// Vector of IOAPIC input 0 in these tests; the others follow.
const VECTORS: u32 = 0x40;

fn edge(vector: u32) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: 0x4000 | vector,
    }
}

fn level(vector: u32) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: 0xc000 | vector,
    }
}

#[test]
fn the_timer_is_input_2_of_the_ioapic() {
    let bench = machine(kernel(), 1);
    for input in [0, 2] {
        bench.ioapic(input, u64::from(VECTORS + input));
    }
    // Channel 0, rate generator, about a hundred a second.
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        bench.outb(port, value);
    }
    eventually("two ticks", || bench.vm.messages.lock().unwrap().len() >= 2);
    let seen = bench.messages();
    assert!(seen.iter().all(|msi| *msi == edge(VECTORS + 2)), "{seen:?}");
}

/// A machine with a card that uses `pin` in every slot where one can be: slots 1 to 15, and behind the four ports.
fn full(pin: u8) -> (Bench, BTreeMap<u8, Arc<Card>>) {
    let mut cards: BTreeMap<u8, Arc<Card>> = (1..16).map(|slot| (slot, Card::new(pin))).collect();
    let parts = Parts {
        functions: cards
            .values()
            .map(|card| card.clone() as Arc<dyn PciFunction>)
            .collect(),
        ..Parts::default()
    };
    let bench = parts.build().unwrap();
    for port in 0..4 {
        let card = Card::new(pin);
        bench.machine.plug(port, card.clone()).unwrap();
        cards.insert(16 + port, card);
    }
    (bench, cards)
}

/// Where the card of a slot is found: bus and device.
fn place(slot: u8) -> (u32, u32) {
    match slot {
        0..16 => (0, slot.into()),
        port => (u32::from(port) - 15, 0),
    }
}

fn interrupt_line(bench: &Bench, slot: u8) -> u8 {
    let (bus, device) = place(slot);
    bench.config_on(bus, device, 0x3c) as u8
}

#[test]
fn every_pin_of_every_slot_arrives_where_the_tables_say() {
    for pin in 0..4 {
        let (bench, cards) = full(pin);
        let (apic, pic) = (routes(&bench, b"PRTA"), routes(&bench, b"PRTP"));
        bench.set_up_pics(0xff);
        // All but the timer's, whose output is up.
        for input in 3..24 {
            bench.ioapic(input, LEVEL | u64::from(VECTORS + input));
        }
        for (slot, card) in cards {
            let (input, isa) = (apic[&(slot, pin)], pic[&(slot, pin)]);
            let vector = VECTORS + u32::from(input);
            card.interrupt(true);
            assert_eq!(bench.messages(), [level(vector)], "slot {slot}, pin {pin}");
            assert_eq!(bench.isa_requests(), 1 << isa, "slot {slot}, pin {pin}");
            assert_eq!(interrupt_line(&bench, slot), isa, "slot {slot}, pin {pin}");
            bench.machine.end_of_interrupt(vector as u8);
            assert_eq!(bench.messages(), [level(vector)], "it is a level");
            card.interrupt(false);
            bench.machine.end_of_interrupt(vector as u8);
            assert_eq!(bench.messages(), []);
            assert_eq!(bench.isa_requests(), 0);
        }
    }
}

/// The lines of ICH9 (its data sheet, 5.8 and 10.1): PIRQA is input 16. QEMU's q35 wires the slots the same way.
fn expected_input((slot, pin): Source) -> u8 {
    if slot < 25 {
        20 + (slot + pin) % 4
    } else {
        16 + pin % 4
    }
}

#[test]
fn the_routing_tables_name_every_pin_of_every_slot() {
    let bench = machine(kernel(), 1);
    let every: Vec<Source> = (0..32)
        .flat_map(|slot| (0..4).map(move |pin| (slot, pin)))
        .collect();
    let (apic, pic) = (routes(&bench, b"PRTA"), routes(&bench, b"PRTP"));
    assert!(apic.keys().eq(&every) && pic.keys().eq(&every));
    for source in every {
        let input = expected_input(source);
        assert_eq!(apic[&source], input, "{source:?}");
        // PIRQA, B, E, F: 10; C, D, G, H: 11.
        let isa = if input % 4 < 2 { 10 } else { 11 };
        assert_eq!(pic[&source], isa, "{source:?}");
    }
}

#[test]
fn the_mp_table_names_the_same_interrupts() {
    const CONFORMING: u8 = 0;
    const HIGH_LEVEL: u8 = 0xd;
    let bench = machine(kernel(), 3);
    let entries = mp_entries(&bench);
    let of = |kind: u8| entries.iter().filter(move |entry| entry[0] == kind);
    // Local APIC id and version; usable, the first one boots.
    let cpus: Vec<[u8; 3]> = of(0).map(|entry| [entry[1], entry[2], entry[3]]).collect();
    assert_eq!(cpus, [[0, 0x14, 3], [1, 0x14, 1], [2, 0x14, 1]]);
    let buses: Vec<(u8, &[u8])> = of(1).map(|entry| (entry[1], &entry[2..])).collect();
    assert_eq!(buses, [(0, &b"PCI   "[..]), (1, &b"ISA   "[..])]);
    let ioapics: Vec<&[u8]> = of(2).map(|entry| &entry[1..]).collect();
    assert_eq!(ioapics, [[0, 0x20, 1, 0, 0, 0xc0, 0xfe]]);
    // ExtINT on LINT0, NMI on LINT1, of every CPU.
    let local: Vec<&[u8]> = of(4).map(|entry| &entry[1..]).collect();
    assert_eq!(local, [[3, 0, 0, 1, 0, 0xff, 0], [1, 0, 0, 1, 0, 0xff, 1]]);

    let mut isa = BTreeMap::new();
    let mut pci = BTreeMap::new();
    for entry in of(3) {
        let [_, kind, flags, high, bus, source, ioapic, input] = entry[..] else {
            panic!("{entry:?}")
        };
        assert_eq!((kind, high, ioapic), (0, 0, 0));
        let earlier = match bus {
            0 => pci.insert((source >> 2, source & 3), (input, flags)),
            1 => isa.insert(source, (input, flags)),
            _ => panic!("bus {bus}"),
        };
        assert_eq!(earlier, None);
    }
    let expected: BTreeMap<u8, (u8, u8)> = (0..16)
        .filter(|isa| *isa != 2)
        .map(|isa| {
            let input = if isa == 0 { 2 } else { isa };
            let flags = if (9..=11).contains(&isa) {
                HIGH_LEVEL
            } else {
                CONFORMING
            };
            (isa, (input, flags))
        })
        .collect();
    assert_eq!(isa, expected);
    let apic = routes(&bench, b"PRTA");
    let expected: BTreeMap<Source, (u8, u8)> = apic
        .into_iter()
        .filter(|((slot, _), _)| *slot != 0)
        .map(|(source, input)| (source, (input, HIGH_LEVEL)))
        .collect();
    assert_eq!(pci, expected, "the host bridge has no pins");
}

/// PIRQE to PIRQH, their registers in the LPC bridge, and a slot whose INTA is on each.
const PIRQS: [(u32, u8); 4] = [(0x68, 4), (0x69, 1), (0x6a, 2), (0x6b, 3)];

#[test]
fn the_lpc_bridges_registers_route_pirqs_to_the_8259_pair() {
    let (bench, cards) = full(0);
    bench.set_up_pics(0xff);
    let route = |register: u32, value: u8| bench.set_config(0, 31, register, [value]);
    let registers = || [0x60, 0x68].map(|register| bench.config(31, register).to_le_bytes());
    let by_firmware = [[10, 10, 11, 11]; 2];
    assert_eq!(registers(), by_firmware);
    for (register, slot) in PIRQS {
        route(register, 5);
        cards[&slot].interrupt(true);
        assert_eq!(bench.isa_requests(), 1 << 5, "PIRQ at {register:#x}");
        route(register, 0xff);
        assert_eq!(bench.config(31, register) >> (8 * (register & 3)) & 0xff, 0x8f);
        assert_eq!(bench.isa_requests(), 0, "it is switched off");
        // An input in edge mode has seen the line rise when the route is there again.
        route(register, 12);
        assert_eq!(bench.isa_requests(), 1 << 12, "it is raised still");
        cards[&slot].interrupt(false);
        assert_eq!(bench.isa_requests(), 0);
    }
    for (register, _) in PIRQS {
        route(register, 7);
    }
    for slot in [1, 2] {
        cards[&slot].interrupt(true);
    }
    cards[&1].interrupt(false);
    assert_eq!(
        bench.isa_requests(),
        1 << 7,
        "the other one holds the shared input"
    );
    cards[&2].interrupt(false);
    assert_eq!(bench.isa_requests(), 0);
    for register in [0x60, 0x61, 0x62, 0x63] {
        route(register, 3);
    }
    assert_eq!(registers(), [[3; 4], [7; 4]]);

    bench.machine.reset().unwrap();
    bench.set_up_pics(0xff);
    assert_eq!(registers(), by_firmware);
    for (slot, isa) in [(4, 10), (1, 10), (2, 11), (3, 11)] {
        cards[&slot].interrupt(true);
        assert_eq!(bench.isa_requests(), 1 << isa, "slot {slot} after a reset");
        cards[&slot].interrupt(false);
    }
}

#[test]
fn interrupt_lines_are_scratch_until_the_next_reset() {
    let (bench, _) = full(0);
    for slot in [1, 16] {
        let (bus, device) = place(slot);
        assert_eq!(interrupt_line(&bench, slot), 10);
        bench.set_config(bus, device, 0x3c, [0x5a]);
        assert_eq!(interrupt_line(&bench, slot), 0x5a);
    }
    bench.machine.reset().unwrap();
    for slot in [1, 16] {
        assert_eq!(interrupt_line(&bench, slot), 10);
    }
    for port in 16..20 {
        assert_eq!(
            bench.config(port, 0x3c) as u16,
            0x100 | if port % 4 < 2 { 10 } else { 11 }
        );
    }
    for without_pin in [0, 31] {
        assert_eq!(bench.config(without_pin, 0x3c) as u16, 0);
    }
}

#[test]
fn the_elcr_makes_inputs_level_triggered() {
    let bench = machine(kernel(), 1);
    let elcr = || (bench.inb(0x4d0), bench.inb(0x4d1));
    assert_eq!(elcr(), (0, 0x0e), "as firmware leaves it: 9, 10, 11");
    bench.machine.ports().write(0x4d0, &[0xff, 0xff]);
    assert_eq!(
        elcr(),
        (0xf8, 0xde),
        "timer, keyboard, cascade, clock and coprocessor stay"
    );
    let external = bench.set_up_pics(0);
    let end = || bench.outb(0x20, 0x20);
    let line = |level: u8| bench.outb(0x2000 + 5, level);

    line(1);
    assert_eq!(external.acknowledge(), Some(0x35));
    assert!(!external.pending());
    end();
    assert!(external.pending(), "the line is up");
    assert_eq!(external.acknowledge(), Some(0x35));
    line(0);
    end();
    assert!(!external.pending());

    bench.outb(0x4d0, 0);
    line(1);
    assert_eq!(external.acknowledge(), Some(0x35));
    end();
    assert!(!external.pending(), "an edge is one interrupt");
    bench.machine.reset().unwrap();
    assert_eq!(elcr(), (0, 0x0e));
}
