//! What is measured and shown, and the bars.

use crate::beside::{Bar, Line};
use crate::side::Side;

/// Of the disk: name, order, operation, bytes of a block, queue depth.
pub(super) const DISK: [(&str, &str, &str, &str, &str); 8] = [
    ("seq-read-1", "sequential", "read", "65536", "1"),
    ("seq-read-32", "sequential", "read", "65536", "32"),
    ("seq-write-1", "sequential", "write", "65536", "1"),
    ("seq-write-32", "sequential", "write", "65536", "32"),
    ("random-read-1", "random", "read", "4096", "1"),
    ("random-read-32", "random", "read", "4096", "32"),
    ("random-write-1", "random", "write", "4096", "1"),
    ("random-write-32", "random", "write", "4096", "32"),
];

const OURS: &str = "ours";
const PEER: &str = "QEMU";
const BAR: Bar = Bar::Least(1.3);

/// The rows of the table, in order.
pub(super) const LINES: &[Line] = &[
    (
        "disk, read in order, 64 KiB, depth 1",
        "MB/s",
        "seq-read-1",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, read in order, 64 KiB, depth 32",
        "MB/s",
        "seq-read-32",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, written in order, 64 KiB, depth 1",
        "MB/s",
        "seq-write-1",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, written in order, 64 KiB, depth 32",
        "MB/s",
        "seq-write-32",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, read at random, 4 KiB, depth 1",
        "MB/s",
        "random-read-1",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, read at random, 4 KiB, depth 32",
        "MB/s",
        "random-read-32",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, written at random, 4 KiB, depth 1",
        "MB/s",
        "random-write-1",
        OURS,
        PEER,
        BAR,
    ),
    (
        "disk, written at random, 4 KiB, depth 32",
        "MB/s",
        "random-write-32",
        OURS,
        PEER,
        BAR,
    ),
    (
        "TCP from the host to the guest, tap",
        "Gbit/s",
        "to guest",
        OURS,
        PEER,
        BAR,
    ),
    (
        "TCP from the guest to the host, tap",
        "Gbit/s",
        "from guest",
        OURS,
        PEER,
        BAR,
    ),
];

pub(super) fn whose(side: Side) -> &'static str {
    match side {
        Side::Ours => OURS,
        Side::Peer => PEER,
    }
}
