//! Media of CD-ROM drives, changed while the guest runs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ostler_libvirt::{Code, RemoteError};
use serde_json::Value;

use super::Domains;
use super::definition::Definition;
use super::domain::Domain;
use super::lifecycle::refused;
use super::plan::Plan;
use crate::guest::{Control, Plug};

/// How long a guest that has locked a tray may take to open it; libvirt waits as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often somebody looks whether it has.
const INTERVAL: Duration = Duration::from_millis(100);

/// The CD-ROM drives of a guest as its process tells of them.
fn drives(control: &Control) -> Result<Vec<Value>, RemoteError> {
    match control.execute("query-block").map_err(refused)? {
        Value::Array(drives) => Ok(drives),
        _ => Ok(Vec::new()),
    }
}

/// Whether the guest keeps its tray closed.
fn is_locked(control: &Control, name: &str) -> Result<bool, RemoteError> {
    let is_it =
        |drive: &Value| drive["device"] == name && drive["locked"] == true && drive["tray_open"] == false;
    Ok(drives(control)?.iter().any(is_it))
}

impl Domains {
    /// Puts into the CD-ROM drive `alias` what `after` says. The caller has the guest's devices.
    pub(super) fn change_medium(
        &self,
        domain: &Domain,
        control: &Control,
        after: &Definition,
        alias: &str,
        force: bool,
    ) -> Result<(), RemoteError> {
        let plan = Plan::of(after)?;
        let none = || RemoteError::new(Code::Internal, format!("the drive '{alias}' is in no plan"));
        let disk = plan.disks.iter().find(|disk| disk.alias == alias);
        let disk = disk.ok_or_else(none)?;
        let (drive, number) = domain.with_live(|live| {
            live.next_plug += 1;
            let drive = live.devices.get(alias).map(|attached| attached.id.clone());
            (drive, live.next_plug - 1)
        })?;
        let drive = drive.ok_or_else(none)?;
        let plug = Plug::new(control);
        // What can be wrong with the image is found before the guest is asked for anything.
        let image = plug.open_medium(disk, &self.outside)?;
        let end = Instant::now() + PATIENCE;
        // Each refusal asks the guest to open the tray.
        while let Err(why) = plug.medium(&drive, image.as_ref(), number, force) {
            if !is_locked(control, &drive)? {
                return Err(why);
            }
            if Instant::now() >= end {
                return Err(RemoteError::new(
                    Code::OperationFailed,
                    format!(
                        "the guest has locked the tray of '{}' and did not open it when it was asked; unmount the medium there, or use --force",
                        disk.target
                    ),
                ));
            }
            sleep(INTERVAL);
        }
        Ok(())
    }

    /// Looks at the trays of a guest that ran while no daemon was there.
    pub(super) fn find_trays(&self, domain: &Domain) {
        let Ok(control) = domain.control() else { return };
        let found = drives(&control).unwrap_or_default();
        let _ = domain.with_live(|live| {
            for drive in &found {
                if let (Some(name), Some(open)) = (drive["device"].as_str(), drive["tray_open"].as_bool()) {
                    live.tray_moved(name, open);
                }
            }
        });
    }
}
