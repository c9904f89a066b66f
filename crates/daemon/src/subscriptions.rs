//! Who wants to hear of what, of one kind of objects.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_libvirt::frame::{PROGRAM_VERSION, REMOTE_PROGRAM};
use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, Encode, Header, Kind, Message, RemoteError, Status};

use crate::server::{Client, Outbox};

/// Subscriptions of one client to objects of one kind.
const MAX_SUBSCRIPTIONS: usize = 1024;

/// All subscriptions to objects of one kind. Telling never waits for a client.
pub struct Subscriptions {
    /// The numbers of events that clients may ask for.
    events: Range<i32>,
    list: Mutex<Vec<Subscription>>,
    next: AtomicI32,
}

struct Subscription {
    callback: i32,
    client: u64,
    outbox: Arc<Outbox>,
    event: i32,
    /// Of one object only.
    object: Option<Uuid>,
}

impl Subscriptions {
    /// To `events` of objects of one kind.
    pub fn new(events: Range<i32>) -> Self {
        Self {
            events,
            list: Mutex::default(),
            next: AtomicI32::new(0),
        }
    }

    /// Subscribes `client`, and returns the number by which events and the end of it name the subscription.
    pub fn subscribe(&self, client: &Client, event: i32, object: Option<Uuid>) -> Result<i32, RemoteError> {
        if !self.events.contains(&event) {
            return Err(RemoteError::new(
                Code::InvalidArgument,
                format!("there is no event {event}"),
            ));
        }
        let mut list = self.list();
        let count = list.iter().filter(|s| s.client == client.number).count();
        if count >= MAX_SUBSCRIPTIONS {
            return Err(RemoteError::new(
                Code::OperationFailed,
                format!("a client has at most {MAX_SUBSCRIPTIONS} subscriptions"),
            ));
        }
        let callback = self.next.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        list.push(Subscription {
            callback,
            client: client.number,
            outbox: client.outbox.clone(),
            event,
            object,
        });
        drop(list);
        // The client's end closes the outbox first, and takes the subscriptions after that.
        if client.outbox.is_closed() {
            self.forget_client(client.number);
        }
        Ok(callback)
    }

    /// Ends a subscription of `client`.
    pub fn unsubscribe(&self, client: &Client, callback: i32) -> Result<(), RemoteError> {
        let mut list = self.list();
        let at = list
            .iter()
            .position(|s| s.client == client.number && s.callback == callback)
            .ok_or_else(|| {
                RemoteError::new(
                    Code::Internal,
                    format!("this client has no subscription {callback}"),
                )
            })?;
        list.remove(at);
        Ok(())
    }

    /// Ends all subscriptions of a client that is gone.
    pub fn forget_client(&self, number: u64) {
        self.list().retain(|s| s.client != number);
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Tells of an event of an object: `message` makes what is sent for a subscription's number.
    pub fn tell<M: Encode>(&self, event: i32, procedure: i32, object: &Uuid, message: impl Fn(i32) -> M) {
        let header = Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure,
            kind: Kind::Event,
            serial: 0,
            status: Status::Ok,
        };
        for subscription in self.list().iter() {
            if subscription.event != event || subscription.object.is_some_and(|uuid| uuid != *object) {
                continue;
            }
            if let Ok(message) = Message::new(header, &message(subscription.callback)) {
                subscription.outbox.push(&message);
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Subscription>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
