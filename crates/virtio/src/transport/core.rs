//! The registers behind the BAR, and the life cycle of the device behind them.

use std::sync::{Arc, Mutex, MutexGuard};

use ostler_bus::Device;
use ostler_memory::GuestRam;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::common::{self, Change, CommonConfig, FAILED};
use super::layout::{COMMON, DEVICE, DEVICE_SIZE, ISR, NOTIFY, NOTIFY_STRIDE};
use super::signals::Signals;
use crate::device::{Activation, ActiveQueue, Notify, VirtioDevice};
use crate::error::{Error, GuestError};
use crate::vring::Vring;
use crate::worker::clear;

/// What the transport itself offers.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

struct State {
    common: CommonConfig,
    device: Box<dyn VirtioDevice>,
    /// True between `activate` and `stop`.
    active: bool,
}

/// Registers and device. The lock is held while a device starts or stops; workers never take it.
pub(crate) struct Core {
    state: Mutex<State>,
    ram: Arc<GuestRam>,
    signals: Arc<Signals>,
    kicks: Vec<Arc<EventFd>>,
}

impl Core {
    pub fn new(
        device: Box<dyn VirtioDevice>,
        ram: Arc<GuestRam>,
        signals: Arc<Signals>,
        kicks: Vec<Arc<EventFd>>,
    ) -> Self {
        let max_sizes = device.queue_max_sizes();
        let vectors = max_sizes.len() as u16 + 1;
        let common = CommonConfig::new(device.features() | TRANSPORT_FEATURES, &max_sizes, vectors);
        Self {
            state: Mutex::new(State {
                common,
                device,
                active: false,
            }),
            ram,
            signals,
            kicks,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Stops the device and forgets what the driver set up.
    pub fn reset(&self) {
        self.reset_locked(&mut self.lock());
    }

    fn reset_locked(&self, state: &mut State) {
        stop(state);
        state.common.reset();
        self.signals.reset();
        for kick in &self.kicks {
            clear(kick);
        }
    }

    fn apply(&self, state: &mut State, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Reset => self.reset_locked(state),
            Change::DriverOk => self.activate(state),
            Change::Failed => stop(state),
            Change::ConfigVector => self.signals.set_config_vector(state.common.config_vector),
            Change::QueueVector => {
                let queue = state.common.queue_select;
                if let Some(registers) = state.common.queues.get(usize::from(queue)) {
                    self.signals.set_queue_vector(queue, registers.vector);
                }
            }
        }
        self.signals.set_driver_status(state.common.status);
    }

    fn activate(&self, state: &mut State) {
        self.signals.set_driver_status(state.common.status);
        match self.try_activate(state) {
            Ok(()) => state.active = true,
            Err(Error::Guest(error)) => self.signals.needs_reset(error),
            Err(error) => {
                tracing::error!(
                    "a virtio {} device could not start: {error}",
                    state.device.kind().name()
                );
                self.signals
                    .needs_reset(GuestError::Request("the host could not start the device"));
            }
        }
    }

    fn try_activate(&self, state: &mut State) -> Result<(), Error> {
        let features = state.common.driver_features;
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let mut queues = Vec::new();
        for (index, registers) in state.common.queues.iter().enumerate() {
            if registers.enabled {
                let vring = Vring::new(
                    self.ram.clone(),
                    registers.settings,
                    registers.max_size,
                    event_idx,
                )?;
                queues.push(ActiveQueue {
                    index: index as u16,
                    vring,
                    kick: self.kicks[index].clone(),
                });
            }
        }
        let notify = self.signals.clone();
        state.device.activate(Activation {
            features,
            queues,
            ram: self.ram.clone(),
            notify,
        })
    }

    fn read_device(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.lock().device.read_config(offset, data);
    }

    fn kick(&self, offset: u64) {
        let queue = (offset / NOTIFY_STRIDE) as usize;
        if let Some(kick) = self.kicks.get(queue)
            && let Err(error) = kick.write(1)
        {
            // The event's counter is full: the worker has kicks enough to see.
            tracing::trace!("a kick was lost among others: {error}");
        }
    }
}

fn stop(state: &mut State) {
    if std::mem::take(&mut state.active) {
        drop(state.device.stop());
    }
}

impl Device for Core {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            COMMON..ISR => {
                let (status, generation) = (self.signals.device_status(), self.signals.generation());
                self.lock().common.read(offset - COMMON, data, status, generation);
            }
            ISR => {
                data.fill(0);
                if let Some(first) = data.first_mut() {
                    *first = self.signals.take_isr();
                }
            }
            DEVICE..NOTIFY => self.read_device(offset - DEVICE, data),
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match offset {
            NOTIFY.. => self.kick(offset - NOTIFY),
            COMMON..ISR => {
                let state = &mut *self.lock();
                for (at, width) in common::touched(offset - COMMON, data.len()) {
                    let value = state.common.merge(at, width, offset - COMMON, data);
                    let change = state.common.write(at, value);
                    self.apply(state, change);
                }
            }
            DEVICE..NOTIFY if offset + data.len() as u64 <= DEVICE + DEVICE_SIZE => {
                let mut state = self.lock();
                if state.common.status & FAILED == 0 {
                    state.device.write_config(offset - DEVICE, data);
                }
            }
            _ => {}
        }
    }
}
