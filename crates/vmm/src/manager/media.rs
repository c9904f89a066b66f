//! Media of CD-ROM drives, which come and go while the guest runs.

use ostler_ahci::{Order, TrayControl, TrayError};
use serde_json::json;

use super::{Manager, Origin};
use crate::control::Failure;
use crate::devices::SataDrive;

/// A CD-ROM drive that a client named.
#[derive(Clone)]
pub(crate) struct Which {
    index: usize,
    /// As the client called it.
    called: String,
    name: String,
    tray: TrayControl,
}

impl Which {
    fn refused(&self, error: &TrayError) -> Failure {
        let called = &self.called;
        Failure::generic(match error {
            TrayError::Locked => format!(
                "Device '{called}' is locked and force was not specified, wait for tray to open and try again"
            ),
            TrayError::Closed => format!("Tray of device '{called}' is not open"),
            other => format!("Device '{called}': {other}"),
        })
    }

    fn carry_out(&self, order: Order) -> Result<(), TrayError> {
        self.tray.carry_out(order)
    }
}

/// What shows the drive at `port` in the object tree.
pub(crate) fn drive_path(port: usize) -> String {
    format!("/machine/sata/{port}")
}

impl Manager {
    /// The CD-ROM drive that a client calls `device`, by its name, or `id`, by its name or its path.
    pub fn tray(&self, device: Option<&str>, id: Option<&str>) -> Result<Which, Failure> {
        let (called, by_path) = match (device, id) {
            (Some(called), None) => (called, false),
            (None, Some(called)) => (called, true),
            _ => return Err(Failure::generic("Need exactly one of 'device' and 'id'")),
        };
        let is_it = |(port, drive): &(usize, &SataDrive)| {
            drive.name == called || by_path && drive_path(*port) == called
        };
        let known = self.device(called).is_some();
        match self.drives.iter().enumerate().find(is_it) {
            Some((
                index,
                SataDrive {
                    name,
                    tray: Some(tray),
                    ..
                },
            )) => Ok(Which {
                index,
                called: called.into(),
                name: name.clone(),
                tray: tray.clone(),
            }),
            None if !known => Err(Failure::no_device(called)),
            _ => Err(Failure::generic(format!("Device '{called}' is not removable"))),
        }
    }

    /// Tells of trays that stand otherwise than was told: those that the guest moved.
    pub fn note_trays(&mut self) {
        for index in 0..self.drives.len() {
            if let Some(tray) = &self.drives[index].tray {
                let open = tray.state().open;
                self.tell_tray(index, open);
            }
        }
    }

    fn tell_tray(&mut self, index: usize, open: bool) {
        if std::mem::replace(&mut self.trays_told[index], open) == open {
            return;
        }
        let name = self.drives[index].name.clone();
        let data = json!({ "device": name, "id": drive_path(index), "tray-open": open });
        self.tell("DEVICE_TRAY_MOVED", data);
    }

    /// `blockdev-open-tray`. A guest that has locked the tray is asked to open it.
    pub fn open_tray(&mut self, which: &Which, force: bool) -> Result<(), TrayError> {
        self.note_trays();
        which.carry_out(Order {
            open: Some(force),
            ..Order::default()
        })?;
        self.tell_tray(which.index, true);
        Ok(())
    }

    /// `blockdev-close-tray`.
    pub fn close_tray(&mut self, which: &Which) -> Result<(), Failure> {
        self.note_trays();
        let order = Order {
            close: true,
            ..Order::default()
        };
        which.carry_out(order).map_err(|error| which.refused(&error))?;
        self.tell_tray(which.index, false);
        Ok(())
    }

    /// `blockdev-remove-medium`.
    pub fn remove_medium(&mut self, which: &Which) -> Result<(), Failure> {
        let order = Order {
            medium: Some(None),
            ..Order::default()
        };
        which.carry_out(order).map_err(|error| which.refused(&error))?;
        self.nodes.release(&which.name);
        Ok(())
    }

    /// `eject`: the tray stays open. In one step, or a guest that polls its drive would close it in between.
    pub fn eject(&mut self, which: &Which, force: bool) -> Result<(), Failure> {
        self.note_trays();
        let order = Order {
            open: Some(force),
            medium: Some(None),
            close: false,
        };
        which.carry_out(order).map_err(|error| which.refused(&error))?;
        self.tell_tray(which.index, true);
        self.nodes.release(&which.name);
        Ok(())
    }

    /// `blockdev-insert-medium`.
    pub fn insert_medium(&mut self, which: &Which, node: &str) -> Result<(), Failure> {
        let disk = self.nodes.free_medium(node)?;
        if self.nodes.on(&which.name).is_some() {
            let called = &which.called;
            return Err(Failure::generic(match which.tray.state().open {
                true => format!("There already is a medium in device '{called}'"),
                false => format!("Tray of device '{called}' is not open"),
            }));
        }
        let order = Order {
            medium: Some(Some(disk)),
            ..Order::default()
        };
        which.carry_out(order).map_err(|error| which.refused(&error))?;
        self.nodes.give(node, &which.name);
        Ok(())
    }

    /// `blockdev-change-medium`: the image that a client handed over, and the tray is closed afterwards.
    pub fn change_medium(&mut self, which: &Which, filename: &str, force: bool) -> Result<(), Failure> {
        let node = self.nodes.add_medium(filename, &self.fdsets)?;
        let changed = self.change_to(which, &node, force);
        if changed.is_err() {
            // Nobody has it.
            let _ = self.nodes.remove(&node);
        }
        changed
    }

    fn change_to(&mut self, which: &Which, node: &str, force: bool) -> Result<(), Failure> {
        let disk = self.nodes.free_medium(node)?;
        self.note_trays();
        let order = Order {
            open: Some(force),
            medium: Some(Some(disk)),
            close: true,
        };
        which.carry_out(order).map_err(|error| which.refused(&error))?;
        self.tell_tray(which.index, true);
        self.tell_tray(which.index, false);
        self.nodes.release(&which.name);
        self.nodes.give(node, &which.name);
        Ok(())
    }
}

/// Whether a node goes with the medium that it is, or the disk on it: a client that added it removes it.
pub(super) fn goes_with_user(origin: Origin) -> bool {
    origin != Origin::Added
}
