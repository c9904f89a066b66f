//! The device as its transport sees it.

use std::sync::{Arc, Mutex};

use ostler_disk::Disk;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::account::BlockAccount;
use super::config;
use super::worker::{BlockWorker, Counters};
use crate::device::{Activation, ActiveQueue, DeviceKind, Notify, VirtioDevice};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::worker::Worker;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes of the serial number (5.2.6.1).
pub(crate) const SERIAL_LEN: usize = 20;

/// How a block device is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOptions {
    /// Serial number; at most 20 bytes are shown.
    pub serial: String,
    /// Number of queues, at least 1; one for each vCPU is best.
    pub queues: u16,
}

/// Where the transport that the device is running behind is reached, if it is.
type SharedNotify = Arc<Mutex<Option<Arc<dyn Notify>>>>;

/// The control side of a block device.
#[derive(Clone)]
pub struct BlockControl {
    notify: SharedNotify,
    account: Arc<BlockAccount>,
}

impl BlockControl {
    /// Tells the guest that the disk has another size now.
    pub fn capacity_changed(&self) {
        let notify = self
            .notify
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        if let Some(notify) = notify {
            notify.config_changed();
        }
    }

    /// What the device has done, by kind of request.
    pub fn account(&self) -> &BlockAccount {
        &self.account
    }
}

/// A block device over a disk.
pub struct BlockDevice {
    disk: Arc<dyn Disk>,
    serial: [u8; SERIAL_LEN],
    queues: u16,
    worker: Option<Worker<Vec<ActiveQueue>>>,
    notify: SharedNotify,
    metrics: Arc<DeviceMetrics>,
    account: Arc<BlockAccount>,
}

impl BlockDevice {
    /// A device that is not running yet.
    pub fn new(disk: Arc<dyn Disk>, options: &BlockOptions) -> Self {
        let mut serial = [0; SERIAL_LEN];
        let shown = options.serial.len().min(SERIAL_LEN);
        serial[..shown].copy_from_slice(&options.serial.as_bytes()[..shown]);
        let queues = options.queues.clamp(1, 256);
        Self {
            disk,
            serial,
            queues,
            worker: None,
            notify: SharedNotify::default(),
            metrics: Arc::default(),
            account: Arc::default(),
        }
    }

    /// The handle for the control side.
    pub fn control(&self) -> BlockControl {
        BlockControl {
            notify: self.notify.clone(),
            account: self.account.clone(),
        }
    }

    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *self
            .notify
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = notify;
    }
}

impl VirtioDevice for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        config::features(&*self.disk, self.queues)
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::device::read_structure(&config::structure(&*self.disk, self.queues), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        if activation.queues.is_empty() {
            return Ok(());
        }
        let flushes = activation.has(VIRTIO_BLK_F_FLUSH);
        let notify = activation.notify.clone();
        let worker = BlockWorker::new(
            activation,
            self.disk.clone(),
            self.serial,
            flushes,
            Counters {
                metrics: self.metrics.clone(),
                account: self.account.clone(),
            },
        )?;
        self.worker = Some(Worker::spawn("block".into(), move |stop| worker.run(&stop))?);
        self.set_notify(Some(notify));
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.set_notify(None);
        self.worker.take().and_then(Worker::stop).unwrap_or_default()
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
