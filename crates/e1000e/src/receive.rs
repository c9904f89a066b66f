//! A frame's way into guest memory (82574 datasheet, 7.1).

use std::sync::atomic::Ordering;

use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::card::{CRC_LEN, Format, Reception};
use crate::checksum::{crc, word};
use crate::inspect::{Checked, Layer4, check};
use crate::offload::TAG_AT;
use crate::ring::UNIT;

/// Least bytes of a frame on the wire, without its check sequence.
const LEAST_FRAME: usize = 60;
/// Most descriptors of a frame. The longest frame in the smallest buffers takes 64.
const MOST_DESCRIPTORS: u32 = 256;

/// Status of a legacy descriptor; those of the others begin with the same bits.
const DONE: u32 = 1 << 0;
const END_OF_PACKET: u32 = 1 << 1;
const NO_CHECKSUM: u32 = 1 << 2;
const VLAN: u32 = 1 << 3;
const UDP_CHECKED: u32 = 1 << 4;
const TCP_CHECKED: u32 = 1 << 5;
const IP_CHECKED: u32 = 1 << 6;
const INEXACT: u32 = 1 << 7;
/// Errors as they stand in bits 31:24 of the status of extended descriptors.
const LAYER4_ERROR: u32 = 1 << 29;
const IP_ERROR: u32 = 1 << 30;

/// Why a frame was not stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not now: the guest has to give descriptors first.
    NoRoom,
    /// Never.
    Impossible,
}

/// A frame as it goes into memory.
struct Prepared {
    status: u32,
    tag: u16,
}

/// One descriptor, and the bytes that go into its buffers.
struct Taken {
    at: u32,
    buffers: [(u64, usize); 4],
}

/// Stores frames. Its lists are used again.
#[derive(Default)]
pub struct Receiver {
    taken: Vec<Taken>,
}

impl Receiver {
    /// Stores `frame`, which is changed on the way, and returns the queue's new head. `trusted`: its checksums are right.
    pub fn store(
        &mut self,
        ram: &GuestRam,
        how: &Reception,
        frame: &mut Vec<u8>,
        trusted: bool,
    ) -> Result<u32, Refused> {
        let before = frame.len();
        // Whether there is room has to be known before the frame is changed; a tag less only makes it shorter.
        let extra = if how.strip_crc { 0 } else { CRC_LEN };
        self.take(ram, how, before.max(LEAST_FRAME) + extra)?;
        let prepared = prepare(how, frame, trusted);
        Ok(self.write(ram, how, frame, &prepared))
    }

    /// Takes descriptors until `len` bytes have room.
    fn take(&mut self, ram: &GuestRam, how: &Reception, len: usize) -> Result<(), Refused> {
        self.taken.clear();
        let step = step(how.format);
        let (mut left, mut used) = (len, 0);
        while left > 0 {
            if used / step >= MOST_DESCRIPTORS || used + step >= how.ring.count {
                return Err(Refused::Impossible);
            }
            if used + step > how.ring.available() {
                return Err(Refused::NoRoom);
            }
            let at = how.ring.after(how.ring.head, used);
            let buffers = self.fetch(ram, how, at).ok_or(Refused::Impossible)?;
            let room: usize = buffers.iter().map(|(_, size)| size).sum();
            self.taken.push(Taken { at, buffers });
            left = left.saturating_sub(room);
            used += step;
        }
        Ok(())
    }

    /// The buffers of a descriptor; those that are not there are empty.
    fn fetch(&self, ram: &GuestRam, how: &Reception, at: u32) -> Option<[(u64, usize); 4]> {
        let mut buffers = [(0, 0); 4];
        let (mut bytes, split) = ([0; 2 * UNIT], how.format == Format::Split);
        if split {
            bytes = how.ring.fetch(ram, at).ok()?;
        } else {
            bytes[..UNIT].copy_from_slice(&how.ring.fetch::<UNIT>(ram, at).ok()?);
        }
        let count = if split { 4 } else { 1 };
        for ((buffer, chunk), size) in buffers
            .iter_mut()
            .zip(bytes.as_chunks::<8>().0)
            .zip(how.sizes)
            .take(count)
        {
            let address = u64::from_le_bytes(*chunk);
            // Neither is an address (7.1.7.2; all ones for unused buffers of split descriptors).
            if address != 0 && address != u64::MAX {
                *buffer = (address, size);
            }
        }
        Some(buffers)
    }

