//! `--disk`.

use std::path::PathBuf;

use ostler_vmm::spec::{DiskBus, DiskFormat, PciPlace};

use super::pci::parse_place;

/// A disk as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub bus: DiskBus,
    pub readonly: bool,
    /// Where it is on PCI, if the user says.
    pub place: Option<PciPlace>,
}

pub(super) fn parse_disk(text: &str) -> Result<DiskOption, String> {
    // A path may contain commas: only trailing words that are options are taken off.
    let mut rest = text;
    let (mut format, mut bus, mut readonly, mut place) = (None, None, false, None);
    while let Some((head, word)) = rest.rsplit_once(',') {
        match word.split_once('=') {
            None if word == "readonly" => readonly = true,
            Some(("format", "raw")) => format = Some(DiskFormat::Raw),
            Some(("format", other)) => {
                return Err(format!("there is no disk format \"{other}\"; raw is known"));
            }
            Some(("addr", text)) => place = Some(parse_place(text)?),
            Some(("bus", "virtio")) => bus = Some(DiskBus::Virtio),
            Some(("bus", "sata")) => bus = Some(DiskBus::Sata),
            Some(("bus", other)) => {
                return Err(format!(
                    "there is no disk bus \"{other}\"; virtio and sata are known"
                ));
            }
            Some((key, _)) if !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase()) => {
                return Err(format!(
                    "a disk has no option \"{key}\"; format=raw, bus=virtio, bus=sata, readonly and addr=PLACE are known"
                ));
            }
            _ => break,
        }
        rest = head;
    }
    if rest.is_empty() {
        return Err(
            "the disk's file is missing; write FILE[,format=raw][,bus=virtio|sata][,readonly][,addr=PLACE]"
                .into(),
        );
    }
    if place.is_some() && bus == Some(DiskBus::Sata) {
        return Err(
            "a SATA disk is on the controller, which has its place; addr= is for virtio disks".into(),
        );
    }
    Ok(DiskOption {
        path: rest.into(),
        format: format.unwrap_or(DiskFormat::Raw),
        bus: bus.unwrap_or_default(),
        readonly,
        place,
    })
}
