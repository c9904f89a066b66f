//! Events: who wants to hear of what, and telling them.

use ostler_libvirt::procedures::{
    EVENT_BALLOON, EVENT_DEVICE_ADDED, EVENT_DEVICE_REMOVED, EVENT_LIFECYCLE, EVENT_MEMORY_DEVICE,
    EVENT_METADATA, EVENT_PM_SUSPEND, EVENT_PM_WAKEUP, EVENT_REBOOT, EVENT_RTC, EVENT_TRAY, EVENT_WATCHDOG,
};
use ostler_libvirt::types::{
    BalloonMessage, DeviceMessage, Domain, LifecycleMessage, MemoryDeviceMessage, MetadataMessage, PmMessage,
    RebootMessage, RtcMessage, TrayMessage, Uuid, WatchdogMessage,
};
use ostler_libvirt::{Encode, RemoteError};

use crate::server::Client;
use crate::subscriptions::Subscriptions;

/// The number of the event of life cycles (`virDomainEventID`).
pub const LIFECYCLE: i32 = 0;
/// The numbers of other events.
const REBOOT: i32 = 1;
const RTC: i32 = 2;
const WATCHDOG: i32 = 3;
const TRAY: i32 = 10;
const PM_WAKEUP: i32 = 11;
const PM_SUSPEND: i32 = 12;
const BALLOON: i32 = 13;
const DEVICE_REMOVED: i32 = 15;
const DEVICE_ADDED: i32 = 19;
const METADATA: i32 = 23;
const MEMORY_DEVICE: i32 = 26;
/// The numbers that clients may ask for; most of these never happen to our guests.
const EVENTS: std::ops::Range<i32> = 0..27;

/// A step in a guest's life, with how it came to it (`virDomainEventType` and its details).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are libvirt's")]
pub enum Lifecycle {
    DefinedAdded,
    DefinedUpdated,
    DefinedRenamed,
    Undefined,
    UndefinedRenamed,
    StartedBooted,
    StartedWakeup,
    SuspendedPaused,
    ResumedUnpaused,
    StoppedShutdown,
    StoppedDestroyed,
    StoppedCrashed,
    StoppedFailed,
    ShutdownByGuest,
    ShutdownByHost,
    PmSuspended,
    CrashedPanicked,
}

impl Lifecycle {
    fn numbers(self) -> (i32, i32) {
        match self {
            Self::DefinedAdded => (0, 0),
            Self::DefinedUpdated => (0, 1),
            Self::DefinedRenamed => (0, 2),
            Self::Undefined => (1, 0),
            Self::UndefinedRenamed => (1, 1),
            Self::StartedBooted => (2, 0),
            Self::StartedWakeup => (2, 4),
            Self::SuspendedPaused => (3, 0),
            Self::ResumedUnpaused => (4, 0),
            Self::StoppedShutdown => (5, 0),
            Self::StoppedDestroyed => (5, 1),
            Self::StoppedCrashed => (5, 2),
            Self::StoppedFailed => (5, 5),
            Self::ShutdownByGuest => (6, 1),
            Self::ShutdownByHost => (6, 2),
            Self::PmSuspended => (7, 0),
            Self::CrashedPanicked => (8, 0),
        }
    }
}

/// Subscriptions to guests.
pub struct Events {
    subscriptions: Subscriptions,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            subscriptions: Subscriptions::new(EVENTS),
        }
    }
}

impl Events {
    /// Subscribes `client`, and returns the number by which events and the end of it name the subscription.
    pub fn subscribe(&self, client: &Client, event: i32, domain: Option<Uuid>) -> Result<i32, RemoteError> {
        self.subscriptions.subscribe(client, event, domain)
    }

    /// Ends a subscription of `client`.
    pub fn unsubscribe(&self, client: &Client, callback: i32) -> Result<(), RemoteError> {
        self.subscriptions.unsubscribe(client, callback)
    }

    /// Ends all subscriptions of a client that is gone.
    pub fn forget_client(&self, number: u64) {
        self.subscriptions.forget_client(number);
    }

