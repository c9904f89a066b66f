//! Bridge Detection state machine (802.1D-2004, 17.25): whether a bridge is behind the port.

use super::port::Port;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    Edge,
    #[default]
    NotEdge,
}

pub(super) fn begin(port: &mut Port) {
    enter(
        port,
        if port.config.admin_edge {
            State::Edge
        } else {
            State::NotEdge
        },
    );
}

pub(super) fn step(port: &mut Port) -> bool {
    let admin_edge = port.config.admin_edge;
    let quiet =
        port.timers.edge_delay_while == 0 && port.config.auto_edge && port.send_rstp && port.proposing;
    let next = match port.states.bdm {
        State::Edge if (!port.port_enabled && !admin_edge) || !port.oper_edge => State::NotEdge,
        State::NotEdge if (!port.port_enabled && admin_edge) || quiet => State::Edge,
        _ => return false,
    };
    enter(port, next);
    true
}

fn enter(port: &mut Port, state: State) {
    port.states.bdm = state;
    port.oper_edge = state == State::Edge;
}
