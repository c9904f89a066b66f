//! Folders of the host: `<filesystem>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::is_yes;

const ROWS: &[Row] = &[
    honoured("@type", "mount", "a folder"),
    refused("@type", "", "only folders can be shared"),
    honoured(
        "@accessmode",
        "passthrough",
        "users and permissions are the host's",
    ),
    refused(
        "@accessmode",
        "mapped|squash",
        "virtiofs passes users and permissions on",
    ),
    kept("@model", "virtio|virtio-non-transitional", ""),
    refused("@model", "virtio-transitional", "there is no legacy virtio"),
    refused("@{fmode,dmode,multidevs}", "", "of 9p"),
    honoured("driver@type", "virtiofs", ""),
    refused(
        "driver@type",
        "",
        "only virtiofs is there; set driver type='virtiofs'",
    ),
    kept("driver@queue", "", "tuning of virtio"),
    refused("driver@{format,wrpolicy}", "", "of 9p"),
    honoured("source@dir", "", "the folder"),
    honoured("source@socket", "", "a virtiofsd that someone else has started"),
    kept("binary", "", "the program is found by its usual name").whole(),
    honoured("target@dir", "", "the name by which the guest mounts it"),
    honoured(
        "readonly",
        "",
        "what would change something is answered \"read-only file system\"",
    ),
    kept("idmap", "", "").whole(),
    kept("{space_hard_limit,space_soft_limit}", "", "of containers").whole(),
];

pub(crate) const FAMILY: Family = Family::device("devices/filesystem", ROWS);

/// A folder that the guest sees by virtiofs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// What all devices have.
    pub common: Common,
    /// The folder, unless a socket is given.
    pub dir: Option<String>,
    /// The socket of a virtiofsd that runs.
    pub socket: Option<String>,
    /// The name by which the guest mounts it.
    pub tag: String,
    /// Whether the guest may only read.
    pub readonly: bool,
}

pub(crate) fn fill(filesystem: &mut Element) {
    filesystem.set_default("type", "mount");
}

impl Filesystem {
    pub(crate) fn read(filesystem: &Element) -> Result<Self, Error> {
        if filesystem.child_get("driver", "type") != Some("virtiofs") {
            return Err(Error::Unsupported(format!(
                "<filesystem> is refused: only virtiofs is there; set driver type='virtiofs' (line {})",
                filesystem.line
            )));
        }
        let part = |name: &str| {
            filesystem
                .child_get("source", name)
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let (dir, socket) = (part("dir"), part("socket"));
        let tag = filesystem
            .child_get("target", "dir")
            .unwrap_or_default()
            .to_owned();
        if dir.is_none() && socket.is_none() {
            return Err(Error::NoSource(tag));
        }
        if tag.is_empty() && socket.is_none() {
            return Err(Error::Xml(format!(
                "missing target of the filesystem (line {})",
                filesystem.line
            )));
        }
        if tag.len() > 36 {
            return Err(Error::Xml(format!(
                "the target of a virtiofs filesystem has at most 36 bytes (line {})",
                filesystem.line
            )));
        }
        Ok(Self {
            common: Common::read(filesystem)?,
            dir,
            socket,
            tag,
            readonly: is_yes(filesystem.get("readonly")) || filesystem.child("readonly").is_some(),
        })
    }
}
