//! What is measured and shown, and the bars.

use crate::beside::{Bar, Line};
use crate::side::Side;

const OURS: &str = "ours";
const PEER: &str = "QEMU";

/// The rows of the table, in order.
pub(super) const LINES: &[Line] = &[
    (
        "process start to firmware's first instruction, 256 KiB of firmware",
        "ms",
        "bios",
        OURS,
        PEER,
        Bar::MostOfOurs(60.0),
    ),
    (
        "the same, 4 MiB of firmware",
        "ms",
        "uefi",
        OURS,
        PEER,
        Bar::MostOfOurs(60.0),
    ),
    (
        "process start to Linux's first line, its kernel in a file",
        "ms",
        "kernel",
        OURS,
        PEER,
        Bar::None,
    ),
    (
        "the same, its kernel found on the disk",
        "ms",
        "kernel on disk",
        OURS,
        PEER,
        Bar::None,
    ),
    (
        "how much more that is",
        "ms",
        "kernel on disk, more",
        OURS,
        PEER,
        Bar::MostOfOurs(30.0),
    ),
    (
        "a disk plugged in until it is there for the guest",
        "ms",
        "plug",
        OURS,
        PEER,
        Bar::MostOfOurs(200.0),
    ),
];

pub(super) fn whose(side: Side) -> &'static str {
    match side {
        Side::Ours => OURS,
        Side::Peer => PEER,
    }
}
