//! Media of CD-ROM drives: `eject`, `blockdev-change-medium`, and their steps one by one.

use ostler_ahci::TrayError;

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::manager::{Manager, Which};

/// The drive that the last arguments, `device` or `id`, name.
fn drive(manager: &Manager, mut arguments: Arguments) -> Result<Which, Failure> {
    let device = arguments.string_if_given("device")?;
    let id = arguments.string_if_given("id")?;
    arguments.finish()?;
    manager.tray(device.as_deref(), id.as_deref())
}

fn force(arguments: &mut Arguments) -> Result<bool, Failure> {
    Ok(arguments.boolean_if_given("force")?.unwrap_or(false))
}

pub(super) fn eject(context: &mut Context, mut arguments: Arguments) -> Answer {
    let force = force(&mut arguments)?;
    let drive = drive(context.manager, arguments)?;
    context.manager.eject(&drive, force)?;
    Ok(Reply::nothing())
}

/// `blockdev-open-tray`: a guest that has locked it is asked, and `DEVICE_TRAY_MOVED` tells when it has followed.
pub(super) fn open(context: &mut Context, mut arguments: Arguments) -> Answer {
    let force = force(&mut arguments)?;
    let drive = drive(context.manager, arguments)?;
    match context.manager.open_tray(&drive, force) {
        Ok(()) | Err(TrayError::Locked) => Ok(Reply::nothing()),
        Err(error) => Err(Failure::generic(error.to_string())),
    }
}

pub(super) fn close(context: &mut Context, arguments: Arguments) -> Answer {
    let drive = drive(context.manager, arguments)?;
    context.manager.close_tray(&drive)?;
    Ok(Reply::nothing())
}

pub(super) fn remove(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id = arguments.string("id")?;
    arguments.finish()?;
    let drive = context.manager.tray(None, Some(&id))?;
    context.manager.remove_medium(&drive)?;
    Ok(Reply::nothing())
}

pub(super) fn insert(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id = arguments.string("id")?;
    let node = arguments.string("node-name")?;
    arguments.finish()?;
    let drive = context.manager.tray(None, Some(&id))?;
    context.manager.insert_medium(&drive, &node)?;
    Ok(Reply::nothing())
}

pub(super) fn change(context: &mut Context, mut arguments: Arguments) -> Answer {
    let filename = arguments.string("filename")?;
    let force = force(&mut arguments)?;
    for (name, accepted) in [
        ("format", &["raw"][..]),
        // The drive only reads.
        ("read-only-mode", &["retain", "read-only"]),
    ] {
        match arguments.string_if_given(name)? {
            Some(value) if !accepted.contains(&&*value) => return Err(Failure::not_accepted(name, &value)),
            _ => {}
        }
    }
    let drive = drive(context.manager, arguments)?;
    context.manager.change_medium(&drive, &filename, force)?;
    Ok(Reply::nothing())
}
