//! Arguments and results of the procedures, as they are on the wire.

mod agent;
mod cpu;
mod domain_more;
mod host_interface;
mod network;
mod node_device;
mod screen;
mod secret;
mod storage;
mod tuning;

use crate::xdr::{Chars, Decode, Encode, Reader, XdrError, xdr_struct};
pub use crate::xdr::{List, Opaque};
pub use agent::*;
pub use cpu::*;
pub use domain_more::*;
pub use host_interface::*;
pub use network::*;
pub use node_device::*;
pub use screen::*;
pub use secret::*;
pub use storage::*;
pub use tuning::*;

/// Most guests in one list.
pub const MAX_DOMAINS: usize = 16384;
/// Most parameters of one guest's statistics.
pub const MAX_STATS: usize = 262_144;

/// A UUID.
pub type Uuid = [u8; 16];

xdr_struct! {
    /// A guest.
    Domain {
        /// What it is called.
        name: String,
        /// What stays the same when it is renamed.
        uuid: Uuid,
        /// The number of this run of it, or -1.
        id: i32,
    }
}

xdr_struct! {
    /// A network.
    Network {
        /// What it is called.
        name: String,
        /// What identifies it.
        uuid: Uuid,
    }
}

/// The value of a named parameter.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum TypedValue {
    Int(i32),
    Uint(u32),
    Long(i64),
    Ulong(u64),
    Double(f64),
    Bool(bool),
    Text(String),
}

/// A named parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedParameter {
    /// Its name.
    pub field: String,
    /// Its value.
    pub value: TypedValue,
}

impl TypedParameter {
    /// An unsigned number of 64 bits.
    pub fn ulong(field: impl Into<String>, value: u64) -> Self {
        let (field, value) = (field.into(), TypedValue::Ulong(value));
        Self { field, value }
    }

    /// An unsigned number.
    pub fn uint(field: impl Into<String>, value: u32) -> Self {
        let (field, value) = (field.into(), TypedValue::Uint(value));
        Self { field, value }
    }

    /// A number.
    pub fn int(field: impl Into<String>, value: i32) -> Self {
        let (field, value) = (field.into(), TypedValue::Int(value));
        Self { field, value }
    }

    /// A signed number of 64 bits.
    pub fn long(field: impl Into<String>, value: i64) -> Self {
        let (field, value) = (field.into(), TypedValue::Long(value));
        Self { field, value }
    }

    /// Text.
    pub fn text(field: impl Into<String>, value: impl Into<String>) -> Self {
        let (field, value) = (field.into(), TypedValue::Text(value.into()));
        Self { field, value }
    }
}

impl Decode for TypedParameter {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let field = String::decode(input)?;
        let value = match u32::decode(input)? {
            1 => TypedValue::Int(i32::decode(input)?),
            2 => TypedValue::Uint(u32::decode(input)?),
            3 => TypedValue::Long(i64::decode(input)?),
            4 => TypedValue::Ulong(u64::decode(input)?),
            5 => TypedValue::Double(f64::decode(input)?),
            6 => TypedValue::Bool(bool::decode(input)?),
            7 => TypedValue::Text(String::decode(input)?),
            value => {
                return Err(XdrError::Value {
                    what: "type of a parameter",
                    value,
                });
            }
        };
        Ok(Self { field, value })
    }
}

impl Encode for TypedParameter {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        self.field.encode(output)?;
        let mut tagged = |tag: u32, value: &dyn Fn(&mut Vec<u8>) -> Result<(), XdrError>| {
            tag.encode(output)?;
            value(output)
        };
        match &self.value {
            TypedValue::Int(value) => tagged(1, &|out| value.encode(out)),
            TypedValue::Uint(value) => tagged(2, &|out| value.encode(out)),
            TypedValue::Long(value) => tagged(3, &|out| value.encode(out)),
            TypedValue::Ulong(value) => tagged(4, &|out| value.encode(out)),
            TypedValue::Double(value) => tagged(5, &|out| value.encode(out)),
            TypedValue::Bool(value) => tagged(6, &|out| value.encode(out)),
            TypedValue::Text(value) => tagged(7, &|out| value.encode(out)),
        }
    }
}

