//! A guest's screen, and keys for its keyboard.

use std::io;
use std::sync::Arc;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{ScreenshotArgs, SendKeyArgs};
use ostler_libvirt::{Code, RemoteError};
use serde_json::{Value, json};

use super::{Context, Dispatcher, check_flags};
use crate::guest::keys::KeySet;
use crate::guest::picture;
use crate::storage::Download;
use crate::stream::Peer;

/// What a picture is, by which clients name its file.
const PNG: &str = "image/png";

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainScreenshot>(screenshot);
    to.on::<DomainSendKey>(send_key);
}

fn screenshot(context: &Context<'_>, args: ScreenshotArgs) -> Result<Option<String>, RemoteError> {
    check_flags(args.flags, 0)?;
    let domain = context.domain(&args.domain)?;
    let (has_display, control, number) = domain.with_live(|live| {
        live.next_plug += 1;
        let mut videos = live.definition.devices.videos.iter();
        let has_display = videos.any(|video| video.model.is_display());
        (has_display, live.control.clone(), live.next_plug - 1)
    })?;
    if !has_display {
        let why = "the guest has no display; give it a <video> with <model type='vga'/>";
        return Err(RemoteError::new(Code::OperationUnsupported, why));
    }
    if args.screen != 0 {
        let why = format!("the guest has one screen, number 0, and not {}", args.screen);
        return Err(RemoteError::new(Code::InvalidArgument, why));
    }
    let file = picture(&control, number)?;
    let failed = |error: io::Error| {
        let why = format!("cannot look at the picture: {error}");
        RemoteError::new(Code::OperationFailed, why)
    };
    let peer = Peer::new(context.client.outbox.clone(), context.header);
    let stream = Download::of_file(file, peer).map_err(failed)?;
    context
        .client
        .add_stream(context.header.serial, Arc::clone(&stream) as _)?;
    context.after_reply(move || stream.run());
    Ok(Some(PNG.into()))
}

fn send_key(context: &Context<'_>, args: SendKeyArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, 0)?;
    let wrong = |why: String| RemoteError::new(Code::InvalidArgument, why);
    let set = KeySet::from_number(args.set).ok_or_else(|| {
        wrong(format!(
            "there is no set of key codes with the number {}",
            args.set
        ))
    })?;
    let key = |code: &u32| -> Result<Value, RemoteError> {
        let number = set.key(*code);
        let number =
            number.ok_or_else(|| wrong(format!("there is no key {code:#x} in the key codes of {set:?}")))?;
        Ok(json!({ "type": "number", "data": number }))
    };
    let keys = args.keys.0.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let mut command = json!({ "keys": keys });
    if args.hold != 0 {
        command["hold-time"] = args.hold.into();
    }
    let control = context.domain(&args.domain)?.control()?;
    let sent = control.execute_with("send-key", command);
    sent.map(drop)
        .map_err(|error| RemoteError::new(Code::OperationFailed, error.to_string()))
}
