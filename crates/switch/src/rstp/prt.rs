//! Port Role Transitions state machine (802.1D-2004, 17.29): from a role that was chosen to what the port does.
//!
//! Its states are those of figures 17-20 to 17-23. From each state that the standard leaves at once the machine comes back to
//! the resting state of the role.

use super::Bridge;
use super::port::Port;
use super::types::Role;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    InitPort,
    DisablePort,
    DisabledPort,
    RootPort,
    RootProposed,
    RootAgreed,
    ReRoot,
    RootForward,
    RootLearn,
    ReRooted,
    DesignatedPort,
    DesignatedPropose,
    DesignatedSynced,
    DesignatedRetired,
    DesignatedForward,
    DesignatedLearn,
    DesignatedDiscard,
    BlockPort,
    AlternatePort,
    AlternateProposed,
    AlternateAgreed,
    BackupPort,
}

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::InitPort);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    match next(bridge, i) {
        Some(state) => {
            enter(bridge, i, state);
            true
        }
        None => false,
    }
}

fn next(bridge: &Bridge, i: usize) -> Option<State> {
    use State::*;
    let port = bridge.port(i);
    match port.states.prt {
        InitPort => return Some(DisablePort),
        RootProposed | RootAgreed | ReRoot | RootForward | RootLearn | ReRooted => return Some(RootPort),
        DesignatedPropose | DesignatedSynced | DesignatedRetired | DesignatedForward | DesignatedLearn
        | DesignatedDiscard => return Some(DesignatedPort),
        AlternateProposed | AlternateAgreed | BackupPort => return Some(AlternatePort),
        _ => {}
    }
    if !port.settled() {
        return None;
    }
    if port.role != port.selected_role {
        return Some(match port.selected_role {
            Role::Disabled => DisablePort,
            Role::Root => RootPort,
            Role::Designated => DesignatedPort,
            Role::Alternate | Role::Backup => BlockPort,
        });
    }
    match port.states.prt {
        DisablePort => (!port.learning && !port.forwarding).then_some(DisabledPort),
        DisabledPort => {
            let stir = port.timers.fd_while != port.max_age() || port.sync || port.re_root || !port.synced;
            stir.then_some(DisabledPort)
        }
        BlockPort => (!port.learning && !port.forwarding).then_some(AlternatePort),
        AlternatePort => alternate(bridge, i),
        RootPort => root(bridge, i),
        DesignatedPort => designated(port),
        _ => None,
    }
}

/// Figure 17-21.
fn root(bridge: &Bridge, i: usize) -> Option<State> {
    let port = bridge.port(i);
    if port.proposed && !port.agree {
        return Some(State::RootProposed);
    }
    if (!port.agree && bridge.all_synced()) || (port.proposed && port.agree) {
        return Some(State::RootAgreed);
    }
    if !port.forward && !port.re_root {
        return Some(State::ReRoot);
    }
    if port.re_root && port.forward {
        return Some(State::ReRooted);
    }
    if port.timers.rr_while != port.fwd_delay() {
        return Some(State::RootPort);
    }
    if !port.forward {
        let at_once = || bridge.rstp_version() && port.timers.rb_while == 0 && bridge.re_rooted(i);
        if port.timers.fd_while == 0 || at_once() {
            return Some(if port.learn {
                State::RootForward
            } else {
                State::RootLearn
            });
        }
    }
    None
}