xdr_struct! {
    /// Parameters, and how many there are (or would be, to a caller that asked with room for none).
    Parameters<const MAX: usize> {
        /// The parameters.
        params: List<TypedParameter, MAX>,
        /// How many.
        count: i32,
    }
}

xdr_struct! {
    /// Of CONNECT_OPEN.
    OpenArgs {
        /// The URI without host and transport; empty asks the server to choose.
        name: Option<String>,
        /// 1: read-only.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest and flags.
    DomainFlagsArgs {
        /// The guest.
        domain: Domain,
        /// By the procedure.
        flags: u32,
    }
}

xdr_struct! {
    /// A definition and flags.
    XmlFlagsArgs {
        /// The definition.
        xml: String,
        /// By the procedure.
        flags: u32,
    }
}

xdr_struct! {
    /// What the host is.
    NodeInfo {
        /// The architecture.
        model: Chars<32>,
        /// RAM in KiB.
        memory: u64,
        /// CPUs that are on line.
        cpus: i32,
        /// Of a CPU.
        mhz: i32,
        /// NUMA nodes.
        nodes: i32,
        /// Sockets of a node.
        sockets: i32,
        /// Cores of a socket.
        cores: i32,
        /// Threads of a core.
        threads: i32,
    }
}

xdr_struct! {
    /// What a guest is doing.
    DomainInfo {
        /// Its state.
        state: u32,
        /// The most memory it may have, in KiB.
        max_memory: u64,
        /// What it has, in KiB.
        memory: u64,
        /// Its CPUs.
        vcpus: u32,
        /// CPU time of its process, in ns.
        cpu_time: u64,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_VCPUS.
    GetVcpusArgs {
        /// The guest.
        domain: Domain,
        /// For how many CPUs there is room.
        max_info: i32,
        /// Bytes of each CPU's map.
        map_length: i32,
    }
}

xdr_struct! {
    /// A CPU of a guest.
    VcpuInfo {
        /// Its number.
        number: u32,
        /// 0 off line, 1 running, 2 blocked.
        state: i32,
        /// CPU time of its thread, in ns.
        cpu_time: u64,
        /// Where it ran last.
        cpu: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_VCPUS.
    GetVcpusRet {
        /// The CPUs.
        info: List<VcpuInfo, 16384>,
        /// For each the host's CPUs that it may run on, a bit each.
        maps: Opaque<8_388_608>,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_AUTOSTART.
    SetAutostartArgs {
        /// The guest.
        domain: Domain,
        /// Whether it starts with the host.
        autostart: i32,
    }
}

xdr_struct! {
    /// Of NODE_GET_CELLS_FREE_MEMORY.
    CellsArgs {
        /// The first NUMA node.
        start: i32,
        /// How many at most.
        max: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_MEMORY_STATS.
    MemoryStatsArgs {
        /// The guest.
        domain: Domain,
        /// How many at most.
        max: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// One figure of a guest's memory.
    MemoryStat {
        /// Which.
        tag: i32,
        /// KiB, or what the tag says.
        value: u64,
    }
}

xdr_struct! {
    /// A job that a guest is in.
    JobInfo {
        /// 0: none.
        kind: i32,
        /// ms since it began.
        elapsed: u64,
        /// ms that it may still take.
        remaining: u64,
        /// Data: all of it, done, and left.
        data: Progress,
        /// Memory.
        memory: Progress,
        /// Files.
        file: Progress,
    }
}

xdr_struct! {
    /// How far something is, in bytes.
    Progress {
        /// All of it.
        total: u64,
        /// Done.
        processed: u64,
        /// Left.
        remaining: u64,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_BLOCK_INFO.
    BlockInfoArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its path.
        path: String,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// The size of a disk, in bytes.
    BlockInfo {
        /// Taken on the host.
        allocation: u64,
        /// As the guest sees it.
        capacity: u64,
        /// The image's length.
        physical: u64,
    }
}

xdr_struct! {
    /// Of DOMAIN_BLOCK_STATS_FLAGS.
    BlockStatsArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its path; empty for all together.
        path: String,
        /// Room; 0 asks how many there are.
        count: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_OPEN_CONSOLE.
    OpenConsoleArgs {
        /// The guest.
        domain: Domain,
        /// Which console; the first one if it is missing.
        device: Option<String>,
        /// 1: take it from who has it.
        flags: u32,
    }
}

xdr_struct! {
    /// A state and why.
    StateAndReason {
        /// The state.
        state: i32,
        /// The reason, by the state.
        reason: i32,
    }
}

xdr_struct! {
    /// Of NODE_GET_CPU_STATS.
    NodeCpuStatsArgs {
        /// The CPU, or -1 for all.
        cpu: i32,
        /// Room; 0 asks how many there are.
        count: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_GET_MEMORY_STATS.
    NodeMemoryStatsArgs {
        /// Room; 0 asks how many there are.
        count: i32,
        /// The NUMA node, or -1 for all.
        cell: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// A figure of the host.
    NodeStat {
        /// Its name.
        field: String,
        /// Its value.
        value: u64,
    }
}

xdr_struct! {
    /// Figures of the host.
    NodeStats {
        /// The figures.
        params: List<NodeStat, 16>,
        /// How many.
        count: i32,
    }
}

xdr_struct! {
    /// Whether a guest can be talked to.
    ControlInfo {
        /// 0: yes.
        state: u32,
        /// More about it.
        details: u32,
        /// ms that it has been like this.
        time: u64,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_CPU_STATS.
    CpuStatsArgs {
        /// The guest.
        domain: Domain,
        /// Room for each CPU; 0 asks how many there are.
        count: u32,
        /// The first CPU, or -1 for all together.
        start: i32,
        /// How many CPUs; 0 asks how many there are.
        cpus: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_METADATA.
    GetMetadataArgs {
        /// The guest.
        domain: Domain,
        /// 0 description, 1 title, 2 an element.
        kind: i32,
        /// Whose element.
        uri: Option<String>,
        /// 1: of the running guest, 2: of its definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_DOMAINS.
    ListAllArgs {
        /// Whether the list is wanted, or only its length.
        need_results: i32,
        /// Which guests.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_DOMAINS.
    ListAllDomainsRet {
        /// The guests.
        domains: List<Domain, MAX_DOMAINS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of NODE_GET_CPU_MAP.
    CpuMapArgs {
        /// Whether the map is wanted.
        need_map: i32,
        /// Whether the number of CPUs on line is wanted.
        need_online: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of NODE_GET_CPU_MAP.
    CpuMapRet {
        /// A bit for each CPU that is on line.
        map: Opaque<2048>,
        /// How many are on line.
        online: u32,
        /// How many there are.
        count: i32,
    }
}

xdr_struct! {
    /// Of CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY.
    EventRegisterArgs {
        /// The kind of event.
        event: i32,
        /// Of which guest; of all if it is missing.
        domain: Option<Domain>,
    }
}

xdr_struct! {
    /// Of CONNECT_GET_ALL_DOMAIN_STATS.
    AllStatsArgs {
        /// Of which guests; of all if there are none.
        domains: List<Domain, MAX_DOMAINS>,
        /// Which groups of figures; 0 for all.
        stats: u32,
        /// Which guests, if none is named.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest's figures.
    StatsRecord {
        /// The guest.
        domain: Domain,
        /// Its figures.
        params: List<TypedParameter, MAX_STATS>,
    }
}

xdr_struct! {
    /// A guest's life cycle went on.
    LifecycleMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// What happened.
        event: i32,
        /// How, by the event.
        detail: i32,
    }
}

xdr_struct! {
    /// A guest rebooted.
    RebootMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
    }
}
