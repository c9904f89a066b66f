//! A packet's way out of guest memory (82574 datasheet, 7.2).

use std::sync::atomic::Ordering;

use ostler_memory::GuestRam;
use ostler_netio::Offloads;
use vm_memory::{Bytes, GuestAddress};

use crate::card::{LONG_FRAME, Transmission};
use crate::offload::{Context, Frame, Request};
use crate::ring::UNIT;

/// Descriptors taken at a time.
pub const BUDGET: u32 = 64;
/// Most bytes of a packet that is to be cut into segments. What is longer is not sent.
const MOST_SEGMENTED: usize = 256 << 10;
/// Least bytes of a frame.
const ETHERNET: usize = 14;
/// What short frames are filled up to.
const LEAST_FRAME: usize = 60;

// Commands, in the byte that all descriptors have for them.
const END_OF_PACKET: u32 = 1 << 0;
/// Of a legacy descriptor: insert a checksum. Of the others: segment.
const CHECKSUM_OR_SEGMENT: u32 = 1 << 2;
const REPORT: u32 = 1 << 3;
const EXTENSION: u32 = 1 << 5;
const INSERT_TAG: u32 = 1 << 6;
const DONE: u32 = 1 << 0;

const TYPE_DATA: u32 = 1;
/// What a context descriptor has for commands.
const CONTEXT_TCP: u32 = 1 << 0;
const CONTEXT_IPV4: u32 = 1 << 1;
/// Options of a packet.
const OPTION_IP: u32 = 1 << 0;
const OPTION_LAYER4: u32 = 1 << 1;

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// The new head.
    pub head: u32,
    /// A descriptor was written back.
    pub reported: bool,
    /// Packets that made no sense.
    pub dropped: u32,
    /// Packets that were segmented.
    pub segmented: u32,
    /// Of those dropped, ones that should have been.
    pub unsegmented: u32,
}

/// A transmit queue: the packet that is being collected, and the context that holds.
#[derive(Default)]
pub struct Transmitter {
    epoch: u64,
    context: Context,
    packet: Vec<u8>,
    /// There was a descriptor of the packet.
    begun: bool,
    /// It is longer than can be, or not in RAM.
    broken: bool,
    request: Request,
    scratch: Vec<u8>,
}

/// A descriptor as three fields.
struct Descriptor {
    address: u64,
    lower: u32,
    upper: u32,
}

impl Descriptor {
    fn parse(bytes: &[u8; UNIT]) -> Self {
        let whole = u128::from_le_bytes(*bytes);
        Self {
            address: whole as u64,
            lower: (whole >> 64) as u32,
            upper: (whole >> 96) as u32,
        }
    }

    fn command(&self) -> u32 {
        self.lower >> 24
    }

    fn is_legacy(&self) -> bool {
        self.command() & EXTENSION == 0
    }
}

