//! Arguments and results of the calls about devices of the host, and about its pages.

use crate::xdr::{List, xdr_struct};

/// Most devices in one list.
pub const MAX_NODE_DEVICES: usize = 65536;
/// Most NUMA nodes, or sizes of pages, in one call.
pub const MAX_CELLS: usize = 1024;

xdr_struct! {
    /// A device of the host.
    NodeDevice {
        /// Its name.
        name: String,
    }
}

xdr_struct! {
    /// Of NODE_NUM_OF_DEVICES.
    CountDevicesArgs {
        /// Of this capability only.
        capability: Option<String>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_LIST_DEVICES.
    ListDevicesArgs {
        /// Of this capability only.
        capability: Option<String>,
        /// How many names at most.
        max: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_NODE_DEVICES.
    ListAllDevicesRet {
        /// The devices.
        devices: List<NodeDevice, MAX_NODE_DEVICES>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of NODE_DEVICE_GET_XML_DESC.
    DeviceXmlArgs {
        /// The device.
        name: String,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_DEVICE_LIST_CAPS.
    ListCapabilitiesArgs {
        /// The device.
        name: String,
        /// How many names at most.
        max: i32,
    }
}

xdr_struct! {
    /// Of NODE_SUSPEND_FOR_DURATION.
    NodeSuspendArgs {
        /// Where to: 0 memory, 1 disk, 2 both.
        target: u32,
        /// For how many seconds.
        duration: u64,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_GET_FREE_PAGES.
    FreePagesArgs {
        /// Sizes in KiB.
        pages: List<u32, MAX_CELLS>,
        /// The first NUMA node, or -1 for the host.
        start: i32,
        /// Of how many.
        cells: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_ALLOC_PAGES.
    AllocPagesArgs {
        /// Sizes in KiB.
        sizes: List<u32, MAX_CELLS>,
        /// How many of each.
        counts: List<u64, MAX_CELLS>,
        /// The first NUMA node, or -1 for the host.
        start: i32,
        /// Of how many.
        cells: u32,
        /// 1: set the number, do not add to it.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY.
    DeviceEventRegisterArgs {
        /// The kind of event.
        event: i32,
        /// Of which device; of all if it is missing.
        device: Option<NodeDevice>,
    }
}

xdr_struct! {
    /// A device came or went.
    DeviceLifecycleMessage {
        /// The subscription.
        callback: i32,
        /// The device.
        device: NodeDevice,
        /// What happened.
        event: i32,
        /// None.
        detail: i32,
    }
}