    /// Tells of a step in a guest's life. Whoever calls holds the guest, so that its steps are told in order.
    pub fn lifecycle(&self, domain: &Domain, step: Lifecycle) {
        let (event, detail) = step.numbers();
        crate::log::note!("guest {}: {step:?}", domain.name);
        self.tell(LIFECYCLE, EVENT_LIFECYCLE, domain, |callback| LifecycleMessage {
            callback,
            domain: domain.clone(),
            event,
            detail,
        });
    }

    /// Tells that a guest booted again.
    pub fn reboot(&self, domain: &Domain) {
        self.tell(REBOOT, EVENT_REBOOT, domain, |callback| RebootMessage {
            callback,
            domain: domain.clone(),
        });
    }

    /// Tells that a guest went to sleep, or woke up.
    pub fn sleep(&self, domain: &Domain, asleep: bool) {
        let (event, procedure) = match asleep {
            true => (PM_SUSPEND, EVENT_PM_SUSPEND),
            false => (PM_WAKEUP, EVENT_PM_WAKEUP),
        };
        self.tell(event, procedure, domain, |callback| PmMessage {
            callback,
            reason: 0,
            domain: domain.clone(),
        });
    }

    /// Tells that a device is there.
    pub fn device_added(&self, domain: &Domain, alias: &str) {
        self.device(DEVICE_ADDED, EVENT_DEVICE_ADDED, domain, alias);
    }

    /// Tells that a device is gone.
    pub fn device_removed(&self, domain: &Domain, alias: &str) {
        self.device(DEVICE_REMOVED, EVENT_DEVICE_REMOVED, domain, alias);
    }

    fn device(&self, event: i32, procedure: i32, domain: &Domain, alias: &str) {
        self.tell(event, procedure, domain, |callback| DeviceMessage {
            callback,
            domain: domain.clone(),
            alias: alias.into(),
        });
    }

    /// Tells that a guest has another amount of memory, in KiB.
    pub fn balloon(&self, domain: &Domain, actual: u64) {
        self.tell(BALLOON, EVENT_BALLOON, domain, |callback| BalloonMessage {
            callback,
            domain: domain.clone(),
            actual,
        });
    }

    /// Tells that a guest has another amount of a memory device, in KiB.
    pub fn memory_device(&self, domain: &Domain, alias: &str, size: u64) {
        self.tell(MEMORY_DEVICE, EVENT_MEMORY_DEVICE, domain, |callback| {
            MemoryDeviceMessage {
                callback,
                domain: domain.clone(),
                alias: alias.into(),
                size,
            }
        });
    }

    /// Tells that a guest has set its real-time clock, which is `offset` seconds ahead of UTC now.
    pub fn rtc_set(&self, domain: &Domain, offset: i64) {
        self.tell(RTC, EVENT_RTC, domain, |callback| RtcMessage {
            callback,
            domain: domain.clone(),
            offset,
        });
    }

    /// Tells that the tray of a CD-ROM drive moved.
    pub fn tray_moved(&self, domain: &Domain, alias: &str, open: bool) {
        self.tell(TRAY, EVENT_TRAY, domain, |callback| TrayMessage {
            callback,
            domain: domain.clone(),
            alias: alias.into(),
            reason: i32::from(!open),
        });
    }

    /// Tells that a guest let its watchdog run out, and what follows.
    pub fn watchdog(&self, domain: &Domain, action: &str) {
        // `virDomainEventWatchdogAction`.
        let action = match action {
            "pause" => 1,
            "reset" => 2,
            "poweroff" => 3,
            "shutdown" => 4,
            "debug" => 5,
            "inject-nmi" => 6,
            _ => 0,
        };
        self.tell(WATCHDOG, EVENT_WATCHDOG, domain, |callback| WatchdogMessage {
            callback,
            domain: domain.clone(),
            action,
        });
    }

    /// Tells that a text about a guest changed: which kind, and whose.
    pub fn metadata(&self, domain: &Domain, kind: i32, uri: Option<&str>) {
        self.tell(METADATA, EVENT_METADATA, domain, |callback| MetadataMessage {
            callback,
            domain: domain.clone(),
            kind,
            uri: uri.map(String::from),
        });
    }

    fn tell<M: Encode>(&self, event: i32, procedure: i32, domain: &Domain, message: impl Fn(i32) -> M) {
        self.subscriptions.tell(event, procedure, &domain.uuid, message);
    }
}
