use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ostler_memory::{GuestRam, Pluggable, RamOptions, allocate_with, host_range, plugged_slots};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::request::{BlockState, Request, Response, Span};
use super::{LEAST_BLOCK, MemControl, MemDevice, MemoryMapper, block_size};
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder};

const BLOCK: u64 = LEAST_BLOCK;
const BLOCKS: u64 = 16;
/// Where the request is, and its answer.
const REQUEST: u64 = 5 << 20;
const ANSWER: u64 = REQUEST + 0x1000;

/// A memory map that counts how often it had to follow.
#[derive(Default)]
struct Map {
    followed: AtomicU32,
    refuses: AtomicBool,
}

impl MemoryMapper for Map {
    fn follow(&self) -> Result<(), String> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err("the map is full".into());
        }
        self.followed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Setup {
    device: MemDevice,
    control: MemControl,
    driver: Driver,
    kick: Arc<EventFd>,
    notify: Arc<Recorder>,
    map: Arc<Map>,
    ram: Arc<GuestRam>,
}

fn ram() -> Arc<GuestRam> {
    let more = Pluggable {
        size: BLOCKS * BLOCK,
        block_size: BLOCK,
    };
    allocate_with(8 << 20, Some(more), RamOptions::default()).unwrap()
}

fn start() -> Setup {
    let ram = ram();
    let mut device = MemDevice::new(ram.clone()).unwrap();
    let control = device.control();
    let map = Arc::new(Map::default());
    control.set_mapper(map.clone());
    let driver = Driver::new(ram.clone(), 6 << 20, 64);
    let queue = driver.active(0, false);
    let kick = queue.kick.clone();
    let notify = Arc::new(Recorder::default());
    let activation = Activation {
        features: 2,
        queues: vec![queue],
        ram: ram.clone(),
        notify: notify.clone(),
    };
    device.activate(activation).unwrap();
    Setup {
        device,
        control,
        driver,
        kick,
        notify,
        map,
        ram,
    }
}

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

fn bytes(kind: u16, gpa: u64, blocks: u16) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&gpa.to_le_bytes());
    bytes[16..18].copy_from_slice(&blocks.to_le_bytes());
    bytes
}

impl Setup {
    /// Address of block `index`.
    fn block(&self, index: u64) -> u64 {
        self.control.address() + index * BLOCK
    }

    /// Makes a request, and returns the kind of the answer and the state in it.
    fn ask(&mut self, kind: u16, gpa: u64, blocks: u16) -> (u16, u16) {
        self.driver.write(REQUEST, &bytes(kind, gpa, blocks));
        let head = self.driver.add(&[(REQUEST, 24, false), (ANSWER, 10, true)]);
        self.kick.write(1).unwrap();
        assert_eq!(self.driver.wait_used(), (head, 10));
        let answer = self.driver.read(ANSWER, 10);
        let word = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
        (word(0), word(8))
    }

    fn config(&self, at: u64) -> u64 {
        let mut value = [0; 8];
        self.device.read_config(at, &mut value);
        u64::from_le_bytes(value)
    }
}

const ACK: (u16, u16) = (0, 0);
const NACK: (u16, u16) = (1, 0);
const BUSY: (u16, u16) = (2, 0);
const ERROR: (u16, u16) = (3, 0);

