//! What a guest sees of the versions of the platform ("ostler-q35-1", "ostler-q35-2"), written down.
//!
//! A guest keeps its machine type for life. **A change that makes a test here fail changes the hardware under installed and
//! saved guests: give it a new machine type, and leave what this one shows as it is.**

use ostler_machine::{MachineType, PciAddress, Places, Port};
use ostler_pci::{Location, PciFunction, PortIdentity};
use std::sync::Arc;

use crate::bench::{Bench, Parts};
use crate::card::Card;
use crate::tables::{mp_table, tables};

/// Two CPUs, 64 MiB, a serial port, devices in slots 1 and 2, nothing that is off by default.
fn fixed() -> Bench {
    parts(MachineType::Q35V1).build().unwrap()
}

fn parts(machine_type: MachineType) -> Parts {
    let functions: Vec<Arc<dyn PciFunction>> = vec![Card::new(0), Card::new(0)];
    Parts {
        machine_type,
        cpus: 2,
        functions,
        test_devices: false,
        ..Parts::default()
    }
}

/// Version 2, of which devices may have places: one behind the first of two root ports that share a slot, one on bus 0.
fn placed() -> Bench {
    let port = |bus: u8, function: u8| Port {
        bus,
        at: Location { device: 2, function },
        identity: PortIdentity {
            slot: 0,
            number: 0x10 | function,
            hotplug: true,
        },
    };
    let at = |bus: u8, slot: u8| PciAddress {
        bus,
        slot,
        function: 0,
    };
    let mut parts = parts(MachineType::Q35V2);
    parts.places = Some(Places {
        ports: vec![port(1, 0), port(2, 1)],
        functions: vec![at(1, 0), at(0, 9)],
        ..Places::default()
    });
    parts.build().unwrap()
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn versions_are_found_by_their_names() {
    for machine in MachineType::ALL {
        assert_eq!(MachineType::from_name(machine.name()), Some(machine));
    }
    assert_eq!(MachineType::default().name(), "ostler-q35-1");
    for unknown in ["", "q35", "ostler-q35", "ostler-q35-3", "OSTLER-Q35-1"] {
        assert_eq!(MachineType::from_name(unknown), None);
    }
}

/// Slot; vendor and device; class and revision; BARs as firmware left them; interrupt pin and line.
type Function = (u32, u32, u32, [u32; 6], u32);

/// A card with its three BARs.
fn card(slot: u32, [memory, prefetchable, ports]: [u32; 3], interrupt: u32) -> Function {
    let bars = [memory, 0, prefetchable, 1, ports, 0];
    (slot, 0x5678_1234, 0xff00_0000, bars, interrupt)
}

fn functions_on(bench: &Bench, bus: u32) -> Vec<Function> {
    (0..32)
        .filter(|&slot| bench.config_on(bus, slot, 0) != u32::MAX)
        .map(|slot| {
            let register = |at| bench.config_on(bus, slot, at);
            let bars = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map(register);
            (slot, register(0), register(8), bars, register(0x3c) & 0xffff)
        })
        .collect()
}

#[test]
fn version_1_has_these_functions_on_bus_0() {
    let seen = functions_on(&fixed(), 0);
    // Bus numbers, then the windows: ports, memory, prefetchable memory.
    let port = |slot: u32, [buses, ports, memory, prefetchable]: [u32; 4], interrupt: u32| {
        let windows = [0, 0, buses, ports, memory, prefetchable];
        (slot, 0x000c_1b36, 0x0604_0000, windows, interrupt)
    };
    let expected = [
        (0, 0x29c0_8086, 0x0600_0000, [0; 6], 0),
        card(1, [0xc000_0000, 0xc, 0x4001], 0x10a),
        card(2, [0xc000_1000, 0x400c, 0x4021], 0x10b),
        port(16, [0x0001_0100, 0x5151, 0xc030_c020, 0x1ff1_1001], 0x10a),
        port(17, [0x0002_0200, 0x6161, 0xc050_c040, 0x2ff1_2001], 0x10a),
        port(18, [0x0003_0300, 0x7171, 0xc070_c060, 0x3ff1_3001], 0x10b),
        port(19, [0x0004_0400, 0x8181, 0xc090_c080, 0x4ff1_4001], 0x10b),
        (31, 0x2918_8086, 0x0601_0002, [0; 6], 0),
    ];
    assert!(seen == expected, "{seen:#x?}");
}

/// Slot and hash of the configuration spaces of functions on bus 0, which are given by slot and function.
fn configuration_spaces(bench: &Bench, places: &[(u32, u32)]) -> Vec<(u32, u64)> {
    let space = |&(slot, function): &(u32, u32)| {
        let base = 0xb000_0000 + (u64::from(slot << 3 | function) << 12);
        let bytes: Vec<u8> = (0..4096)
            .step_by(4)
            .flat_map(|at| bench.readl(base + at).to_le_bytes())
            .collect();
        (slot, hash(&bytes))
    };
    places.iter().map(space).collect()
}

#[test]
fn version_1_has_these_configuration_spaces() {
    let places = [0, 16, 17, 18, 19, 31].map(|slot| (slot, 0));
    let seen = configuration_spaces(&fixed(), &places);
    let expected = [
        (0, 0x49da_11ae_b41a_4544),
        (16, 0x6a36_a947_6d1b_f672),
        (17, 0xa01c_48d9_387e_8415),
        (18, 0xb680_def0_a7a6_9565),
        (19, 0x4f59_7aa3_3cc4_4936),
        (31, 0x51d8_fe2c_d3ec_f453),
    ];
    assert!(seen == expected, "{seen:#x?}");
}

/// Signature, length and hash of each table of firmware.
fn table_hashes(bench: &Bench) -> Vec<(String, usize, u64)> {
    let mut all = tables(bench);
    all.push(mp_table(bench));
    all.iter()
        .map(|table| {
            let signature = String::from_utf8_lossy(&table[..4]).into_owned();
            (signature, table.len(), hash(table))
        })
        .collect()
}

#[test]
fn version_1_has_these_tables() {
    let seen = table_hashes(&fixed());
    let expected = [
        ("FACP", 276, 0xbbb3_a231_3d86_6239),
        ("APIC", 118, 0xeef6_8c35_b0fe_8339),
        ("MCFG", 60, 0x34a2_1818_987c_96c5),
        ("WAET", 40, 0x71fa_dcfe_9077_ca6d),
        ("DSDT", 3998, 0x1c56_24ae_b2e9_8ee5),
        ("XSDT", 68, 0x1ccf_b3bf_1893_0673),
        ("PCMP", 1236, 0x7350_94f1_5ef4_b017),
    ];
    let same = seen.iter().map(|(name, len, hash)| (&name[..], *len, *hash));
    assert!(same.eq(expected), "{seen:#x?}");
}

fn port_ranges(bench: &Bench) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for port in 0..0x1_0000 {
        if !bench.machine.ports().read(port, &mut [0]) {
            continue;
        }
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

#[test]
fn version_1_answers_at_these_ports() {
    let ranges = port_ranges(&fixed());
    let expected = [
        (0x20, 0x21),
        (0x40, 0x43),
        (0x60, 0x61),
        (0x64, 0x64),
        (0x70, 0x71),
        (0x92, 0x92),
        (0xa0, 0xa1),
        (0xb2, 0xb3),
        (0x3f8, 0x3ff),
        (0x4d0, 0x4d1),
        (0x505, 0x505),
        (0x510, 0x51b),
        (0x600, 0x67f),
        (0xcf8, 0xcff),
        // The two cards'.
        (0x4000, 0x403f),
    ];
    assert!(ranges == expected, "{ranges:#x?}");
}

#[test]
fn version_2_shows_what_version_1_shows_where_nothing_has_a_place() {
    let (first, second) = (fixed(), parts(MachineType::Q35V2).build().unwrap());
    let places = [0, 16, 17, 18, 19, 31].map(|slot| (slot, 0));
    for bus in 0..=4 {
        assert_eq!(functions_on(&first, bus), functions_on(&second, bus), "bus {bus}");
    }
    assert_eq!(
        configuration_spaces(&first, &places),
        configuration_spaces(&second, &places)
    );
    assert_eq!(table_hashes(&first), table_hashes(&second));
    assert_eq!(port_ranges(&first), port_ranges(&second));
}

#[test]
fn version_2_has_devices_in_their_places() {
    let bench = placed();
    let seen = [0, 1, 2].map(|bus| functions_on(&bench, bus));
    let windows = [0, 0, 0x0001_0100, 0x5151, 0xc030_c020, 0x1ff1_1001];
    let expected: [Vec<Function>; 3] = [
        vec![
            (0, 0x29c0_8086, 0x0600_0000, [0; 6], 0),
            (2, 0x000c_1b36, 0x0604_0000, windows, 0x10b),
            card(9, [0xc000_0000, 0xc, 0x4001], 0x10a),
            (31, 0x2918_8086, 0x0601_0002, [0; 6], 0),
        ],
        vec![card(0, [0xc020_0000, 0x1000_000c, 0x5001], 0x10b)],
        vec![],
    ];
    assert!(seen == expected, "{seen:#x?}");
    let spaces = configuration_spaces(&bench, &[(2, 0), (2, 1), (31, 0)]);
    let expected = [
        (2, 0xa8cb_f206_acb2_1d32),
        (2, 0xb3b8_f67b_fe12_90d5),
        (31, 0x51d8_fe2c_d3ec_f453),
    ];
    assert!(spaces == expected, "{spaces:#x?}");
    assert_eq!(table_hashes(&bench), table_hashes(&fixed()));
}
