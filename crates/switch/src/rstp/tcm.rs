//! Topology Change state machine (802.1D-2004, 17.31).

use super::types::Role;
use super::{Action, Bridge};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Inactive,
    Learning,
    Detected,
    Active,
    NotifiedTcn,
    NotifiedTc,
    Propagating,
    Acknowledged,
}

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::Inactive);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    let port = bridge.port(i);
    let active_role = matches!(port.role, Role::Root | Role::Designated);
    let notified = port.rcvd_tc || port.rcvd_tcn || port.rcvd_tc_ack || port.tc_prop;
    let next = match port.states.tcm {
        State::Inactive if port.learn && !port.fdb_flush => State::Learning,
        State::Learning if active_role && port.forward && !port.oper_edge => State::Detected,
        State::Learning if notified => State::Learning,
        State::Learning if !active_role && !port.learn && !port.learning => State::Inactive,
        State::Active if !active_role || port.oper_edge => State::Learning,
        State::Active if port.rcvd_tcn => State::NotifiedTcn,
        State::Active if port.rcvd_tc => State::NotifiedTc,
        State::Active if port.tc_prop => State::Propagating,
        State::Active if port.rcvd_tc_ack => State::Acknowledged,
        State::Inactive | State::Learning | State::Active => return false,
        State::NotifiedTcn => State::NotifiedTc,
        State::Detected | State::NotifiedTc | State::Propagating | State::Acknowledged => State::Active,
    };
    enter(bridge, i, next);
    true
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    bridge.port_mut(i).states.tcm = state;
    match state {
        State::Inactive => {
            let port = bridge.port_mut(i);
            port.timers.tc_while = 0;
            port.tc_ack = false;
            flush(bridge, i);
        }
        State::Learning => {
            let port = bridge.port_mut(i);
            port.rcvd_tc = false;
            port.rcvd_tcn = false;
            port.rcvd_tc_ack = false;
            port.tc_prop = false;
        }
        State::Detected => {
            new_tc_while(bridge, i);
            set_tc_prop_tree(bridge, i);
            bridge.port_mut(i).new_info = true;
            bridge.topology_changes += 1;
        }
        State::Active => {}
        State::NotifiedTcn => new_tc_while(bridge, i),
        State::NotifiedTc => {
            let port = bridge.port_mut(i);
            port.rcvd_tcn = false;
            port.rcvd_tc = false;
            if port.role == Role::Designated {
                port.tc_ack = true;
            }
            set_tc_prop_tree(bridge, i);
        }
        State::Propagating => {
            new_tc_while(bridge, i);
            bridge.port_mut(i).tc_prop = false;
            flush(bridge, i);
        }
        State::Acknowledged => {
            let port = bridge.port_mut(i);
            port.timers.tc_while = 0;
            port.rcvd_tc_ack = false;
        }
    }
}

/// Sets fdbFlush (17.19.7) and has the entries removed, or aged faster by a bridge of version STP.
fn flush(bridge: &mut Bridge, i: usize) {
    let action = if bridge.rstp_version() {
        Action::Flush
    } else {
        Action::AgeFast
    };
    bridge.act(i, action);
    bridge.port_mut(i).fdb_flush = false;
}

/// newTcWhile (17.21.7).
fn new_tc_while(bridge: &mut Bridge, i: usize) {
    let slow = bridge.root_times.max_age + bridge.root_times.forward_delay;
    let port = bridge.port_mut(i);
    if port.timers.tc_while != 0 {
        return;
    }
    if port.send_rstp {
        port.timers.tc_while = port.hello_time() + 1;
        port.new_info = true;
    } else {
        port.timers.tc_while = slow;
    }
}

/// setTcPropTree (17.21.18).
fn set_tc_prop_tree(bridge: &mut Bridge, i: usize) {
    bridge.each_port_with_place(|place, port| {
        if place != i {
            port.tc_prop = true;
        }
    });
}
