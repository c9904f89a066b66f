//! The device as its transport sees it.

use std::sync::Arc;

use ostler_netio::{NetBackend, Offloads};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};

use super::config;
use super::receive::Receiver;
use super::shared::{NetControl, Shared};
use super::transmit::Transmitter;
use super::worker::{NetWorker, Pair};
use crate::device::{Activation, ActiveQueue, DeviceKind, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::queue_server::QueueServer;
use crate::worker::Worker;

const QUEUE_SIZE: u16 = 512;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// How a network device is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetOptions {
    /// MAC address.
    pub mac: [u8; 6],
    /// Queue pairs to offer, at least 1; no more than the back end has.
    pub pairs: u16,
}

/// A network device over a back end.
pub struct NetDevice {
    shared: Arc<Shared>,
    pairs: u16,
    /// The address to go back to at a reset.
    mac: [u8; 6],
    workers: Vec<Worker<Vec<ActiveQueue>>>,
    /// Queues that the driver enabled without a use for them.
    idle: Vec<ActiveQueue>,
    metrics: Arc<DeviceMetrics>,
}

impl NetDevice {
    /// A device that is not running yet.
    pub fn new(backend: Arc<dyn NetBackend>, options: NetOptions) -> Self {
        let most = u16::try_from(backend.queue_pairs()).unwrap_or(u16::MAX).min(64);
        let pairs = options.pairs.clamp(1, most.max(1));
        let shared = Arc::new(Shared::new(backend, options.mac));
        Self {
            shared,
            pairs,
            mac: options.mac,
            workers: Vec::new(),
            idle: Vec::new(),
            metrics: Arc::default(),
        }
    }

    /// The handle for the control side.
    pub fn control(&self) -> NetControl {
        NetControl(self.shared.clone())
    }

    /// The pair's queues out of the activation; `None` if the driver uses none of them.
    fn pair(&self, activation: &mut Activation, index: u16) -> Result<Option<Pair>, Error> {
        let receive = activation.take(2 * index);
        let transmit = activation.take(2 * index + 1);
        let multi = activation.has(VIRTIO_NET_F_MQ);
        let control_index = if multi { 2 * self.pairs } else { 2 };
        let control = match index {
            0 if activation.has(VIRTIO_NET_F_CTRL_VQ) => activation.take(control_index),
            _ => None,
        };
        if receive.is_none() && transmit.is_none() && control.is_none() {
            return Ok(None);
        }
        let (ram, notify) = (&activation.ram, &activation.notify);
        let mergeable = activation.has(VIRTIO_NET_F_MRG_RXBUF);
        let metrics = &self.metrics;
        Ok(Some(Pair {
            receiver: receive
                .map(|queue| Receiver::new(queue, ram.clone(), notify.clone(), metrics.clone(), mergeable)),
            transmitter: transmit
                .map(|queue| Transmitter::new(queue, ram.clone(), notify.clone(), metrics.clone())),
            control: control.map(|queue| QueueServer::new(queue, ram.clone(), notify.clone())),
            queue: self.shared.backend.open_queue(index.into())?,
        }))
    }

    fn start(&mut self, mut activation: Activation) -> Result<(), Error> {
        self.shared.set_delivered(config::delivered(activation.features));
        self.shared.backend.set_active_pairs(1)?;
        let pairs = if activation.has(VIRTIO_NET_F_MQ) {
            self.pairs
        } else {
            1
        };
        for index in 0..pairs {
            let Some(pair) = self.pair(&mut activation, index)? else {
                continue;
            };
            let (shared, notify) = (self.shared.clone(), activation.notify.clone());
            let worker = NetWorker::new(
                pair,
                shared,
                activation.features,
                pairs,
                notify,
                self.metrics.clone(),
            )?;
            self.workers
                .push(Worker::spawn(format!("net{index}"), move |stop| {
                    worker.run(&stop)
                })?);
        }
        self.idle = std::mem::take(&mut activation.queues);
        self.shared.started(activation.notify, activation.features);
        Ok(())
    }
}

impl VirtioDevice for NetDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        let backend = &self.shared.backend;
        config::features(
            backend.accepts(),
            backend.delivers(),
            self.pairs,
            backend.mtu().is_some(),
        )
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * usize::from(self.pairs)];
        sizes.push(CONTROL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mtu = self.shared.backend.mtu().unwrap_or(0);
        let structure = config::structure(self.shared.mac(), self.shared.status(), self.pairs, mtu);
        read_structure(&structure, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        self.start(activation).inspect_err(|_| drop(self.stop()))
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.shared.stopped();
        let workers = std::mem::take(&mut self.workers);
        let mut queues: Vec<_> = workers.into_iter().filter_map(Worker::stop).flatten().collect();
        queues.append(&mut self.idle);
        queues.sort_by_key(|queue| queue.index);
        self.shared.set_delivered(Offloads::NONE);
        self.shared.set_mac(self.mac);
        queues
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
