//! The root complex: which function is where, and who answers a configuration access.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use ostler_bus::{AddressMap, Device, InterruptLine, Space};

use crate::access::{ConfigPorts, Ecam};
use crate::assign::Assigner;
use crate::error::Error;
use crate::function::{Location, PciFunction};
use crate::mapper::{Mapper, Placed, Windows};
use crate::regs;
use crate::root_port::RootPort;

/// What a root complex is made from.
pub struct RootConfig {
    /// The machine's map of guest-physical memory.
    pub memory: Arc<AddressMap>,
    /// The machine's map of I/O ports.
    pub ports: Arc<AddressMap>,
    /// What is forwarded to PCI.
    pub windows: Windows,
}

struct Node {
    id: u32,
    function: Arc<dyn PciFunction>,
    /// The same object, if it is a root port.
    port: Option<Arc<RootPort>>,
}

/// The PCI root complex with bus 0.
///
/// Lock order: topology, then mapper, then a function's own locks, then the address maps.
pub struct Root {
    topology: RwLock<BTreeMap<Location, Node>>,
    mapper: Mutex<Mapper>,
    next_id: AtomicU32,
    /// Ids of the functions in the ports' slots, given when they are plugged in.
    children: Mutex<BTreeMap<Location, u32>>,
}

impl Root {
    /// An empty root complex.
    pub fn new(config: RootConfig) -> Arc<Self> {
        Arc::new(Self {
            topology: RwLock::new(BTreeMap::new()),
            mapper: Mutex::new(Mapper::new(config.memory, config.ports, config.windows)),
            next_id: AtomicU32::new(0),
            children: Mutex::new(BTreeMap::new()),
        })
    }

    /// Places a function on bus 0; `line` is what its INTx pin is routed to.
    pub fn add(
        &self,
        at: Location,
        function: Arc<dyn PciFunction>,
        line: Option<Arc<dyn InterruptLine>>,
    ) -> Result<(), Error> {
        self.place(
            at,
            Node {
                id: self.fresh_id(),
                function,
                port: None,
            },
            line,
        )
    }

    /// Places a root port on bus 0.
    pub fn add_port(
        &self,
        at: Location,
        port: Arc<RootPort>,
        line: Option<Arc<dyn InterruptLine>>,
    ) -> Result<(), Error> {
        self.place(
            at,
            Node {
                id: self.fresh_id(),
                function: port.clone(),
                port: Some(port),
            },
            line,
        )
    }

    fn place(&self, at: Location, node: Node, line: Option<Arc<dyn InterruptLine>>) -> Result<(), Error> {
        let Location { device, function } = at;
        if device > 31 || function > 7 {
            return Err(Error::BadLocation { device, function });
        }
        {
            let mut topology = self
                .topology
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if topology.contains_key(&at) {
                return Err(Error::Taken { device, function });
            }
            if let Some(line) = line {
                node.function.connect_intx(line);
            }
            topology.insert(at, node);
            mark_functions(&topology, device);
        }
        self.remap();
        Ok(())
    }

    /// Puts a device into the slot of the root port at `at`: before the guest runs (`cold`), or while it does.
    pub fn plug(
        &self,
        at: Location,
        function: Arc<dyn PciFunction>,
        line: Option<Arc<dyn InterruptLine>>,
        cold: bool,
    ) -> Result<(), Error> {
        let port = self.port(at)?;
        if port.child().is_some() {
            return Err(Error::SlotOccupied(at.device));
        }
        if let Some(line) = line {
            function.connect_intx(line);
        }
        let id = self.fresh_id();
        self.children().insert(at, id);
        if !port.insert(function, cold) {
            return Err(Error::SlotOccupied(at.device));
        }
        self.remap();
        Ok(())
    }

    /// Takes the device out of the slot of the root port at `at` at once, whatever the guest is doing with it.
    pub fn pull(&self, at: Location) -> Result<Option<Arc<dyn PciFunction>>, Error> {
        let pulled = self.port(at)?.pull();
        self.remap();
        Ok(pulled)
    }

    /// The root port at `at`.
    pub fn port(&self, at: Location) -> Result<Arc<RootPort>, Error> {
        self.topology()
            .get(&at)
            .and_then(|node| node.port.clone())
            .ok_or(Error::NoPort(at.device))
    }

    /// The I/O ports 0xcf8 (4 ports) and 0xcfc (4 ports) as one device of 8 ports. Single-byte accesses to 0xcf9 go
    /// to `reset_control`, which chipsets of this kind keep there.
    pub fn config_ports(self: &Arc<Self>, reset_control: Option<Arc<dyn Device>>) -> Arc<dyn Device> {
        Arc::new(ConfigPorts::new(self.clone(), reset_control))
    }

