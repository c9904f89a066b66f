//! The card's worker: moves frames both ways.

use std::sync::Arc;
use std::time::Duration;

use ostler_memory::IoBuf;
use ostler_netio::{HEADER_LEN, MAX_FRAME, NetQueue, Offloads, Received, Sent};
use ostler_worker::{DeviceMetrics, EventLoop, Interest, clear};
use vmm_sys_util::eventfd::EventFd;

use crate::Error;
use crate::card::{TRANSMIT_QUEUES, Verdict};
use crate::checksum::insert;
use crate::filter::Audience;
use crate::interrupts::{RXDMT0, RXQ0, RXT0, TXDW, TXQ0, TXQE};
use crate::offload::{Frame, TAG_AT};
use crate::receive::{Receiver, Refused};
use crate::registers::{MPC, RNBC, ROC, TSCTC, TSCTFC};
use crate::shared::Shared;
use crate::transmit::Transmitter;

const STOP: u64 = 0;
const DOORBELL: u64 = 1;
const BACKEND: u64 = 2;

/// Frames moved before the other direction gets its turn.
const BUDGET: usize = 64;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_IS_RIGHT: u8 = 2;

/// Why a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// The back end has no frame now.
    Empty,
    /// The guest has to give descriptors first.
    NoRoom,
    /// There may be more.
    More,
    /// The back end is gone.
    Dead,
}

pub(crate) struct CardWorker {
    shared: Arc<Shared>,
    queue: Box<dyn NetQueue>,
    accepted: Offloads,
    receiver: Receiver,
    transmitters: [Transmitter; TRANSMIT_QUEUES],
    /// Room for a frame with its header.
    buffer: Vec<u8>,
    /// The frame that is received, or waits for descriptors.
    frame: Vec<u8>,
    /// The frame waits; its checksums are known to be right.
    waiting: Option<bool>,
    events: EventLoop,
    interest: Interest,
    /// The back end is gone: frames of the guest are thrown away.
    dead: bool,
}

impl CardWorker {
    pub fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        let queue = shared.backend.open_queue(0)?;
        shared.backend.set_active_pairs(1)?;
        // The card finishes checksums itself, and tells the guest that they are right.
        let delivered = Offloads {
            checksum: shared.backend.delivers().checksum,
            ..Offloads::NONE
        };
        shared.backend.set_delivered(delivered)?;
        let events = EventLoop::new()?;
        events.add(&shared.event, DOORBELL)?;
        Ok(Self {
            accepted: shared.backend.accepts(),
            shared,
            queue,
            receiver: Receiver::default(),
            transmitters: Default::default(),
            buffer: vec![0; HEADER_LEN + MAX_FRAME],
            frame: Vec::new(),
            waiting: None,
            events,
            interest: Interest::new(BACKEND),
            dead: false,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a network card's worker cannot run: {error}");
            return;
        }
        let mut tokens = Vec::new();
        loop {
            let round = self.work();
            let waited = match round {
                Round::More => self.events.wait(Some(Duration::ZERO), &mut tokens),
                _ => self
                    .watch_backend(round)
                    .and_then(|()| self.events.wait(None, &mut tokens)),
            };
            if let Err(error) = waited {
                tracing::error!("a network card's worker ends: {error}");
                return;
            }
            if tokens.contains(&STOP) {
                return;
            }
            if tokens.contains(&DOORBELL) {
                clear(&self.shared.event);
                DeviceMetrics::add(&self.shared.metrics.kicks, 1);
            }
        }
    }

    /// Moves frames both ways. [`Round::More`] if there is more to do, else why receiving ended.
    fn work(&mut self) -> Round {
        self.shared.listen();
        self.flush();
        let sent =
            (0..TRANSMIT_QUEUES).fold(Round::Empty, |worst, index| match (worst, self.transmit(index)) {
                (Round::Dead, _) | (_, Round::Dead) => Round::Dead,
                (Round::More, _) | (_, Round::More) => Round::More,
                _ => Round::Empty,
            });
        let received = if self.dead { Round::NoRoom } else { self.receive() };
        if sent == Round::Dead || received == Round::Dead {
            self.backend_gone();
            return Round::More;
        }
        if !self.dead {
            self.shared.look_at_link();
        }
        if sent == Round::More || received == Round::More {
            return Round::More;
        }
        if self.poll(received) {
            return Round::More;
        }
        received
    }

