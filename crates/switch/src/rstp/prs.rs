//! Port Role Selection state machine (802.1D-2004, 17.28), the one machine of the whole bridge.

use super::Bridge;
use super::port::{InfoIs, Port};
use super::types::{PortId, Priority, Role, Times};

/// INIT_BRIDGE: updtRoleDisabledTree (17.21.26), for the one port that begins.
pub(super) fn begin_port(port: &mut Port) {
    port.selected_role = Role::Disabled;
}

/// ROLE_SELECTION, as often as a port asks for it.
pub(super) fn step(bridge: &mut Bridge) -> bool {
    if !bridge.ports().any(|port| port.reselect) {
        return false;
    }
    bridge.each_port(|port| port.reselect = false);
    updt_roles_tree(bridge);
    // setSelectedTree (17.21.16): nothing has asked for it again since.
    bridge.each_port(|port| port.selected = true);
    true
}

/// updtRolesTree (17.21.25).
fn updt_roles_tree(bridge: &mut Bridge) {
    select_root(bridge);
    let designated = Priority {
        bridge: bridge.id,
        ..bridge.root_priority
    };
    let times = Times {
        hello: bridge.config.hello.into(),
        ..bridge.root_times
    };
    let (id, root_port) = (bridge.id, bridge.root_port);
    bridge.each_port(|port| {
        port.designated_priority = Priority {
            port: port.port_id,
            ..designated
        };
        port.designated_times = times;
        select_role(port, id.mac(), root_port);
    });
}

/// a) to c): the best root path priority vector, and the times that come with it.
fn select_root(bridge: &mut Bridge) {
    let own = bridge.id;
    let best = bridge
        .ports()
        .filter(|port| {
            port.info_is == InfoIs::Received
                && !port.config.root_guard
                && port.port_priority.bridge.mac() != own.mac()
        })
        .map(|port| {
            let cost = port.port_priority.cost.saturating_add(port.config.path_cost);
            (
                Priority {
                    cost,
                    ..port.port_priority
                },
                port.port_id,
                port.port_times,
            )
        })
        .min_by_key(|&(priority, port, _)| (priority, port));
    let own_priority = Priority {
        root: own,
        cost: 0,
        bridge: own,
        port: PortId(0),
    };
    match best {
        Some((priority, port, times)) if priority < own_priority => {
            bridge.root_priority = priority;
            bridge.root_port = Some(port);
            bridge.root_times = Times {
                message_age: times.message_age + 1,
                ..times
            };
        }
        _ => {
            bridge.root_priority = own_priority;
            bridge.root_port = None;
            bridge.root_times = bridge.bridge_times();
        }
    }
}

/// f) to l): the role of one port.
fn select_role(port: &mut Port, own: crate::Mac, root_port: Option<PortId>) {
    let (role, update) = match port.info_is {
        InfoIs::Disabled => (Role::Disabled, port.updt_info),
        InfoIs::Aged => (Role::Designated, true),
        InfoIs::Mine => {
            let changed =
                port.port_priority != port.designated_priority || port.port_times != port.designated_times;
            (Role::Designated, changed || port.updt_info)
        }
        InfoIs::Received if root_port == Some(port.port_id) => (Role::Root, false),
        InfoIs::Received if port.designated_priority < port.port_priority => (Role::Designated, true),
        InfoIs::Received if port.port_priority.bridge.mac() == own => (Role::Backup, false),
        InfoIs::Received => (Role::Alternate, false),
    };
    port.selected_role = role;
    port.updt_info = update;
}
