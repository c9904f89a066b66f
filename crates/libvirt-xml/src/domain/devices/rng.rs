//! Entropy sources: `<rng>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, refused};
use crate::tree::Element;
use crate::value::attribute;

const ROWS: &[Row] = &[
    honoured("@model", "virtio|virtio-non-transitional", "virtio 1"),
    refused("@model", "virtio-transitional", "there is no legacy virtio"),
    honoured("rate@{bytes,period}", "", "most bytes in so many milliseconds"),
    honoured(
        "backend@model",
        "random|builtin",
        "the host's own source, whatever its path",
    ),
    refused("backend@model", "egd", "the host's own source has to be used"),
    honoured("backend", "", "its path"),
];

pub(crate) const FAMILY: Family = Family::device("devices/rng", ROWS);

/// An entropy source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// What all devices have.
    pub common: Common,
    /// How much it gives.
    pub rate: Option<RngRate>,
}

/// How much an entropy source gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngRate {
    /// Bytes in a period.
    pub bytes: u32,
    /// Milliseconds.
    pub period: u32,
}

/// A path for a source that names none.
pub(crate) fn fill(rng: &mut Element) {
    rng.set_default("model", "virtio");
    let backend = rng.child_or_new("backend");
    backend.set_default("model", "random");
    if backend.get("model") == Some("random") && backend.text().is_empty() {
        backend.set_text("/dev/urandom");
    }
    if let Some(rate) = rng.child_mut("rate") {
        rate.set_default("period", "1000");
    }
}

impl Rng {
    pub(crate) fn read(rng: &Element) -> Result<Self, Error> {
        let rate = rng.child("rate").map(|rate| -> Result<RngRate, Error> {
            let bytes =
                attribute(rate, "bytes")?.ok_or_else(|| Error::missing(rate.line, "rate", "bytes"))?;
            let period = attribute(rate, "period")?.unwrap_or(1000);
            Ok(RngRate { bytes, period })
        });
        Ok(Self {
            common: Common::read(rng)?,
            rate: rate.transpose()?,
        })
    }
}
