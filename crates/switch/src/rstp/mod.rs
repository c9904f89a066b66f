//! Rapid Spanning Tree (IEEE 802.1D-2004, clause 17), and STP (802.1D-1998) towards neighbours that speak only that.
//!
//! Each state machine of figure 17-12 is a file by its name in the standard: `pti` (timers), `prx` (receive), `ppm` (protocol
//! migration), `bdm` (bridge detection), `ptx` (transmit), `pim` (information), `prs` (role selection), `prt` (role
//! transitions), `pst` (state transition), `tcm` (topology change). Variables and procedures have the names of the standard too.
//! The machines run until none of them moves; what they want done outside is a list of [`Action`]s.

mod bdm;
mod bpdu;
mod config;
mod pim;
mod port;
mod ppm;
mod prs;
mod prt;
mod prx;
mod pst;
mod pti;
mod ptx;
mod tcm;
#[cfg(test)]
mod tests;
mod types;

pub use bpdu::{Bpdu, Flags, MAX_FRAME};
pub use config::{BridgeConfig, StpPortConfig, Version, path_cost};
pub use types::{BridgeId, PortId, PortState, Priority, Role, Times};

use crate::{Mac, PortIndex};
use port::Port;

/// How often all machines may run for one event before the bridge gives up. A few rounds do; this is a bound, so that
/// nothing that a neighbour sends can hang the switch.
const MOST_ROUNDS: usize = 1000;

/// What a port has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this BPDU.
    Send(Bpdu),
    /// Forward, learn or discard from now on.
    State(PortState),
    /// Forget the stations learned on the port.
    Flush,
    /// Forget stations after the forward delay for a while (802.1D-1998, 8.3.5).
    AgeFast,
}

/// What a port does in the tree, as it is shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Its identifier.
    pub id: PortId,
    /// Its role.
    pub role: Role,
    /// Its state.
    pub state: PortState,
    /// Whether no bridge is behind it.
    pub edge: bool,
    /// Whether it speaks RSTP.
    pub rapid: bool,
    /// What it costs to send through it.
    pub path_cost: u32,
    /// The vector of the designated bridge of its segment.
    pub designated: Priority,
}

/// A bridge of the spanning tree.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    id: BridgeId,
    slots: Vec<Option<Box<Port>>>,
    root_priority: Priority,
    root_times: Times,
    root_port: Option<PortId>,
    actions: Vec<(PortIndex, Action)>,
    topology_changes: u64,
    gave_up: u64,
}

impl Bridge {
    /// A bridge without ports. `config` has been checked.
    pub(crate) fn new(config: BridgeConfig, mac: Mac) -> Self {
        let id = BridgeId::new(config.priority | config.extension, mac);
        let mut bridge = Self {
            root_priority: Priority {
                root: id,
                cost: 0,
                bridge: id,
                port: PortId(0),
            },
            root_times: Times {
                message_age: 0,
                max_age: 0,
                hello: 0,
                forward_delay: 0,
            },
            config,
            id,
            slots: Vec::new(),
            root_port: None,
            actions: Vec::new(),
            topology_changes: 0,
            gave_up: 0,
        };
        bridge.root_times = bridge.bridge_times();
        bridge
    }

    /// Its identifier.
    pub fn id(&self) -> BridgeId {
        self.id
    }

    /// Its settings.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// The root's identifier.
    pub fn root(&self) -> BridgeId {
        self.root_priority.root
    }

    /// What the path to the root costs.
    pub fn root_path_cost(&self) -> u32 {
        self.root_priority.cost
    }

    /// The port that leads to the root; `None` on the root itself.
    pub fn root_port(&self) -> Option<PortIndex> {
        PortIndex::new(usize::from(self.root_port?.number()).checked_sub(1)?)
    }

    /// The times in use, which are the root's.
    pub fn times(&self) -> Times {
        self.root_times
    }

