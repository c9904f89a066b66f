//! Serial ports, consoles and channels: where their characters go to and come from.

use std::path::PathBuf;

use ostler_libvirt_xml::domain as xml;

use super::Lacks;

/// Where characters go to and come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// Nowhere.
    Nowhere,
    /// To clients of the daemon.
    Clients,
    /// To a file; `true` if what is in it stays.
    File(PathBuf, bool),
    /// To whoever connects to this socket.
    Socket(PathBuf),
}

/// What a guest has of them; `None` for what it does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streams {
    /// The serial port COM1.
    pub serial: Option<Stream>,
    /// The virtio console.
    pub console: Option<Stream>,
    /// Channels by their names.
    pub channels: Vec<(String, Stream)>,
}

pub(super) fn read(devices: &xml::Devices) -> Result<Streams, Lacks> {
    let mut streams = Streams::default();
    match devices.serials.as_slice() {
        [] => {}
        [serial] if serial.target == xml::CharacterTarget::Serial(0) => {
            streams.serial = Some(stream(serial, "serial port")?);
        }
        [_] => return Err("a guest has the serial port 0 only".into()),
        _ => return Err("a guest has one <serial> port at most".into()),
    }
    for console in &devices.consoles {
        // One that is a serial port is that port once more.
        if console.target != xml::CharacterTarget::VirtioConsole {
            continue;
        }
        if streams.console.is_some() {
            return Err("a guest has one virtio <console> at most".into());
        }
        streams.console = Some(stream(console, "console")?);
    }
    for channel in &devices.channels {
        let xml::CharacterTarget::VirtioPort(Some(name)) = &channel.target else {
            return Err("a <channel> needs a target with a name".into());
        };
        let stream = stream(channel, "channel")?;
        streams.channels.push((name.clone(), stream));
    }
    Ok(streams)
}

fn stream(character: &xml::Character, what: &str) -> Result<Stream, Lacks> {
    if character.log.is_some() {
        return Err(format!(
            "a {what} has no <log>; use type='file', or the daemon's console"
        ));
    }
    Ok(match &character.source {
        xml::CharacterSource::Pty | xml::CharacterSource::Unix { path: None, .. } => Stream::Clients,
        xml::CharacterSource::Null | xml::CharacterSource::Unconnected => Stream::Nowhere,
        xml::CharacterSource::File { path, append } => Stream::File(path.into(), *append),
        xml::CharacterSource::Unix {
            path: Some(path),
            listen: true,
        } => Stream::Socket(path.into()),
        xml::CharacterSource::Unix { .. } => {
            return Err(format!(
                "a {what} listens at its socket: mode='connect' cannot be"
            ));
        }
        xml::CharacterSource::Tcp { .. } => return Err(format!("a {what} cannot be reached by TCP")),
    })
}
