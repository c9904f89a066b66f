//! The device as its transport sees it.

use std::sync::Arc;

use super::shared::{BalloonControl, Shared};
use super::worker::BalloonWorker;
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::worker::Worker;

/// There is a queue for statistics (5.5.3).
pub(crate) const F_STATISTICS: u32 = 1;
/// The guest takes pages back by itself before it kills processes.
const F_DEFLATE_ON_OOM: u32 = 2;
/// There is a queue for reports of free pages.
pub(crate) const F_REPORTING: u32 = 5;

const QUEUE_SIZE: u16 = 128;
/// Inflate, deflate, statistics, and two more. The specification numbers the queue for reports 4. Linux before 6.12 leaves out
/// queues that it does not use when it counts, and takes 3; so either may be that queue. Hinting, whose queue 3 would be, is
/// not offered.
const QUEUES: usize = 5;

/// Where the driver writes how many pages there are: bytes 4 to 7 of the configuration (5.5.4).
const ACTUAL: u64 = 4;

/// What a balloon offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonOptions {
    /// The guest may take pages back by itself when it runs out of memory.
    pub deflate_on_oom: bool,
    /// The guest may report pages that it does not use at the moment.
    pub free_page_reporting: bool,
}

/// A memory balloon.
pub struct BalloonDevice {
    options: BalloonOptions,
    shared: Arc<Shared>,
    worker: Option<Worker<Vec<ActiveQueue>>>,
    metrics: Arc<DeviceMetrics>,
}

impl BalloonDevice {
    /// An empty balloon that is not running yet.
    ///
    /// # Errors
    /// If the host gives no event.
    pub fn new(options: BalloonOptions) -> Result<Self, Error> {
        Ok(Self {
            options,
            shared: Arc::new(Shared::new()?),
            worker: None,
            metrics: Arc::default(),
        })
    }

    /// The handle for the control side.
    pub fn control(&self) -> BalloonControl {
        BalloonControl(self.shared.clone())
    }
}

impl VirtioDevice for BalloonDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        let offered = |bit: u32, on: bool| u64::from(on) << bit;
        1 << F_STATISTICS
            | offered(F_DEFLATE_ON_OOM, self.options.deflate_on_oom)
            | offered(F_REPORTING, self.options.free_page_reporting)
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        let queues = if self.options.free_page_reporting {
            QUEUES
        } else {
            3
        };
        vec![QUEUE_SIZE; queues]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[..4].copy_from_slice(&self.shared.wanted().to_le_bytes());
        config[4..].copy_from_slice(&self.shared.actual().to_le_bytes());
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut actual = self.shared.actual().to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            let index = at
                .checked_sub(ACTUAL)
                .and_then(|index| usize::try_from(index).ok());
            if let Some(target) = index.and_then(|index| actual.get_mut(index)) {
                *target = *byte;
            }
        }
        self.shared.set_actual(u32::from_le_bytes(actual));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let notify = activation.notify.clone();
        let worker = BalloonWorker::new(activation, self.shared.clone(), self.metrics.clone())?;
        self.worker = Some(Worker::spawn("balloon".into(), move |stop| worker.run(&stop))?);
        self.shared.set_notify(Some(notify));
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.shared.set_notify(None);
        let queues = self.worker.take().and_then(Worker::stop).unwrap_or_default();
        // A guest that starts over has all its pages.
        self.shared.set_actual(0);
        queues
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
