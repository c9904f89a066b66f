//! Port Transmit state machine (802.1D-2004, 17.26).

use super::bpdu::{Bpdu, Flags};
use super::port::Port;
use super::types::Role;
use super::{Action, Bridge};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    TransmitInit,
    TransmitPeriodic,
    Idle,
    TransmitConfig,
    TransmitTcn,
    TransmitRstp,
}

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::TransmitInit);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    let hold = bridge.config.transmit_hold;
    let port = bridge.port(i);
    let next = match port.states.ptx {
        State::Idle if port.settled() => {
            if port.timers.hello_when == 0 {
                State::TransmitPeriodic
            } else if !port.new_info || port.tx_count >= hold {
                return false;
            } else if port.send_rstp {
                State::TransmitRstp
            } else if port.role == Role::Designated {
                State::TransmitConfig
            } else if port.role == Role::Root {
                State::TransmitTcn
            } else {
                return false;
            }
        }
        State::Idle => return false,
        _ => State::Idle,
    };
    enter(bridge, i, next);
    true
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    let port = bridge.port_mut(i);
    port.states.ptx = state;
    match state {
        State::TransmitInit => {
            port.new_info = true;
            port.tx_count = 0;
        }
        State::TransmitPeriodic => {
            port.new_info |=
                port.role == Role::Designated || (port.role == Role::Root && port.timers.tc_while != 0);
        }
        State::Idle => port.timers.hello_when = port.hello_time(),
        State::TransmitConfig => {
            let bpdu = tx_config(port);
            send(bridge, i, bpdu);
            bridge.port_mut(i).tc_ack = false;
        }
        State::TransmitTcn => send(bridge, i, Bpdu::TopologyChange),
        State::TransmitRstp => {
            let bpdu = tx_rstp(port);
            send(bridge, i, bpdu);
            bridge.port_mut(i).tc_ack = false;
        }
    }
}

fn send(bridge: &mut Bridge, i: usize, bpdu: Bpdu) {
    let port = bridge.port_mut(i);
    port.new_info = false;
    if port.port_enabled {
        port.tx_count += 1;
        bridge.act(i, Action::Send(bpdu));
    }
}

/// txConfig (17.21.19).
fn tx_config(port: &Port) -> Bpdu {
    let flags = Flags {
        topology_change: port.timers.tc_while != 0,
        topology_change_ack: port.tc_ack,
        ..Flags::default()
    };
    Bpdu::Config {
        priority: port.designated_priority,
        times: port.designated_times,
        flags,
    }
}

/// txRstp (17.21.20).
fn tx_rstp(port: &Port) -> Bpdu {
    let flags = Flags {
        topology_change: port.timers.tc_while != 0,
        proposal: port.proposing,
        learning: port.learning,
        forwarding: port.forwarding,
        agreement: port.agree,
        topology_change_ack: false,
    };
    Bpdu::Rapid {
        priority: port.designated_priority,
        times: port.designated_times,
        flags,
        role: port.role,
    }
}