    /// How many topology changes this bridge found.
    pub fn topology_changes(&self) -> u64 {
        self.topology_changes
    }

    /// How often the machines did not come to rest. Always 0, or there is a fault in them.
    pub fn unsettled(&self) -> u64 {
        self.gave_up
    }

    /// What `port` does.
    pub fn view(&self, port: PortIndex) -> Option<PortView> {
        let port = self.slots.get(port.get())?.as_deref()?;
        Some(PortView {
            id: port.port_id,
            role: port.role,
            state: port.states.pst,
            edge: port.oper_edge,
            rapid: port.send_rstp,
            path_cost: port.config.path_cost,
            designated: port.port_priority,
        })
    }

    /// Adds a port, which is down.
    pub(crate) fn add_port(&mut self, port: PortIndex, config: StpPortConfig) {
        let number = port.get() as u16 + 1;
        let new = Port::new(config, number, self.id, self.root_times);
        if self.slots.len() <= port.get() {
            self.slots.resize_with(port.get() + 1, || None);
        }
        self.slots[port.get()] = Some(Box::new(new));
        self.begin(port.get());
        self.run();
    }

    fn begin(&mut self, i: usize) {
        prs::begin_port(self.port_mut(i));
        prx::begin(self.port_mut(i));
        ppm::begin(self, i);
        bdm::begin(self.port_mut(i));
        ptx::begin(self, i);
        pim::begin(self, i);
        prt::begin(self, i);
        pst::begin(self, i);
        tcm::begin(self, i);
    }

    /// Removes a port.
    pub(crate) fn remove_port(&mut self, port: PortIndex) {
        self.set_enabled(port, false);
        if let Some(slot) = self.slots.get_mut(port.get()) {
            *slot = None;
        }
    }

    /// Changes a port's settings.
    pub(crate) fn set_port(&mut self, port: PortIndex, config: StpPortConfig) {
        let id = PortId::new(config.priority, port.get() as u16 + 1);
        let Some(state) = self.slot_mut(port) else { return };
        if state.config == config {
            return;
        }
        state.config = config;
        state.port_id = id;
        // 17.13: a new cost or priority has the roles selected again.
        state.reselect = true;
        state.selected = false;
        if state.config.admin_edge && state.info_is != port::InfoIs::Received {
            bdm::begin(state);
        }
        self.run();
    }

    /// Changes the bridge's settings (17.13, 17.14). `config` has been checked.
    pub(crate) fn set_config(&mut self, config: BridgeConfig) {
        let version_changed = config.version != self.config.version;
        self.id = BridgeId::new(config.priority | config.extension, self.id.mac());
        self.config = config;
        if version_changed {
            (0..self.slots.len()).for_each(|i| {
                if self.slots[i].is_some() {
                    ppm::begin(self, i);
                }
            });
        }
        self.each_port(|port| {
            port.reselect = true;
            port.selected = false;
        });
        self.run();
    }

    /// Says whether frames pass the port's link (portEnabled, 17.19.18).
    pub(crate) fn set_enabled(&mut self, port: PortIndex, enabled: bool) {
        let Some(state) = self.slot_mut(port) else { return };
        if state.port_enabled == enabled {
            return;
        }
        state.port_enabled = enabled;
        self.run();
    }

    /// Has the port find out again what its neighbour speaks (mcheck, 17.19.13).
    pub(crate) fn check_migration(&mut self, port: PortIndex) {
        if self.config.version == Version::Rstp
            && let Some(state) = self.slot_mut(port)
        {
            state.mcheck = true;
            self.run();
        }
    }