    /// Looks for a short while whether there is more to move.
    fn poll(&mut self, received: Round) -> bool {
        // It fails again before the sleep, and is dealt with there.
        if self.watch_backend(received).is_err() {
            return false;
        }
        let shared = &self.shared;
        self.events.poll(|| shared.is_rung())
    }

    fn flush(&mut self) {
        if !self.dead
            && self.queue.writable().is_some()
            && let Err(error) = self.queue.flush()
        {
            tracing::warn!("a network back end is gone: {error}");
            self.backend_gone();
        }
    }

    /// Listens to the back end for frames only while there are descriptors for them, and for room only while frames wait.
    fn watch_backend(&mut self, received: Round) -> Result<(), ostler_worker::Error> {
        let readable = (!self.dead && received == Round::Empty)
            .then(|| self.queue.readable())
            .flatten();
        let writable = (!self.dead).then(|| self.queue.writable()).flatten();
        self.interest.set(&self.events, readable, writable)
    }

    fn backend_gone(&mut self) {
        if !std::mem::replace(&mut self.dead, true) {
            self.waiting = None;
            self.shared.backend_lost();
        }
    }

    /// Sends what queue `index` has, up to the budget.
    fn transmit(&mut self, index: usize) -> Round {
        let Self {
            shared,
            queue,
            accepted,
            transmitters,
            dead,
            ..
        } = self;
        let _dma = shared.dma();
        let Some(how) = shared.card().transmission(index) else {
            return Round::Empty;
        };
        let discard = *dead || !shared.is_plugged();
        let mut failed = false;
        let done = transmitters[index].run(&shared.ram, &how, *accepted, |frame| {
            if !discard && !failed {
                failed = send(shared, &mut **queue, &frame);
            }
        });
        let mut card = shared.card();
        let count = |times: u32, statistic| (0..times).map(move |_| statistic);
        count(done.segmented, TSCTC)
            .chain(count(done.unsegmented, TSCTFC))
            .for_each(|statistic| card.count(statistic));
        DeviceMetrics::add(&shared.metrics.errors, done.dropped.into());
        if !card.transmitted(how.epoch, index, done.head) {
            return Round::More;
        }
        let mut causes = match (done.reported, shared.has_vectors()) {
            (false, _) => 0,
            (true, true) => TXQ0 << index,
            (true, false) => TXDW,
        };
        let more = card.transmission(index).is_some();
        if !more {
            causes |= TXQE;
        }
        card.interrupts.add_causes(causes);
        shared.settle(&mut card);
        match (failed, more) {
            (true, _) => Round::Dead,
            (false, true) => Round::More,
            (false, false) => Round::Empty,
        }
    }

    /// Receives frames until the budget, the frames or the descriptors end.
    fn receive(&mut self) -> Round {
        let mut causes = Causes::default();
        let round = self.receive_frames(&mut causes);
        self.shared.add_causes(causes.epoch, causes.bits);
        round
    }

    fn receive_frames(&mut self, causes: &mut Causes) -> Round {
        for _ in 0..BUDGET {
            let plugged = self.shared.is_plugged();
            if plugged && !self.shared.card().can_receive() {
                return Round::NoRoom;
            }
            let trusted = match self.waiting.take() {
                Some(trusted) => trusted,
                None => match self.read() {
                    Ok(Some(trusted)) => trusted,
                    Ok(None) => continue,
                    Err(round) => return round,
                },
            };
            // Without a cable nothing arrives.
            if plugged && !self.deliver(trusted, causes) {
                self.waiting = Some(trusted);
                return Round::NoRoom;
            }
        }
        Round::More
    }

