//! The variables of a port, by the names of 802.1D-2004, 17.17 and 17.19.

use super::bpdu::Bpdu;
use super::config::StpPortConfig;
use super::types::{BridgeId, PortId, Priority, Role, Times};
use super::{bdm, pim, ppm, prt, prx, pst, ptx, tcm};

/// Where a port's information comes from (17.19.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoIs {
    Disabled,
    Aged,
    Mine,
    Received,
}

/// What a message tells (17.21.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RcvdInfo {
    SuperiorDesignated,
    RepeatedDesignated,
    InferiorDesignated,
    InferiorRootAlternate,
    Other,
}

/// The timers, in seconds (17.17).
#[derive(Clone, Debug, Default)]
pub struct Timers {
    pub edge_delay_while: u16,
    pub fd_while: u16,
    pub hello_when: u16,
    pub mdelay_while: u16,
    pub rb_while: u16,
    pub rcvd_info_while: u16,
    pub rr_while: u16,
    pub tc_while: u16,
}

/// The states of the machines.
#[derive(Clone, Debug, Default)]
pub struct States {
    pub prx: prx::State,
    pub ppm: ppm::State,
    pub bdm: bdm::State,
    pub ptx: ptx::State,
    pub pim: pim::State,
    pub prt: prt::State,
    pub pst: pst::State,
    pub tcm: tcm::State,
}

/// A port.
#[derive(Clone, Debug)]
pub struct Port {
    pub config: StpPortConfig,
    pub port_id: PortId,
    pub states: States,
    pub timers: Timers,
    /// The BPDU that the variables `rcvd...` are about.
    pub message: Bpdu,

    pub agree: bool,
    pub agreed: bool,
    pub designated_priority: Priority,
    pub designated_times: Times,
    pub disputed: bool,
    pub fdb_flush: bool,
    pub forward: bool,
    pub forwarding: bool,
    pub info_is: InfoIs,
    pub learn: bool,
    pub learning: bool,
    pub mcheck: bool,
    pub msg_priority: Priority,
    pub msg_times: Times,
    pub new_info: bool,
    pub oper_edge: bool,
    pub port_enabled: bool,
    pub port_priority: Priority,
    pub port_times: Times,
    pub proposed: bool,
    pub proposing: bool,
    pub rcvd_bpdu: bool,
    pub rcvd_info: RcvdInfo,
    pub rcvd_msg: bool,
    pub rcvd_rstp: bool,
    pub rcvd_stp: bool,
    pub rcvd_tc: bool,
    pub rcvd_tc_ack: bool,
    pub rcvd_tcn: bool,
    pub re_root: bool,
    pub reselect: bool,
    pub role: Role,
    pub selected: bool,
    pub selected_role: Role,
    pub send_rstp: bool,
    pub sync: bool,
    pub synced: bool,
    pub tc_ack: bool,
    pub tc_prop: bool,
    pub tick: bool,
    pub tx_count: u8,
    pub updt_info: bool,
}

impl Port {
    /// A port as it is before its machines begin.
    pub fn new(config: StpPortConfig, number: u16, bridge: BridgeId, times: Times) -> Self {
        let port_id = PortId::new(config.priority, number);
        let own = Priority {
            root: bridge,
            cost: 0,
            bridge,
            port: port_id,
        };
        Self {
            config,
            port_id,
            states: States::default(),
            timers: Timers::default(),
            message: Bpdu::TopologyChange,
            agree: false,
            agreed: false,
            designated_priority: own,
            designated_times: times,
            disputed: false,
            fdb_flush: false,
            forward: false,
            forwarding: false,
            info_is: InfoIs::Disabled,
            learn: false,
            learning: false,
            mcheck: false,
            msg_priority: own,
            msg_times: times,
            new_info: false,
            oper_edge: false,
            port_enabled: false,
            port_priority: own,
            port_times: times,
            proposed: false,
            proposing: false,
            rcvd_bpdu: false,
            rcvd_info: RcvdInfo::Other,
            rcvd_msg: false,
            rcvd_rstp: false,
            rcvd_stp: false,
            rcvd_tc: false,
            rcvd_tc_ack: false,
            rcvd_tcn: false,
            re_root: false,
            reselect: false,
            role: Role::Disabled,
            selected: false,
            selected_role: Role::Disabled,
            send_rstp: true,
            sync: false,
            synced: false,
            tc_ack: false,
            tc_prop: false,
            tick: false,
            tx_count: 0,
            updt_info: false,
        }
    }

    /// Whether the roles are chosen and acted on: part of most transitions of PTX, PIM and PRT.
    pub fn settled(&self) -> bool {
        self.selected && !self.updt_info
    }

    /// FwdDelay (17.20.6).
    pub fn fwd_delay(&self) -> u16 {
        self.designated_times.forward_delay
    }

    /// HelloTime (17.20.7).
    pub fn hello_time(&self) -> u16 {
        self.designated_times.hello
    }

    /// MaxAge (17.20.8).
    pub fn max_age(&self) -> u16 {
        self.designated_times.max_age
    }

    /// forwardDelay (17.20.5): short where the neighbour speaks RSTP.
    pub fn forward_delay(&self) -> u16 {
        if self.send_rstp {
            self.hello_time()
        } else {
            self.fwd_delay()
        }
    }

    /// EdgeDelay (17.20.4).
    pub fn edge_delay(&self) -> u16 {
        if self.config.point_to_point {
            MIGRATE_TIME
        } else {
            self.max_age()
        }
    }
}

/// Migrate Time in seconds (17.13.9).
pub const MIGRATE_TIME: u16 = 3;
