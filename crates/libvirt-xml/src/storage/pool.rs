//! Pools: `<pool>`.

use std::sync::LazyLock;

use super::{Permissions, bytes};
use crate::Error;
use crate::error::shorten;
use crate::object::{parse, sorted};
use crate::table::{Family, Row, Schema, honoured, kept, refused};
use crate::tree::{Element, Node, write};
use crate::value::{Random, Uuid, fill_uuid, object_name};

const ROWS: &[Row] = &[
    honoured("@type", "dir", "a folder of images"),
    honoured("@type", "fs", "a file system that is mounted"),
    honoured("@type", "logical", "a volume group of LVM"),
    refused(
        "@type",
        "",
        "there is no such pool; dir, fs and logical are there",
    ),
    honoured("name", "", ""),
    honoured("uuid", "", "made at random if it is missing"),
    kept(
        "{capacity,allocation,available}",
        "",
        "of a pool that runs; measured",
    )
    .whole(),
    kept("features", "", "").whole(),
    honoured(
        "source/device@path",
        "",
        "the device of a file system, or devices of a volume group",
    ),
    honoured("source/dir@path", "", ""),
    honoured("source/name", "", "of a volume group"),
    honoured(
        "source/format@type",
        "auto|ext2|ext3|ext4|ufs|iso9660|udf|gfs|gfs2|vfat|hfs+|xfs|ocfs2|vmfs|lvm2|unknown",
        "of the file system; found by the host's kernel where it is not said",
    ),
    kept("source/{vendor,product}@name", "", ""),
    refused(
        "source/{host,initiator,auth,adapter,protocol}",
        "",
        "there is no such pool",
    ),
    honoured("target/path", "", "absolute, without `..`"),
    honoured(
        "target/permissions/{mode,owner,group}",
        "",
        "of the folder when it is made",
    ),
    kept(
        "target/permissions/label",
        "",
        "files keep the labels that they have",
    ),
    kept("refresh", "", "").whole(),
    refused(
        "{fs:mount_opts,rbd:config_opts}",
        "",
        "options of a pool's owner are not passed on",
    ),
];

const FAMILY: Family = Family::root("All", ROWS);

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new("pool", vec![&FAMILY]));

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    tree: Element,
    /// What it is.
    pub kind: PoolType,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The folder with its volumes.
    pub target: String,
    /// Devices that it is on.
    pub devices: Vec<String>,
    /// The file system on the device, as `mount` names it; found by the kernel if it is not said.
    pub format: Option<String>,
    /// Name of the volume group.
    pub source_name: Option<String>,
    /// Of the folder when it is made.
    pub permissions: Permissions,
}

/// Kinds of pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolType {
    /// A folder.
    Dir,
    /// A file system that is mounted.
    Fs,
    /// A volume group of LVM.
    Logical,
}

/// What was measured of a pool that runs, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolState {
    /// All.
    pub capacity: u64,
    /// What is used.
    pub allocation: u64,
    /// What is free.
    pub available: u64,
}

impl Pool {
    /// Reads a definition and fills in what it does not say.
    pub fn define(xml: &str, random: Random<'_>) -> Result<Self, Error> {
        let mut tree = parse(&SCHEMA, xml)?;
        if tree.get("type").is_none() {
            return Err(Error::missing(tree.line, "pool", "type"));
        }
        let logical = tree.get("type") == Some("logical");
        if tree.child("name").is_none()
            && let Some(name) = tree.at("source/name").map(Element::text).filter(|_| logical)
        {
            tree.child_or_new("name").set_text(name);
        }
        let name = object_name(&tree)?;
        fill_uuid(&mut tree, random)?;
        tree.remove_elements(|element| {
            matches!(element.name.as_str(), "capacity" | "allocation" | "available")
        });
        tree.child_or_new("source");
        if logical {
            if tree.at("source/name").is_none() {
                tree.child_or_new("source").child_or_new("name").set_text(&*name);
            }
            let group = tree.at("source/name").map(Element::text).unwrap_or_default();
            if group.contains('/') || group.starts_with('.') {
                return Err(Error::Xml(format!(
                    "'{}' is no name of a volume group",
                    shorten(&group)
                )));
            }
            tree.child_or_new("target")
                .child_or_new("path")
                .set_text(format!("/dev/{group}"));
        }
        Self::read(sorted(&SCHEMA, tree))
    }

    /// The definition; with a state, the pool as it runs.
    pub fn xml(&self, state: Option<&PoolState>) -> String {
        let mut tree = self.tree.clone();
        let state = state.copied().unwrap_or_default();
        let sizes = [
            ("capacity", state.capacity),
            ("allocation", state.allocation),
            ("available", state.available),
        ];
        for (name, size) in sizes {
            tree.children.push(Node::Element(bytes(name, size)));
        }
        write(&sorted(&SCHEMA, tree))
    }

    fn read(tree: Element) -> Result<Self, Error> {
        let target = tree.at("target/path").map(Element::text).unwrap_or_default();
        if !target.starts_with('/') || target.split('/').any(|part| part == "..") {
            return Err(Error::Xml(format!(
                "missing storage pool target path: '{}' has to be absolute and without '..'",
                shorten(&target)
            )));
        }
        let devices: Vec<String> = tree
            .child("source")
            .into_iter()
            .flat_map(|source| source.all("device"))
            .filter_map(|device| device.get("path").map(str::to_owned))
            .collect();
        let kind = match tree.get("type") {
            Some("fs") => PoolType::Fs,
            Some("logical") => PoolType::Logical,
            _ => PoolType::Dir,
        };
        if kind == PoolType::Fs && devices.is_empty() {
            return Err(Error::Xml("missing storage pool source device name".into()));
        }
        Ok(Self {
            kind,
            name: object_name(&tree)?,
            uuid: tree
                .child_text("uuid")
                .and_then(|uuid| uuid.parse().ok())
                .unwrap_or(Uuid([0; 16])),
            target,
            devices,
            format: tree
                .at("source/format")
                .and_then(|format| format.get("type"))
                .filter(|format| !matches!(*format, "auto" | "unknown" | "lvm2"))
                .map(str::to_owned),
            source_name: tree.at("source/name").map(Element::text),
            permissions: Permissions::read(&tree)?,
            tree,
        })
    }
}
