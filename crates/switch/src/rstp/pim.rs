//! Port Information state machine (802.1D-2004, 17.27): what a port knows, and where it comes from.

use super::Bridge;
use super::bpdu::{Bpdu, Flags};
use super::port::{InfoIs, Port, RcvdInfo};
use super::types::{Priority, Role};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Disabled,
    Aged,
    Update,
    Current,
    Receive,
    SuperiorDesignated,
    RepeatedDesignated,
    InferiorDesignated,
    NotDesignated,
    Other,
}

pub(super) fn begin(bridge: &mut Bridge, i: usize) {
    enter(bridge, i, State::Disabled);
}

pub(super) fn step(bridge: &mut Bridge, i: usize) -> bool {
    let port = bridge.port(i);
    let next = if !port.port_enabled && port.info_is != InfoIs::Disabled {
        State::Disabled
    } else {
        match port.states.pim {
            State::Disabled if port.port_enabled => State::Aged,
            State::Disabled if port.rcvd_msg => State::Disabled,
            State::Aged if port.settled_for_update() => State::Update,
            State::Current if port.settled_for_update() => State::Update,
            State::Current
                if port.info_is == InfoIs::Received
                    && port.timers.rcvd_info_while == 0
                    && !port.updt_info
                    && !port.rcvd_msg =>
            {
                State::Aged
            }
            State::Current if port.rcvd_msg && !port.updt_info => State::Receive,
            State::Receive => match port.rcvd_info {
                RcvdInfo::SuperiorDesignated => State::SuperiorDesignated,
                RcvdInfo::RepeatedDesignated => State::RepeatedDesignated,
                RcvdInfo::InferiorDesignated => State::InferiorDesignated,
                RcvdInfo::InferiorRootAlternate => State::NotDesignated,
                RcvdInfo::Other => State::Other,
            },
            State::Disabled | State::Aged | State::Current => return false,
            _ => State::Current,
        }
    };
    enter(bridge, i, next);
    true
}

impl Port {
    fn settled_for_update(&self) -> bool {
        self.selected && self.updt_info
    }
}

fn enter(bridge: &mut Bridge, i: usize, state: State) {
    let rstp = bridge.rstp_version();
    let port = bridge.port_mut(i);
    port.states.pim = state;
    match state {
        State::Disabled => {
            port.rcvd_msg = false;
            port.proposing = false;
            port.proposed = false;
            port.agree = false;
            port.agreed = false;
            port.timers.rcvd_info_while = 0;
            port.info_is = InfoIs::Disabled;
            port.reselect = true;
            port.selected = false;
        }
        State::Aged => {
            port.info_is = InfoIs::Aged;
            port.reselect = true;
            port.selected = false;
        }
        State::Update => {
            port.proposing = false;
            port.proposed = false;
            port.agreed = port.agreed && better_or_same_info(port, InfoIs::Mine);
            port.synced = port.synced && port.agreed;
            port.port_priority = port.designated_priority;
            port.port_times = port.designated_times;
            port.updt_info = false;
            port.info_is = InfoIs::Mine;
            port.new_info = true;
        }
        State::Current => {}
        State::Receive => port.rcvd_info = rcv_info(port),
        State::SuperiorDesignated => {
            port.agreed = false;
            port.proposing = false;
            record_proposal(port);
            set_tc_flags(port);
            port.agree = port.agree && better_or_same_info(port, InfoIs::Received);
            record_priority(port);
            record_times(port);
            updt_rcvd_info_while(port);
            port.info_is = InfoIs::Received;
            port.reselect = true;
            port.selected = false;
            port.rcvd_msg = false;
        }
        State::RepeatedDesignated => {
            record_proposal(port);
            set_tc_flags(port);
            updt_rcvd_info_while(port);
            port.rcvd_msg = false;
        }
        State::InferiorDesignated => {
            record_dispute(port);
            port.rcvd_msg = false;
        }
        State::NotDesignated => {
            record_agreement(port, rstp);
            set_tc_flags(port);
            port.rcvd_msg = false;
        }
        State::Other => port.rcvd_msg = false,
    }
}

