//! A guest's parent: it connects the guest's card, and connects it again when the switch was restarted.
//!
//! The guest's process opens nothing. It has one end of a plug (see `ostler_netio::SwitchNet`); when it lost the switch it asks for
//! another connection there, and this end makes one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ostler_netio::{plug_in, wait_for_wish};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::Error;
use crate::client::Client;
use crate::config::PortSpec;

/// Between two tries to find a switch again.
const PAUSE: Duration = Duration::from_millis(200);
/// Characters of the guest's name that become part of the port's: room is left for a card's address.
const MAX_PREFIX: usize = 46;

/// A card's way to its switch.
pub struct Cable {
    plug: UnixStream,
    control: PathBuf,
    port: PortSpec,
}

impl Cable {
    /// Connects a card to the switch at `control` for the first time, at a port as `port` describes it. The other value is the
    /// guest's end.
    pub fn lay(control: PathBuf, port: PortSpec) -> Result<(Self, OwnedFd), Error> {
        let (cable, guests) = Self::spare(control, port)?;
        cable.connect()?;
        Ok((cable, guests))
    }

    /// For a card that has its connection already: it is connected again when it asks.
    pub fn spare(control: PathBuf, port: PortSpec) -> Result<(Self, OwnedFd), Error> {
        let pair = UnixStream::pair().map_err(|source| Error::Host {
            what: "no socket pair for port",
            name: port.name.clone(),
            source,
        });
        let (plug, guests) = pair?;
        let cable = Self { plug, control, port };
        Ok((cable, guests.into()))
    }

    fn connect(&self) -> Result<(), Error> {
        let attached = Client::connect(&self.control)?.attach(&self.port)?;
        let sent = plug_in(&self.plug, &attached.connection, &attached.memory);
        sent.map_err(|source| Error::Host {
            what: "cannot give the guest its connection to port",
            name: attached.port,
            source,
        })
    }

    /// Connects the guest again whenever it asks, in a thread of its own, for as long as the guest runs.
    pub fn mind(self) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("cable".into());
        thread.spawn(move || {
            while wait_for_wish(&self.plug).is_ok() {
                while self.connect().is_err() {
                    if self.is_over() {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        })?;
        Ok(())
    }
}

impl Cable {
    /// True if the guest is gone.
    fn is_over(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(
            rustix::net::recv(&self.plug, &mut [0; 1], flags),
            Ok((0, _)) | Err(Errno::CONNRESET)
        )
    }
}

/// What the port of a guest's card is called, whose name or address is `card`.
pub fn port_name(guest: &str, card: &str) -> String {
    let good = |c: char| {
        if c.is_ascii_alphanumeric() || "._-:".contains(c) {
            c
        } else {
            '_'
        }
    };
    let guest: String = guest.chars().take(MAX_PREFIX).map(good).collect();
    format!("{guest}/{card}")
}
