//! The names of registers by their addresses: what a driver touches for one operation.

use serde::Serialize;
use serde_json::Value;

/// How often an operation has to touch a register at least, so that it is shown.
const LEAST_OFTEN: f64 = 0.01;

/// A window of registers in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chip {
    /// Serial ATA AHCI 1.3.1.
    Ahci,
    /// Intel 82574 GbE Controller Family Datasheet, 10.1.
    E1000e,
    /// Virtio 1.2, 4.1.4.
    Virtio,
}

/// Where the guest has its devices.
pub(super) struct Registers(Vec<(Chip, u64, u64)>);

/// A register that was touched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Touched {
    pub(super) register: String,
    /// "mmio-read", "port-write" ...
    pub(super) how: String,
    /// How often for one operation.
    pub(super) times: f64,
}

impl Registers {
    /// From an answer of `query-pci`.
    pub(super) fn of_guest(buses: &Value) -> Self {
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let devices = buses
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|bus| list(bus, "devices"));
        let mut windows = Vec::new();
        for device in devices {
            let id = |name: &str| device["id"][name].as_u64();
            let class = device.pointer("/class_info/class").and_then(Value::as_u64);
            let chip = match (id("vendor"), id("device"), class) {
                (_, _, Some(0x0106)) => Chip::Ahci,
                (Some(0x8086), Some(0x10d3), _) => Chip::E1000e,
                (Some(0x1af4), ..) => Chip::Virtio,
                _ => continue,
            };
            for region in list(&device, "regions") {
                if let (Some(address), Some(size)) = (region["address"].as_u64(), region["size"].as_u64()) {
                    windows.push((chip, address, size));
                }
            }
        }
        Self(windows)
    }

    /// What was touched for each of `count` operations, from an answer of `x-ostler-registers`. Ports are those of the console, by
    /// which the guest is asked, and are left out.
    pub(super) fn touched(&self, told: &Value, count: u64) -> Vec<Touched> {
        let entries = told["registers"].as_array().into_iter().flatten();
        let touched = entries.filter_map(|entry| {
            let how = entry["cause"].as_str().filter(|how| how.starts_with("mmio"))?;
            let address = entry["address"].as_str()?.strip_prefix("0x")?;
            let address = u64::from_str_radix(address, 16).ok()?;
            let times = entry["count"].as_u64()? as f64 / count.max(1) as f64;
            Some(Touched {
                register: self.name(address),
                how: how.to_owned(),
                times,
            })
        });
        let mut touched: Vec<Touched> = touched.filter(|register| register.times >= LEAST_OFTEN).collect();
        touched.sort_by(|a, b| b.times.total_cmp(&a.times));
        touched
    }

    fn name(&self, address: u64) -> String {
        let inside = |(_, start, size): &&(Chip, u64, u64)| address >= *start && address - *start < *size;
        let Some((chip, start, _)) = self.0.iter().find(inside) else {
            return format!("{address:#x}");
        };
        let offset = address - start;
        match chip {
            Chip::Ahci => ahci(offset),
            Chip::E1000e => e1000e(offset),
            Chip::Virtio => format!("virtio {offset:#x}"),
        }
    }
}

/// AHCI 1.3.1, 3.1 and 3.3.
fn ahci(offset: u64) -> String {
    const PORTS: u64 = 0x100;
    const PORT_LEN: u64 = 0x80;
    let known = if offset < PORTS {
        match offset {
            0x00 => "CAP",
            0x04 => "GHC",
            0x08 => "IS",
            0x0c => "PI",
            _ => "",
        }
    } else {
        match (offset - PORTS) % PORT_LEN {
            0x10 => "PxIS",
            0x14 => "PxIE",
            0x18 => "PxCMD",
            0x20 => "PxTFD",
            0x24 => "PxSIG",
            0x28 => "PxSSTS",
            0x2c => "PxSCTL",
            0x30 => "PxSERR",
            0x34 => "PxSACT",
            0x38 => "PxCI",
            _ => "",
        }
    };
    named("AHCI", known, offset)
}

/// The 82574's datasheet, 10.1.
fn e1000e(offset: u64) -> String {
    let known = match offset {
        0x0000 => "CTRL",
        0x0008 => "STATUS",
        0x00c0 => "ICR",
        0x00c4 => "ITR",
        0x00c8 => "ICS",
        0x00d0 => "IMS",
        0x00d8 => "IMC",
        0x00e8 => "EITR0",
        0x00ec => "EITR1",
        0x00f0 => "EITR2",
        0x2810 => "RDH0",
        0x2818 => "RDT0",
        0x3810 => "TDH0",
        0x3818 => "TDT0",
        _ => "",
    };
    named("e1000e", known, offset)
}

fn named(chip: &str, known: &str, offset: u64) -> String {
    if known.is_empty() {
        format!("{chip} {offset:#x}")
    } else {
        format!("{chip} {known}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_become_names() {
        let buses = json!([{ "devices": [
            { "id": { "vendor": 0x8086, "device": 0x2922 }, "class_info": { "class": 0x0106 },
              "regions": [{ "bar": 4, "address": -1, "size": 32 }, { "bar": 5, "address": 0x1000, "size": 0x1000 }] },
            { "id": { "vendor": 0x8086, "device": 0x10d3 }, "class_info": { "class": 0x0200 },
              "regions": [{ "bar": 0, "address": 0x2_0000, "size": 0x2_0000 }] },
        ] }]);
        let registers = Registers::of_guest(&buses);
        for (address, name) in [
            (0x1008, "AHCI IS"),
            (0x1138, "AHCI PxCI"),
            (0x11b4, "AHCI PxSACT"),
            (0x2_00d0, "e1000e IMS"),
            (0x2_3818, "e1000e TDT0"),
            (0x2_5000, "e1000e 0x5000"),
            (0x2000, "0x2000"),
        ] {
            assert_eq!(registers.name(address), name);
        }
        let told = json!({ "registers": [
            { "cause": "mmio-write", "address": "0x1138", "count": 100 },
            { "cause": "mmio-read", "address": "0x1110", "count": 150 },
            { "cause": "mmio-read", "address": "0x1114", "count": 0 },
            { "cause": "port-write", "address": "0x3f8", "count": 900 },
        ] });
        let shown = registers.touched(&told, 100);
        let shown: Vec<_> = shown.iter().map(|t| (&*t.register, &*t.how, t.times)).collect();
        assert_eq!(
            shown,
            [("AHCI PxIS", "mmio-read", 1.5), ("AHCI PxCI", "mmio-write", 1.0)]
        );
    }
}
