//! Port State Transition state machine (802.1D-2004, 17.30).

use super::types::PortState;
use super::{Action, Bridge};

/// Its states are those of the port.
pub type State = PortState;

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::Discarding);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    let port = bridge.port(i);
    let next = match port.states.pst {
        State::Discarding if port.learn => State::Learning,
        State::Learning if !port.learn => State::Discarding,
        State::Learning if port.forward => State::Forwarding,
        State::Forwarding if !port.forward => State::Discarding,
        _ => return false,
    };
    enter(bridge, i, next);
    true
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    let port = bridge.port_mut(i);
    port.states.pst = state;
    port.learning = state != State::Discarding;
    port.forwarding = state == State::Forwarding;
    bridge.act(i, Action::State(state));
}
