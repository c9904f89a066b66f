//! Who wants to hear of networks, and telling them.

use ostler_libvirt::RemoteError;
use ostler_libvirt::error::Source;
use ostler_libvirt::procedures::EVENT_NETWORK_LIFECYCLE;
use ostler_libvirt::types::{Network as WireNetwork, NetworkLifecycleMessage, Uuid};

use crate::server::Client;
use crate::subscriptions::Subscriptions;

/// The number of the event of life cycles (`virNetworkEventID`); there is no other.
const LIFECYCLE: i32 = 0;

/// A step in a network's life (`virNetworkEventLifecycleType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are libvirt's")]
pub enum Step {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
}

/// Subscriptions to networks.
pub struct NetworkEvents(Subscriptions);

impl Default for NetworkEvents {
    fn default() -> Self {
        Self(Subscriptions::new(LIFECYCLE..LIFECYCLE + 1))
    }
}

impl NetworkEvents {
    /// Subscribes `client`, and returns the number by which events and the end of it name the subscription.
    pub fn subscribe(&self, client: &Client, event: i32, network: Option<Uuid>) -> Result<i32, RemoteError> {
        let subscribed = self.0.subscribe(client, event, network);
        subscribed.map_err(|error| error.of(Source::Network))
    }

    /// Ends a subscription of `client`.
    pub fn unsubscribe(&self, client: &Client, callback: i32) -> Result<(), RemoteError> {
        let ended = self.0.unsubscribe(client, callback);
        ended.map_err(|error| error.of(Source::Network))
    }

    /// Ends all subscriptions of a client that is gone.
    pub fn forget_client(&self, number: u64) {
        self.0.forget_client(number);
    }

    /// Tells of a step in a network's life. Whoever calls holds the network, so that its steps are told in order.
    pub fn tell(&self, network: &WireNetwork, step: Step) {
        crate::log::note!("network {}: {step:?}", network.name);
        let message = |callback| NetworkLifecycleMessage {
            callback,
            network: network.clone(),
            event: step as i32,
            detail: 0,
        };
        self.0
            .tell(LIFECYCLE, EVENT_NETWORK_LIFECYCLE, &network.uuid, message);
    }
}
