//! Of calls that change guests: devices, sizes, pins, texts; and of their network cards.

use super::{Domain, List, Opaque, TypedParameter};
use crate::xdr::xdr_struct;

/// Most bytes of one map of CPUs.
pub const MAX_CPU_MAP: usize = 2048;
/// Most bytes of several maps.
pub const MAX_CPU_MAPS: usize = 8_388_608;

xdr_struct! {
    /// A guest and a device.
    DeviceArgs {
        /// The guest.
        domain: Domain,
        /// The device's XML.
        xml: String,
    }
}

xdr_struct! {
    /// A guest, a device and flags.
    DeviceFlagsArgs {
        /// The guest.
        domain: Domain,
        /// The device's XML, or its alias.
        xml: String,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest and an amount of memory.
    MemoryArgs {
        /// The guest.
        domain: Domain,
        /// KiB.
        memory: u64,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_MEMORY_FLAGS.
    MemoryFlagsArgs {
        /// The guest.
        domain: Domain,
        /// KiB.
        memory: u64,
        /// 1: while it runs, 2: in the definition, 4: the most that it may have.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_MEMORY_STATS_PERIOD.
    MemoryPeriodArgs {
        /// The guest.
        domain: Domain,
        /// Seconds.
        period: i32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_VCPUS.
    VcpusArgs {
        /// The guest.
        domain: Domain,
        /// CPUs.
        count: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_VCPUS_FLAGS.
    VcpusFlagsArgs {
        /// The guest.
        domain: Domain,
        /// CPUs.
        count: u32,
        /// 1: while it runs, 2: in the definition, 4: the most that it may have.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_VCPU and DOMAIN_SET_GUEST_VCPUS.
    SetVcpuArgs {
        /// The guest.
        domain: Domain,
        /// Which CPUs, as `1,3-4`.
        cpus: String,
        /// 1: they are there from now on, 0: they are not.
        state: i32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_PIN_VCPU.
    PinVcpuArgs {
        /// The guest.
        domain: Domain,
        /// Which CPU.
        vcpu: u32,
        /// The host's CPUs that it may run on, a bit each.
        map: Opaque<MAX_CPU_MAP>,
    }
}

xdr_struct! {
    /// Of DOMAIN_PIN_VCPU_FLAGS.
    PinVcpuFlagsArgs {
        /// The guest.
        domain: Domain,
        /// Which CPU.
        vcpu: u32,
        /// The host's CPUs that it may run on, a bit each.
        map: Opaque<MAX_CPU_MAP>,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_VCPU_PIN_INFO.
    VcpuPinInfoArgs {
        /// The guest.
        domain: Domain,
        /// For how many CPUs there is room.
        count: i32,
        /// Bytes of each CPU's map.
        length: i32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_PIN_EMULATOR.
    PinEmulatorArgs {
        /// The guest.
        domain: Domain,
        /// The host's CPUs that its other threads may run on, a bit each.
        map: Opaque<MAX_CPU_MAP>,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_EMULATOR_PIN_INFO.
    EmulatorPinInfoArgs {
        /// The guest.
        domain: Domain,
        /// Bytes of the map.
        length: i32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Maps of CPUs, one after the other.
    CpuMaps {
        /// A bit for each of the host's CPUs.
        maps: Opaque<MAX_CPU_MAPS>,
        /// How many.
        count: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_METADATA.
    SetMetadataArgs {
        /// The guest.
        domain: Domain,
        /// 0 description, 1 title, 2 an element.
        kind: i32,
        /// The text; without it there is to be none.
        metadata: Option<String>,
        /// The prefix of an element's name.
        key: Option<String>,
        /// Whose element.
        uri: Option<String>,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_RENAME.
    RenameArgs {
        /// The guest.
        domain: Domain,
        /// What it is to be called.
        name: Option<String>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_GET_DOMAIN_CAPABILITIES.
    DomainCapabilitiesArgs {
        /// Path of the program that runs guests.
        emulator: Option<String>,
        /// The architecture.
        arch: Option<String>,
        /// The platform.
        machine: Option<String>,
        /// `kvm` or `qemu`.
        kind: Option<String>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_GET_CPU_MODEL_NAMES.
    CpuModelsArgs {
        /// The architecture.
        arch: String,
        /// Whether the list is wanted, or only its length.
        need_results: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_GET_CPU_MODEL_NAMES.
    CpuModelsRet {
        /// Their names.
        names: List<String, 8192>,
        /// How many.
        count: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_INTERFACE_STATS.
    InterfaceStatsArgs {
        /// The guest.
        domain: Domain,
        /// The host's interface, or the card's address.
        device: String,
    }
}

xdr_struct! {
    /// What went through a card, as the guest sees it; -1 for what is not counted.
    InterfaceStats {
        /// Bytes that the guest received.
        rx_bytes: i64,
        /// Frames.
        rx_packets: i64,
        /// Errors.
        rx_errors: i64,
        /// Frames that were dropped.
        rx_dropped: i64,
        /// Bytes that the guest sent.
        tx_bytes: i64,
        /// Frames.
        tx_packets: i64,
        /// Errors.
        tx_errors: i64,
        /// Frames that were dropped.
        tx_dropped: i64,
    }
}

xdr_struct! {
    /// Of DOMAIN_INTERFACE_ADDRESSES.
    InterfaceAddressesArgs {
        /// The guest.
        domain: Domain,
        /// 0: leases, 1: an agent in the guest, 2: the host's table of neighbours.
        source: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// An address of a card.
    InterfaceAddress {
        /// 0: IPv4, 1: IPv6.
        kind: i32,
        /// The address.
        address: String,
        /// Bits of the network's part.
        prefix: u32,
    }
}

xdr_struct! {
    /// A card with its addresses.
    InterfaceAddresses {
        /// The host's interface.
        name: String,
        /// The card's Ethernet address.
        mac: Option<String>,
        /// Its addresses.
        addresses: List<InterfaceAddress, 2048>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_SCHEDULER_TYPE.
    SchedulerType {
        /// Which scheduler.
        name: String,
        /// How many parameters it has.
        parameters: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS.
    SchedulerParametersArgs {
        /// The guest.
        domain: Domain,
        /// Room.
        count: i32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS.
    SchedulerParameters {
        /// The parameters.
        params: List<TypedParameter, 16>,
    }
}

xdr_struct! {
    /// Of DOMAIN_BLOCK_STATS.
    OldBlockStatsArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its path; empty for all together.
        path: String,
    }
}

xdr_struct! {
    /// What went through a disk; -1 for what is not counted.
    OldBlockStats {
        /// Reads.
        reads: i64,
        /// Bytes read.
        read_bytes: i64,
        /// Writes.
        writes: i64,
        /// Bytes written.
        written_bytes: i64,
        /// Errors.
        errors: i64,
    }
}

xdr_struct! {
    /// Of DOMAIN_BLOCK_RESIZE.
    BlockResizeArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its path.
        disk: String,
        /// The new size: KiB, or bytes with flag 1.
        size: u64,
        /// 1: bytes.
        flags: u32,
    }
}

xdr_struct! {
    /// A device came or went.
    DeviceMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// The device's alias.
        alias: String,
    }
}

xdr_struct! {
    /// Of DOMAIN_PM_SUSPEND_FOR_DURATION.
    PmSuspendArgs {
        /// The guest.
        domain: Domain,
        /// 0: memory, 1: disk, 2: both.
        target: u32,
        /// For how many seconds; 0 for no end.
        duration: u64,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest set its real-time clock.
    RtcMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// Seconds by which it is ahead of UTC.
        offset: i64,
    }
}

xdr_struct! {
    /// A guest went to sleep, or woke up.
    PmMessage {
        /// The subscription.
        callback: i32,
        /// Always 0.
        reason: i32,
        /// The guest.
        domain: Domain,
    }
}

xdr_struct! {
    /// The tray of a drive moved.
    TrayMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// The drive's alias.
        alias: String,
        /// 0: it opened, 1: it closed.
        reason: i32,
    }
}

xdr_struct! {
    /// A guest's balloon has another size.
    BalloonMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// KiB that the guest has.
        actual: u64,
    }
}

xdr_struct! {
    /// A guest has another amount of a memory device.
    MemoryDeviceMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// The device's alias.
        alias: String,
        /// KiB that it has of it.
        size: u64,
    }
}

xdr_struct! {
    /// A guest let its watchdog run out.
    WatchdogMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// What follows (`virDomainEventWatchdogAction`).
        action: i32,
    }
}

xdr_struct! {
    /// A text about a guest changed.
    MetadataMessage {
        /// The subscription.
        callback: i32,
        /// The guest.
        domain: Domain,
        /// 0 description, 1 title, 2 an element.
        kind: i32,
        /// Whose element.
        uri: Option<String>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_JOB_STATS.
    JobStatsRet {
        /// 0: there is no job.
        kind: i32,
        /// How far it got.
        params: List<TypedParameter, 64>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_BLOCK_JOB_INFO.
    BlockJobArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its image.
        path: String,
        /// 1: bandwidth in bytes.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_BLOCK_JOB_INFO.
    BlockJobRet {
        /// 1 if there is one.
        found: i32,
        /// Its kind.
        kind: i32,
        /// Its limit.
        bandwidth: u64,
        /// How far it got.
        current: u64,
        /// Where it ends.
        end: u64,
    }
}
