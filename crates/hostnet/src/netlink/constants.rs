//! Numbers of the kernel's interface: `<linux/rtnetlink.h>`, `<linux/if_link.h>`, `<linux/neighbour.h>`, `<linux/if_bridge.h>`.

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;

pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
pub(crate) const IFLA_STATS64: u16 = 23;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
pub(crate) const RTEXT_FILTER_BRVLAN: u32 = 2;

pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(crate) const IFLA_INFO_SLAVE_DATA: u16 = 5;

pub(crate) const IFLA_BR_FORWARD_DELAY: u16 = 1;
pub(crate) const IFLA_BR_HELLO_TIME: u16 = 2;
pub(crate) const IFLA_BR_MAX_AGE: u16 = 3;
pub(crate) const IFLA_BR_AGEING_TIME: u16 = 4;
pub(crate) const IFLA_BR_STP_STATE: u16 = 5;
pub(crate) const IFLA_BR_PRIORITY: u16 = 6;
pub(crate) const IFLA_BR_VLAN_FILTERING: u16 = 7;
pub(crate) const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
pub(crate) const IFLA_BR_ROOT_ID: u16 = 10;
pub(crate) const IFLA_BR_BRIDGE_ID: u16 = 11;
pub(crate) const IFLA_BR_ROOT_PORT: u16 = 12;
pub(crate) const IFLA_BR_ROOT_PATH_COST: u16 = 13;
pub(crate) const IFLA_BR_TOPOLOGY_CHANGE: u16 = 14;
pub(crate) const IFLA_BR_FDB_FLUSH: u16 = 21;

pub(crate) const IFLA_BRPORT_STATE: u16 = 1;
pub(crate) const IFLA_BRPORT_PRIORITY: u16 = 2;
pub(crate) const IFLA_BRPORT_COST: u16 = 3;
pub(crate) const IFLA_BRPORT_MODE: u16 = 4;
pub(crate) const IFLA_BRPORT_GUARD: u16 = 5;
pub(crate) const IFLA_BRPORT_PROTECT: u16 = 6;
pub(crate) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(crate) const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
pub(crate) const IFLA_BRPORT_BRIDGE_ID: u16 = 14;
pub(crate) const IFLA_BRPORT_DESIGNATED_PORT: u16 = 15;
pub(crate) const IFLA_BRPORT_ID: u16 = 17;
pub(crate) const IFLA_BRPORT_NO: u16 = 18;
pub(crate) const IFLA_BRPORT_FLUSH: u16 = 24;
pub(crate) const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(crate) const IFLA_BRPORT_LOCKED: u16 = 39;

pub(crate) const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
pub(crate) const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
pub(crate) const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;

pub(crate) const IFLA_MACVLAN_MODE: u16 = 1;

pub(crate) const IFLA_TUN_OWNER: u16 = 1;
pub(crate) const IFLA_TUN_GROUP: u16 = 2;
pub(crate) const IFLA_TUN_TYPE: u16 = 3;
pub(crate) const IFLA_TUN_VNET_HDR: u16 = 5;
pub(crate) const IFLA_TUN_MULTI_QUEUE: u16 = 7;

pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NDA_CACHEINFO: u16 = 3;
pub(crate) const NDA_VLAN: u16 = 5;
pub(crate) const NDA_MASTER: u16 = 9;
pub(crate) const NTF_SELF: u8 = 1 << 1;
pub(crate) const NTF_MASTER: u8 = 1 << 2;
pub(crate) const NUD_REACHABLE: u16 = 0x02;
pub(crate) const NUD_NOARP: u16 = 0x40;
pub(crate) const NUD_PERMANENT: u16 = 0x80;

pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
pub(crate) const IFA_LABEL: u16 = 3;
pub(crate) const IFA_BROADCAST: u16 = 4;
pub(crate) const IFA_FLAGS: u16 = 8;
pub(crate) const IFA_F_TEMPORARY: u32 = 0x01;
pub(crate) const IFA_F_NODAD: u32 = 0x02;
pub(crate) const IFA_F_MANAGETEMPADDR: u32 = 0x100;
pub(crate) const IFA_F_NOPREFIXROUTE: u32 = 0x200;

pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_MULTIPATH: u16 = 9;
pub(crate) const RTA_CACHEINFO: u16 = 12;
pub(crate) const RTA_TABLE: u16 = 15;
pub(crate) const RTA_VIA: u16 = 18;
pub(crate) const RTA_NH_ID: u16 = 30;
pub(crate) const RTN_UNICAST: u8 = 1;
pub(crate) const RTPROT_KERNEL: u8 = 2;
pub(crate) const RT_TABLE_LOCAL: u32 = 255;

pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const IFF_UP: u32 = 1;
