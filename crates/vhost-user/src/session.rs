//! The state of the protocol: what was negotiated, and what the rings are.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_netio::Offloads;
use rustix::event::epoll;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::Error;
use crate::event::{Call, Kick};
use crate::memory::{MAX_SLOTS, Memory};
use crate::message::{Event, Request};
use crate::ring::{MAX_SIZE, Ring};

/// Queue pairs that a guest may have here.
pub(crate) const MAX_PAIRS: usize = 8;

/// VIRTIO_F_ANY_LAYOUT: header and frame may share a buffer. Every driver of virtio 1 does as it likes with that.
const ANY_LAYOUT: u32 = 27;
/// VHOST_USER_F_PROTOCOL_FEATURES: there are features of the protocol too.
const PROTOCOL_FEATURES: u32 = 30;

/// What is offered. The control queue is the front end's own business; what it would tell us of is not there.
const OFFERED: &[u32] = &[
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MQ,
    ANY_LAYOUT,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
];

const OFFERED_OF_THE_PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

fn offered() -> u64 {
    OFFERED.iter().fold(0, |all, bit| all | 1 << bit)
}

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing, or that it was done if the front end asks for that.
    Done,
    Word(u64),
    /// A ring and a value of it.
    OfRing(u32, u32),
}

pub(crate) struct Session {
    /// Rings for receiving have even numbers, those for sending odd ones, as the guest sees it.
    pub rings: Vec<Ring>,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    memory: Option<Arc<Memory>>,
    /// Where kicks are heard.
    events: Arc<OwnedFd>,
}

