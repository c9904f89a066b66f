//! Watchdogs: `<watchdog>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, refused};
use crate::tree::Element;

const ROWS: &[Row] = &[
    honoured("@model", "i6300esb|itco", "a card, or that of the chipset"),
    refused("@model", "", "there is no such watchdog"),
    honoured(
        "@action",
        "reset|shutdown|poweroff|pause|dump|none|inject-nmi",
        "what it does",
    ),
];

pub(crate) const FAMILY: Family = Family::device("devices/watchdog", ROWS);

/// A watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// What all devices have.
    pub common: Common,
    /// Which.
    pub model: WatchdogModel,
    /// What it does.
    pub action: WatchdogAction,
}

/// Kinds of watchdogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogModel {
    /// Intel's 6300ESB, a PCI card.
    I6300esb,
    /// The chipset's.
    Itco,
}

/// What a watchdog does with a guest that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAction {
    /// It is reset.
    Reset,
    /// Its power button is pressed.
    Shutdown,
    /// It is powered off.
    Poweroff,
    /// It is paused.
    Pause,
    /// Its memory is written to a file, and it is reset.
    Dump,
    /// Clients are told.
    None,
    /// It gets an NMI.
    InjectNmi,
}

pub(crate) fn fill(watchdog: &mut Element) {
    watchdog.set_default("action", "reset");
}

impl Watchdog {
    pub(crate) fn read(watchdog: &Element) -> Result<Self, Error> {
        Ok(Self {
            common: Common::read(watchdog)?,
            model: match watchdog.get("model") {
                Some("itco") => WatchdogModel::Itco,
                Some(_) => WatchdogModel::I6300esb,
                None => return Err(Error::missing(watchdog.line, "watchdog", "model")),
            },
            action: match watchdog.get("action") {
                Some("shutdown") => WatchdogAction::Shutdown,
                Some("poweroff") => WatchdogAction::Poweroff,
                Some("pause") => WatchdogAction::Pause,
                Some("dump") => WatchdogAction::Dump,
                Some("none") => WatchdogAction::None,
                Some("inject-nmi") => WatchdogAction::InjectNmi,
                _ => WatchdogAction::Reset,
            },
        })
    }
}
