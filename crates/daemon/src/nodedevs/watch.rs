//! Telling clients of devices of the host that come and go. The kernel says that something happened (NETLINK_KOBJECT_UEVENT); what it
//! was is seen by looking again, so that clients hear of exactly what they are listed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ostler_libvirt::RemoteError;
use ostler_libvirt::types::{DeviceLifecycleMessage, NodeDevice as WireDevice, Uuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::{all, by_name};
use crate::server::Client;
use crate::subscriptions::Subscriptions;

/// Kinds of events that clients may ask for (`virNodeDeviceEventID`). Devices are told of as they come and go; that one changes is
/// not told, and a client may wait for it.
const LIFECYCLE: i32 = 0;
const UPDATE: i32 = 1;
/// What happened to a device (`virNodeDeviceEventLifecycleType`).
const CREATED: i32 = 0;
const DELETED: i32 = 1;
/// The procedure of the event.
const EVENT_LIFECYCLE: i32 = 376;
/// The kernel's own events; others are of udev.
const KERNEL: u32 = 1;
/// Devices come in several steps, each of which is told: so long is waited for the others.
const SETTLE: Duration = Duration::from_millis(100);
/// How often is looked whether anybody listens still.
const REST: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Who wants to hear of devices of the host.
pub struct DeviceEvents {
    subscriptions: Subscriptions,
    /// Whether a thread looks.
    watched: Mutex<bool>,
}

impl Default for DeviceEvents {
    fn default() -> Self {
        Self {
            subscriptions: Subscriptions::new(LIFECYCLE..UPDATE + 1),
            watched: Mutex::default(),
        }
    }
}

/// Subscriptions know objects by 16 bytes. Two names of one key would only mean an event too many.
fn key(name: &str) -> Uuid {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, name).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&half(0));
    key[8..].copy_from_slice(&half(1));
    key
}

fn names() -> BTreeSet<String> {
    all().into_iter().map(|device| device.name).collect()
}

/// A socket that the kernel tells its events.
fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(KOBJECT_UEVENT),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

/// Takes all that was told. What did not fit is made up for by looking.
fn clear(socket: &OwnedFd) {
    let mut event = [0; 8192];
    loop {
        match recv(socket, &mut event, RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

impl DeviceEvents {
    /// Who listens.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Subscribes a client to events of all devices, or of one.
    pub fn subscribe(
        self: &Arc<Self>,
        client: &Client,
        event: i32,
        device: Option<&str>,
    ) -> Result<i32, RemoteError> {
        let device = device.map(by_name).transpose()?;
        let callback = self
            .subscriptions
            .subscribe(client, event, device.map(|device| key(&device.name)))?;
        if let Err(error) = self.watch() {
            // Nothing would be told.
            self.subscriptions.unsubscribe(client, callback)?;
            let why = format!("the kernel's events cannot be listened to: {error}");
            return Err(super::failed(why));
        }
        Ok(callback)
    }

    /// Has a thread look, for as long as anybody listens.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if *watched {
            return Ok(());
        }
        let socket = listen()?;
        let known = names();
        let events = self.clone();
        let thread = std::thread::Builder::new().name("devices".into());
        thread.spawn(move || events.look(&socket, known))?;
        *watched = true;
        Ok(())
    }

    fn look(&self, socket: &OwnedFd, mut known: BTreeSet<String>) {
        loop {
            let told = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&REST));
            {
                let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                if self.subscriptions.is_empty() {
                    *watched = false;
                    return;
                }
            }
            if matches!(told, Ok(0)) {
                continue;
            }
            std::thread::sleep(SETTLE);
            clear(socket);
            let now = names();
            for gone in known.difference(&now) {
                self.tell(gone, DELETED);
            }
            for new in now.difference(&known) {
                self.tell(new, CREATED);
            }
            known = now;
        }
    }

    fn tell(&self, name: &str, event: i32) {
        self.subscriptions
            .tell(LIFECYCLE, EVENT_LIFECYCLE, &key(name), |callback| {
                DeviceLifecycleMessage {
                    callback,
                    device: WireDevice { name: name.into() },
                    event,
                    detail: 0,
                }
            });
    }
}
