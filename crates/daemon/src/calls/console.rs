//! The call that opens a console.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::OpenConsoleArgs;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Character, CharacterTarget};

use super::{Context, Dispatcher, check_flags};
use crate::console::ConsoleStream;
use crate::domains::domain::Live;
use crate::domains::plan::{Plan, Stream};
use crate::stream::Stream as _;

/// Flags: take it from who has it; only if it can be taken safely, which it always can.
const FORCE: u32 = 1;
const SAFE: u32 = 2;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainOpenConsole>(open);
}

fn open(context: &Context<'_>, args: OpenConsoleArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, FORCE | SAFE)?;
    let domain = context.domain(&args.domain)?;
    let (alias, path) = domain.with_live(|live| find(live, args.device.as_deref()))??;
    let failed =
        |e: std::io::Error| RemoteError::new(Code::OperationFailed, format!("cannot open the console: {e}"));
    let socket = UnixStream::connect(&path).map_err(failed)?;
    let stream = ConsoleStream::new(socket, context.client.outbox.clone(), context.header);
    let before =
        domain.with_live(|live| take(&mut live.consoles, alias, &stream, args.flags & FORCE != 0))??;
    if let Some(before) = before {
        before.fail(&RemoteError::new(
            Code::OperationAborted,
            "another client took the console",
        ));
    }
    let known = context.client.add_stream(context.header.serial, stream.clone());
    // One that its client does not have is nobody's console.
    known.inspect_err(|_| stream.close())?;
    context.after_reply(move || {
        if let Err(error) = stream.run() {
            stream.fail(&failed(error));
        }
    });
    Ok(())
}

/// The console that `wanted` names, or the first one: its alias, and the socket that it is behind.
fn find(live: &Live, wanted: Option<&str>) -> Result<(String, PathBuf), RemoteError> {
    let plan = Plan::of(&live.definition)?;
    let devices = &live.definition.devices;
    let serial = devices
        .serials
        .first()
        .map(|serial| (serial, &plan.streams.serial, live.files.serial()));
    let virtio = devices
        .consoles
        .iter()
        .find(|console| console.target == CharacterTarget::VirtioConsole);
    let virtio = virtio.map(|console| (console, &plan.streams.console, live.files.console()));
    let alias = |character: &Character| character.common.alias.clone().unwrap_or_default();
    let found = serial
        .into_iter()
        .chain(virtio)
        .find(|(character, ..)| wanted.is_none_or(|wanted| alias(character) == wanted));
    match found {
        Some((character, Some(Stream::Clients), path)) => Ok((alias(character), path)),
        Some((character, ..)) => Err(RemoteError::new(
            Code::OperationFailed,
            format!(
                "the console '{}' leads elsewhere; give it the type 'pty'",
                alias(character)
            ),
        )),
        None => Err(RemoteError::new(
            Code::InvalidArgument,
            format!("cannot find character device {}", wanted.unwrap_or("<null>")),
        )),
    }
}

/// Gives the console to `stream`, and returns the one that had it.
fn take(
    consoles: &mut BTreeMap<String, Arc<ConsoleStream>>,
    alias: String,
    stream: &Arc<ConsoleStream>,
    force: bool,
) -> Result<Option<Arc<ConsoleStream>>, RemoteError> {
    if !force && consoles.get(&alias).is_some_and(|other| !other.is_over()) {
        return Err(RemoteError::new(
            Code::OperationFailed,
            "Active console session exists for this domain",
        ));
    }
    Ok(consoles.insert(alias, stream.clone()))
}
