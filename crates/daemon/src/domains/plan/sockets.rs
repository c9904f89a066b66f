//! What a guest has of the host beside disks and cards: folders that it mounts, and sockets.

use std::path::PathBuf;

use ostler_libvirt_xml::domain as xml;
use ostler_vmm::spec::{check_cid, check_tag};

use super::Lacks;

/// A folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its alias.
    pub alias: String,
    /// The name by which the guest mounts it.
    pub tag: String,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Who shares it.
    pub source: ShareSource,
}

/// Who shares a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareSource {
    /// A virtiofsd that is started for this folder.
    Folder(PathBuf),
    /// A virtiofsd that listens at this socket.
    Socket(PathBuf),
}

/// Sockets between guest and host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// Its alias.
    pub alias: String,
    /// The guest's CID, or a free one.
    pub cid: Option<u32>,
}

pub(super) fn shares(devices: &xml::Devices) -> Result<Vec<Share>, Lacks> {
    let shares = devices.filesystems.iter().map(share);
    let shares = shares.collect::<Result<Vec<_>, _>>()?;
    for (at, Share { tag, .. }) in shares.iter().enumerate() {
        if shares[..at].iter().any(|other| other.tag == *tag) {
            return Err(format!("two of the <filesystem>s have the target '{tag}'"));
        }
    }
    Ok(shares)
}

fn share(filesystem: &xml::Filesystem) -> Result<Share, Lacks> {
    let tag = filesystem.tag.clone();
    check_tag(&tag).map_err(|error| error.to_string())?;
    let source = match (&filesystem.socket, &filesystem.dir) {
        (Some(path), _) => ShareSource::Socket(path.into()),
        (None, Some(dir)) => ShareSource::Folder(dir.into()),
        (None, None) => return Err(format!("the <filesystem> '{tag}' has no source")),
    };
    Ok(Share {
        alias: filesystem.common.alias.clone().unwrap_or_default(),
        tag,
        readonly: filesystem.readonly,
        source,
    })
}

pub(super) fn vsock(devices: &xml::Devices) -> Result<Option<Vsock>, Lacks> {
    let Some(vsock) = &devices.vsock else {
        return Ok(None);
    };
    if let Some(cid) = vsock.cid {
        check_cid(cid.into()).map_err(|error| error.to_string())?;
    }
    Ok(Some(Vsock {
        alias: vsock.common.alias.clone().unwrap_or_default(),
        cid: vsock.cid,
    }))
}
