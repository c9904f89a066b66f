//! A socket between guest and host: `<vsock>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, refused};
use crate::tree::Element;
use crate::value::{attribute, is_yes};

const ROWS: &[Row] = &[
    honoured("@model", "virtio|virtio-non-transitional", "virtio 1"),
    refused("@model", "virtio-transitional", "there is no legacy virtio"),
    honoured(
        "cid@auto",
        "yes|no",
        "whether a free number is taken at each start",
    ),
    honoured("cid@address", "", "3 or more"),
];

pub(crate) const FAMILY: Family = Family::device("devices/vsock", ROWS);

/// A socket to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// What all devices have.
    pub common: Common,
    /// The guest's number; `None` for a free one.
    pub cid: Option<u32>,
}

pub(crate) fn fill(vsock: &mut Element) {
    vsock.set_default("model", "virtio");
    let cid = vsock.child_or_new("cid");
    let auto = if cid.get("address").is_some() { "no" } else { "yes" };
    cid.set_default("auto", auto);
}

impl Vsock {
    pub(crate) fn read(vsock: &Element) -> Result<Self, Error> {
        let cid = vsock.child("cid");
        let auto = is_yes(cid.and_then(|cid| cid.get("auto")));
        let number: Option<u32> = cid.map(|cid| attribute(cid, "address")).transpose()?.flatten();
        if number.is_some_and(|number| number < 3) || (number.is_none() && !auto) {
            return Err(Error::Xml(format!(
                "guest CIDs must be >= 3 (line {})",
                cid.unwrap_or(vsock).line
            )));
        }
        Ok(Self {
            common: Common::read(vsock)?,
            cid: number.filter(|_| !auto),
        })
    }
}
