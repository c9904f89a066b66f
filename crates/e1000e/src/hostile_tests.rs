//! Drivers that do everything wrong. They hurt only themselves: whatever they did, the card works after a reset.

use ostler_netio::Offloads;
use ostler_pci::PciFunction;
use proptest::prelude::*;

use crate::registers as regs;
use crate::testing::*;

const EOP: u32 = 1 << 24;

/// The card still sends and receives.
fn assert_alive(bench: &Bench) {
    bench.card.reset();
    bench.card.config_write(4, &7u16.to_le_bytes());
    bench.write(regs::CTRL, 1 << 26);
    bench.start();
    bench.net.from_guest.lock().unwrap().clear();
    let frame = tcp4(&[0x77; 100]);
    bench.put(TX_DATA, &frame);
    bench.send(&[(TX_DATA, frame.len() as u32 | EOP | 8 << 24, 0)]);
    assert!(bench.net.sent().last().unwrap().ends_with(&frame));
    bench.until("the network is empty", || {
        bench.net.to_guest.lock().unwrap().is_empty()
    });
    bench.net.give([0; 12], &frame);
    bench.until("the frame is received", || {
        (0..u64::from(RING)).any(|at| bench.get(RX_DATA + 2048 * at, frame.len()) == frame)
    });
}

#[test]
fn rings_and_buffers_outside_of_ram_are_never_touched() {
    let bench = Bench::new(Offloads::NONE);
    for base in [RAM, RAM - 16, 0xfebc_0000, !0xf] {
        bench.start();
        for queue in [regs::RECEIVE, regs::TRANSMIT] {
            bench.write(queue + regs::BASE_LOW, base as u32);
            bench.write(queue + regs::BASE_HIGH, (base >> 32) as u32);
            bench.write(queue + regs::TAIL, 5);
        }
        bench.net.give([0; 12], &tcp4(&[1]));
        bench.until("the queue is skipped", || {
            bench.read(regs::TRANSMIT + regs::HEAD) == 5
        });
        bench.until("the frame is gone", || {
            bench.net.to_guest.lock().unwrap().is_empty()
        });
    }
    for address in [RAM, RAM - 40, 0xfebc_0000, u64::MAX - 20] {
        bench.start();
        bench.put(RX_RING, &address.to_le_bytes());
        bench.net.give([0; 12], &tcp4(&[1]));
        bench.received(1);
        bench.send(&[(address, 80 | EOP | 8 << 24, 0)]);
    }
    assert!(bench.net.sent().is_empty());
    assert_alive(&bench);
}

#[test]
fn indices_that_make_no_sense_move_nothing() {
    let bench = Bench::new(Offloads::NONE);
    for (length, head, tail) in [
        (0, 0, 5),
        (1024, 64, 0),
        (1024, 0, 64),
        (128, 0xffff, 0xfffe),
        (1024, 0xffff, 3),
    ] {
        bench.start();
        for queue in [regs::RECEIVE, regs::TRANSMIT] {
            bench.write(queue + regs::LENGTH, length);
            bench.write(queue + regs::HEAD, head);
            bench.write(queue + regs::TAIL, tail);
        }
        assert_eq!(bench.read(regs::TRANSMIT + regs::HEAD), head);
    }
    assert!(bench.net.sent().is_empty());
    assert_alive(&bench);
}

#[test]
fn a_packet_without_an_end_and_one_of_absurd_size_are_bounded() {
    let bench = Bench::new(Offloads::NONE);
    bench.start();
    // Data without an end, 1 MiB a descriptor, many times round the ring.
    for _ in 0..40 {
        bench.send(&[(0, 0xf_ffff | 0x21 << 24 & !EOP | 1 << 20, 0); 50]);
    }
    bench.send(&[(TX_DATA, 80 | EOP, 0)]);
    // Segmentation of megabytes into segments of a byte.
    let context = 14 | 24 << 8 | 33 << 16 | 34u64 << 32 | 50 << 40;
    for (mss, pieces) in [(1, 4), (0, 4), (8, 1), (1460, 64)] {
        let mut list = vec![(context, 0xf_ffff | 0x27 << 24, 54 << 8 | mss << 16)];
        list.extend((0..pieces).map(|_| (0, 0xf_ffff | 0x24 << 24 | 1 << 20, 3 << 8)));
        list.push((0, 100 | 0x25 << 24 | 1 << 20, 0));
        for chunk in list.chunks(32) {
            bench.send(chunk);
        }
    }
    assert!(bench.net.sent().is_empty(), "none of these is a packet");
    assert!(bench.read(regs::TSCTFC) >= 3);
    assert_alive(&bench);
}

#[test]
fn empty_descriptors_all_round_the_ring_end() {
    let bench = Bench::new(Offloads::NONE);
    bench.start();
    let longest = 0xf_ff80 / 16;
    bench.put(0, &vec![0; 0xf_ff80]);
    bench.write(regs::RCTL, 0);
    bench.write(regs::RECEIVE + regs::BASE_LOW, 0);
    bench.write(regs::RECEIVE + regs::LENGTH, 0xf_ff80);
    bench.write(regs::RECEIVE + regs::TAIL, longest - 1);
    bench.write(regs::RCTL, 1 << 15 | 2);
    bench.net.give([0; 12], &tcp4(&[1]));
    bench.until("the frame is given up", || bench.read(regs::MPC) > 0);
    assert_alive(&bench);
}

