//! The device as its transport sees it.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::port::{ByteStream, Port, WindowSize};
use super::worker::{ConsoleWorker, Control, STREAM};
use crate::device::{Activation, ActiveQueue, DeviceKind, Notify, VirtioDevice, read_structure};
use crate::error::Error;
use crate::metrics::DeviceMetrics;
use crate::queue_server::QueueServer;
use crate::worker::{Worker, new_event};

/// The configuration has a size (5.3.3).
const F_SIZE: u32 = 0;
/// Several ports, and the control queues.
const F_MULTIPORT: u32 = 1;

const QUEUE_SIZE: u16 = 128;
/// Most ports; each takes two queues.
const MAX_PORTS: usize = 31;

/// One port of a console device.
pub struct PortOptions {
    /// Its outside end.
    pub stream: Box<dyn ByteStream>,
    /// The name that the guest's `/dev/virtio-ports/` shows; empty for none.
    pub name: String,
    /// It is a terminal (hvc0 ...) rather than a plain channel.
    pub console: bool,
}

/// What the device, its worker and its control side share.
pub(crate) struct SharedState {
    size: Mutex<WindowSize>,
    /// The size changed.
    pub resized: EventFd,
    notify: Mutex<Option<Arc<dyn Notify>>>,
}

impl SharedState {
    pub fn size(&self) -> WindowSize {
        *self.size.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *self
            .notify
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = notify;
    }
}

/// The control side of a console device.
#[derive(Clone)]
pub struct ConsoleControl(Arc<SharedState>);

impl ConsoleControl {
    /// The terminal behind the console ports has another size now.
    pub fn resize(&self, size: WindowSize) {
        *self
            .0
            .size
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = size;
        if let Err(error) = self.0.resized.write(1) {
            tracing::warn!("a console's new size could not be passed on: {error}");
        }
        let notify = self
            .0
            .notify
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        if let Some(notify) = notify {
            notify.config_changed();
        }
    }
}

type Running = Worker<(Vec<Port>, Vec<ActiveQueue>)>;

/// A console device.
pub struct ConsoleDevice {
    ports: Vec<Port>,
    count: usize,
    shared: Arc<SharedState>,
    worker: Option<Running>,
    /// Queues that the driver enabled without a use for them.
    idle: Vec<ActiveQueue>,
    metrics: Arc<DeviceMetrics>,
}

impl ConsoleDevice {
    /// A device that is not running yet. Ports beyond the 31st are left out.
    ///
    /// # Errors
    /// If the host gives no event.
    pub fn new(ports: Vec<PortOptions>, size: WindowSize) -> Result<Self, Error> {
        let ports: Vec<_> = ports
            .into_iter()
            .take(MAX_PORTS)
            .map(|port| Port::new(port.stream, port.name, port.console, STREAM))
            .collect();
        let shared = SharedState {
            size: Mutex::new(size),
            resized: new_event()?,
            notify: Mutex::new(None),
        };
        let count = ports.len();
        Ok(Self {
            ports,
            count,
            shared: Arc::new(shared),
            worker: None,
            idle: Vec::new(),
            metrics: Arc::default(),
        })
    }

    /// The handle for the control side.
    pub fn control(&self) -> ConsoleControl {
        ConsoleControl(self.shared.clone())
    }
}

/// Number of a port's receive queue; its transmit queue is the next one (5.3.2).
fn receive_queue(port: usize) -> u16 {
    if port == 0 { 0 } else { 2 * port as u16 + 2 }
}

impl VirtioDevice for ConsoleDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        1 << F_SIZE | 1 << F_MULTIPORT
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * self.count.max(1) + 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.shared.size();
        let mut config = [0; 12];
        config[..2].copy_from_slice(&size.columns.to_le_bytes());
        config[2..4].copy_from_slice(&size.rows.to_le_bytes());
        config[4..8].copy_from_slice(&(self.count as u32).to_le_bytes());
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), Error> {
        let multiport = activation.has(F_MULTIPORT);
        let (ram, notify) = (activation.ram.clone(), activation.notify.clone());
        let mut server = |index| {
            activation
                .take(index)
                .map(|queue| QueueServer::new(queue, ram.clone(), notify.clone()))
        };
        let mut ports = std::mem::take(&mut self.ports);
        let used = if multiport {
            ports.len()
        } else {
            ports.len().min(1)
        };
        for (index, port) in ports.iter_mut().enumerate().take(used) {
            port.receive = server(receive_queue(index));
            port.transmit = server(receive_queue(index) + 1);
        }
        let (receive, transmit) = if multiport {
            (server(2), server(3))
        } else {
            (None, None)
        };
        let control = receive
            .zip(transmit)
            .map(|(receive, transmit)| Control { receive, transmit });
        self.idle = activation.queues;
        let (shared, metrics) = (self.shared.clone(), self.metrics.clone());
        let worker = match ConsoleWorker::new(ports, control, shared, notify.clone(), metrics) {
            Ok(worker) => worker,
            Err((error, ports)) => {
                self.ports = ports;
                return Err(error);
            }
        };
        self.worker = Some(Worker::spawn("console".into(), move |stop| worker.run(&stop))?);
        self.shared.set_notify(Some(notify));
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.shared.set_notify(None);
        let Some((ports, mut queues)) = self.worker.take().and_then(Worker::stop) else {
            return Vec::new();
        };
        queues.append(&mut self.idle);
        queues.sort_by_key(|queue| queue.index);
        self.ports = ports;
        for port in &mut self.ports {
            port.guest_open = false;
        }
        queues
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}
