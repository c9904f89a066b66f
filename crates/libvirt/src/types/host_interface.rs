//! Arguments and results of the calls about network interfaces of the host.

use crate::xdr::{List, xdr_struct};

/// Most interfaces in one list.
pub const MAX_HOST_INTERFACES: usize = 16384;

xdr_struct! {
    /// An interface of the host.
    HostInterface {
        /// Its name.
        name: String,
        /// Its Ethernet address; empty if it has none.
        mac: String,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_INTERFACES.
    ListAllInterfacesRet {
        /// The interfaces.
        interfaces: List<HostInterface, MAX_HOST_INTERFACES>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of INTERFACE_GET_XML_DESC.
    InterfaceXmlArgs {
        /// The interface.
        interface: HostInterface,
        /// 1: as it is defined.
        flags: u32,
    }
}
