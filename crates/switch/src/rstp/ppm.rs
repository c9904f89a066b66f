//! Port Protocol Migration state machine (802.1D-2004, 17.24): which protocol the neighbour speaks.

use super::Bridge;
use super::port::MIGRATE_TIME;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    CheckingRstp,
    SelectingStp,
    Sensing,
}

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::CheckingRstp);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    let rstp = bridge.rstp_version();
    let port = bridge.port(i);
    let next = match port.states.ppm {
        State::CheckingRstp if port.timers.mdelay_while == 0 => State::Sensing,
        State::CheckingRstp if port.timers.mdelay_while != MIGRATE_TIME && !port.port_enabled => {
            State::CheckingRstp
        }
        State::SelectingStp if port.timers.mdelay_while == 0 || !port.port_enabled || port.mcheck => {
            State::Sensing
        }
        State::Sensing
            if !port.port_enabled || port.mcheck || (rstp && !port.send_rstp && port.rcvd_rstp) =>
        {
            State::CheckingRstp
        }
        State::Sensing if port.send_rstp && port.rcvd_stp => State::SelectingStp,
        _ => return false,
    };
    enter(bridge, i, next);
    true
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    let rstp = bridge.rstp_version();
    let port = bridge.port_mut(i);
    port.states.ppm = state;
    match state {
        State::CheckingRstp => {
            port.mcheck = false;
            port.send_rstp = rstp;
            port.timers.mdelay_while = MIGRATE_TIME;
        }
        State::SelectingStp => {
            port.send_rstp = false;
            port.timers.mdelay_while = MIGRATE_TIME;
        }
        State::Sensing => {
            port.rcvd_rstp = false;
            port.rcvd_stp = false;
        }
    }
}
