//! A queue pair that the host's kernel serves (vhost-net). What is left to do here: commands of the control queue, and
//! interrupts where the accelerator does not deliver them from the event itself.

use std::sync::Arc;

use ostler_memory::GuestRam;
use ostler_netio::{VhostNet, VringPlace};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::control;
use super::shared::Shared;
use crate::device::{ActiveQueue, Notify};
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{QueueServer, Served};
use crate::worker::{clear, new_event};

const STOP: u64 = 0;
const CONTROL_KICK: u64 = 1;
/// Calls of the receive and the transmit queue have this token plus 0 and 1.
const FIRST_CALL: u64 = 2;

/// Features that change what the rings look like: the kernel must know each of them that was negotiated.
const RING_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// The kernel's worker for pair `index`, if there is one that knows the negotiated features.
pub(crate) fn usable<'a>(
    shared: &'a Shared,
    index: u16,
    ram: &Arc<GuestRam>,
    features: u64,
) -> Option<&'a VhostNet> {
    let vhost = shared.backend.vhost(index.into())?;
    match vhost.features(ram) {
        Ok(known) if features & RING_FEATURES & !known == 0 => Some(vhost),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("vhost-net is not used: {error}");
            None
        }
    }
}

/// One pair while the kernel serves it.
pub(crate) struct VhostPair {
    shared: Arc<Shared>,
    index: u16,
    ram: Arc<GuestRam>,
    features: u64,
    pairs: u16,
    /// Receive and transmit queue.
    queues: [ActiveQueue; 2],
    calls: [EventFd; 2],
    control: Option<QueueServer>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    broken: bool,
}

/// What a pair is made from.
pub(crate) struct VhostSetup {
    pub shared: Arc<Shared>,
    pub index: u16,
    pub ram: Arc<GuestRam>,
    pub features: u64,
    pub pairs: u16,
    pub queues: [ActiveQueue; 2],
    pub control: Option<QueueServer>,
    pub notify: Arc<dyn Notify>,
    pub metrics: Arc<DeviceMetrics>,
}

impl VhostPair {
    /// Hands the pair's rings to the kernel.
    pub fn start(setup: VhostSetup) -> Result<Self, Error> {
        let VhostSetup {
            shared,
            index,
            ram,
            features,
            pairs,
            queues,
            control,
            notify,
            metrics,
        } = setup;
        let calls = [new_event()?, new_event()?];
        let events = EventLoop::new()?;
        if let Some(control) = &control {
            events.add(&*control.active.kick, CONTROL_KICK)?;
        }
        let pair = Self {
            shared,
            index,
            ram,
            features,
            pairs,
            queues,
            calls,
            control,
            notify,
            metrics,
            events,
            broken: false,
        };
        pair.connect_calls()?;
        if let Some(vhost) = pair.shared.backend.vhost(index.into()) {
            let places = [
                place(&pair.queues[0], &pair.calls[0]),
                place(&pair.queues[1], &pair.calls[1]),
            ];
            vhost.start(&pair.ram, features, places)?;
        }
        Ok(pair)
    }

    /// Lets the calls be interrupts of their own, or waits for them here.
    fn connect_calls(&self) -> Result<(), Error> {
        for ((token, call), queue) in (FIRST_CALL..).zip(&self.calls).zip(&self.queues) {
            if self.notify.connect(queue.index, Some(call)).is_err() {
                self.events.add(call, token)?;
            }
        }
        Ok(())
    }

    /// Works until `stop` is signalled; then takes the rings back from the kernel.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a vhost-net pair cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.serve_control();
            let timeout = more.then_some(std::time::Duration::ZERO);
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("a vhost-net pair ends: {error}");
                return self.finish();
            }
            for token in &tokens {
                match *token {
                    STOP => return self.finish(),
                    CONTROL_KICK => {
                        if let Some(control) = &self.control {
                            clear(&control.active.kick);
                            DeviceMetrics::add(&self.metrics.kicks, 1);
                        }
                    }
                    call => {
                        let at = (call - FIRST_CALL) as usize;
                        if let (Some(event), Some(queue)) = (self.calls.get(at), self.queues.get(at)) {
                            clear(event);
                            self.notify.queue(queue.index);
                        }
                    }
                }
            }
        }
    }

    /// Answers commands. True if there are more.
    fn serve_control(&mut self) -> bool {
        let (shared, features, pairs) = (&self.shared, self.features, self.pairs);
        let Some(server) = &mut self.control else {
            return false;
        };
        if self.broken {
            return false;
        }
        let served = server.serve(|chain| control::answer(chain, shared, features, pairs));
        let more = served.and_then(|served| match served {
            Served::More => Ok(true),
            _ => server.active.vring.enable_kicks(),
        });
        more.unwrap_or_else(|error| {
            self.broken = true;
            self.notify.needs_reset(error);
            false
        })
    }

    fn finish(mut self) -> Vec<ActiveQueue> {
        self.take_back();
        let control = self.control.map(|control| control.active);
        self.queues.into_iter().chain(control).collect()
    }

    fn take_back(&mut self) {
        for queue in &self.queues {
            if let Err(error) = self.notify.connect(queue.index, None) {
                tracing::warn!("a vhost-net interrupt could not be disconnected: {error}");
            }
        }
        let Some(vhost) = self.shared.backend.vhost(self.index.into()) else {
            return;
        };
        match vhost.stop(&self.ram) {
            Ok(indices) => {
                for (queue, index) in self.queues.iter_mut().zip(indices) {
                    queue.vring.set_next_available(index);
                    if let Err(error) = queue.vring.reload_used() {
                        tracing::warn!("a ring could not be read after vhost-net: {error}");
                    }
                }
            }
            Err(error) => tracing::error!("vhost-net did not give its rings back: {error}"),
        }
    }
}

fn place<'a>(queue: &'a ActiveQueue, call: &'a EventFd) -> VringPlace<'a> {
    let settings = queue.vring.settings();
    VringPlace {
        size: settings.size,
        descriptors: settings.descriptors,
        available: settings.available,
        used: settings.used,
        next: queue.vring.next_available(),
        kick: &queue.kick,
        call,
    }
}