    /// Writes the bytes, and then the descriptors, each with its status last. Returns the new head.
    fn write(&self, ram: &GuestRam, how: &Reception, frame: &[u8], prepared: &Prepared) -> u32 {
        let mut rest = frame;
        let mut head = how.ring.head;
        for taken in &self.taken {
            let mut lengths = [0; 4];
            if rest.is_empty() {
                // There was room for a tag that is gone.
                break;
            }
            for (length, (address, size)) in lengths.iter_mut().zip(taken.buffers) {
                let (here, after) = rest.split_at(rest.len().min(size));
                // A buffer that is not in RAM gets nothing; the guest hurts only itself.
                let _ = ram.write_slice(here, GuestAddress(address));
                *length = here.len() as u16;
                rest = after;
            }
            let whole = DONE | END_OF_PACKET | prepared.status;
            let (status, tag) = if rest.is_empty() {
                (whole, prepared.tag)
            } else {
                (DONE, 0)
            };
            write_back(ram, how, taken.at, status, lengths, tag);
            head = how.ring.after(taken.at, step(how.format));
        }
        head
    }
}

/// What head and tail move by for a descriptor.
fn step(format: Format) -> u32 {
    if format == Format::Split { 2 } else { 1 }
}

/// Checks the frame, takes out its tag, and appends its check sequence, as asked.
fn prepare(how: &Reception, frame: &mut Vec<u8>, trusted: bool) -> Prepared {
    let mut prepared = Prepared { status: 0, tag: 0 };
    let tagged = word(frame, TAG_AT) == how.strip_tag.unwrap_or(0x8100) && frame.len() >= TAG_AT + 6;
    let ip_at = if tagged { 18 } else { 14 };
    prepared.status = status(how, check(frame, ip_at, trusted));
    if tagged && how.strip_tag.is_some() {
        prepared.tag = word(frame, TAG_AT + 2);
        prepared.status |= VLAN;
        frame.drain(TAG_AT..TAG_AT + 4);
    }
    if how.passed.inexact {
        prepared.status |= INEXACT;
    }
    if frame.len() < LEAST_FRAME {
        frame.resize(LEAST_FRAME, 0);
    }
    if !how.strip_crc {
        let check = crc(frame);
        frame.extend_from_slice(&check);
    }
    prepared
}

fn status(how: &Reception, checked: Checked) -> u32 {
    let mut status = 0;
    if let Some(right) = checked.ip.filter(|_| how.check_ip) {
        status |= IP_CHECKED | if right { 0 } else { IP_ERROR };
    }
    if let Some((kind, right)) = checked.layer4.filter(|_| how.check_layer4) {
        // Of an extended descriptor the bit of UDP does not come without that of TCP (7.1.5.2).
        status |= match kind {
            Layer4::Tcp => TCP_CHECKED,
            Layer4::Udp => TCP_CHECKED | UDP_CHECKED,
        };
        status |= if right { 0 } else { LAYER4_ERROR };
    }
    if status == 0 {
        status = NO_CHECKSUM;
    }
    status
}

/// Writes a descriptor back. One that is gone from RAM is left alone.
fn write_back(ram: &GuestRam, how: &Reception, at: u32, status: u32, lengths: [u16; 4], tag: u16) {
    let Some(address) = how.ring.address(at) else {
        return;
    };
    let put = |offset: u64, bytes: &[u8]| {
        if let Some(place) = address.checked_add(offset) {
            let _ = ram.write_slice(bytes, GuestAddress(place));
        }
    };
    // The status goes last, and in one piece.
    let finish = |offset: u64, value: u32| {
        if let Some(place) = address.checked_add(offset) {
            let _ = ram.store(value.to_le(), GuestAddress(place), Ordering::Release);
        }
    };
    match how.format {
        Format::Legacy => {
            put(8, &u32::from(lengths[0]).to_le_bytes());
            finish(12, status & 0xff | status >> 24 << 8 | u32::from(tag) << 16);
        }
        Format::Extended | Format::Split => {
            put(0, &[0; 8]);
            put(12, &(u32::from(lengths[0]) | u32::from(tag) << 16).to_le_bytes());
            if how.format == Format::Split {
                let mut upper = [0; UNIT];
                for (place, length) in upper[2..8].as_chunks_mut::<2>().0.iter_mut().zip(&lengths[1..]) {
                    *place = length.to_le_bytes();
                }
                put(16, &upper);
            }
            finish(8, status);
        }
    }
}
