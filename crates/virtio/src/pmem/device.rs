//! The device as its transport sees it.

use std::fs::File;
use std::sync::Arc;

use super::request::answer;
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::request_worker::RequestWorker;
use crate::worker::Worker;

const QUEUE_SIZE: u16 = 64;
const CONFIG_LEN: usize = 16;

/// Persistent memory.
pub struct PmemDevice {
    file: Arc<File>,
    /// Guest-physical address of the region.
    start: u64,
    /// Bytes of it.
    size: u64,
    worker: Option<Worker<Option<ActiveQueue>>>,
    metrics: Arc<DeviceMetrics>,
}

impl PmemDevice {
    /// A device for `file`, of which `size` bytes are the guest's memory at `start`.
    pub fn new(file: File, start: u64, size: u64) -> Self {
        Self {
            file: Arc::new(file),
            start,
            size,
            worker: None,
            metrics: Arc::default(),
        }
    }
}

impl VirtioDevice for PmemDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Pmem
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    /// The structure of 5.19.4.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; CONFIG_LEN];
        config[..8].copy_from_slice(&self.start.to_le_bytes());
        config[8..].copy_from_slice(&self.size.to_le_bytes());
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), Error> {
        let Some(queue) = activation.take(0) else {
            return Ok(());
        };
        let file = self.file.clone();
        let worker = RequestWorker::new(
            self.kind(),
            queue,
            &activation,
            self.metrics.clone(),
            move |chain| answer(chain, &file),
        )?;
        self.worker = Some(Worker::spawn("pmem".into(), |stop| worker.run(&stop))?);
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
