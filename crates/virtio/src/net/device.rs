//! The device as its transport sees it.

use std::sync::Arc;

use ostler_netio::{NetBackend, Offloads};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};

use super::config;
use super::receive::Receiver;
use super::shared::{NetControl, Shared};
use super::transmit::Transmitter;
use super::vhost::{self, VhostPair, VhostSetup};
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

    /// Starts the worker of pair `index`, if the driver uses any of its queues.
    fn start_pair(&mut self, activation: &mut Activation, index: u16, pairs: u16) -> Result<(), Error> {
        let receive = activation.take(2 * index);
        let transmit = activation.take(2 * index + 1);
        let control = match index {
            0 if activation.has(VIRTIO_NET_F_CTRL_VQ) => activation.take(2 * pairs),
            _ => None,
        };
        if receive.is_none() && transmit.is_none() && control.is_none() {
            return Ok(());
        }
        let (ram, notify) = (activation.ram.clone(), activation.notify.clone());
        let (shared, metrics) = (self.shared.clone(), self.metrics.clone());
        let features = activation.features;
        let control = control.map(|queue| QueueServer::new(queue, ram.clone(), notify.clone()));
        let name = format!("net{index}");
        let (receive, transmit, control) = match (receive, transmit) {
            (Some(receive), Some(transmit)) if vhost::usable(&shared, index, &ram, features).is_some() => {
                let queues = [receive, transmit];
                let setup = VhostSetup {
                    shared: shared.clone(),
                    index,
                    ram: ram.clone(),
                    features,
                    pairs,
                    queues,
                    control,
                    notify: notify.clone(),
                    metrics: metrics.clone(),
                };
                match VhostPair::start(setup) {
                    Ok(pair) => {
                        self.workers
                            .push(Worker::spawn(name, move |stop| pair.run(&stop))?);
                        return Ok(());
                    }
                    Err(refused) => {
                        tracing::warn!("frames pass through the guest's process: {}", refused.error);
                        let [receive, transmit] = refused.setup.queues;
                        (Some(receive), Some(transmit), refused.setup.control)
                    }
                }
            }
            (receive, transmit) => (receive, transmit, control),
        };
        for queue in receive.iter().chain(&transmit).take(1) {
            shared.wake_by(queue.kick.clone());
        }
        let mergeable = activation.has(VIRTIO_NET_F_MRG_RXBUF);
        let pair = Pair {
            index,
            receiver: receive
                .map(|queue| Receiver::new(queue, ram.clone(), notify.clone(), metrics.clone(), mergeable)),
            transmitter: transmit
                .map(|queue| Transmitter::new(queue, ram.clone(), notify.clone(), metrics.clone())),
            control,
            queue: shared.backend.open_queue(index.into())?,
        };
        let worker = NetWorker::new(pair, shared, features, pairs, notify, metrics)?;
        self.workers
            .push(Worker::spawn(name, move |stop| worker.run(&stop))?);
        Ok(())
    }

    fn start(&mut self, mut activation: Activation) -> Result<(), Error> {
        self.shared.set_delivered(config::delivered(activation.features));
        self.shared.set_active_pairs(1);
        // Without MQ there is one pair, and the control queue follows it (5.1.2).
        let pairs = if activation.has(VIRTIO_NET_F_MQ) {
            self.pairs
        } else {
            1
        };
        for index in 0..pairs {
            self.start_pair(&mut activation, index, pairs)?;
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
