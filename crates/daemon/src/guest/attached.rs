//! A device of a guest that runs, as its process knows it.

use serde::{Deserialize, Serialize};

use super::cards::{self, Connection};

/// What is kept of a device while its guest runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The name that the guest's process has for it.
    pub id: String,
    /// The host's interface of a card.
    #[serde(default)]
    pub port: Option<String>,
    /// Whether that interface was made for the card, and goes with it.
    #[serde(default)]
    pub made: bool,
    /// The bridge of Open vSwitch whose port that interface is.
    #[serde(default)]
    pub openvswitch: Option<String>,
    /// Its number among those that were plugged in; none for what the guest was started with.
    #[serde(default)]
    pub plugged: Option<u32>,
}

impl Attached {
    /// A device that the guest is started with.
    pub fn built(id: String) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Device number `number` of those that are plugged in.
    pub fn plugged(number: u32) -> Self {
        Self {
            id: format!("hot{number}"),
            plugged: Some(number),
            ..Self::default()
        }
    }

    /// The name of a disk's image.
    pub fn block_node(&self) -> String {
        match self.plugged {
            Some(_) => self.host_end(),
            None => self.id.clone(),
        }
    }

    /// The name of what a device that was plugged in stands on: its image, or its network back end.
    pub fn host_end(&self) -> String {
        format!("{}-host", self.id)
    }

    /// The same with the host's interface of a card, and whether it goes with the device.
    pub fn with_port(mut self, connection: &Connection) -> Self {
        if let Some((name, made)) = connection.port() {
            self.port = Some(name.into());
            self.made = made;
            self.openvswitch = connection.openvswitch().map(str::to_owned);
        }
        self
    }

    /// Deletes the interface that was made for it.
    pub fn delete_port(&self) {
        if let Some(port) = self.port.as_ref().filter(|_| self.made) {
            if let Some(bridge) = &self.openvswitch {
                cards::leave_openvswitch(bridge, port);
            }
            cards::delete_tap(port);
        }
    }
}
