//! The device as its transport sees it.

use std::sync::Arc;

use ostler_memory::GuestRam;

use super::request::{Request, Response};
use super::shared::{MemControl, Shared};
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::request_worker::{Reply, RequestWorker};
use crate::worker::Worker;

/// What is not plugged must not be touched (5.15.3).
const F_UNPLUGGED_INACCESSIBLE: u32 = 1;

const QUEUE_SIZE: u16 = 128;
const CONFIG_LEN: usize = 56;

/// Memory that comes and goes.
pub struct MemDevice {
    shared: Arc<Shared>,
    worker: Option<Worker<Option<ActiveQueue>>>,
    /// Queues that the driver enabled without a use for them.
    idle: Vec<ActiveQueue>,
    metrics: Arc<DeviceMetrics>,
}

impl MemDevice {
    /// A device for the region of `ram` that is plugged in blocks; `None` if there is none.
    pub fn new(ram: Arc<GuestRam>) -> Option<Self> {
        Some(Self {
            shared: Arc::new(Shared::new(ram)?),
            worker: None,
            idle: Vec::new(),
            metrics: Arc::default(),
        })
    }

    /// The handle for the control side.
    pub fn control(&self) -> MemControl {
        MemControl(self.shared.clone())
    }
}

impl VirtioDevice for MemDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Mem
    }

    fn features(&self) -> u64 {
        1 << F_UNPLUGGED_INACCESSIBLE
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    /// The structure of 5.15.4. All of the region is usable; there is no NUMA node.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let shared = &self.shared;
        let mut config = [0; CONFIG_LEN];
        let fields = [
            (0, shared.block_size()),
            (16, shared.base),
            (24, shared.size()),
            (32, shared.size()),
            (40, shared.plugged()),
            (48, shared.requested()),
        ];
        for (at, value) in fields {
            config[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), Error> {
        let notify = activation.notify.clone();
        if let Some(queue) = activation.take(0) {
            let shared = self.shared.clone();
            let worker = RequestWorker::new(
                self.kind(),
                queue,
                &activation,
                self.metrics.clone(),
                move |chain| {
                    let response = shared.handle(Request::read(chain)?);
                    Ok(Reply {
                        written: response.write(chain),
                        failed: response == Response::Error,
                    })
                },
            )?;
            self.worker = Some(Worker::spawn("mem".into(), move |stop| worker.run(&stop))?);
        }
        self.idle = activation.queues;
        self.shared.set_notify(Some(notify));
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.shared.set_notify(None);
        // What is plugged stays: a driver that starts over unplugs it, or uses it as it is.
        let mut queues: Vec<_> = self
            .worker
            .take()
            .and_then(Worker::stop)
            .flatten()
            .into_iter()
            .collect();
        queues.append(&mut self.idle);
        queues
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
