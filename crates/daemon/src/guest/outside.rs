//! What a guest has of what others manage: networks and volumes. Whoever manages them gives these to the daemon's guests.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ostler_hostnet::PortSettings;
use ostler_libvirt::RemoteError;

use crate::domains::plan::{Image, NetworkPort};

/// A card that is to be connected to a network.
pub struct NetworkCard<'a> {
    /// The guest's name.
    pub guest: &'a str,
    /// The card's address.
    pub mac: String,
    /// What it wishes.
    pub wish: &'a NetworkPort,
    /// Whether a daemon before us connected it: it is only connected again, when it asks.
    pub connected: bool,
}

/// A card's place at a network.
#[derive(Debug)]
pub enum Place {
    /// At our own switch: the guest's end of a plug, through which connections come.
    Switch(OwnedFd),
    /// At a bridge of the kernel.
    Bridge {
        /// Its name.
        bridge: String,
        /// Its port.
        settings: PortSettings,
    },
    /// At a bridge of Open vSwitch.
    OpenVSwitch {
        /// Its name.
        bridge: String,
        /// Its port.
        settings: PortSettings,
    },
}

/// Finds a card's place at its network (`<interface type='network'>`).
pub type ConnectToNetwork = Box<dyn Fn(&NetworkCard<'_>) -> Result<Place, RemoteError> + Send + Sync>;

/// Finds the file of a volume (`<disk type='volume'>`), by the names of its pool and of itself.
pub type FindVolume = Box<dyn Fn(&str, &str) -> Result<PathBuf, RemoteError> + Send + Sync>;

/// Those who manage what guests have of others.
pub struct Outside {
    /// Networks.
    pub networks: ConnectToNetwork,
    /// Volumes of pools.
    pub volumes: FindVolume,
}

impl Outside {
    /// Where the bytes of a disk are.
    pub fn path_of(&self, image: &Image) -> Result<PathBuf, RemoteError> {
        match image {
            Image::File(path) | Image::Block(path) => Ok(path.clone()),
            Image::Volume { pool, volume } => (self.volumes)(pool, volume),
        }
    }
}
