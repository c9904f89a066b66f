//! The device as its transport sees it.

use std::sync::Arc;

use super::worker::RngWorker;
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::worker::Worker;

const QUEUE_SIZE: u16 = 64;

/// An entropy source.
#[derive(Default)]
pub struct RngDevice {
    worker: Option<Worker<Option<ActiveQueue>>>,
    metrics: Arc<DeviceMetrics>,
}

impl RngDevice {
    /// A device that is not running yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for RngDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), Error> {
        let Some(queue) = activation.take(0) else {
            return Ok(());
        };
        let worker = RngWorker::new(queue, activation.ram, activation.notify, self.metrics.clone())?;
        self.worker = Some(Worker::spawn("rng".into(), |stop| worker.run(&stop))?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.worker
            .take()
            .and_then(Worker::stop)
            .flatten()
            .into_iter()
            .collect()
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
