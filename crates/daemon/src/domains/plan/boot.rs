//! What a guest starts with.

use std::path::PathBuf;

use ostler_launch::firmware::Choice;
use ostler_libvirt_xml::domain as xml;

use super::{Disk, Lacks};

/// What a guest starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A kernel.
    Kernel {
        /// Its image.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The command line.
        command_line: String,
    },
    /// Firmware.
    Firmware {
        /// Which.
        choice: Choice,
        /// Where its variables are.
        store: Store,
        /// What a new store is made from.
        template: Option<PathBuf>,
        /// The disks that it tries, as places in the plan's list.
        order: Vec<u32>,
        /// How long a menu is offered, in milliseconds.
        menu: Option<u16>,
    },
}

/// Where variables of firmware are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Nowhere: there are none, or they end with the guest.
    Nowhere,
    /// In the file that the daemon keeps for this guest.
    Own,
    /// In this file.
    File(PathBuf),
}

pub(super) fn read(model: &xml::Domain, disks: &[Disk]) -> Result<Boot, Lacks> {
    if let Some(kernel) = &model.os.kernel {
        return Ok(Boot::Kernel {
            kernel: (&kernel.kernel).into(),
            initrd: kernel.initrd.as_ref().map(PathBuf::from),
            command_line: kernel.command_line.clone(),
        });
    }
    let store = |nvram: &Option<xml::Nvram>| match nvram.as_ref().and_then(|nvram| nvram.path.as_ref()) {
        Some(path) => Store::File(path.into()),
        None => Store::Own,
    };
    let template = |nvram: &Option<xml::Nvram>| {
        let template = nvram.as_ref()?.template.as_ref();
        template.map(PathBuf::from)
    };
    let (choice, store, template) = match &model.os.firmware {
        xml::Firmware::Bios => (Choice::Bios, Store::Nowhere, None),
        xml::Firmware::Efi { nvram, secure } => {
            let choice = if *secure { Choice::SecureUefi } else { Choice::Uefi };
            (choice, store(nvram), template(nvram))
        }
        xml::Firmware::Image {
            path,
            flash,
            secure,
            stateless,
            nvram,
        } => {
            let choice = match secure {
                true => Choice::FileWithSmm(path.into()),
                false => Choice::File(path.into()),
            };
            match (stateless, flash, nvram) {
                (true, _, _) | (false, false, None) => (choice, Store::Nowhere, template(nvram)),
                (false, _, nvram) => (choice, store(nvram), template(nvram)),
            }
        }
    };
    Ok(Boot::Firmware {
        choice,
        store,
        template,
        order: order(model, disks)?,
        menu: model.os.menu,
    })
}

/// The disks that the guest is to boot from: those with orders of their own, or those of the kinds that `<os>` lists.
fn order(model: &xml::Domain, disks: &[Disk]) -> Result<Vec<u32>, Lacks> {
    let by_device = |disk: &xml::Disk| disk.boot_order().is_some();
    let by_kind = |disk: &xml::Disk| {
        let kind = match disk.device {
            xml::DiskDevice::Disk => xml::BootDevice::Disk,
            xml::DiskDevice::Cdrom => xml::BootDevice::Cdrom,
        };
        model.os.boot.contains(&kind)
    };
    let chosen = model
        .boot_disks()
        .into_iter()
        .filter(|disk| by_device(disk) || by_kind(disk));
    let place = |disk: &xml::Disk| {
        let place = disks.iter().position(|other| other.target == disk.target)?;
        u32::try_from(place).ok()
    };
    let order: Vec<u32> = chosen.filter_map(place).collect();
    let card_first = model
        .devices
        .interfaces
        .iter()
        .any(|card| card.common.boot_order.is_some())
        || model.os.boot.contains(&xml::BootDevice::Network);
    if order.is_empty() && card_first {
        return Err("no firmware here boots from the network; give the guest a disk to <boot> from".into());
    }
    Ok(order)
}
