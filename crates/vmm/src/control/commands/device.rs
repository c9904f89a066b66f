//! Devices that come and go, and the descriptors that they are made of.

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;

pub(super) fn add(context: &mut Context, arguments: Arguments) -> Answer {
    context.manager.plug(arguments, context.fds)?;
    Ok(Reply::nothing())
}

pub(super) fn remove(context: &mut Context, mut arguments: Arguments) -> Answer {
    let id = arguments.string("id")?;
    arguments.finish()?;
    context.manager.unplug(&id)?;
    Ok(Reply::nothing())
}

pub(super) fn get_fd(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string("fdname")?;
    arguments.finish()?;
    context.fds.name_next(name)?;
    Ok(Reply::nothing())
}

pub(super) fn close_fd(context: &mut Context, mut arguments: Arguments) -> Answer {
    let name = arguments.string("fdname")?;
    arguments.finish()?;
    context.fds.close(&name)?;
    Ok(Reply::nothing())
}

pub(super) fn add_fd(context: &mut Context, mut arguments: Arguments) -> Answer {
    let set = arguments.integer_if_given("fdset-id")?;
    let opaque = arguments.string_if_given("opaque")?;
    arguments.finish()?;
    let fd = context.fds.next()?;
    Ok(Reply::Value(context.manager.fdsets.add(set, opaque, fd)?))
}

pub(super) fn remove_fd(context: &mut Context, mut arguments: Arguments) -> Answer {
    let set = arguments.integer("fdset-id")?;
    let fd = arguments.integer_if_given("fd")?;
    arguments.finish()?;
    context.manager.fdsets.remove(set, fd)?;
    Ok(Reply::nothing())
}
