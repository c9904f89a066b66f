//! What is shown, and the bars.

use crate::beside::{Bar, Line};

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Libvirtd,
}

const OURS: &str = "ours";
const PEER: &str = "libvirtd";
pub(super) const ECHO: &str = "echo server";

impl Whose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Whose::Ours => OURS,
            Whose::Libvirtd => PEER,
        }
    }
}

const fn line(name: &'static str, unit: &'static str, what: &'static str, bar: Bar) -> Line {
    (name, unit, what, OURS, PEER, bar)
}

/// The rows of the table, in order.
pub(super) const LINES: &[Line] = &[
    line("1,000 guests are defined", "s", "define", Bar::Most(0.5)),
    line(
        "1,000 guests are listed with their states",
        "ms",
        "list",
        Bar::Most(0.5),
    ),
    line("all figures of 1,000 guests", "ms", "stats", Bar::Most(0.5)),
    (
        "calls of one client, one after the other",
        "1/s",
        "sequential",
        OURS,
        ECHO,
        Bar::Least(0.9),
    ),
    line(
        "calls of one client, one after the other",
        "1/s",
        "sequential",
        Bar::None,
    ),
    line(
        "calls of one client, 32 on their way",
        "1/s",
        "pipelined",
        Bar::LeastOfOurs(20_000.0),
    ),
    line(
        "calls of 100 clients, 10 of each on their way",
        "1/s",
        "crowd",
        Bar::None,
    ),
    line(
        "the client served least of these, over the mean",
        "",
        "least",
        Bar::LeastOfOurs(0.5),
    ),
    line(
        "start with 1,000 guests to the first answer",
        "s",
        "restart",
        Bar::MostOfOurs(0.3),
    ),
    line("memory without guests", "MiB", "fresh", Bar::MostOfOurs(12.0)),
    line("memory with 1,000 guests", "MiB", "full", Bar::MostOfOurs(24.0)),
    line("10,000 guests are listed", "ms", "many", Bar::MostOfOurs(100.0)),
    line("connections by TLS", "1/s", "tls", Bar::LeastOfOurs(100.0)),
    line(
        "a tiny guest's start to its first instruction",
        "ms",
        "start",
        Bar::MostOfOurs(100.0),
    ),
];