    /// Takes a BPDU. The port's own, come back by a loop in its segment, is ignored (9.3.4).
    pub(crate) fn receive(&mut self, port: PortIndex, bpdu: Bpdu) {
        let (id, stp) = (self.id, self.config.version == Version::Stp);
        let Some(state) = self.slot_mut(port) else { return };
        if let Bpdu::Config { priority, .. } = bpdu
            && priority.bridge.mac() == id.mac()
            && priority.port.number() == state.port_id.number()
        {
            return;
        }
        // A bridge of version STP knows no RST BPDU (17.4).
        if stp && matches!(bpdu, Bpdu::Rapid { .. }) {
            return;
        }
        state.message = bpdu;
        state.rcvd_bpdu = true;
        self.run();
    }

    /// A second has passed (17.22).
    pub(crate) fn tick(&mut self) {
        self.each_port(|port| port.tick = true);
        self.run();
    }

    /// What is to be done, in order.
    pub(crate) fn take_action(&mut self, at: usize) -> Option<(PortIndex, Action)> {
        let action = self.actions.get(at).copied();
        if action.is_none() {
            self.actions.clear();
        }
        action
    }

    fn act(&mut self, i: usize, action: Action) {
        if let Some(port) = PortIndex::new(i) {
            self.actions.push((port, action));
        }
    }

    /// Runs the machines until none of them moves. Port Transmit comes when all others are at rest: so what changed together
    /// is sent together, and the transmit hold count lasts longer.
    fn run(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let mut moved = self.run_ports(Self::run_port);
            moved |= prs::step(self);
            if !moved && !self.run_ports(ptx::step) {
                return;
            }
        }
        self.gave_up += 1;
    }

    fn run_ports(&mut self, step: impl Fn(&mut Self, usize) -> bool) -> bool {
        let mut moved = false;
        for i in 0..self.slots.len() {
            moved |= self.slots[i].is_some() && step(self, i);
        }
        moved
    }

    fn run_port(&mut self, i: usize) -> bool {
        let mut moved = false;
        moved |= pti::step(self.port_mut(i));
        moved |= prx::step(self.port_mut(i));
        moved |= ppm::step(self, i);
        moved |= bdm::step(self.port_mut(i));
        moved |= pim::step(self, i);
        moved |= prt::step(self, i);
        moved |= pst::step(self, i);
        moved | tcm::step(self, i)
    }

    fn slot_mut(&mut self, port: PortIndex) -> Option<&mut Port> {
        self.slots.get_mut(port.get())?.as_deref_mut()
    }

    fn port(&self, i: usize) -> &Port {
        self.slots[i]
            .as_deref()
            .expect("machines run on ports that are there")
    }

    fn port_mut(&mut self, i: usize) -> &mut Port {
        self.slots[i]
            .as_deref_mut()
            .expect("machines run on ports that are there")
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.slots.iter().filter_map(Option::as_deref)
    }

    fn each_port(&mut self, mut change: impl FnMut(&mut Port)) {
        self.slots.iter_mut().flatten().for_each(|port| change(port));
    }

    fn each_port_with_place(&mut self, mut change: impl FnMut(usize, &mut Port)) {
        for (place, port) in self.slots.iter_mut().enumerate() {
            if let Some(port) = port {
                change(place, port);
            }
        }
    }

    /// rstpVersion (17.20.11).
    fn rstp_version(&self) -> bool {
        self.config.version == Version::Rstp
    }

    /// BridgeTimes (17.18.4).
    fn bridge_times(&self) -> Times {
        Times {
            message_age: 0,
            max_age: self.config.max_age.into(),
            hello: self.config.hello.into(),
            forward_delay: self.config.forward_delay.into(),
        }
    }

    /// allSynced (17.20.3).
    fn all_synced(&self) -> bool {
        self.ports().all(|port| {
            port.selected && port.role == port.selected_role && (port.synced || port.role == Role::Root)
        })
    }

    /// reRooted (17.20.10), for port `i`.
    fn re_rooted(&self, i: usize) -> bool {
        self.slots
            .iter()
            .enumerate()
            .all(|(other, port)| other == i || port.as_deref().is_none_or(|port| port.timers.rr_while == 0))
    }
}