impl Transmitter {
    /// Takes up to [`BUDGET`] descriptors, and gives what is to be sent to `emit`.
    pub fn run(
        &mut self,
        ram: &GuestRam,
        how: &Transmission,
        accepted: Offloads,
        mut emit: impl FnMut(Frame<'_>),
    ) -> Sent {
        if self.epoch != how.epoch {
            self.epoch = how.epoch;
            self.forget();
        }
        let mut sent = Sent {
            head: how.ring.head,
            ..Sent::default()
        };
        for _ in 0..how.ring.available().min(BUDGET) {
            let next = how.ring.after(sent.head, 1);
            let Ok(bytes) = how.ring.fetch(ram, sent.head) else {
                // A ring that is not in RAM: everything in it is skipped.
                self.forget();
                sent.head = how.ring.tail;
                return sent;
            };
            let descriptor = Descriptor::parse(&bytes);
            self.take(ram, how, &descriptor);
            if descriptor.command() & END_OF_PACKET != 0 && self.begun {
                self.finish(how, accepted, &mut sent, &mut emit);
            }
            if descriptor.command() & REPORT != 0 {
                report(ram, how, sent.head, descriptor.upper);
                sent.reported = true;
            }
            sent.head = next;
        }
        sent
    }

    /// Forgets the packet that is being collected.
    fn forget(&mut self) {
        self.packet.clear();
        (self.begun, self.broken) = (false, false);
    }

    fn take(&mut self, ram: &GuestRam, how: &Transmission, descriptor: &Descriptor) {
        let kind = descriptor.lower >> 20 & 0xf;
        if descriptor.is_legacy() {
            return self.take_data(ram, how, descriptor, descriptor.lower & 0xffff);
        }
        if kind == TYPE_DATA {
            self.take_data(ram, how, descriptor, descriptor.lower & 0xf_ffff);
        } else {
            self.context = context(descriptor);
        }
    }

    fn take_data(&mut self, ram: &GuestRam, how: &Transmission, descriptor: &Descriptor, len: u32) {
        let command = descriptor.command();
        let tag = how.tag.filter(|_| command & INSERT_TAG != 0).map(|kind| {
            let ([a, b], [c, d]) = (
                kind.to_be_bytes(),
                ((descriptor.upper >> 16) as u16).to_be_bytes(),
            );
            [a, b, c, d]
        });
        if !std::mem::replace(&mut self.begun, true) {
            self.request = self.request_of(descriptor);
            self.request.tag = tag;
        } else if command & END_OF_PACKET != 0 && !self.request.segment {
            // Without segmentation the last descriptor says (7.2.10.2).
            self.request.tag = tag;
        }
        if descriptor.is_legacy() && command & CHECKSUM_OR_SEGMENT != 0 {
            self.legacy_checksum(descriptor);
        }
        let most = if self.request.segment {
            MOST_SEGMENTED
        } else {
            LONG_FRAME
        };
        let (start, len) = (self.packet.len(), len as usize);
        if self.broken || start + len > most {
            self.broken = true;
            return;
        }
        self.packet.resize(start + len, 0);
        let target = &mut self.packet[start..];
        self.broken = ram.read_slice(target, GuestAddress(descriptor.address)).is_err();
    }

    /// What the first descriptor of a packet asks for.
    fn request_of(&self, descriptor: &Descriptor) -> Request {
        if descriptor.is_legacy() {
            return Request::default();
        }
        let options = descriptor.upper >> 8;
        Request {
            context: self.context,
            ip: options & OPTION_IP != 0,
            l4: options & OPTION_LAYER4 != 0,
            segment: descriptor.command() & CHECKSUM_OR_SEGMENT != 0,
            tag: None,
        }
    }

    /// The one checksum that a legacy descriptor can ask for (7.2.4.3).
    fn legacy_checksum(&mut self, descriptor: &Descriptor) {
        self.request.l4 = true;
        self.request.context = Context {
            l4_start: (descriptor.upper >> 8 & 0xff) as usize,
            l4_place: (descriptor.lower >> 16 & 0xff) as usize,
            tcp: true,
            ..Context::default()
        };
    }

    fn finish(
        &mut self,
        how: &Transmission,
        accepted: Offloads,
        sent: &mut Sent,
        emit: &mut impl FnMut(Frame<'_>),
    ) {
        let segment = self.request.segment;
        let mut good = !self.broken && self.packet.len() >= ETHERNET;
        if good {
            if how.pad && !segment && self.packet.len() < LEAST_FRAME {
                self.packet.resize(LEAST_FRAME, 0);
            }
            good = self
                .request
                .run(&mut self.packet, accepted, &mut self.scratch, emit)
                .is_ok();
        }
        sent.segmented += u32::from(segment && good);
        sent.unsegmented += u32::from(segment && !good);
        sent.dropped += u32::from(!good);
        self.forget();
    }
}

fn context(descriptor: &Descriptor) -> Context {
    let byte = |at: u32| (descriptor.address >> at & 0xff) as usize;
    let pair = |at: u32| (descriptor.address >> at & 0xffff) as usize;
    Context {
        ip_start: byte(0),
        ip_place: byte(8),
        ip_end: pair(16),
        l4_start: byte(32),
        l4_place: byte(40),
        l4_end: pair(48),
        header: (descriptor.upper >> 8 & 0xff) as usize,
        mss: (descriptor.upper >> 16) as usize,
        tcp: descriptor.command() & CONTEXT_TCP != 0,
        ipv4: descriptor.command() & CONTEXT_IPV4 != 0,
    }
}

/// Writes a descriptor's status back.
fn report(ram: &GuestRam, how: &Transmission, at: u32, upper: u32) {
    if let Some(place) = how.ring.address(at).and_then(|address| address.checked_add(12)) {
        let _ = ram.store((upper | DONE).to_le(), GuestAddress(place), Ordering::Release);
    }
}
