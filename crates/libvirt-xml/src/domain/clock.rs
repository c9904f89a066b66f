//! The guest's clock: `<clock>`.

use crate::Error;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;

const ROWS: &[Row] = &[
    honoured(
        "@offset",
        "utc|localtime|variable|absolute|timezone",
        "what the real-time clock shows at the start",
    ),
    honoured(
        "@adjustment",
        "",
        "seconds of a variable clock; `reset` keeps none",
    ),
    honoured("@basis", "utc|localtime", "of a variable clock"),
    honoured("@start", "", "seconds since 1970 of an absolute clock"),
    honoured("@timezone", "", "a name of the zone database"),
    kept(
        "timer@name",
        "rtc|pit|hpet|tsc|kvmclock|platform",
        "timers are those of the platform, and tick as they do",
    ),
    honoured(
        "timer@name",
        "hypervclock",
        "the clock of Hyper-V's interface, unless it is not `present`; on KVM, and not on the software CPU",
    ),
    refused("timer@name", "", "of other architectures"),
    honoured(
        "timer@present",
        "yes|no",
        "whether there is a `hypervclock`; the others stay",
    ),
    kept("timer@{track,tickpolicy,frequency,mode}", "", ""),
    kept("timer/catchup@{threshold,slew,limit}", "", ""),
];

pub(crate) const FAMILY: Family = Family::of("clock", ROWS);

/// What the guest's real-time clock shows at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clock {
    /// UTC.
    Utc,
    /// The host's local time.
    LocalTime,
    /// The time in a zone.
    TimeZone(String),
    /// So many seconds from a basis.
    Variable {
        /// Seconds.
        adjustment: i64,
        /// Whether they are from the host's local time instead of UTC.
        local: bool,
    },
    /// Always the same, in seconds since 1970.
    Absolute(u64),
}

pub(crate) fn fill(root: &mut Element) {
    let clock = root.child_or_new("clock");
    clock.set_default("offset", "utc");
    if clock.get("offset") == Some("variable") {
        clock.set_default("adjustment", "0");
        clock.set_default("basis", "utc");
    }
}

impl Clock {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let Some(clock) = root.child("clock") else {
            return Ok(Self::Utc);
        };
        let wrong = |name: &str| Error::attribute(clock.line, "clock", name, clock.get(name).unwrap_or(""));
        Ok(match clock.get("offset") {
            Some("localtime") => Self::LocalTime,
            Some("timezone") => Self::TimeZone(
                clock
                    .get("timezone")
                    .ok_or_else(|| Error::missing(clock.line, "clock", "timezone"))?
                    .to_owned(),
            ),
            Some("variable") => Self::Variable {
                adjustment: clock
                    .get("adjustment")
                    .unwrap_or("0")
                    .parse()
                    .map_err(|_| wrong("adjustment"))?,
                local: clock.get("basis") == Some("localtime"),
            },
            Some("absolute") => Self::Absolute(
                clock
                    .get("start")
                    .ok_or_else(|| Error::missing(clock.line, "clock", "start"))?
                    .parse()
                    .map_err(|_| wrong("start"))?,
            ),
            _ => match clock.get("adjustment") {
                None | Some("reset") => Self::Utc,
                Some(seconds) => Self::Variable {
                    adjustment: seconds.parse().map_err(|_| wrong("adjustment"))?,
                    local: false,
                },
            },
        })
    }
}
