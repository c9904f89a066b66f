//! The device as its transport sees it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::door::Door;
use super::worker::VsockWorker;
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::worker::{Worker, new_event};

/// Streams are there (5.10.3), as they always were.
const F_STREAM: u32 = 0;

const QUEUE_SIZE: u16 = 256;

/// What the device, its worker and management share.
pub(crate) struct Shared {
    cid: AtomicU32,
    /// The CID was changed, and the guest does not know.
    pub changed: EventFd,
    pub door: Door,
    /// While it runs, `changed` is the worker's.
    running: Mutex<bool>,
}

impl Shared {
    pub fn cid(&self) -> u32 {
        self.cid.load(Ordering::Relaxed)
    }
}

/// Sockets between guest and host.
pub struct VsockDevice {
    shared: Arc<Shared>,
    worker: Option<Worker<Vec<ActiveQueue>>>,
    metrics: Arc<DeviceMetrics>,
}

impl VsockDevice {
    /// A device that is not running yet, for the guest with this CID, one of [`super::GUEST_CIDS`].
    ///
    /// # Errors
    /// If the host gives no event.
    pub fn new(cid: u32, door: Door) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                cid: AtomicU32::new(cid),
                changed: new_event()?,
                door,
                running: Mutex::new(false),
            }),
            worker: None,
            metrics: Arc::default(),
        })
    }

    /// The handle for the control side.
    pub fn control(&self) -> VsockControl {
        VsockControl(self.shared.clone())
    }
}

/// The control side of a device.
#[derive(Clone)]
pub struct VsockControl(pub(crate) Arc<Shared>);

impl VsockControl {
    /// The guest's CID.
    pub fn cid(&self) -> u32 {
        self.0.cid()
    }

    /// Gives the guest another CID, one of [`super::GUEST_CIDS`]. All its connections end, and it is told by a transport reset
    /// (5.10.6.7).
    pub fn set_cid(&self, cid: u32) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.cid.swap(cid, Ordering::Relaxed) == cid || !*running {
            return;
        }
        if let Err(error) = self.0.changed.write(1) {
            tracing::warn!("a vsock's worker could not be told of its CID: {error}");
        }
    }
}

impl VirtioDevice for VsockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        1 << F_STREAM
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        // Received, sent, events.
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_structure(&u64::from(self.shared.cid()).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let worker = VsockWorker::new(activation, self.shared.clone(), self.metrics.clone())?;
        self.worker = Some(Worker::spawn("vsock".into(), move |stop| worker.run(&stop))?);
        *self.shared.running.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        // A driver that starts later reads the CID that holds then.
        *self.shared.running.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.worker.take().and_then(Worker::stop).unwrap_or_default()
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
