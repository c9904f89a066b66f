//! The types of arguments, answers and events.

use super::Shape;
use super::Shape::{Alternate, Enum, Object, Union};
use crate::control::commands::RUN_STATES;
use crate::spec::WatchdogAction;

/// In alphabetical order.
pub(super) const TYPES: &[(&str, Shape)] = &[
    (
        "ACPIOSTInfo",
        Object(&[
            ("device?", "str"),
            ("slot", "str"),
            ("slot-type", "ACPISlotType"),
            ("source", "int"),
            ("status", "int"),
        ]),
    ),
    ("ACPISlotType", Enum(|| vec!["CPU"])),
    ("AddfdInfo", Object(&[("fdset-id", "int"), ("fd", "int")])),
    ("BalloonInfo", Object(&[("actual", "int")])),
    (
        "BlockDeviceInfo",
        Object(&[
            ("node-name?", "str"),
            ("drv", "str"),
            ("file", "str"),
            ("image", "ImageInfo"),
            ("ro", "bool"),
            ("encrypted", "bool"),
            ("backing_file_depth", "int"),
            ("cache", "BlockdevCacheInfo"),
            ("detect_zeroes", "BlockdevDetectZeroesOptions"),
            ("write_threshold", "int"),
            ("bps", "int"),
            ("bps_rd", "int"),
            ("bps_wr", "int"),
            ("iops", "int"),
            ("iops_rd", "int"),
            ("iops_wr", "int"),
        ]),
    ),
    ("BlockDeviceIoStatus", Enum(|| vec!["ok"])),
    (
        "BlockDeviceStats",
        Object(&[
            ("rd_bytes", "int"),
            ("wr_bytes", "int"),
            ("unmap_bytes", "int"),
            ("rd_operations", "int"),
            ("wr_operations", "int"),
            ("flush_operations", "int"),
            ("unmap_operations", "int"),
            ("rd_total_time_ns", "int"),
            ("wr_total_time_ns", "int"),
            ("flush_total_time_ns", "int"),
            ("unmap_total_time_ns", "int"),
            ("wr_highest_offset", "int"),
            ("rd_merged", "int"),
            ("wr_merged", "int"),
            ("unmap_merged", "int"),
            ("failed_rd_operations", "int"),
            ("failed_wr_operations", "int"),
            ("failed_flush_operations", "int"),
            ("failed_unmap_operations", "int"),
            ("invalid_rd_operations", "int"),
            ("invalid_wr_operations", "int"),
            ("invalid_flush_operations", "int"),
            ("invalid_unmap_operations", "int"),
            ("account_invalid", "bool"),
            ("account_failed", "bool"),
            ("timed_stats", "[BlockDeviceTimedStats]"),
        ]),
    ),
    // There are none: the list is empty.
    (
        "BlockDeviceTimedStats",
        Object(&[
            ("interval_length", "int"),
            ("min_rd_latency_ns", "int"),
            ("max_rd_latency_ns", "int"),
            ("avg_rd_latency_ns", "int"),
            ("min_wr_latency_ns", "int"),
            ("max_wr_latency_ns", "int"),
            ("avg_wr_latency_ns", "int"),
            ("min_flush_latency_ns", "int"),
            ("max_flush_latency_ns", "int"),
            ("avg_flush_latency_ns", "int"),
            ("avg_rd_queue_depth", "number"),
            ("avg_wr_queue_depth", "number"),
        ]),
    ),
    (
        "BlockInfo",
        Object(&[
            ("device", "str"),
            ("qdev?", "str"),
            ("type", "str"),
            ("removable", "bool"),
            ("locked", "bool"),
            ("inserted?", "BlockDeviceInfo"),
            ("tray_open?", "bool"),
            ("io-status?", "BlockDeviceIoStatus"),
        ]),
    ),
    (
        "BlockStats",
        Object(&[
            ("device?", "str"),
            ("qdev?", "str"),
            ("node-name?", "str"),
            ("stats", "BlockDeviceStats"),
        ]),
    ),
    ("BlockdevAioOptions", Enum(|| vec!["threads", "io_uring"])),
    (
        "BlockdevCacheInfo",
        Object(&[("writeback", "bool"), ("direct", "bool"), ("no-flush", "bool")]),
    ),
    (
        "BlockdevCacheOptions",
        Object(&[("direct?", "bool"), ("no-flush?", "bool")]),
    ),
    ("BlockdevChangeReadOnlyMode", Enum(|| vec!["retain", "read-only"])),
    ("BlockdevDetectZeroesOptions", Enum(|| vec!["off"])),
    ("BlockdevDiscardOptions", Enum(|| vec!["unmap"])),
    ("BlockdevDriver", Enum(|| vec!["file", "host_device", "raw"])),
    ("BlockdevLocking", Enum(|| vec!["auto", "on"])),
    (
        "BlockdevOptions",
        Union {
            members: &[
                ("driver", "BlockdevDriver"),
                ("node-name?", "str"),
                ("discard?", "BlockdevDiscardOptions"),
                ("cache?", "BlockdevCacheOptions"),
                ("read-only?", "bool"),
                ("auto-read-only?", "bool"),
                ("force-share?", "bool"),
                ("detect-zeroes?", "BlockdevDetectZeroesOptions"),
            ],
            tag: "driver",
            variants: &[
                ("file", "BlockdevOptionsFile"),
                ("host_device", "BlockdevOptionsFile"),
                ("raw", "BlockdevOptionsRaw"),
            ],
        },
    ),
    (
        "BlockdevOptionsFile",
        Object(&[
            ("filename", "str"),
            ("aio?", "BlockdevAioOptions"),
            ("locking?", "BlockdevLocking"),
        ]),
    ),
    ("BlockdevOptionsRaw", Object(&[("file", "BlockdevRef")])),
    ("BlockdevRef", Alternate(&["BlockdevOptions", "str"])),
    (
        "ChardevInfo",
        Object(&[("label", "str"), ("filename", "str"), ("frontend-open", "bool")]),
    ),
    ("CommandInfo", Object(&[("name", "str")])),
    (
        "CpuInfoFast",
        Object(&[
            ("cpu-index", "int"),
            ("qom-path", "str"),
            ("thread-id", "int"),
            ("props?", "CpuInstanceProperties"),
            ("target", "SysEmuTarget"),
        ]),
    ),
    (
        "CpuInstanceProperties",
        Object(&[("socket-id?", "int"), ("core-id?", "int"), ("thread-id?", "int")]),
    ),
    (
        "CurrentMachineParams",
        Object(&[("wakeup-suspend-support", "bool")]),
    ),
    ("FdsetFdInfo", Object(&[("fd", "int"), ("opaque?", "str")])),
    (
        "FdsetInfo",
        Object(&[("fdset-id", "int"), ("fds", "[FdsetFdInfo]")]),
    ),
    ("GuestPanicAction", Enum(|| vec!["poweroff"])),
    ("GuidInfo", Object(&[("guid", "str")])),
    (
        "HotpluggableCPU",
        Object(&[
            ("type", "str"),
            ("vcpus-count", "int"),
            ("props", "CpuInstanceProperties"),
            ("qom-path?", "str"),
        ]),
    ),
    // There are none: the list is empty.
    (
        "IOThreadInfo",
        Object(&[
            ("id", "str"),
            ("thread-id", "int"),
            ("poll-max-ns", "int"),
            ("poll-grow", "int"),
            ("poll-shrink", "int"),
            ("aio-max-batch", "int"),
        ]),
    ),
    ("ImageFormat", Enum(|| vec!["ppm", "png"])),
    (
        "ImageInfo",
        Object(&[("filename", "str"), ("format", "str"), ("virtual-size", "int")]),
    ),
    ("IntWrapper", Object(&[("data", "int")])),
    (
        "JSONType",
        Enum(|| {
            vec![
                "string", "number", "int", "boolean", "null", "object", "array", "value",
            ]
        }),
    ),
    (
        "KeyValue",
        Union {
            members: &[("type", "KeyValueKind")],
            tag: "type",
            variants: &[("number", "IntWrapper"), ("qcode", "QKeyCodeWrapper")],
        },
    ),
    ("KeyValueKind", Enum(|| vec!["number", "qcode"])),
    ("KvmInfo", Object(&[("enabled", "bool"), ("present", "bool")])),
    (
        "MachineInfo",
        Object(&[
            ("name", "str"),
            ("is-default?", "bool"),
            ("cpu-max", "int"),
            ("hotpluggable-cpus", "bool"),
            ("numa-mem-supported", "bool"),
            ("deprecated", "bool"),
            ("default-cpu-type?", "str"),
        ]),
    ),
    (
        "MemoryDeviceInfo",
        Union {
            members: &[("type", "MemoryDeviceInfoKind")],
            tag: "type",
            variants: &[
                ("virtio-pmem", "VirtioPMEMDeviceInfoWrapper"),
                ("virtio-mem", "VirtioMEMDeviceInfoWrapper"),
            ],
        },
    ),
    ("MemoryDeviceInfoKind", Enum(|| vec!["virtio-pmem", "virtio-mem"])),
    (
        "MemoryInfo",
        Object(&[("base-memory", "int"), ("plugged-memory?", "int")]),
    ),
    ("NameInfo", Object(&[("name?", "str")])),
    (
        "NetClientDriver",
        Enum(|| vec!["tap", "socket", "stream", "x-ostler-switch"]),
    ),
    (
        "Netdev",
        Union {
            members: &[("id", "str"), ("type", "NetClientDriver")],
            tag: "type",
            variants: &[
                ("tap", "NetdevTapOptions"),
                ("socket", "NetdevSocketOptions"),
                ("stream", "NetdevStreamOptions"),
                ("x-ostler-switch", "NetdevSwitchOptions"),
            ],
        },
    ),
    (
        "NetdevSocketOptions",
        Object(&[("fd", "str"), ("x-ostler-headers?", "bool")]),
    ),
    (
        "NetdevStreamOptions",
        Object(&[("addr", "SocketAddress"), ("server?", "bool")]),
    ),
    ("NetdevSwitchOptions", Object(&[("fd", "str")])),
    (
        "NetdevTapOptions",
        Object(&[
            ("fd?", "str"),
            ("fds?", "str"),
            ("vhostfd?", "str"),
            ("vhostfds?", "str"),
            ("vhost?", "bool"),
        ]),
    ),
    ("NumberOrNull", Alternate(&["int", "null"])),
    ("ObjectPropertyInfo", Object(&[("name", "str"), ("type", "str")])),
    ("PanicAction", Enum(|| vec!["shutdown"])),
    (
        "PciBridgeInfo",
        Object(&[("bus", "PciBusInfo"), ("devices?", "[PciDeviceInfo]")]),
    ),
    (
        "PciBusInfo",
        Object(&[
            ("number", "int"),
            ("secondary", "int"),
            ("subordinate", "int"),
            ("io_range", "PciMemoryRange"),
            ("memory_range", "PciMemoryRange"),
            ("prefetchable_range", "PciMemoryRange"),
        ]),
    ),
    ("PciDeviceClass", Object(&[("desc?", "str"), ("class", "int")])),
    (
        "PciDeviceId",
        Object(&[
            ("device", "int"),
            ("vendor", "int"),
            ("subsystem?", "int"),
            ("subsystem-vendor?", "int"),
        ]),
    ),
    (
        "PciDeviceInfo",
        Object(&[
            ("bus", "int"),
            ("slot", "int"),
            ("function", "int"),
            ("class_info", "PciDeviceClass"),
            ("id", "PciDeviceId"),
            ("irq?", "int"),
            ("irq_pin", "int"),
            ("qdev_id", "str"),
            ("pci_bridge?", "PciBridgeInfo"),
            ("regions", "[PciMemoryRegion]"),
        ]),
    ),
    (
        "PciInfo",
        Object(&[("bus", "int"), ("devices", "[PciDeviceInfo]")]),
    ),
    ("PciMemoryRange", Object(&[("base", "int"), ("limit", "int")])),
    (
        "PciMemoryRegion",
        Object(&[
            ("bar", "int"),
            ("type", "str"),
            ("address", "int"),
            ("size", "int"),
            ("prefetch?", "bool"),
            ("mem_type_64?", "bool"),
        ]),
    ),
    (
        "Profile",
        Object(&[("samples", "int"), ("addresses", "[ProfileSpot]")]),
    ),
    ("ProfileOrNull", Alternate(&["Profile", "null"])),
    ("ProfilePrivilege", Enum(|| vec!["user", "kernel"])),
    (
        "ProfileSpot",
        Object(&[
            ("address", "str"),
            ("privilege", "ProfilePrivilege"),
            ("samples", "int"),
            ("share", "number"),
            ("symbol", "StringOrNull"),
            ("offset", "NumberOrNull"),
        ]),
    ),
    ("QKeyCode", Enum(|| ostler_machine::Key::names().collect())),
    ("QKeyCodeWrapper", Object(&[("data", "QKeyCode")])),
    ("QMPCapability", Enum(Vec::new)),
    ("RebootAction", Enum(|| vec!["reset", "shutdown"])),
    (
        "RegisterCount",
        Object(&[("cause", "str"), ("address", "str"), ("count", "int")]),
    ),
    (
        "RegisterCounts",
        Object(&[("registers", "[RegisterCount]"), ("elsewhere", "int")]),
    ),
    ("RunState", Enum(|| RUN_STATES.to_vec())),
    (
        "RxFilterInfo",
        Object(&[
            ("name", "str"),
            ("promiscuous", "bool"),
            ("multicast", "RxState"),
            ("unicast", "RxState"),
            ("vlan", "RxState"),
            ("broadcast-allowed", "bool"),
            ("multicast-overflow", "bool"),
            ("unicast-overflow", "bool"),
            ("main-mac", "str"),
            ("vlan-table", "[int]"),
            ("unicast-table", "[str]"),
            ("multicast-table", "[str]"),
        ]),
    ),
    ("RxState", Enum(|| vec!["all"])),
    (
        "SchemaInfo",
        Union {
            members: &[("name", "str"), ("meta-type", "SchemaMetaType")],
            tag: "meta-type",
            variants: &[
                ("builtin", "SchemaInfoBuiltin"),
                ("enum", "SchemaInfoEnum"),
                ("array", "SchemaInfoArray"),
                ("object", "SchemaInfoObject"),
                ("alternate", "SchemaInfoAlternate"),
                ("command", "SchemaInfoCommand"),
                ("event", "SchemaInfoEvent"),
            ],
        },
    ),
    (
        "SchemaInfoAlternate",
        Object(&[("members", "[SchemaInfoAlternateMember]")]),
    ),
    ("SchemaInfoAlternateMember", Object(&[("type", "str")])),
    ("SchemaInfoArray", Object(&[("element-type", "str")])),
    ("SchemaInfoBuiltin", Object(&[("json-type", "JSONType")])),
    (
        "SchemaInfoCommand",
        Object(&[("arg-type", "str"), ("ret-type", "str")]),
    ),
    (
        "SchemaInfoEnum",
        Object(&[("members", "[SchemaInfoEnumMember]"), ("values", "[str]")]),
    ),
    ("SchemaInfoEnumMember", Object(&[("name", "str")])),
    ("SchemaInfoEvent", Object(&[("arg-type", "str")])),
    (
        "SchemaInfoObject",
        Object(&[
            ("members", "[SchemaInfoObjectMember]"),
            ("tag?", "str"),
            ("variants?", "[SchemaInfoObjectVariant]"),
        ]),
    ),
    (
        "SchemaInfoObjectMember",
        Object(&[("name", "str"), ("type", "str"), ("default?", "any")]),
    ),
    (
        "SchemaInfoObjectVariant",
        Object(&[("case", "str"), ("type", "str")]),
    ),
    (
        "SchemaMetaType",
        Enum(|| {
            vec![
                "builtin",
                "enum",
                "array",
                "object",
                "alternate",
                "command",
                "event",
            ]
        }),
    ),
    ("ScreenCursor", Object(&[("column", "int"), ("row", "int")])),
    (
        "ScreenInfo",
        Object(&[
            ("kind", "ScreenKind"),
            ("width", "int"),
            ("height", "int"),
            ("columns?", "int"),
            ("rows?", "int"),
            ("lines?", "[str]"),
            ("cursor?", "ScreenCursor"),
        ]),
    ),
    ("ScreenKind", Enum(|| vec!["text", "graphics", "dark"])),
    ("ShutdownAction", Enum(|| vec!["poweroff"])),
    (
        "ShutdownCause",
        Enum(|| {
            vec![
                "host-error",
                "host-qmp-quit",
                "host-qmp-system-reset",
                "host-signal",
                "guest-shutdown",
                "guest-reset",
                "guest-panic",
            ]
        }),
    ),
    (
        "SocketAddress",
        Union {
            members: &[("type", "SocketAddressType")],
            tag: "type",
            variants: &[("fd", "String")],
        },
    ),
    ("SocketAddressType", Enum(|| vec!["fd"])),
    (
        "StatusInfo",
        Object(&[
            ("running", "bool"),
            ("singlestep", "bool"),
            ("status", "RunState"),
            ("x-ostler-state", "str"),
        ]),
    ),
    ("String", Object(&[("str", "str")])),
    ("StringOrNull", Alternate(&["str", "null"])),
    ("SysEmuTarget", Enum(|| vec!["x86_64"])),
    ("UuidInfo", Object(&[("UUID", "str")])),
    (
        "VersionInfo",
        Object(&[("qemu", "VersionTriple"), ("package", "str")]),
    ),
    (
        "VersionTriple",
        Object(&[("major", "int"), ("minor", "int"), ("micro", "int")]),
    ),
    (
        "VirtioMEMDeviceInfo",
        Object(&[
            ("id?", "str"),
            ("memaddr", "int"),
            ("requested-size", "int"),
            ("size", "int"),
            ("max-size", "int"),
            ("block-size", "int"),
            ("node", "int"),
            ("memdev", "str"),
        ]),
    ),
    (
        "VirtioMEMDeviceInfoWrapper",
        Object(&[("data", "VirtioMEMDeviceInfo")]),
    ),
    (
        "VirtioPMEMDeviceInfo",
        Object(&[
            ("id?", "str"),
            ("memaddr", "int"),
            ("size", "int"),
            ("memdev", "str"),
        ]),
    ),
    (
        "VirtioPMEMDeviceInfoWrapper",
        Object(&[("data", "VirtioPMEMDeviceInfo")]),
    ),
    (
        "WatchdogAction",
        Enum(|| WatchdogAction::ALL.map(WatchdogAction::name).to_vec()),
    ),
];
