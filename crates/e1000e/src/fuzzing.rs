//! Entries for fuzzers: what a driver does with the card, and what comes from the network meanwhile.

use std::sync::atomic::Ordering;

use ostler_bus::testing::Input;
use ostler_netio::{HEADER_LEN, Offloads};
use ostler_pci::PciFunction;
use ostler_worker::scripted;
use vm_memory::{Bytes, GuestAddress};

use crate::registers as regs;
use crate::testing::{Bench, RING, RX_DATA, RX_RING, TX_DATA, TX_RING, tcp4, tcp6, udp6};

/// Frames for the guest that wait at most, as in a real queue.
const MOST_WAITING: usize = 64;

/// Where a driver writes most.
const REGISTERS: [u32; 20] = [
    regs::RCTL,
    regs::TCTL,
    regs::RECEIVE + regs::BASE_LOW,
    regs::RECEIVE + regs::LENGTH,
    regs::RECEIVE + regs::HEAD,
    regs::RECEIVE + regs::TAIL,
    regs::TRANSMIT + regs::BASE_LOW,
    regs::TRANSMIT + regs::LENGTH,
    regs::TRANSMIT + regs::HEAD,
    regs::TRANSMIT + regs::TAIL,
    // CTRL, ICR, ITR, ICS, IMS, IMC, MDIC, EERD, RFCTL, RXCSUM.
    0x0000,
    0x00c0,
    0x00c4,
    0x00c8,
    0x00d0,
    0x00d8,
    0x0020,
    0x0014,
    0x5008,
    0x5000,
];

fn put(bench: &Bench, at: u64, bytes: &[u8]) {
    let _ = bench.ram.write_slice(bytes, GuestAddress(at));
}

/// A descriptor at the transmit ring's tail: context, data or legacy, with a frame as its buffer. The tail moves on.
fn transmit(bench: &Bench, input: &mut Input<'_>) {
    let shape = input.u8();
    let tail = bench.read(regs::TRANSMIT + regs::TAIL) % RING;
    let mut frame = match shape & 3 {
        0 => tcp4(&[7; 1000]),
        1 => tcp6(&[7; 1000]),
        2 => udp6(&[7; 100]),
        _ => vec![shape; 60],
    };
    let count = input.u8();
    let patch = input.take((count & 0x3f).into());
    let at = usize::from(count >> 6) * 12;
    frame[at..at + patch.len().min(24)].copy_from_slice(&patch[..patch.len().min(24)]);
    put(bench, TX_DATA, &frame);
    let (lower, upper) = (input.u32(), input.u32());
    let (address, lower) = match shape >> 2 & 3 {
        // Context: its two words are places of checksums.
        0 => (input.u64(), lower & !0x00f0_0000 | 1 << 29),
        1 => (
            TX_DATA,
            frame.len() as u32 | lower & 0xff00_0000 & !(1 << 29) | 1 << 24,
        ),
        2 => (
            TX_DATA,
            frame.len() as u32 | lower & 0xff00_0000 | 1 << 29 | 1 << 20,
        ),
        _ => (input.u64(), lower),
    };
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(lower.to_le_bytes());
    bytes.extend(upper.to_le_bytes());
    put(bench, TX_RING + 16 * u64::from(tail), &bytes);
    bench.write(regs::TRANSMIT + regs::TAIL, (tail + 1) % RING);
}

/// A frame from the network.
fn receive(bench: &Bench, input: &mut Input<'_>) {
    let shape = input.u8();
    let mut header = [0; HEADER_LEN];
    let count = usize::from(shape >> 4) % (HEADER_LEN + 1);
    let given = input.take(count);
    header[..given.len()].copy_from_slice(given);
    let mut frame = match shape & 7 {
        0 => tcp4(&[7; 100]),
        1 => tcp6(&[7; 1400]),
        2 => udp6(&[7; 100]),
        3 => tcp4(&[7; 9000]),
        4 => vec![0xff; 60],
        5 => vec![shape; 20_000],
        _ => {
            let count = input.u8();
            input.take(count.into()).to_vec()
        }
    };
    let (at, byte) = (input.u8(), input.u8());
    if let Some(place) = frame.get_mut(usize::from(at)) {
        *place = byte;
    }
    if bench.net.to_guest.lock().expect("no panic").len() < MOST_WAITING {
        bench.net.give(header, &frame);
    }
}

fn step(bench: &Bench, input: &mut Input<'_>, script: &scripted::Script) {
    match input.u8() & 0xf {
        0..=2 => transmit(bench, input),
        3 | 4 => receive(bench, input),
        5 => {
            let (register, value) = (input.pick(&REGISTERS), input.u32());
            bench.read(register);
            bench.write(register, value);
        }
        6 => {
            let register = input.pick(&REGISTERS);
            bench.write(register, input.u8().into());
        }
        7 => {
            let offset = u64::from(input.u32() & 0x1_ffff);
            let bar = bench.card.bar(0).expect("it has registers");
            input.access(&*bar, offset, 8);
        }
        8 => {
            let base = input.pick(&[RX_RING, TX_RING, RX_DATA, TX_DATA]);
            let (offset, count) = (u64::from(input.u16() & 0x7ff), input.u8());
            put(bench, base + offset, input.take(count.into()));
        }
        9 => {
            let (offset, value) = (u16::from(input.u8()), input.u32());
            bench.card.config_read(offset, &mut [0; 4]);
            bench.card.config_write(offset, &value.to_le_bytes());
        }
        10 => {
            let index = input.pick(&[2, 3]);
            let offset = u64::from(input.u8() & 0x7f);
            let bar = bench.card.bar(index).expect("it is there");
            input.access(&*bar, offset, 8);
        }
        11 => bench.start(),
        12 => match input.u8() & 3 {
            0 => bench.card.control().set_link(false),
            1 => bench.card.control().set_link(true),
            2 => bench.net.up.store(input.u8() & 1 != 0, Ordering::SeqCst),
            _ => bench.net.gone.store(true, Ordering::SeqCst),
        },
        13 => bench.card.reset(),
        _ => script.settle(),
    }
    // Nobody reads what was sent.
    bench.net.from_guest.lock().expect("no panic").clear();
    bench.wire.messages.lock().expect("no panic").clear();
}

/// A driver of the card: registers, rings, buffers, interrupts and configuration in any order, with frames and a network that comes
/// and goes. The first byte says what the network accepts.
pub fn e1000e(input: &[u8]) {
    let mut input = Input::new(input);
    scripted::run(|script| {
        let offloads = if input.u8() & 1 == 0 {
            Offloads::ALL
        } else {
            Offloads::NONE
        };
        let bench = Bench::new(offloads);
        bench.start();
        for _ in 0..256 {
            if input.is_over() {
                break;
            }
            step(&bench, &mut input, script);
        }
        script.settle();
        // Whatever it was, the next driver finds a card that sends, or drops what it sends if the network is gone.
        bench.card.reset();
        bench.card.config_write(4, &7u16.to_le_bytes());
        script.settle();
        bench.start();
        put(&bench, TX_DATA, &tcp4(&[1; 100]));
        let mut descriptor = TX_DATA.to_le_bytes().to_vec();
        descriptor.extend((154u32 | 0x0b00_0000).to_le_bytes());
        descriptor.extend([0; 4]);
        put(&bench, TX_RING, &descriptor);
        bench.write(regs::TRANSMIT + regs::TAIL, 1);
        script.settle();
        assert_eq!(bench.read(regs::TRANSMIT + regs::HEAD), 1, "the card sends");
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("e1000e", super::e1000e);
    }
}
