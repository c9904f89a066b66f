//! Of networks.

use super::{List, Network, Uuid};
use crate::xdr::xdr_struct;

/// Most networks in one list.
pub const MAX_NETWORKS: usize = 16384;
/// Most ports in one list.
pub const MAX_NETWORK_PORTS: usize = 16384;
/// Most leases in one list.
pub const MAX_LEASES: usize = 65536;

xdr_struct! {
    /// A network and flags.
    NetworkFlagsArgs {
        /// The network.
        network: Network,
        /// By the procedure.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NETWORK_SET_AUTOSTART.
    NetworkSetAutostartArgs {
        /// The network.
        network: Network,
        /// Whether it starts with the host.
        autostart: i32,
    }
}

xdr_struct! {
    /// Of NETWORK_UPDATE.
    NetworkUpdateArgs {
        /// The network.
        network: Network,
        /// What is done (`virNetworkUpdateCommand`).
        command: u32,
        /// Where (`virNetworkUpdateSection`).
        section: u32,
        /// Of which parent; -1 for any.
        parent: i32,
        /// The element.
        xml: String,
        /// 1: of the network that runs, 2: of its definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_NETWORKS.
    ListAllNetworksRet {
        /// The networks.
        networks: List<Network, MAX_NETWORKS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_NETWORK_EVENT_REGISTER_ANY.
    NetworkEventRegisterArgs {
        /// The kind of event.
        event: i32,
        /// Of which network; of all if it is missing.
        network: Option<Network>,
    }
}

xdr_struct! {
    /// A network's life cycle went on.
    NetworkLifecycleMessage {
        /// The subscription.
        callback: i32,
        /// The network.
        network: Network,
        /// What happened.
        event: i32,
        /// How; always 0.
        detail: i32,
    }
}

xdr_struct! {
    /// Of NETWORK_GET_DHCP_LEASES.
    DhcpLeasesArgs {
        /// The network.
        network: Network,
        /// Of this card only.
        mac: Option<String>,
        /// Whether the list is wanted, or only its length.
        need_results: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// An address that a guest got.
    DhcpLease {
        /// The bridge.
        interface: String,
        /// When it ends, in seconds since 1970.
        expires: i64,
        /// 0: IPv4, 1: IPv6.
        kind: i32,
        /// The guest's card.
        mac: Option<String>,
        /// Of DHCPv6.
        iaid: Option<String>,
        /// The address.
        address: String,
        /// Bits of the network's part.
        prefix: u32,
        /// The guest's name.
        hostname: Option<String>,
        /// What the guest calls itself, in hexadecimal digits.
        client_id: Option<String>,
    }
}

xdr_struct! {
    /// Of NETWORK_GET_DHCP_LEASES.
    DhcpLeasesRet {
        /// The leases.
        leases: List<DhcpLease, MAX_LEASES>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// A guest's place at a network.
    NetworkPort {
        /// The network.
        network: Network,
        /// What identifies the port.
        uuid: Uuid,
    }
}

xdr_struct! {
    /// Of NETWORK_LIST_ALL_PORTS.
    NetworkPortsArgs {
        /// The network.
        network: Network,
        /// Whether the list is wanted, or only its length.
        need_results: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NETWORK_LIST_ALL_PORTS.
    NetworkPortsRet {
        /// The ports.
        ports: List<NetworkPort, MAX_NETWORK_PORTS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of NETWORK_PORT_GET_PARAMETERS.
    NetworkPortParametersArgs {
        /// The port.
        port: NetworkPort,
        /// Room; 0 asks how many there are.
        count: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// A port and flags.
    NetworkPortFlagsArgs {
        /// The port.
        port: NetworkPort,
        /// None.
        flags: u32,
    }
}
