//! What a network device, its workers and its control side share.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use ostler_netio::{NetBackend, Offloads};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

use crate::device::Notify;
use vmm_sys_util::eventfd::EventFd;

/// State beyond a single queue. Each lock is held for a moment only, and none while another is.
pub(crate) struct Shared {
    pub backend: Arc<dyn NetBackend>,
    mac: Mutex<[u8; 6]>,
    /// The guest is asked to tell the network where it is.
    announce: AtomicBool,
    /// The transport and the negotiated features, while the device runs.
    running: Mutex<Option<(Arc<dyn Notify>, u64)>>,
    /// The first so many pairs carry frames.
    active_pairs: AtomicU16,
    /// Events that wake the pairs' workers.
    wakes: Mutex<Vec<Arc<EventFd>>>,
    /// True while received frames may be as large as a frame can be.
    large_frames: AtomicBool,
    /// The cable is in, as far as the control side is concerned.
    plugged: AtomicBool,
    /// The back end went away under a worker.
    lost: AtomicBool,
}

impl Shared {
    pub fn new(backend: Arc<dyn NetBackend>, mac: [u8; 6]) -> Self {
        Self {
            backend,
            mac: Mutex::new(mac),
            announce: AtomicBool::new(false),
            running: Mutex::new(None),
            active_pairs: AtomicU16::new(1),
            wakes: Mutex::new(Vec::new()),
            large_frames: AtomicBool::new(false),
            plugged: AtomicBool::new(true),
            lost: AtomicBool::new(false),
        }
    }

    pub fn mac(&self) -> [u8; 6] {
        *self.mac.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn set_mac(&self, mac: [u8; 6]) {
        *self.mac.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = mac;
    }

    /// The status register of the configuration space (5.1.4).
    pub fn status(&self) -> u16 {
        let mut status = 0;
        if self.backend.link_up() && self.is_plugged() && !self.lost.load(Ordering::SeqCst) {
            status |= VIRTIO_NET_S_LINK_UP as u16;
        }
        if self.announce.load(Ordering::SeqCst) {
            status |= VIRTIO_NET_S_ANNOUNCE as u16;
        }
        status
    }

    pub fn announced(&self) {
        self.announce.store(false, Ordering::SeqCst);
    }

    /// False while frames are to get nowhere.
    pub fn is_plugged(&self) -> bool {
        self.plugged.load(Ordering::SeqCst)
    }

    /// Puts the cable in or takes it out. True if that is news.
    fn plug(&self, plugged: bool) -> bool {
        let news = self.plugged.swap(plugged, Ordering::SeqCst) != plugged;
        if news {
            self.wake();
        }
        news
    }

    /// The back end is gone until the device starts again.
    pub fn backend_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    pub fn large_frames(&self) -> bool {
        self.large_frames.load(Ordering::Relaxed)
    }

    /// Tells the back end which offloads the guest takes. False if it refuses.
    pub fn set_delivered(&self, offloads: Offloads) -> bool {
        if !offloads.within(self.backend.delivers()) {
            return false;
        }
        if let Err(error) = self.backend.set_delivered(offloads) {
            tracing::warn!("the network back end refused offloads: {error}");
            return false;
        }
        self.large_frames
            .store(offloads.tso4 || offloads.tso6 || offloads.uso, Ordering::Relaxed);
        true
    }

    /// True if pair `index` carries frames.
    pub fn is_active(&self, index: u16) -> bool {
        index < self.active_pairs.load(Ordering::SeqCst)
    }

    /// Lets the first `pairs` pairs carry frames. False if the back end refuses.
    pub fn set_active_pairs(&self, pairs: u16) -> bool {
        if let Err(error) = self.backend.set_active_pairs(pairs.into()) {
            tracing::warn!("the network back end refused {pairs} queue pairs: {error}");
            return false;
        }
        self.active_pairs.store(pairs, Ordering::SeqCst);
        self.wake();
        true
    }

    fn wake(&self) {
        for wake in self
            .wakes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .iter()
        {
            if let Err(error) = wake.write(1) {
                tracing::trace!("a network worker is awake already: {error}");
            }
        }
    }

    /// `wake` is signalled when the number of active pairs or the link changes.
    pub fn wake_by(&self, wake: Arc<EventFd>) {
        self.wakes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push(wake);
    }

    pub fn started(&self, notify: Arc<dyn Notify>, features: u64) {
        *self
            .running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((notify, features));
    }

    pub fn stopped(&self) {
        *self
            .running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        self.announced();
        self.lost.store(false, Ordering::SeqCst);
        self.wakes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
    }

    fn running(&self) -> Option<(Arc<dyn Notify>, u64)> {
        self.running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

/// The control side of a network device.
#[derive(Clone)]
pub struct NetControl(pub(crate) Arc<Shared>);

impl NetControl {
    /// Asks the guest to announce itself on the network, as after a move to another host. False if its driver cannot.
    pub fn announce(&self) -> bool {
        let Some((notify, features)) = self.0.running() else {
            return false;
        };
        if features & (1 << VIRTIO_NET_F_GUEST_ANNOUNCE) == 0 {
            return false;
        }
        self.0.announce.store(true, Ordering::SeqCst);
        notify.config_changed();
        true
    }

    /// Puts the card's cable in or takes it out, and tells the guest. Frames get nowhere while it is out.
    pub fn set_link(&self, up: bool) {
        if self.0.plug(up) {
            self.link_changed();
        }
    }

    /// False while the cable is out.
    pub fn is_plugged(&self) -> bool {
        self.0.is_plugged()
    }

    /// Tells the guest that the back end's link went up or down.
    pub fn link_changed(&self) {
        if let Some((notify, _)) = self.0.running() {
            notify.config_changed();
        }
    }

    /// The current MAC address, which the guest may have changed.
    pub fn mac(&self) -> [u8; 6] {
        self.0.mac()
    }
}
