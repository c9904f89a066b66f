//! What has a stream of characters: `<serial>`, `<console>`, `<channel>`, `<parallel>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::{attribute, is_yes};

/// Types of sources, and what they need.
macro_rules! source_rows {
    ($($more:expr),* $(,)?) => {
        &[
            honoured("@type", "pty|unix|file|tcp|null", "where its characters go to and come from"),
            refused("@type", "dev|pipe|stdio|udp|vc|nmdm|spiceport|dbus", "there is no such back end"),
            $($more,)*
            kept("@tty", "", "of a guest that runs"),
            honoured("source@path", "", "of a file or a socket; that of a pty is given at each start"),
            honoured("source@mode", "bind|connect", "whether we listen"),
            honoured("source@{host,service}", "", "of TCP"),
            honoured("source@append", "on|off", "whether a file is kept"),
            kept("source@tls", "no", ""),
            refused("source@{tls,master,slave,channel}", "", "there is no such back end"),
            kept("source/reconnect@{enabled,timeout}", "", ""),
            kept("source/{clipboard,mouse,seclabel}", "", "").whole(),
            honoured("protocol@type", "raw", "of TCP"),
            refused("protocol@type", "", "bytes are sent as they are"),
            honoured("log@{file,append}", "", "what the guest says is written there, too"),
        ]
    };
}

const SERIAL_ROWS: &[Row] = source_rows![
    refused("@type", "spicevmc|qemu-vdagent", "of a channel"),
    honoured("target@type", "isa-serial|serial", "a 16550"),
    refused("target@type", "", "there is no such port"),
    honoured("target@port", "0|1|2|3", "COM1 to COM4"),
    honoured("target/model@name", "isa-serial", ""),
    refused("target/model@name", "", "there is no such port"),
];

const CONSOLE_ROWS: &[Row] = source_rows![
    refused("@type", "spicevmc|qemu-vdagent", "of a channel"),
    honoured("target@type", "serial", "the first serial port, by another name"),
    honoured("target@type", "virtio", "a console of virtio"),
    refused("target@type", "", "there is no such console"),
    honoured("target@port", "", ""),
    kept("target/model", "", "").whole(),
];

const CHANNEL_ROWS: &[Row] = source_rows![
    kept(
        "@type",
        "spicevmc|qemu-vdagent",
        "nobody speaks it; the guest sees a port that is not connected"
    ),
    honoured("target@type", "virtio", "a port of virtio-serial"),
    refused("target@type", "", "there is no such channel"),
    honoured("target@name", "", "by which the guest finds it"),
    kept("target@{state,address,port}", "", "of a guest that runs"),
];

/// `<serial>`.
pub(crate) const SERIAL: Family = Family::device("devices/serial", SERIAL_ROWS);
/// `<console>`.
pub(crate) const CONSOLE: Family = Family::device("devices/console", CONSOLE_ROWS);
/// `<channel>`.
pub(crate) const CHANNEL: Family = Family::device("devices/channel", CHANNEL_ROWS);
/// `<parallel>`.
pub(crate) const PARALLEL: Family = Family::of(
    "devices/parallel",
    &[refused("", "", "there is no parallel port")],
);

/// A serial port, console or channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Character {
    /// What all devices have.
    pub common: Common,
    /// Where its characters go.
    pub source: CharacterSource,
    /// What the guest sees.
    pub target: CharacterTarget,
    /// A file that what the guest says is written to, too, and whether it is appended.
    pub log: Option<(String, bool)>,
}

/// Where characters go to and come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharacterSource {
    /// A terminal that is made at the start.
    Pty,
    /// A unix socket.
    Unix {
        /// Its path; `None` for one that is chosen at the start.
        path: Option<String>,
        /// Whether we listen.
        listen: bool,
    },
    /// A file that is written.
    File {
        /// Its path.
        path: String,
        /// Whether it is kept.
        append: bool,
    },
    /// TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        service: String,
        /// Whether we listen.
        listen: bool,
    },
    /// Nowhere.
    Null,
    /// A protocol that nobody here speaks (`spicevmc`); the port is not connected.
    Unconnected,
}

/// What the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharacterTarget {
    /// The serial port of this number.
    Serial(u32),
    /// A console of virtio.
    VirtioConsole,
    /// A port of virtio-serial with this name.
    VirtioPort(Option<String>),
}

impl Character {
    pub(crate) fn read(element: &Element) -> Result<Self, Error> {
        let log = element.child("log");
        let file = log.and_then(|log| log.get("file"));
        Ok(Self {
            common: Common::read(element)?,
            source: CharacterSource::read(element)?,
            target: target(element)?,
            log: file.map(|file| (file.to_owned(), is_yes(log.and_then(|log| log.get("append"))))),
        })
    }
}

fn target(element: &Element) -> Result<CharacterTarget, Error> {
    let target = element.child("target");
    let kind = target.and_then(|target| target.get("type"));
    Ok(match (element.name.as_str(), kind) {
        ("channel", _) => {
            CharacterTarget::VirtioPort(target.and_then(|target| target.get("name")).map(str::to_owned))
        }
        ("console", Some("virtio")) => CharacterTarget::VirtioConsole,
        _ => {
            let port = target
                .map(|target| attribute(target, "port"))
                .transpose()?
                .flatten();
            CharacterTarget::Serial(port.unwrap_or(0))
        }
    })
}

impl CharacterSource {
    fn read(element: &Element) -> Result<Self, Error> {
        let source = |name: &str| {
            // A TCP source may have one element to listen at and one to connect to; the first counts.
            element
                .child_get("source", name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let needed = |name: &str| {
            source(name).ok_or_else(|| {
                Error::Xml(format!(
                    "Missing source {name} attribute for char device (line {})",
                    element.line
                ))
            })
        };
        let listen = source("mode").as_deref() != Some("connect");
        Ok(match element.get("type") {
            Some("unix") => {
                let path = source("path");
                if path.is_none() && !listen {
                    needed("path")?;
                }
                Self::Unix { path, listen }
            }
            Some("file") => Self::File {
                path: needed("path")?,
                append: is_yes(source("append").as_deref()),
            },
            Some("tcp") => Self::Tcp {
                host: source("host").unwrap_or_default(),
                service: needed("service")?,
                listen,
            },
            Some("null") => Self::Null,
            Some("spicevmc" | "qemu-vdagent") => Self::Unconnected,
            _ => Self::Pty,
        })
    }
}
