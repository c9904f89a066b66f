//! The conversation with a back end: what it can do, then the memory and the rings, as often as the guest's driver starts.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::driver::SIZE;
use super::line::Line;
use super::{Arena, BackEndError, DriverRing};

/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// What a back end must offer, and what is always chosen.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | PROTOCOL_FEATURES;
/// Of the number that says for which ring a descriptor is.
const RING_MASK: u64 = 0xff;

/// A back end that was greeted.
pub(crate) struct Session {
    line: Line,
    /// The features that it offers.
    offered: u64,
    /// It acknowledges what it is told.
    acknowledges: bool,
    /// Rings that it was told to stop; its answers were not read yet.
    owed: usize,
    /// Rings that run.
    running: usize,
}

impl Session {
    /// Greets a back end that is to serve as many queues as its kind of device counts them: rings, or of a network card pairs of them.
    pub fn greet(socket: UnixStream, queues: usize, stop: BorrowedFd<'_>) -> Result<Self, BackEndError> {
        Self::greet_on(Line::new(socket), queues, stop)
    }

    #[cfg(any(test, fuzzing))]
    pub fn greet_with_patience(
        socket: UnixStream,
        queues: usize,
        stop: BorrowedFd<'_>,
        patience: std::time::Duration,
    ) -> Result<Self, BackEndError> {
        Self::greet_on(Line::with_patience(socket, patience), queues, stop)
    }

    fn greet_on(line: Line, queues: usize, stop: BorrowedFd<'_>) -> Result<Self, BackEndError> {
        let mut session = Self {
            line,
            offered: 0,
            acknowledges: false,
            owed: 0,
            running: 0,
        };
        let offered = session.ask(FrontendReq::GET_FEATURES, stop)?;
        if offered & FEATURES != FEATURES {
            return Err(BackEndError::Features(offered));
        }
        session.offered = offered;
        let protocol = session.ask(FrontendReq::GET_PROTOCOL_FEATURES, stop)?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let chosen = protocol & wanted.bits();
        session.tell(
            FrontendReq::SET_PROTOCOL_FEATURES,
            &chosen.to_ne_bytes(),
            None,
            stop,
        )?;
        session.acknowledges = chosen & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        // Without MQ a back end has the queues that its kind of device has.
        if chosen & VhostUserProtocolFeatures::MQ.bits() != 0 {
            let most = session.ask(FrontendReq::GET_QUEUE_NUM, stop)?;
            if most < queues as u64 {
                return Err(BackEndError::Rings(most));
            }
        }
        session.tell(FrontendReq::SET_OWNER, &[], None, stop)?;
        Ok(session)
    }

    /// The socket, on which nothing comes while the rings run.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.line.socket()
    }

    /// Whether it is still there, and silent.
    pub fn look(&self) -> Result<(), BackEndError> {
        self.line.look()
    }

    /// Whether it offers a feature.
    pub fn offers(&self, bit: u32) -> bool {
        self.offered & 1 << bit != 0
    }

    /// Chooses its features, of `wanted` those that it offers, hands over the memory and starts the rings in it.
    pub fn start(
        &mut self,
        arena: &Arena,
        rings: &[&DriverRing],
        wanted: u64,
        stop: BorrowedFd<'_>,
    ) -> Result<(), BackEndError> {
        self.settle(stop)?;
        let features = FEATURES | wanted & self.offered;
        self.tell(FrontendReq::SET_FEATURES, &features.to_ne_bytes(), None, stop)?;
        let region = arena.region();
        let mut table = Vec::new();
        table.extend_from_slice(&1u32.to_ne_bytes());
        table.extend_from_slice(&0u32.to_ne_bytes());
        for word in [region.gpa, region.len, region.user, region.offset] {
            table.extend_from_slice(&word.to_ne_bytes());
        }
        self.tell(FrontendReq::SET_MEM_TABLE, &table, Some(arena.file()), stop)?;
        for (number, ring) in rings.iter().enumerate() {
            let pair = |value: u32| [(number as u32).to_ne_bytes(), value.to_ne_bytes()].concat();
            self.tell(FrontendReq::SET_VRING_NUM, &pair(u32::from(SIZE)), None, stop)?;
            self.tell(FrontendReq::SET_VRING_BASE, &pair(0), None, stop)?;
            let address = ring.address();
            let mut place = pair(0);
            for word in [address.descriptors, address.used, address.available, 0] {
                place.extend_from_slice(&word.to_ne_bytes());
            }
            self.tell(FrontendReq::SET_VRING_ADDR, &place, None, stop)?;
            let which = (number as u64 & RING_MASK).to_ne_bytes();
            self.tell(
                FrontendReq::SET_VRING_CALL,
                &which,
                Some(ring.call().as_fd()),
                stop,
            )?;
            self.tell(FrontendReq::SET_VRING_KICK, &which, Some(ring.kick()), stop)?;
            self.running = number + 1;
        }
        for number in 0..rings.len() as u32 {
            let on = [number.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
            self.tell(FrontendReq::SET_VRING_ENABLE, &on, None, stop)?;
        }
        Ok(())
    }

    /// Tells it to stop the rings, without waiting for that: what it still does happens in memory that nobody looks at any more.
    pub fn stop(&mut self) -> Result<(), BackEndError> {
        self.line.look()?;
        for number in 0..std::mem::take(&mut self.running) as u32 {
            let which = [number.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
            self.line.send(FrontendReq::GET_VRING_BASE, &which, None, false)?;
            self.owed += 1;
        }
        Ok(())
    }

    /// Waits until it has stopped the rings that it was told to stop.
    pub fn settle(&mut self, stop: BorrowedFd<'_>) -> Result<(), BackEndError> {
        while self.owed > 0 {
            self.line.answer::<8>(FrontendReq::GET_VRING_BASE, stop)?;
            self.owed -= 1;
        }
        Ok(())
    }

    /// Asks for a number.
    fn ask(&self, request: FrontendReq, stop: BorrowedFd<'_>) -> Result<u64, BackEndError> {
        self.line.send(request, &[], None, false)?;
        self.line.answer(request, stop).map(u64::from_ne_bytes)
    }

    /// Tells something, and waits until it was followed if that can be known.
    fn tell(
        &self,
        request: FrontendReq,
        payload: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        stop: BorrowedFd<'_>,
    ) -> Result<(), BackEndError> {
        self.line.send(request, payload, descriptor, self.acknowledges)?;
        if self.acknowledges {
            match self.line.answer(request, stop).map(u64::from_ne_bytes)? {
                0 => {}
                _ => return Err(BackEndError::Refused(request.into())),
            }
        }
        Ok(())
    }
}