    /// Takes a frame from the back end; tells whether its checksums are known to be right. `None` if there was one that is no
    /// use.
    fn read(&mut self) -> Result<Option<bool>, Round> {
        // SAFETY: `buffer` is alive and nothing else refers to it during the call.
        let received = unsafe { self.queue.read_frame(&[IoBuf::of(&mut self.buffer)]) };
        let len = match received {
            Ok(Received::Frame(len)) if len >= HEADER_LEN + ETHERNET => len,
            Ok(Received::Frame(_) | Received::Dropped) => {
                DeviceMetrics::add(&self.shared.metrics.errors, 1);
                return Ok(None);
            }
            Ok(Received::Empty) => return Err(Round::Empty),
            Err(error) => {
                tracing::warn!("a network back end is gone: {error}");
                return Err(Round::Dead);
            }
        };
        let Some((header, bytes)) = self
            .buffer
            .get(..len)
            .and_then(|all| all.split_at_checked(HEADER_LEN))
        else {
            return Ok(None);
        };
        self.frame.clear();
        self.frame.extend_from_slice(bytes);
        let pair = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        if header[0] & NEEDS_CHECKSUM != 0 {
            let (start, offset) = (pair(6), pair(8));
            // The offset tells UDP, whose sum is never zero, from TCP.
            insert(&mut self.frame, start, start + offset, usize::MAX, offset == 6);
        }
        Ok(Some(header[0] & (NEEDS_CHECKSUM | CHECKSUM_IS_RIGHT) != 0))
    }

    /// Gives the frame to the guest, or throws it away. False if it has to wait for descriptors.
    fn deliver(&mut self, trusted: bool, causes: &mut Causes) -> bool {
        let shared = &self.shared;
        let _dma = shared.dma();
        let verdict = shared.card().judge(&self.frame);
        let how = match verdict {
            Verdict::Deliver(how) => how,
            Verdict::Closed => return false,
            Verdict::Filtered => return true,
            Verdict::TooLong => {
                shared.card().count(ROC);
                return true;
            }
        };
        let len = self.frame.len();
        let stored = self.receiver.store(&shared.ram, &how, &mut self.frame, trusted);
        let mut card = shared.card();
        match stored {
            Ok(head) => {
                if card.received(how.epoch, head) {
                    card.count_received(how.passed.audience, len);
                    let few = (head + how.ring.count - how.ring.head) % how.ring.count.max(1);
                    let few = how.ring.available().saturating_sub(few) <= how.threshold;
                    causes.add(how.epoch, if shared.has_vectors() { RXQ0 } else { RXT0 });
                    causes.add(how.epoch, if few && !shared.has_vectors() { RXDMT0 } else { 0 });
                }
                DeviceMetrics::add(&shared.metrics.requests, 1);
                DeviceMetrics::add(&shared.metrics.bytes_to_guest, len as u64);
                true
            }
            Err(Refused::NoRoom) => {
                card.count(RNBC);
                false
            }
            Err(Refused::Impossible) => {
                card.count(MPC);
                DeviceMetrics::add(&shared.metrics.errors, 1);
                true
            }
        }
    }
}

/// What the guest is to be told at the end of a round.
#[derive(Default)]
struct Causes {
    epoch: u64,
    bits: u32,
}

impl Causes {
    fn add(&mut self, epoch: u64, bits: u32) {
        if self.epoch != epoch {
            *self = Self { epoch, bits: 0 };
        }
        self.bits |= bits;
    }
}

/// Sends a frame. True if the back end is gone.
fn send(shared: &Shared, queue: &mut dyn NetQueue, frame: &Frame<'_>) -> bool {
    let (addresses, rest) = frame.bytes.split_at(TAG_AT.min(frame.bytes.len()));
    let tag = frame.tag.as_ref().map_or(&[][..], |tag| tag);
    let buffers = [&frame.header[..], addresses, tag, rest].map(IoBuf::of_const);
    // SAFETY: all four are borrowed for the time of the call.
    let sent = unsafe { queue.write_frame(&buffers) };
    let len = frame.bytes.len() + tag.len();
    match sent {
        Ok(Sent::Sent) => {
            DeviceMetrics::add(&shared.metrics.requests, 1);
            DeviceMetrics::add(&shared.metrics.bytes_from_guest, len as u64);
            shared.card().count_sent(Audience::of(frame.bytes), len);
        }
        Ok(Sent::Dropped) => DeviceMetrics::add(&shared.metrics.errors, 1),
        Err(error) => {
            tracing::warn!("a network back end is gone: {error}");
            return true;
        }
    }
    false
}
