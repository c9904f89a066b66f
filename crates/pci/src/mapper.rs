//! Keeps the machine's address maps in step with where BARs are decoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use ostler_bus::{AddressMap, Device, Range, Space};

use crate::config::ConfigSpace;
use crate::function::PciFunction;
use crate::regs;

/// The addresses that the host bridge forwards to PCI. A BAR outside of them is not reachable, as on hardware, so a
/// guest cannot lay one over RAM or over a chip.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// I/O ports.
    pub io: Range,
    /// Memory below 4 GiB.
    pub memory32: Range,
    /// Memory above RAM.
    pub memory64: Range,
}

impl Windows {
    fn admits(&self, space: Space, range: Range) -> bool {
        match space {
            Space::Port => contains(self.io, range),
            Space::Memory => contains(self.memory32, range) || contains(self.memory64, range),
        }
    }
}

/// True if all of `inner` lies in `outer`; wrapping ranges lie nowhere.
fn contains(outer: Range, inner: Range) -> bool {
    let ends = (
        outer.base.checked_add(outer.len),
        inner.base.checked_add(inner.len),
    );
    matches!(ends, (Some(outer_end), Some(inner_end)) if inner.base >= outer.base && inner_end <= outer_end)
}

/// A function whose BARs are to be kept in step.
#[derive(Clone)]
pub(crate) struct Placed {
    /// Identifies the function for as long as it is there.
    pub id: u32,
    pub function: Arc<dyn PciFunction>,
    /// The bridge it is behind.
    pub port: Option<Arc<dyn PciFunction>>,
}

/// Which BAR of which function.
type Key = (u32, usize);

struct Mapping {
    space: Space,
    base: u64,
    function: Arc<dyn PciFunction>,
}

/// The windows that are on the bus now.
pub(crate) struct Mapper {
    memory: Arc<AddressMap>,
    ports: Arc<AddressMap>,
    windows: Windows,
    mapped: BTreeMap<Key, Mapping>,
    /// The registers behind each BAR, asked for once.
    devices: BTreeMap<Key, Arc<dyn Device>>,
}

impl Mapper {
    pub fn new(memory: Arc<AddressMap>, ports: Arc<AddressMap>, windows: Windows) -> Self {
        Self {
            memory,
            ports,
            windows,
            mapped: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    pub fn windows(&self) -> Windows {
        self.windows
    }

    /// Takes every BAR off the bus whose place changed, then puts each where it belongs. What is there already stays;
    /// a BAR that would overlap it is left out until the other one moves.
    pub fn update(&mut self, functions: &[Placed]) {
        let wanted = self.wanted(functions);
        self.remove_stale(&wanted);
        for (key, (space, range, function)) in wanted {
            if self.mapped.contains_key(&key) {
                continue;
            }
            let Some(device) = self.device(key, &function) else {
                continue;
            };
            match self.map_of(space).insert(range, device) {
                Ok(()) => {
                    self.mapped.insert(
                        key,
                        Mapping {
                            space,
                            base: range.base,
                            function: function.clone(),
                        },
                    );
                    function.bar_moved(key.1, Some(range.base));
                }
                Err(error) => tracing::debug!("BAR {} is not reachable: {error}", key.1),
            }
        }
        self.devices
            .retain(|(id, _), _| functions.iter().any(|placed| placed.id == *id));
    }

    fn wanted(&self, functions: &[Placed]) -> BTreeMap<Key, (Space, Range, Arc<dyn PciFunction>)> {
        let mut wanted = BTreeMap::new();
        for placed in functions {
            let config = placed.function.config();
            for (index, spec) in config.bars().iter().enumerate() {
                let (Some(spec), Some(base)) = (spec, config.decoded_bar(index)) else {
                    continue;
                };
                let range = Range::new(base, spec.size);
                let forwarded = placed
                    .port
                    .as_ref()
                    .is_none_or(|port| bridge_forwards(port.config(), spec.space(), range));
                if base != 0 && forwarded && self.windows.admits(spec.space(), range) {
                    wanted.insert((placed.id, index), (spec.space(), range, placed.function.clone()));
                }
            }
        }
        wanted
    }

    fn remove_stale(&mut self, wanted: &BTreeMap<Key, (Space, Range, Arc<dyn PciFunction>)>) {
        let stale: Vec<Key> = self
            .mapped
            .iter()
            .filter(|(key, mapping)| {
                wanted
                    .get(key)
                    .is_none_or(|(space, range, _)| (*space, range.base) != (mapping.space, mapping.base))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            if let Some(mapping) = self.mapped.remove(&key) {
                mapping.function.bar_moved(key.1, None);
                self.map_of(mapping.space).remove(mapping.base);
            }
        }
    }

    fn device(&mut self, key: Key, function: &Arc<dyn PciFunction>) -> Option<Arc<dyn Device>> {
        if let Some(device) = self.devices.get(&key) {
            return Some(device.clone());
        }
        let device = function.bar(key.1)?;
        self.devices.insert(key, device.clone());
        Some(device)
    }

    fn map_of(&self, space: Space) -> &AddressMap {
        match space {
            Space::Port => &self.ports,
            Space::Memory => &self.memory,
        }
    }
}

/// True if the bridge passes accesses to `range` on to its secondary bus (PCI-to-PCI Bridge 1.2, 4).
fn bridge_forwards(bridge: &ConfigSpace, space: Space, range: Range) -> bool {
    let command = bridge.u16(regs::COMMAND);
    match space {
        Space::Port => command & regs::COMMAND_IO != 0 && contains(io_window(bridge), range),
        Space::Memory => {
            command & regs::COMMAND_MEMORY != 0
                && (contains(memory_window(bridge), range) || contains(prefetch_window(bridge), range))
        }
    }
}

fn window(base: u64, limit: u64) -> Range {
    // A base above its limit closes the window.
    let len = limit
        .checked_sub(base)
        .and_then(|len| len.checked_add(1))
        .unwrap_or(0);
    Range::new(base, len)
}

fn io_window(bridge: &ConfigSpace) -> Range {
    let base =
        u64::from(bridge.u8(regs::IO_BASE) & 0xf0) << 8 | u64::from(bridge.u16(regs::IO_BASE_UPPER)) << 16;
    let limit = u64::from(bridge.u8(regs::IO_BASE + 1) & 0xf0) << 8
        | u64::from(bridge.u16(regs::IO_BASE_UPPER + 2)) << 16;
    window(base, limit | 0xfff)
}

fn memory_window(bridge: &ConfigSpace) -> Range {
    let base = u64::from(bridge.u16(regs::MEMORY_BASE) & 0xfff0) << 16;
    let limit = u64::from(bridge.u16(regs::MEMORY_BASE + 2) & 0xfff0) << 16;
    window(base, limit | 0xf_ffff)
}

fn prefetch_window(bridge: &ConfigSpace) -> Range {
    let low = |offset| u64::from(bridge.u16(offset) & 0xfff0) << 16;
    let high = |offset| u64::from(bridge.u32(offset)) << 32;
    let base = low(regs::PREFETCH_BASE) | high(regs::PREFETCH_BASE_UPPER);
    let limit = low(regs::PREFETCH_BASE + 2) | high(regs::PREFETCH_BASE_UPPER + 4);
    window(base, limit | 0xf_ffff)
}
