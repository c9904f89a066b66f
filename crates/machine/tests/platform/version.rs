//! What a guest sees of version 1 of the platform ("ostler-q35-1"), written down.
//!
//! A guest keeps its machine type for life. **A change that makes a test here fail changes the hardware under installed and
//! saved guests: give it a new machine type, and leave what this one shows as it is.**

use ostler_machine::MachineType;
use ostler_pci::PciFunction;
use std::sync::Arc;

use crate::bench::{Bench, Parts};
use crate::card::Card;
use crate::tables::{mp_table, tables};

/// Two CPUs, 64 MiB, a serial port, devices in slots 1 and 2, nothing that is off by default.
fn fixed() -> Bench {
    let functions: Vec<Arc<dyn PciFunction>> = vec![Card::new(0), Card::new(0)];
    let parts = Parts {
        cpus: 2,
        functions,
        test_devices: false,
        ..Parts::default()
    };
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

#[test]
fn version_1_has_these_functions_on_bus_0() {
    let bench = fixed();
    let seen: Vec<Function> = (0..32)
        .filter(|&slot| bench.config(slot, 0) != u32::MAX)
        .map(|slot| {
            let bars = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map(|at| bench.config(slot, at));
            let register = |at| bench.config(slot, at);
            (slot, register(0), register(8), bars, register(0x3c) & 0xffff)
        })
        .collect();
    let card = |slot: u32, [memory, prefetchable, ports]: [u32; 3], interrupt: u32| {
        let bars = [memory, 0, prefetchable, 1, ports, 0];
        (slot, 0x5678_1234, 0xff00_0000, bars, interrupt)
    };
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

#[test]
fn version_1_has_these_configuration_spaces() {
    let bench = fixed();
    let seen: Vec<(u32, u64)> = [0, 16, 17, 18, 19, 31]
        .map(|slot| {
            let bytes: Vec<u8> = (0..4096)
                .step_by(4)
                .flat_map(|at| {
                    bench
                        .readl(0xb000_0000 + (u64::from(slot) << 15) + at)
                        .to_le_bytes()
                })
                .collect();
            (slot, hash(&bytes))
        })
        .to_vec();
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

#[test]
fn version_1_has_these_tables() {
    let bench = fixed();
    let mut all = tables(&bench);
    all.push(mp_table(&bench));
    let seen: Vec<(String, usize, u64)> = all
        .iter()
        .map(|table| {
            let signature = String::from_utf8_lossy(&table[..4]).into_owned();
            (signature, table.len(), hash(table))
        })
        .collect();
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

#[test]
fn version_1_answers_at_these_ports() {
    let bench = fixed();
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
