//! What is measured and shown, and the bars.

use super::bare::BARE;
use crate::beside::{Bar, Line};
use crate::side::{PeerAccel, Side};

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
const VHOST: &str = "QEMU, vhost-net";
const BAR: Bar = Bar::Least(1.3);

/// One that runs guests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    pub(super) side: Side,
    pub(super) whose: &'static str,
    pub(super) peer_accel: PeerAccel,
    /// The disk is measured, too.
    pub(super) disk: bool,
}

impl Contender {
    const fn new(side: Side, whose: &'static str, peer_accel: PeerAccel, disk: bool) -> Self {
        Self {
            side,
            whose,
            peer_accel,
            disk,
        }
    }
}

const SOFT: [Contender; 2] = [
    Contender::new(Side::Ours, OURS, PeerAccel::Tcg, true),
    Contender::new(Side::Peer, PEER, PeerAccel::Tcg, true),
];
const KVM: [Contender; 3] = [
    Contender::new(Side::Ours, OURS, PeerAccel::Kvm { vhost: false }, true),
    Contender::new(Side::Peer, PEER, PeerAccel::Kvm { vhost: false }, true),
    Contender::new(Side::Peer, VHOST, PeerAccel::Kvm { vhost: true }, false),
];

/// Who is measured where our guests run on `accel`, and the rows of the table.
pub(super) fn on(accel: &str) -> (&'static [Contender], Vec<Line>) {
    match accel {
        "kvm" => (&KVM, [LINES, VHOST_LINES].concat()),
        _ => (&SOFT, LINES.to_vec()),
    }
}

/// The rows beside QEMU with the kernel's worker for its card.
const VHOST_LINES: &[Line] = &[
    (
        "TCP from the host to the guest, tap",
        "Gbit/s",
        "to guest",
        OURS,
        VHOST,
        BAR,
    ),
    (
        "TCP from the guest to the host, tap",
        "Gbit/s",
        "from guest",
        OURS,
        VHOST,
        BAR,
    ),
];

/// The rows of the table, in order.
const LINES: &[Line] = &[
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
        "disk, read in order, 64 KiB, depth 32",
        "MB/s",
        "seq-read-32",
        OURS,
        BARE,
        Bar::None,
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
        "disk, written in order, 64 KiB, depth 32",
        "MB/s",
        "seq-write-32",
        OURS,
        BARE,
        Bar::None,
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