/// What a driver may do, one step at a time.
#[derive(Debug, Clone)]
enum Step {
    Register(u64, u32, usize),
    Read(u32),
    Memory(u64, Vec<u8>),
    Descriptor(bool, u64, u64, u32, u32),
    Frame(usize, u8),
    Config(u16, u32),
    Link(bool),
}

fn register() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![
            regs::CTRL, regs::CTRL_EXT, regs::MDIC, regs::ICS, regs::IMS, regs::IMC, regs::IAM, regs::EIAC, regs::IVAR, regs::RCTL,
            regs::TCTL, regs::PSRCTL, regs::RXCSUM, regs::RFCTL, regs::RA, regs::RA + 4, regs::EERD, regs::EEWR,
        ]),
        4 => (prop::sample::select(vec![regs::RECEIVE, regs::TRANSMIT, regs::TRANSMIT + regs::QUEUE_STRIDE]),
              prop::sample::select(vec![regs::BASE_LOW, regs::BASE_HIGH, regs::LENGTH, regs::HEAD, regs::TAIL, regs::TARC]))
            .prop_map(|(queue, register)| queue + register),
        1 => (0..regs::SIZE as u32).prop_map(|at| at & !3),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..RAM, 1 => Just(RX_RING), 1 => Just(TX_RING), 1 => RAM - 0x1000..RAM + 0x1000, 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        3 => any::<u32>(), 1 => Just(0), 1 => Just(2), 1 => Just(0x8002), 1 => Just(0x0040_8022), 2 => 0u32..2048,
        1 => Just(RX_RING as u32), 1 => Just(TX_RING as u32), 1 => Just(1 << 15),
    ];
    let lower = prop_oneof![
        any::<u32>(),
        (0u32..3000, 0u32..256).prop_map(|(len, command)| len | 1 << 20 | command << 24)
    ];
    let upper = prop_oneof![
        any::<u32>(),
        (0u32..100, 0u32..2000).prop_map(|(header, mss)| header << 8 | mss << 16)
    ];
    let context = Just(14 | 24 << 8 | 33 << 16 | 34u64 << 32 | 50 << 40);
    prop_oneof![
        8 => (register(), value, prop_oneof![6 => Just(4usize), 1 => 1usize..9], 0u64..4)
            .prop_map(|(at, value, len, shift)| Step::Register(u64::from(at) + if len == 4 { 0 } else { shift }, value, len)),
        1 => register().prop_map(Step::Read),
        1 => (address(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(at, bytes)| Step::Memory(at, bytes)),
        8 => (any::<bool>(), 0u64..64, prop_oneof![address(), context], lower, upper)
            .prop_map(|(receive, at, address, lower, upper)| Step::Descriptor(receive, at, address, lower, upper)),
        4 => (0usize..20_000, any::<u8>()).prop_map(|(len, byte)| Step::Frame(len, byte)),
        1 => (0u16..0x110, any::<u32>()).prop_map(|(at, value)| Step::Config(at, value)),
        1 => any::<bool>().prop_map(Step::Link),
    ]
}

fn take(bench: &Bench, step: &Step) {
    match step {
        Step::Register(at, value, len) => {
            let bytes = u64::from(*value).to_le_bytes();
            bench.write_bytes(*at, &bytes[..*len]);
        }
        Step::Read(at) => {
            bench.read(*at);
        }
        Step::Memory(at, bytes) => {
            if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= RAM) {
                bench.put(*at, bytes);
            }
        }
        Step::Descriptor(receive, at, address, lower, upper) => {
            let ring = if *receive { RX_RING } else { TX_RING };
            bench.put(ring + 16 * at, &address.to_le_bytes());
            bench.put(ring + 16 * at + 8, &lower.to_le_bytes());
            bench.put(ring + 16 * at + 12, &upper.to_le_bytes());
        }
        Step::Frame(len, byte) => {
            let mut frame = tcp4(&vec![*byte; *len]);
            frame[usize::from(*byte) % 54] ^= byte & 3;
            bench.net.give(
                [byte & 1, 0, 0, 0, 0, 0, *byte, byte & 1, 16, byte & 0x80, 1, 0],
                &frame,
            );
        }
        Step::Config(at, value) => bench.card.config_write(*at, &value.to_le_bytes()),
        Step::Link(up) => bench.card.control().set_link(*up),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_driver_leaves_a_card_that_works_after_a_reset(steps in prop::collection::vec(step(), 1..200)) {
        let accepts = Offloads { checksum: true, tso4: true, ..Offloads::NONE };
        let bench = Bench::new(accepts);
        bench.start();
        for step in &steps {
            take(&bench, step);
        }
        bench.card.control().set_link(true);
        // The EEPROM's address may have been changed.
        bench.card.reset();
        for at in 0..3u32 {
            let word = u32::from(u16::from_le_bytes([MAC[2 * at as usize], MAC[2 * at as usize + 1]]));
            bench.write(regs::EEWR, word << 16 | at << 2 | 1);
        }
        assert_alive(&bench);
    }
}
