//! Volumes: `<volume>`.

use std::sync::LazyLock;

use super::{Permissions, bytes};
use crate::Error;
use crate::object::{parse, sorted, with_text};
use crate::table::{Family, Row, Schema, honoured, kept, refused};
use crate::tree::{Element, write};
use crate::value::{object_name, size};

const ROWS: &[Row] = &[
    kept("@type", "file|block", "follows from the pool"),
    refused("@type", "", "there is no such volume"),
    honoured("name", "", "of the file; without slashes"),
    kept("key", "", "the path"),
    kept("source", "", "where it is on devices").whole(),
    honoured("capacity", "", "bytes where no unit is named"),
    honoured("capacity@unit", "", ""),
    honoured("allocation", "", "how much of it is allocated at once"),
    honoured("allocation@unit", "", ""),
    kept("physical", "", "measured").whole(),
    kept("target/path", "", "the pool's folder and the name"),
    honoured("target/format@type", "raw|iso", ""),
    refused("target/format@type", "", "images have to be raw"),
    honoured("target/permissions/{mode,owner,group}", "", ""),
    kept(
        "target/permissions/label",
        "",
        "files keep the labels that they have",
    ),
    kept("target/timestamps", "", "measured").whole(),
    refused("target/encryption", "", "images are not encrypted"),
    kept(
        "target/{compat,nocow,clusterSize,features}",
        "",
        "of other formats",
    )
    .whole(),
    refused("backingStore", "", "a raw image has none"),
];

const FAMILY: Family = Family::root("All", ROWS);

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new("volume", vec![&FAMILY]));

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub capacity: u64,
    /// Bytes that are allocated at once.
    pub allocation: u64,
    /// Owner and mode.
    pub permissions: Permissions,
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeState {
    /// Its name.
    pub name: String,
    /// Its path, which is its key.
    pub path: String,
    /// Whether it is a block device.
    pub block: bool,
    /// `raw` or `iso`.
    pub format: String,
    /// Size in bytes.
    pub capacity: u64,
    /// Bytes that it takes.
    pub allocation: u64,
    /// Length of the file in bytes.
    pub physical: u64,
    /// Owner and mode.
    pub permissions: Permissions,
    /// Seconds and nanoseconds since 1970: accessed, written, changed.
    pub times: Option<[(u64, u32); 3]>,
}

impl Volume {
    /// Reads what is to be made. One that does not say its capacity has `capacity` bytes, if there is something to take that from.
    pub fn parse(xml: &str, capacity: Option<u64>) -> Result<Self, Error> {
        let tree = parse(&SCHEMA, xml)?;
        let sized = |name: &str| tree.child(name).map(|element| size(element, 1)).transpose();
        let capacity = sized("capacity")?
            .or(capacity)
            .ok_or_else(|| Error::Xml("missing capacity element".into()))?;
        Ok(Self {
            name: object_name(&tree)?,
            capacity,
            allocation: sized("allocation")?.unwrap_or(capacity).min(capacity),
            permissions: Permissions::read(&tree)?,
        })
    }
}

impl VolumeState {
    /// The document.
    pub fn xml(&self) -> String {
        let mut target = Element::new("target")
            .with_child(Element::new("path").with_text(&*self.path))
            .with_child(Element::new("format").with("type", &*self.format));
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let Permissions { mode, owner, group } = self.permissions;
        if let (Some(mode), Some(_), Some(_)) = (mode, owner, group) {
            let mut permissions = Element::new("permissions");
            for (name, value) in [
                ("mode", Some(format!("0{mode:o}"))),
                ("owner", number(owner)),
                ("group", number(group)),
            ] {
                permissions = with_text(permissions, name, value.as_deref());
            }
            target = target.with_child(permissions);
        }
        if let Some(times) = self.times {
            let mut stamps = Element::new("timestamps");
            for (name, (seconds, nanoseconds)) in ["atime", "mtime", "ctime"].into_iter().zip(times) {
                let text = format!("{seconds}.{nanoseconds:09}");
                stamps = stamps.with_child(Element::new(name).with_text(text));
            }
            target = target.with_child(stamps);
        }
        let volume = Element::new("volume")
            .with("type", if self.block { "block" } else { "file" })
            .with_child(Element::new("name").with_text(&*self.name))
            .with_child(Element::new("key").with_text(&*self.path))
            .with_child(bytes("capacity", self.capacity))
            .with_child(bytes("allocation", self.allocation))
            .with_child(bytes("physical", self.physical))
            .with_child(target);
        write(&sorted(&SCHEMA, volume))
    }
}
