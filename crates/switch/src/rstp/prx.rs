//! Port Receive state machine (802.1D-2004, 17.23).

use super::bpdu::Bpdu;
use super::port::{MIGRATE_TIME, Port};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Discard,
    Receive,
}

pub(super) fn begin(port: &mut Port) {
    enter(port, State::Discard);
}

pub(super) fn step(port: &mut Port) -> bool {
    let next = if (port.rcvd_bpdu || port.timers.edge_delay_while != MIGRATE_TIME) && !port.port_enabled {
        State::Discard
    } else if port.rcvd_bpdu && port.port_enabled && (port.states.prx == State::Discard || !port.rcvd_msg) {
        State::Receive
    } else {
        return false;
    };
    enter(port, next);
    true
}

fn enter(port: &mut Port, state: State) {
    port.states.prx = state;
    port.rcvd_bpdu = false;
    port.timers.edge_delay_while = MIGRATE_TIME;
    match state {
        State::Discard => {
            port.rcvd_rstp = false;
            port.rcvd_stp = false;
            port.rcvd_msg = false;
        }
        State::Receive => {
            updt_bpdu_version(port);
            port.oper_edge = false;
            port.rcvd_msg = true;
        }
    }
}

/// updtBPDUVersion (17.21.22).
fn updt_bpdu_version(port: &mut Port) {
    match port.message {
        Bpdu::Config { .. } | Bpdu::TopologyChange => port.rcvd_stp = true,
        Bpdu::Rapid { .. } => port.rcvd_rstp = true,
    }
}
