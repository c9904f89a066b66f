//! From the device to the driver: interrupts, the ISR, the needs-reset bit (virtio 1.2, 4.1.4.5 and 4.1.5).

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ostler_pci::{ConfigSpace, Intx, Msix};
use vmm_sys_util::eventfd::EventFd;

use super::common::{DRIVER_OK, NEEDS_RESET, NO_VECTOR};
use crate::device::Notify;
use crate::error::GuestError;
use crate::metrics::DeviceMetrics;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What workers signal through. It never takes the transport's lock, so that a worker can always finish while a vCPU
/// thread waits for it.
///
/// Lock order: the ISR, then the pin.
pub(crate) struct Signals {
    pub config: ConfigSpace,
    pub msix: Arc<Msix>,
    pub intx: Intx,
    isr: Mutex<u8>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    /// Vectors with an event of a queue connected to them.
    connected: Mutex<Vec<Option<u16>>>,
    /// NEEDS_RESET, or nothing.
    device_status: AtomicU8,
    /// The driver's status, for deciding whether it wants to know.
    driver_status: AtomicU8,
    generation: AtomicU8,
    metrics: Arc<DeviceMetrics>,
}

impl Signals {
    pub fn new(config: ConfigSpace, msix: Arc<Msix>, queues: usize, metrics: Arc<DeviceMetrics>) -> Self {
        Self {
            config,
            msix,
            intx: Intx::new(),
            isr: Mutex::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            connected: Mutex::new(vec![None; queues]),
            device_status: AtomicU8::new(0),
            driver_status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            metrics,
        }
    }

    pub fn device_status(&self) -> u8 {
        self.device_status.load(Ordering::SeqCst)
    }

    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    pub fn set_driver_status(&self, status: u8) {
        self.driver_status.store(status, Ordering::SeqCst);
    }

    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(vector, Ordering::SeqCst);
    }

    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(queue)) {
            slot.store(vector, Ordering::SeqCst);
        }
    }

    /// The driver reads the ISR: takes its bits and lowers the line.
    pub fn take_isr(&self) -> u8 {
        let mut isr = self.isr();
        let bits = std::mem::take(&mut *isr);
        self.intx.set(&self.config, false);
        bits
    }

    /// Nothing is pending and no vector is set any more.
    pub fn reset(&self) {
        self.set_config_vector(NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
        self.device_status.store(0, Ordering::SeqCst);
        self.set_driver_status(0);
        self.take_isr();
    }

    fn interrupt(&self, vector: u16, isr_bit: u8) {
        if self.msix.enabled() {
            self.msix.trigger(vector);
            return;
        }
        let mut isr = self.isr();
        *isr |= isr_bit;
        self.intx.set(&self.config, true);
    }

    fn isr(&self) -> MutexGuard<'_, u8> {
        self.isr.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Notify for Signals {
    fn queue(&self, queue: u16) {
        let Some(vector) = self.queue_vectors.get(usize::from(queue)) else {
            return;
        };
        DeviceMetrics::add(&self.metrics.interrupts, 1);
        self.interrupt(vector.load(Ordering::SeqCst), ISR_QUEUE);
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.driver_status.load(Ordering::SeqCst) & DRIVER_OK != 0 {
            self.interrupt(self.config_vector.load(Ordering::SeqCst), ISR_CONFIG);
        }
    }

    fn needs_reset(&self, error: GuestError) {
        tracing::warn!("a virtio device needs a reset by its driver: {error}");
        DeviceMetrics::add(&self.metrics.resets_needed, 1);
        self.device_status.fetch_or(NEEDS_RESET, Ordering::SeqCst);
        self.config_changed();
    }

    fn connect(&self, queue: u16, event: Option<&EventFd>) -> io::Result<()> {
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let slot = connected
            .get_mut(usize::from(queue))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(vector) = slot.take() {
            self.msix.connect(vector, None)?;
        }
        let Some(event) = event else { return Ok(()) };
        let vector = self.queue_vectors[usize::from(queue)].load(Ordering::SeqCst);
        if !self.msix.enabled() || vector == NO_VECTOR {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let shared = self
            .queue_vectors
            .iter()
            .filter(|other| other.load(Ordering::SeqCst) == vector)
            .count()
            > 1;
        if shared {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.msix.connect(vector, Some(event))?;
        connected[usize::from(queue)] = Some(vector);
        Ok(())
    }
}