    /// The memory-mapped configuration window (PCIEXBAR): 1 MiB a bus.
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Ecam::new(self.clone()))
    }

    /// Gives every bridge its bus number and windows and every BAR its address, as firmware would, and turns decoding
    /// on. Called when the machine is built and after each reset.
    pub fn assign_resources(&self) -> Result<(), Error> {
        let windows = self.mapper().windows();
        {
            let topology = self.topology();
            let mut assigner = Assigner::new(windows);
            for node in topology.values() {
                assigner.function(node.function.config())?;
            }
            let ports = topology.values().filter_map(|node| node.port.as_ref());
            let mut waiting = ports.clone().filter(|port| needs_io(port)).count();
            for (bus, port) in (1..=u8::MAX).zip(ports) {
                waiting -= usize::from(needs_io(port));
                assigner.port(port, bus, waiting)?;
            }
        }
        self.remap();
        Ok(())
    }

    /// Resets every function. [`Root::assign_resources`] follows where no firmware does.
    pub fn reset(&self) {
        let functions: Vec<_> = self
            .topology()
            .values()
            .map(|node| node.function.clone())
            .collect();
        for function in functions {
            function.reset();
        }
        self.remap();
    }

    /// Waits until the address maps are in line with all BARs. A function that was taken out is held by them no more then.
    pub fn settle(&self) {
        self.remap();
    }

    /// The functions on bus 0 with their places, for firmware tables.
    pub fn functions(&self) -> Vec<(Location, Arc<dyn PciFunction>)> {
        self.topology()
            .iter()
            .map(|(at, node)| (*at, node.function.clone()))
            .collect()
    }

    /// A configuration read. Where no function is, it reads as ones.
    pub fn config_read(&self, bus: u8, at: Location, offset: u16, data: &mut [u8]) {
        match self.find(bus, at) {
            Some(function) => function.config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A configuration write. Where no function is, it is dropped.
    pub fn config_write(&self, bus: u8, at: Location, offset: u16, data: &[u8]) {
        let Some(function) = self.find(bus, at) else {
            return;
        };
        function.config_write(offset, data);
        if touches_decoding(function.config().is_bridge(), offset, data.len()) {
            self.remap();
        }
    }

    /// The function at `at` of `bus`: on bus 0, or alone behind the root port whose secondary bus it is.
    fn find(&self, bus: u8, at: Location) -> Option<Arc<dyn PciFunction>> {
        let topology = self.topology();
        if bus == 0 {
            return topology.get(&at).map(|node| node.function.clone());
        }
        if at != Location::device(0) {
            return None;
        }
        let mut ports = topology.values().filter_map(|node| node.port.as_ref());
        ports.find(|port| port.secondary_bus() == bus)?.child()
    }

    /// Brings the address maps in line with all BARs.
    fn remap(&self) {
        let placed: Vec<Placed> = {
            let topology = self.topology();
            let children = self.children();
            let mut placed = Vec::new();
            for (at, node) in topology.iter() {
                placed.push(Placed {
                    id: node.id,
                    function: node.function.clone(),
                    port: None,
                });
                let child = node.port.as_ref().and_then(|port| port.child());
                if let (Some(function), Some(id)) = (child, children.get(at)) {
                    placed.push(Placed {
                        id: *id,
                        function,
                        port: Some(node.function.clone()),
                    });
                }
            }
            placed
        };
        self.mapper().update(&placed);
    }

    fn fresh_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn topology(&self) -> RwLockReadGuard<'_, BTreeMap<Location, Node>> {
        self.topology
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn mapper(&self) -> MutexGuard<'_, Mapper> {
        self.mapper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn children(&self) -> MutexGuard<'_, BTreeMap<Location, u32>> {
        self.children
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Function 0 says whether there are others beside it: else guests do not look for them (PCI 3.0, 6.2.1).
fn mark_functions(topology: &BTreeMap<Location, Node>, device: u8) {
    let functions = topology.keys().filter(|at| at.device == device).count();
    if let Some(first) = topology.get(&Location::device(device)).filter(|_| functions > 1) {
        first.function.config().mark_multifunction();
    }
}

/// Whether the device in a port's slot has I/O ports.
fn needs_io(port: &RootPort) -> bool {
    let Some(child) = port.child() else { return false };
    let mut bars = child.config().bars().iter().flatten();
    bars.any(|bar| bar.space() == Space::Port)
}

/// True if a write may change where something is decoded. For a bridge any write counts that reaches its header or
/// its slot registers, as power that goes off takes the device away.
fn touches_decoding(bridge: bool, offset: u16, len: usize) -> bool {
    let end = usize::from(offset) + len;
    let header_end = usize::from(regs::BAR0) + 24;
    bridge || (usize::from(offset) < header_end && end > usize::from(regs::COMMAND))
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