/// betterorsameinfo (17.21.1).
fn better_or_same_info(port: &Port, new_info_is: InfoIs) -> bool {
    port.info_is == new_info_is
        && match new_info_is {
            InfoIs::Received => port.msg_priority <= port.port_priority,
            InfoIs::Mine => port.designated_priority <= port.port_priority,
            InfoIs::Disabled | InfoIs::Aged => false,
        }
}

/// What a BPDU says of vector, role and flags. One of unknown role counts as a Configuration BPDU (9.2.9).
fn contents(port: &Port) -> Option<(Priority, Role, Flags)> {
    match port.message {
        Bpdu::TopologyChange => None,
        Bpdu::Config { priority, flags, .. } => Some((priority, Role::Designated, flags)),
        Bpdu::Rapid {
            priority,
            flags,
            role: Role::Disabled,
            ..
        } => {
            let flags = Flags {
                topology_change: flags.topology_change,
                ..Flags::default()
            };
            Some((priority, Role::Designated, flags))
        }
        Bpdu::Rapid {
            priority,
            flags,
            role,
            ..
        } => Some((priority, role, flags)),
    }
}

/// rcvInfo (17.21.8). A Topology Change Notification has no vector; what it says is noted here.
fn rcv_info(port: &mut Port) -> RcvdInfo {
    let Some((priority, role, _)) = contents(port) else {
        set_tc_flags(port);
        return RcvdInfo::Other;
    };
    if let Bpdu::Config { times, .. } | Bpdu::Rapid { times, .. } = port.message {
        port.msg_times = times;
    }
    port.msg_priority = priority;
    let of_port = &port.port_priority;
    if role != Role::Designated {
        return if priority >= *of_port {
            RcvdInfo::InferiorRootAlternate
        } else {
            RcvdInfo::Other
        };
    }
    if priority == *of_port {
        return match (port.msg_times == port.port_times, port.info_is) {
            (true, InfoIs::Received) => RcvdInfo::RepeatedDesignated,
            (true, _) => RcvdInfo::Other,
            (false, _) => RcvdInfo::SuperiorDesignated,
        };
    }
    if priority.is_superior_to(of_port) {
        RcvdInfo::SuperiorDesignated
    } else {
        RcvdInfo::InferiorDesignated
    }
}

/// recordAgreement (17.21.9).
fn record_agreement(port: &mut Port, rstp: bool) {
    let agreement = matches!(
        port.message,
        Bpdu::Rapid {
            flags: Flags { agreement: true, .. },
            ..
        }
    );
    port.agreed = rstp && port.config.point_to_point && agreement;
    if port.agreed {
        port.proposing = false;
    }
}

/// recordDispute (17.21.10, as 802.1Q-2005 corrects it in 13.26.9): who is inferior and yet learns does not hear this port.
fn record_dispute(port: &mut Port) {
    if let Some((_, _, Flags { learning: true, .. })) = contents(port) {
        port.disputed = true;
        port.agreed = false;
    }
}

/// recordProposal (17.21.11).
fn record_proposal(port: &mut Port) {
    if let Some((_, Role::Designated, Flags { proposal: true, .. })) = contents(port) {
        port.proposed = true;
    }
}

/// recordPriority (17.21.12).
fn record_priority(port: &mut Port) {
    port.port_priority = port.msg_priority;
}

/// recordTimes (17.21.13).
fn record_times(port: &mut Port) {
    port.port_times = port.msg_times;
}

/// setTcFlags (17.21.17).
fn set_tc_flags(port: &mut Port) {
    match port.message {
        Bpdu::TopologyChange => port.rcvd_tcn = true,
        Bpdu::Config { flags, .. } => {
            port.rcvd_tc |= flags.topology_change;
            port.rcvd_tc_ack |= flags.topology_change_ack;
        }
        Bpdu::Rapid { flags, .. } => port.rcvd_tc |= flags.topology_change,
    }
}

/// updtRcvdInfoWhile (17.21.23): three hellos, or nothing if the information is too old one bridge on.
fn updt_rcvd_info_while(port: &mut Port) {
    let times = &port.port_times;
    port.timers.rcvd_info_while = if times.message_age < times.max_age {
        3 * times.hello
    } else {
        0
    };
}
