//! The commands, with what they take and what they answer, and the events.

use super::Data::{Members, Type};
use super::{Command, Data, EMPTY, Event};

const fn command(name: &'static str, takes: Data, returns: &'static str) -> Command {
    Command { name, takes, returns }
}

/// It has nothing to say but that it was done.
const fn does(name: &'static str, takes: super::Members) -> Command {
    command(name, Members(takes), EMPTY)
}

/// It takes nothing.
const fn tells(name: &'static str, returns: &'static str) -> Command {
    command(name, Members(&[]), returns)
}

const fn event(name: &'static str, brings: super::Members) -> Event {
    Event { name, brings }
}

/// A CD-ROM drive: by the name of its disk, or by that or its path.
const DRIVE: super::Members = &[("device?", "str"), ("id?", "str")];
const DRIVE_BY_FORCE: super::Members = &[("device?", "str"), ("id?", "str"), ("force?", "bool")];

/// In alphabetical order, as the commands themselves.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "add-fd",
        Members(&[("fdset-id?", "int"), ("opaque?", "str")]),
        "AddfdInfo",
    ),
    does(
        "announce-self",
        &[
            ("initial?", "int"),
            ("max?", "int"),
            ("rounds?", "int"),
            ("step?", "int"),
            ("interfaces?", "[str]"),
            ("id?", "str"),
        ],
    ),
    does("balloon", &[("value", "int")]),
    does(
        "block_resize",
        &[("device?", "str"), ("node-name?", "str"), ("size", "int")],
    ),
    command("blockdev-add", Type("BlockdevOptions"), EMPTY),
    does(
        "blockdev-change-medium",
        &[
            ("device?", "str"),
            ("id?", "str"),
            ("filename", "str"),
            ("format?", "str"),
            ("force?", "bool"),
            ("read-only-mode?", "BlockdevChangeReadOnlyMode"),
        ],
    ),
    does("blockdev-close-tray", DRIVE),
    does("blockdev-del", &[("node-name", "str")]),
    does("blockdev-insert-medium", &[("id", "str"), ("node-name", "str")]),
    does("blockdev-open-tray", DRIVE_BY_FORCE),
    does("blockdev-remove-medium", &[("id", "str")]),
    does("closefd", &[("fdname", "str")]),
    does("cont", &[]),
    // Of its other arguments, which depend on the driver, QEMU's schema tells nothing either.
    does("device_add", &[("driver", "str"), ("id", "str"), ("bus?", "str")]),
    does("device_del", &[("id", "str")]),
    does("eject", DRIVE_BY_FORCE),
    does("getfd", &[("fdname", "str")]),
    command(
        "human-monitor-command",
        Members(&[("command-line", "str"), ("cpu-index?", "int")]),
        "str",
    ),
    does("inject-nmi", &[]),
    command("netdev_add", Type("Netdev"), EMPTY),
    does("netdev_del", &[("id", "str")]),
    does("qmp_capabilities", &[("enable?", "[QMPCapability]")]),
    command("qom-get", Members(&[("path", "str"), ("property", "str")]), "any"),
    command("qom-list", Members(&[("path", "str")]), "[ObjectPropertyInfo]"),
    does(
        "qom-set",
        &[("path", "str"), ("property", "str"), ("value", "any")],
    ),
    tells("query-balloon", "BalloonInfo"),
    tells("query-block", "[BlockInfo]"),
    command(
        "query-blockstats",
        Members(&[("query-nodes?", "bool")]),
        "[BlockStats]",
    ),
    tells("query-chardev", "[ChardevInfo]"),
    tells("query-commands", "[CommandInfo]"),
    tells("query-cpus-fast", "[CpuInfoFast]"),
    tells("query-current-machine", "CurrentMachineParams"),
    tells("query-fdsets", "[FdsetInfo]"),
    tells("query-hotpluggable-cpus", "[HotpluggableCPU]"),
    tells("query-iothreads", "[IOThreadInfo]"),
    tells("query-kvm", "KvmInfo"),
    tells("query-machines", "[MachineInfo]"),
    tells("query-memory-devices", "[MemoryDeviceInfo]"),
    tells("query-memory-size-summary", "MemoryInfo"),
    tells("query-name", "NameInfo"),
    command(
        "query-named-block-nodes",
        Members(&[("flat?", "bool")]),
        "[BlockDeviceInfo]",
    ),
    tells("query-pci", "[PciInfo]"),
    tells("query-qmp-schema", "[SchemaInfo]"),
    command("query-rx-filter", Members(&[("name?", "str")]), "[RxFilterInfo]"),
    tells("query-status", "StatusInfo"),
    tells("query-uuid", "UuidInfo"),
    tells("query-version", "VersionInfo"),
    tells("query-vm-generation-id", "GuidInfo"),
    does("quit", &[]),
    does("remove-fd", &[("fdset-id", "int"), ("fd?", "int")]),
    does(
        "screendump",
        &[
            ("filename", "str"),
            ("device?", "str"),
            ("head?", "int"),
            ("format?", "ImageFormat"),
        ],
    ),
    does("send-key", &[("keys", "[KeyValue]"), ("hold-time?", "int")]),
    does(
        "set-action",
        &[
            ("reboot?", "RebootAction"),
            ("shutdown?", "ShutdownAction"),
            ("panic?", "PanicAction"),
            ("watchdog?", "WatchdogAction"),
        ],
    ),
    does("set_link", &[("name", "str"), ("up", "bool")]),
    does("stop", &[]),
    does("system_powerdown", &[]),
    does("system_reset", &[]),
    does("system_wakeup", &[]),
    does("watchdog-set-action", &[("action", "WatchdogAction")]),
    command("x-ostler-hot", Members(&[("seconds?", "int")]), "ProfileOrNull"),
    does("x-ostler-plug", &[("id", "str"), ("fd", "str")]),
    command(
        "x-ostler-registers",
        Members(&[("count?", "bool")]),
        "RegisterCounts",
    ),
    tells("x-ostler-screen", "ScreenInfo"),
    does("x-ostler-set-vm-generation-id", &[("guid", "str")]),
    // Its counters depend on the devices.
    tells("x-ostler-stats", "any"),
];

/// In alphabetical order.
pub(super) const EVENTS: &[Event] = &[
    event("ACPI_DEVICE_OST", &[("info", "ACPIOSTInfo")]),
    event("BALLOON_CHANGE", &[("actual", "int")]),
    event("DEVICE_DELETED", &[("device?", "str"), ("path", "str")]),
    event(
        "DEVICE_TRAY_MOVED",
        &[("device", "str"), ("id", "str"), ("tray-open", "bool")],
    ),
    event("GUEST_PANICKED", &[("action", "GuestPanicAction")]),
    event(
        "MEMORY_DEVICE_SIZE_CHANGE",
        &[("id?", "str"), ("size", "int"), ("qom-path", "str")],
    ),
    event("POWERDOWN", &[]),
    event("RESET", &[("guest", "bool"), ("reason", "ShutdownCause")]),
    event("RESUME", &[]),
    event("RTC_CHANGE", &[("offset", "int"), ("qom-path", "str")]),
    event("SHUTDOWN", &[("guest", "bool"), ("reason", "ShutdownCause")]),
    event("STOP", &[]),
    event("SUSPEND", &[]),
    event("WAKEUP", &[]),
    event("WATCHDOG", &[("action", "WatchdogAction")]),
];
