//! The balloon: `<memballoon>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::{attribute, is_yes};

const ROWS: &[Row] = &[
    honoured(
        "@model",
        "virtio|virtio-non-transitional|none",
        "`none` for a guest without",
    ),
    refused("@model", "", "there is no such balloon"),
    honoured(
        "@autodeflate",
        "on|off",
        "memory is given back before a process of the guest dies",
    ),
    honoured(
        "@freePageReporting",
        "on|off",
        "free pages of the guest are given to the host",
    ),
    honoured("stats@period", "", "seconds between statistics"),
    kept("driver", "", ""),
];

pub(crate) const FAMILY: Family = Family::device("devices/memballoon", ROWS);

/// A balloon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memballoon {
    /// What all devices have.
    pub common: Common,
    /// Whether there is one.
    pub present: bool,
    /// Whether it deflates before the guest is out of memory.
    pub autodeflate: bool,
    /// Whether free pages are reported.
    pub free_page_reporting: bool,
    /// Seconds between statistics.
    pub stats_period: Option<u32>,
}

impl Memballoon {
    pub(crate) fn read(balloon: &Element) -> Result<Self, Error> {
        Ok(Self {
            common: Common::read(balloon)?,
            present: balloon.get("model") != Some("none"),
            autodeflate: is_yes(balloon.get("autodeflate")),
            free_page_reporting: is_yes(balloon.get("freePageReporting")),
            stats_period: balloon
                .child("stats")
                .map(|stats| attribute(stats, "period"))
                .transpose()?
                .flatten(),
        })
    }
}