impl Session {
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            rings: (0..2 * MAX_PAIRS).map(|_| Ring::default()).collect(),
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            memory: None,
            events: Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?),
        })
    }

    pub fn events(&self) -> &OwnedFd {
        &self.events
    }

    /// Whether the guest took a feature.
    pub fn has(&self, bit: u32) -> bool {
        self.features & 1 << bit != 0
    }

    /// Whether the front end wants to hear that requests were done.
    pub fn acknowledges(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    /// What the guest takes of what is left to be done to frames.
    pub fn takes(&self) -> Offloads {
        Offloads {
            checksum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: self.has(VIRTIO_NET_F_GUEST_ECN),
            uso: self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6),
        }
    }

    /// Whether frames may be spread over several chains.
    pub fn mergeable(&self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// Bytes of the header before each frame: drivers of before virtio 1 leave the last field out.
    pub fn header_len(&self) -> usize {
        if self.has(VIRTIO_F_VERSION_1) || self.mergeable() {
            ostler_netio::HEADER_LEN
        } else {
            ostler_netio::HEADER_LEN - 2
        }
    }

    /// An error if the front end took memory away.
    pub fn check_memory(&self) -> Result<(), Error> {
        self.memory.as_ref().map_or(Ok(()), |memory| memory.check())
    }

    fn event_idx(&self) -> bool {
        self.has(VIRTIO_RING_F_EVENT_IDX)
    }

    fn ring(&mut self, number: u32) -> Result<&mut Ring, Error> {
        let ring = self.rings.get_mut(number as usize);
        ring.ok_or(Error::NoRing(number))
    }

    /// A ring that does not run, and so can be changed.
    fn resting(&mut self, number: u32) -> Result<&mut Ring, Error> {
        let ring = self.ring(number)?;
        match ring.runs() {
            true => Err(Error::RingRuns(number)),
            false => Ok(ring),
        }
    }

    /// Does what a request asks for.
    pub fn handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply, Error> {
        let (least, most) = request.descriptors();
        if !(least..=most).contains(&descriptors.len()) {
            return Err(Error::Descriptors {
                given: descriptors.len(),
                wanted: most,
            });
        }
        let mut descriptors = descriptors;
        match request {
            Request::GetFeatures => return Ok(Reply::Word(offered())),
            Request::GetProtocolFeatures => return Ok(Reply::Word(OFFERED_OF_THE_PROTOCOL.bits())),
            Request::GetQueueNum => return Ok(Reply::Word(MAX_PAIRS as u64)),
            Request::GetMaxMemSlots => return Ok(Reply::Word(MAX_SLOTS as u64)),
            Request::GetVringBase { ring } => {
                let base = self.ring(ring)?.stop();
                return Ok(Reply::OfRing(ring, base.into()));
            }
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => {
                let unknown = features & !OFFERED_OF_THE_PROTOCOL.bits();
                if unknown != 0 {
                    return Err(Error::Features(unknown));
                }
                self.protocol = VhostUserProtocolFeatures::from_bits_truncate(features);
            }
            Request::SetOwner => {}
            Request::Reset => self.rings.iter_mut().for_each(|ring| *ring = Ring::default()),
            Request::SetMemTable(table) => {
                let memory = Memory::map(table, descriptors)?;
                self.set_memory(Some(memory))?;
            }
            // QEMU 7.2 adds and removes each region once for every queue pair: what is there is left, what is not is no error.
            Request::AddMemReg(region) => {
                let file = descriptors
                    .pop()
                    .ok_or(Error::Descriptors { given: 0, wanted: 1 })?;
                if !self.memory.as_ref().is_some_and(|memory| memory.has(&region)) {
                    let memory = Memory::with(self.memory.as_deref(), region, file)?;
                    self.set_memory(Some(memory))?;
                }
            }
            Request::RemMemReg(region) => {
                if let Some(memory) = &self.memory {
                    let memory = memory.without(&region)?;
                    self.set_memory(memory)?;
                }
            }
            Request::SetVringNum { ring, num } => {
                let good = u16::try_from(num)
                    .ok()
                    .filter(|num| num.is_power_of_two() && *num <= MAX_SIZE);
                let size = good.ok_or(Error::RingValue { ring, value: num })?;
                self.resting(ring)?.size = size;
            }
            Request::SetVringBase { ring, base } => {
                let good = u16::try_from(base).map_err(|_| Error::RingValue { ring, value: base })?;
                self.resting(ring)?.base = good;
            }
            Request::SetVringAddr {
                ring: number,
                address,
            } => {
                let ring = self.ring(number)?;
                if ring.runs() && ring.address != Some(address) {
                    return Err(Error::RingRuns(number));
                }
                ring.address = Some(address);
            }
            Request::SetVringEnable { ring, on } => {
                if on > 1 {
                    return Err(Error::RingValue { ring, value: on });
                }
                self.ring(ring)?.enabled = on == 1;
            }
            Request::SetVringEvent { ring, event, .. } => self.set_event(ring, event, descriptors.pop())?,
        }
        Ok(Reply::Done)
    }

    fn set_features(&mut self, features: u64) -> Result<(), Error> {
        let unknown = features & !offered();
        if unknown != 0 {
            return Err(Error::Features(unknown));
        }
        if let Some(number) = self.rings.iter().position(Ring::runs)
            && features != self.features
        {
            return Err(Error::RingRuns(number as u32));
        }
        self.features = features;
        Ok(())
    }

    /// Rings go on in other memory.
    fn set_memory(&mut self, memory: Option<Memory>) -> Result<(), Error> {
        let event_idx = self.event_idx();
        let memory = memory.map(Arc::new);
        for (number, ring) in (0..).zip(&mut self.rings) {
            match &memory {
                Some(memory) => ring.move_to(number, memory, event_idx)?,
                None if ring.runs() => return Err(Error::RingRuns(number)),
                None => {}
            }
        }
        self.memory = memory;
        Ok(())
    }

    fn set_event(&mut self, number: u32, event: Event, descriptor: Option<OwnedFd>) -> Result<(), Error> {
        match event {
            Event::Call => self.ring(number)?.call = descriptor.map(Call::new).transpose()?,
            Event::Error => self.ring(number)?.error = descriptor,
            Event::Kick => {
                let (memory, event_idx) = (self.memory.clone(), self.event_idx());
                let always_enabled = !self.has(PROTOCOL_FEATURES);
                let descriptor = descriptor.ok_or(Error::NoKick(number))?;
                let kick = Kick::listen(descriptor, &self.events, number.into())?;
                let ring = self.ring(number)?;
                ring.kick = Some(kick);
                ring.enabled |= always_enabled;
                if !ring.runs() {
                    let memory = memory.ok_or(Error::RingUnknown(number))?;
                    ring.start(number, &memory, event_idx)?;
                }
            }
        }
        Ok(())
    }
}
