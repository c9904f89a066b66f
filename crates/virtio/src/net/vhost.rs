//! A queue pair that the host's kernel serves (vhost-net). What is left to do here: commands of the control queue, and
//! interrupts where the accelerator does not deliver them from the event itself.

use std::sync::Arc;

use ostler_memory::GuestRam;
use ostler_netio::{KernelWorker, VringPlace};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::control;
use super::receive::{Round, drain};
use super::shared::Shared;
use crate::device::{ActiveQueue, Notify};
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{QueueServer, Served};
use crate::worker::{clear, new_event};

const STOP: u64 = 0;
const CONTROL_KICK: u64 = 1;
const WAKE: u64 = 4;
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
) -> Option<&'a dyn KernelWorker> {
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

/// What a pair is made from.
pub(crate) struct VhostSetup {
    pub shared: Arc<Shared>,
    pub index: u16,
    pub ram: Arc<GuestRam>,
    pub features: u64,
    pub pairs: u16,
    /// Receive and transmit queue.
    pub queues: [ActiveQueue; 2],
    pub control: Option<QueueServer>,
    pub notify: Arc<dyn Notify>,
    pub metrics: Arc<DeviceMetrics>,
}

/// The kernel did not take the rings: here they are again, untouched.
pub(crate) struct Refused {
    pub setup: VhostSetup,
    pub error: Error,
}

/// One pair while the kernel serves it.
pub(crate) struct VhostPair {
    setup: VhostSetup,
    calls: [EventFd; 2],
    events: EventLoop,
    /// Signalled when the link changes.
    wake: Arc<EventFd>,
    /// The kernel has the rings.
    serves: bool,
    broken: bool,
}

impl VhostPair {
    /// Hands the pair's rings to the kernel.
    pub fn start(setup: VhostSetup) -> Result<Self, Box<Refused>> {
        match hand_over(&setup) {
            Ok(HandedOver { calls, events, wake }) => {
                setup.shared.wake_by(wake.clone());
                Ok(Self {
                    setup,
                    calls,
                    events,
                    wake,
                    serves: true,
                    broken: false,
                })
            }
            Err(error) => {
                disconnect_calls(&setup);
                Err(Box::new(Refused { setup, error }))
            }
        }
    }

    /// Works until `stop` is signalled; then takes the rings back from the kernel.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a vhost-net pair cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            self.follow_link();
            let more = self.serve_control();
            let timeout = more.then_some(std::time::Duration::ZERO);
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("a vhost-net pair ends: {error}");
                return self.finish();
            }
            for token in &tokens {
                match *token {
                    STOP => return self.finish(),
                    WAKE => clear(&self.wake),
                    CONTROL_KICK => {
                        if let Some(control) = &self.setup.control {
                            clear(&control.active.kick);
                            DeviceMetrics::add(&self.setup.metrics.kicks, 1);
                        }
                    }
                    call => {
                        let at = (call - FIRST_CALL) as usize;
                        if let (Some(event), Some(queue)) = (self.calls.get(at), self.setup.queues.get(at)) {
                            clear(event);
                            self.setup.notify.queue(queue.index);
                        }
                    }
                }
            }
        }
    }

    /// The kernel has the rings only while the cable is in.
    fn follow_link(&mut self) {
        let plugged = self.setup.shared.is_plugged();
        if plugged == self.serves {
            return;
        }
        if !plugged {
            take_back(&mut self.setup);
            self.serves = false;
            return;
        }
        // What came meanwhile went nowhere.
        match self.setup.shared.backend.open_queue(self.setup.index.into()) {
            Ok(mut queue) => while drain(&mut *queue) == Round::More {},
            Err(error) => tracing::warn!("old frames may reach the guest: {error}"),
        }
        match give(&self.setup, &self.calls) {
            Ok(()) => self.serves = true,
            Err(error) => tracing::error!("the card stays without its link: {error}"),
        }
    }

    /// Answers commands. True if there are more.
    fn serve_control(&mut self) -> bool {
        let (shared, features, pairs) = (&self.setup.shared, self.setup.features, self.setup.pairs);
        let Some(server) = &mut self.setup.control else {
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
            self.setup.notify.needs_reset(error);
            false
        })
    }

    /// Takes the rings back from the kernel.
    fn finish(self) -> Vec<ActiveQueue> {
        let mut setup = self.setup;
        disconnect_calls(&setup);
        if self.serves {
            take_back(&mut setup);
        }
        let control = setup.control.map(|control| control.active);
        setup.queues.into_iter().chain(control).collect()
    }
}

/// What [`hand_over`] made.
struct HandedOver {
    calls: [EventFd; 2],
    events: EventLoop,
    wake: Arc<EventFd>,
}

/// Gives the kernel the rings, with events to call by, and a loop for what is left to do here.
fn hand_over(setup: &VhostSetup) -> Result<HandedOver, Error> {
    let calls = [new_event()?, new_event()?];
    let wake = Arc::new(new_event()?);
    let events = EventLoop::new()?;
    events.add(&*wake, WAKE)?;
    if let Some(control) = &setup.control {
        events.add(&*control.active.kick, CONTROL_KICK)?;
    }
    for ((token, call), queue) in (FIRST_CALL..).zip(&calls).zip(&setup.queues) {
        // The calls are interrupts of their own, or are waited for here.
        if setup.notify.connect(queue.index, Some(call)).is_err() {
            events.add(call, token)?;
        }
    }
    give(setup, &calls)?;
    Ok(HandedOver { calls, events, wake })
}

fn give(setup: &VhostSetup, calls: &[EventFd; 2]) -> Result<(), Error> {
    if let Some(vhost) = setup.shared.backend.vhost(setup.index.into()) {
        let places = [
            place(&setup.queues[0], &calls[0]),
            place(&setup.queues[1], &calls[1]),
        ];
        vhost.start(&setup.ram, setup.features, places)?;
    }
    Ok(())
}

fn disconnect_calls(setup: &VhostSetup) {
    for queue in &setup.queues {
        if let Err(error) = setup.notify.connect(queue.index, None)
            && error.kind() != std::io::ErrorKind::Unsupported
        {
            tracing::warn!("a vhost-net interrupt could not be disconnected: {error}");
        }
    }
}

fn take_back(setup: &mut VhostSetup) {
    let Some(vhost) = setup.shared.backend.vhost(setup.index.into()) else {
        return;
    };
    match vhost.stop(&setup.ram) {
        Ok(indices) => {
            for (queue, index) in setup.queues.iter_mut().zip(indices) {
                queue.vring.set_next_available(index);
                if let Err(error) = queue.vring.reload_used() {
                    tracing::warn!("a ring could not be read after vhost-net: {error}");
                }
            }
        }
        Err(error) => tracing::error!("vhost-net did not give its rings back: {error}"),
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