/// Figure 17-22.
fn designated(port: &Port) -> Option<State> {
    if !port.forward && !port.agreed && !port.proposing && !port.oper_edge {
        return Some(State::DesignatedPropose);
    }
    let still = !port.learning && !port.forwarding && !port.synced;
    if still
        || (port.agreed && !port.synced)
        || (port.oper_edge && !port.synced)
        || (port.sync && port.synced)
    {
        return Some(State::DesignatedSynced);
    }
    if port.timers.rr_while == 0 && port.re_root {
        return Some(State::DesignatedRetired);
    }
    let wait = (port.sync && !port.synced) || (port.re_root && port.timers.rr_while != 0) || port.disputed;
    if wait && !port.oper_edge && (port.learn || port.forward) {
        return Some(State::DesignatedDiscard);
    }
    let may = port.timers.fd_while == 0 || port.agreed || port.oper_edge;
    if may && (port.timers.rr_while == 0 || !port.re_root) && !port.sync && !port.forward {
        return Some(if port.learn {
            State::DesignatedForward
        } else {
            State::DesignatedLearn
        });
    }
    None
}

/// Figure 17-23.
fn alternate(bridge: &Bridge, i: usize) -> Option<State> {
    let port = bridge.port(i);
    if port.proposed && !port.agree {
        return Some(State::AlternateProposed);
    }
    if (!port.agree && bridge.all_synced()) || (port.proposed && port.agree) {
        return Some(State::AlternateAgreed);
    }
    if port.role == Role::Backup && port.timers.rb_while != 2 * port.hello_time() {
        return Some(State::BackupPort);
    }
    let stir = port.timers.fd_while != port.forward_delay() || port.sync || port.re_root || !port.synced;
    stir.then_some(State::AlternatePort)
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    match state {
        // setSyncTree (17.21.14).
        State::RootProposed | State::AlternateProposed => bridge.each_port(|port| port.sync = true),
        // setReRootTree (17.21.15).
        State::ReRoot => bridge.each_port(|port| port.re_root = true),
        _ => {}
    }
    let port = bridge.port_mut(i);
    port.states.prt = state;
    match state {
        State::InitPort => {
            port.role = Role::Disabled;
            port.learn = false;
            port.forward = false;
            port.synced = false;
            port.sync = true;
            port.re_root = true;
            port.timers.rr_while = port.fwd_delay();
            port.timers.fd_while = port.max_age();
            port.timers.rb_while = 0;
        }
        State::DisablePort | State::BlockPort => {
            port.role = port.selected_role;
            port.learn = false;
            port.forward = false;
        }
        State::DisabledPort => rest(port, port.max_age()),
        State::AlternatePort => rest(port, port.forward_delay()),
        State::BackupPort => port.timers.rb_while = 2 * port.hello_time(),
        State::AlternateProposed | State::RootProposed => port.proposed = false,
        State::AlternateAgreed => agree(port),
        State::RootAgreed => {
            port.sync = false;
            agree(port);
        }
        State::RootPort => {
            port.role = Role::Root;
            port.timers.rr_while = port.fwd_delay();
        }
        State::ReRoot => {}
        State::ReRooted | State::DesignatedRetired => port.re_root = false,
        State::RootForward => {
            port.timers.fd_while = 0;
            port.forward = true;
        }
        State::RootLearn | State::DesignatedLearn => {
            port.timers.fd_while = port.forward_delay();
            port.learn = true;
        }
        State::DesignatedPort => port.role = Role::Designated,
        State::DesignatedPropose => {
            port.proposing = true;
            port.timers.edge_delay_while = port.edge_delay();
            port.new_info = true;
        }
        State::DesignatedSynced => {
            port.timers.rr_while = 0;
            port.synced = true;
            port.sync = false;
        }
        State::DesignatedForward => {
            port.forward = true;
            port.timers.fd_while = 0;
            port.agreed = port.send_rstp;
        }
        State::DesignatedDiscard => {
            port.learn = false;
            port.forward = false;
            port.disputed = false;
            port.timers.fd_while = port.forward_delay();
        }
    }
}

/// A port that does nothing: it is in step with any other.
fn rest(port: &mut Port, delay: u16) {
    port.timers.fd_while = delay;
    port.timers.rr_while = 0;
    port.synced = true;
    port.sync = false;
    port.re_root = false;
}

fn agree(port: &mut Port) {
    port.proposed = false;
    port.agree = true;
    port.new_info = true;
}