#[test]
fn a_guest_gets_as_much_as_it_was_asked_to_have_and_gives_it_back() {
    let mut setup = start();
    assert_eq!(
        [0, 16, 24, 32, 40, 48].map(|at| setup.config(at)),
        [
            BLOCK,
            setup.control.address(),
            BLOCKS * BLOCK,
            BLOCKS * BLOCK,
            0,
            0
        ]
    );
    let first = setup.block(0);
    assert_eq!(setup.ask(PLUG, first, 1), NACK, "it was not asked to");
    assert!(setup.control.set_requested(3 * BLOCK));
    assert_eq!(setup.notify.config_changes.load(Ordering::Relaxed), 1);
    let told = Arc::new(AtomicU32::new(0));
    let its_told = told.clone();
    setup.control.listen(move || {
        its_told.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(setup.ask(PLUG, setup.block(1), 2), ACK);
    assert_eq!(setup.ask(PLUG, first, 2), ERROR, "one of them is plugged");
    assert_eq!(setup.ask(PLUG, setup.block(4), 2), NACK, "that would be too much");
    assert_eq!(setup.ask(PLUG, setup.block(4), 1), ACK);
    assert_eq!(
        (setup.control.plugged(), setup.config(40)),
        (3 * BLOCK, 3 * BLOCK)
    );
    assert_eq!(told.load(Ordering::Relaxed), 1, "once until someone looks");
    assert!(setup.control.take_change() && !setup.control.take_change());
    let states = [(1, 2), (0, 1), (0, 2)].map(|(index, count)| setup.ask(STATE, setup.block(index), count));
    assert_eq!(states, [(0, 0), (0, 1), (0, 2)]);
    let slots: Vec<_> = plugged_slots(&setup.ram).iter().map(|slot| slot.gpa).collect();
    assert_eq!(slots, [1, 2, 4].map(|index| setup.block(index)));

    let gpa = setup.block(1);
    setup.ram.write_slice(&[7; 64], GuestAddress(gpa)).unwrap();
    assert_eq!(
        setup.ask(UNPLUG, setup.block(0), 2),
        ERROR,
        "one of them is not plugged"
    );
    assert_eq!(setup.ask(UNPLUG, gpa, 1), ACK);
    assert!(host_range(&setup.ram, gpa, 1).is_none());
    assert_eq!(setup.ask(PLUG, gpa, 1), ACK);
    assert_eq!(setup.driver.read(gpa, 64), [0; 64], "its contents are gone");
    assert_eq!(setup.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!(setup.control.plugged(), 0);
    assert!(plugged_slots(&setup.ram).is_empty());
    assert_eq!(
        setup.control.requested(),
        3 * BLOCK,
        "the guest may have it again"
    );
}

#[test]
fn what_makes_no_sense_is_an_error_and_changes_nothing() {
    let mut setup = start();
    setup.control.set_requested(BLOCKS * BLOCK);
    let base = setup.block(0);
    let wrong = [
        (PLUG, base, 0),
        (PLUG, base + 1, 1),
        (PLUG, base - BLOCK, 1),
        (PLUG, base + BLOCKS * BLOCK, 1),
        (PLUG, base, BLOCKS as u16 + 1),
        (PLUG, u64::MAX - BLOCK + 1, u16::MAX),
        (PLUG, 0, 1),
        (UNPLUG, base, 1),
        (UNPLUG, base, 0),
        (STATE, base, 0),
        (STATE, u64::MAX, 1),
        (4, base, 1),
        (u16::MAX, base, 1),
    ];
    for (kind, gpa, blocks) in wrong {
        assert_eq!(setup.ask(kind, gpa, blocks), ERROR, "{kind} {gpa:#x} {blocks}");
    }
    assert_eq!(
        (
            setup.control.plugged(),
            setup.map.followed.load(Ordering::Relaxed)
        ),
        (0, 0)
    );
    assert!(!setup.control.set_requested(BLOCK + 1) && !setup.control.set_requested((BLOCKS + 1) * BLOCK));
    assert!(setup.notify.errors.lock().unwrap().is_empty());
}

#[test]
fn a_request_without_room_for_its_answer_ends_in_needs_reset() {
    for buffers in [
        &[(REQUEST, 24, false)][..],
        &[(REQUEST, 23, false), (ANSWER, 10, true)],
        &[(REQUEST, 24, false), (ANSWER, 9, true)],
        &[(ANSWER, 10, true)],
    ] {
        let mut setup = start();
        setup.driver.add(buffers);
        setup.kick.write(1).unwrap();
        assert!(matches!(setup.notify.wait_error(), GuestError::Request(_)));
        // It lives on after the reset.
        assert_eq!(setup.device.stop().len(), 1);
    }
}

#[test]
fn a_buffer_in_memory_that_is_not_plugged_is_no_buffer() {
    let mut setup = start();
    let gpa = setup.block(0);
    setup.driver.add(&[(gpa, 24, false), (ANSWER, 10, true)]);
    setup.kick.write(1).unwrap();
    assert_eq!(
        setup.notify.wait_error(),
        GuestError::BufferAddress { gpa, len: 24 }
    );
}

#[test]
fn a_map_that_cannot_follow_leaves_everything_as_it_was() {
    let mut setup = start();
    setup.control.set_requested(2 * BLOCK);
    assert_eq!(setup.ask(PLUG, setup.block(0), 1), ACK);
    setup.map.refuses.store(true, Ordering::Relaxed);
    assert_eq!(setup.ask(PLUG, setup.block(1), 1), BUSY);
    assert_eq!(setup.ask(UNPLUG, setup.block(0), 1), BUSY);
    assert_eq!(
        (setup.control.plugged(), plugged_slots(&setup.ram).len()),
        (BLOCK, 1)
    );
}

#[test]
fn a_reset_of_the_device_keeps_memory_and_one_of_the_machine_takes_it() {
    let mut setup = start();
    setup.control.set_requested(BLOCK);
    assert_eq!(setup.ask(PLUG, setup.block(0), 1), ACK);
    assert_eq!(setup.device.stop().len(), 1);
    assert_eq!(setup.control.plugged(), BLOCK);
    setup.control.machine_was_reset();
    assert_eq!((setup.control.plugged(), setup.control.requested()), (0, BLOCK));
}

#[test]
fn blocks_are_as_small_as_a_thousand_of_them_allow() {
    assert_eq!(block_size(1), LEAST_BLOCK);
    assert_eq!(block_size(2 << 30), 2 << 20);
    assert_eq!(block_size((2 << 30) + 1), 4 << 20);
    assert_eq!(block_size(64 << 30), 64 << 20);
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let near = (0u16..5, 0u64..BLOCKS + 2, 0u16..BLOCKS as u16 + 2)
        .prop_map(|(kind, block, count)| bytes(kind, (4 << 30) + block * BLOCK, count).to_vec());
    prop_oneof![4 => near, 1 => proptest::collection::vec(any::<u8>(), 24)]
}

proptest! {
    /// Against a model of the blocks: whatever is asked for, no more is plugged than the guest is to have.
    #[test]
    fn whatever_is_asked_for_the_size_is_kept(
        steps in proptest::collection::vec((request(), 0u64..BLOCKS + 1, any::<bool>()), 0..60)
    ) {
        let ram = ram();
        let device = MemDevice::new(ram.clone()).unwrap();
        let control = device.control();
        control.set_mapper(Arc::new(Map::default()));
        let mut model = [false; BLOCKS as usize];
        for (text, wanted, changes) in steps {
            if changes {
                control.set_requested(wanted * BLOCK);
            }
            let text: [u8; 24] = text.try_into().unwrap();
            let request = Request::parse(&text);
            let before = control.plugged();
            let response = control.0.handle(request);
            let all = |span: Span| {
                let start = (span.gpa - control.address()) / BLOCK;
                start as usize..start as usize + usize::from(span.blocks)
            };
            match (request, response) {
                (Request::Plug(span), Response::Ack) => {
                    prop_assert!(model[all(span)].iter().all(|plugged| !plugged));
                    model[all(span)].fill(true);
                    prop_assert!(control.plugged() <= control.requested());
                }
                (Request::Unplug(span), Response::Ack) => {
                    prop_assert!(model[all(span)].iter().all(|plugged| *plugged));
                    model[all(span)].fill(false);
                }
                (Request::UnplugAll, Response::Ack) => model.fill(false),
                (Request::State(span), Response::State(state)) => {
                    let there = model[all(span)].iter().filter(|plugged| **plugged).count();
                    let expected = match there {
                        0 => BlockState::Unplugged,
                        n if n == usize::from(span.blocks) => BlockState::Plugged,
                        _ => BlockState::Mixed,
                    };
                    prop_assert_eq!(state, expected);
                }
                (_, Response::Nack | Response::Error) => prop_assert_eq!(before, control.plugged()),
                other => prop_assert!(false, "{other:?}"),
            }
            let plugged = model.iter().filter(|plugged| **plugged).count() as u64;
            prop_assert_eq!(control.plugged(), plugged * BLOCK);
            prop_assert_eq!(plugged_slots(&ram).len() as u64, plugged);
        }
    }
}
