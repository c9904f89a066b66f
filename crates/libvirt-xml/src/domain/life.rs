//! What its end means: `<on_poweroff>`, `<on_reboot>`, `<on_crash>`, `<on_lockfailure>`, `<pm>`, `<perf>`.

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::{Element, Node};

const ROWS: &[Row] = &[
    honoured(
        "on_poweroff",
        "destroy|restart|preserve|rename-restart",
        "when it powers off",
    ),
    honoured(
        "on_reboot",
        "destroy|restart|preserve|rename-restart",
        "when it resets",
    ),
    honoured(
        "on_crash",
        "destroy|restart|preserve|rename-restart|coredump-destroy|coredump-restart",
        "when it triple-faults or panics",
    ),
    kept(
        "on_lockfailure",
        "poweroff|restart|pause|ignore",
        "locks of images are never lost",
    ),
    honoured(
        "pm/suspend-to-mem@enabled",
        "yes|no",
        "`yes`: it can sleep (ACPI S3), unless it starts with UEFI; it cannot where nothing is said",
    ),
    kept("pm/suspend-to-disk@enabled", "yes|no", "there is no S4"),
    kept("perf", "", "there are no such counters").whole(),
    kept("idmap", "", "of containers").whole(),
    refused("keywrap", "", "of other architectures").whole(),
];

pub(crate) const FAMILY: Family = Family::root("What its end means", ROWS);

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The guest is gone.
    Destroy,
    /// It starts anew.
    Restart,
    /// It is paused, for someone to look at.
    Preserve,
}

/// What follows each kind of end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// A power-off.
    pub poweroff: Action,
    /// A reset.
    pub reboot: Action,
    /// A crash.
    pub crash: Action,
    /// Whether its memory is written to a file after a crash.
    pub dump_core: bool,
    /// Whether it can sleep with its memory kept (ACPI S3).
    pub suspend_to_memory: bool,
}

pub(crate) fn fill(root: &mut Element) {
    for (name, action) in [
        ("on_poweroff", "destroy"),
        ("on_reboot", "restart"),
        ("on_crash", "destroy"),
    ] {
        if root.child(name).is_none() {
            root.children
                .push(Node::Element(Element::new(name).with_text(action)));
        }
    }
}

impl Life {
    pub(crate) fn read(root: &Element) -> Self {
        let action = |name: &str, default| match root.child_text(name).as_deref() {
            Some("destroy" | "coredump-destroy") => Action::Destroy,
            Some("restart" | "rename-restart" | "coredump-restart") => Action::Restart,
            Some("preserve") => Action::Preserve,
            _ => default,
        };
        Self {
            poweroff: action("on_poweroff", Action::Destroy),
            reboot: action("on_reboot", Action::Restart),
            crash: action("on_crash", Action::Destroy),
            dump_core: root
                .child_text("on_crash")
                .is_some_and(|action| action.starts_with("coredump")),
            suspend_to_memory: root
                .child("pm")
                .is_some_and(|pm| pm.child_get("suspend-to-mem", "enabled") == Some("yes")),
        }
    }
}
