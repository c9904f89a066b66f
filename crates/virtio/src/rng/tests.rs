use std::sync::Arc;

use super::RngDevice;
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

fn start() -> (
    RngDevice,
    Driver,
    Arc<Recorder>,
    Arc<vmm_sys_util::eventfd::EventFd>,
) {
    let driver = Driver::new(ram(), 0x10000, 64);
    let notify = Arc::new(Recorder::default());
    let active = driver.active(0, false);
    let kick = active.kick.clone();
    let mut device = RngDevice::new();
    let activation = Activation {
        features: 0,
        queues: vec![active],
        ram: driver.ram.clone(),
        notify: notify.clone(),
    };
    device.activate(activation).unwrap();
    (device, driver, notify, kick)
}

#[test]
fn buffers_are_filled() {
    let (mut device, mut driver, notify, kick) = start();
    let head = driver.add(&[(0x4_0000, 100, true), (0x5_0000, 5000, true)]);
    kick.write(1).unwrap();
    assert_eq!(driver.wait_used(), (head, 5100));
    assert_ne!(driver.read(0x4_0000, 100), vec![0; 100]);
    assert_ne!(driver.read(0x5_0000 + 4900, 100), vec![0; 100]);
    let queues = device.stop();
    assert_eq!(queues.len(), 1);
    assert_eq!(queues[0].vring.next_available(), 1);
    assert_eq!(notify.interrupts.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(device.metrics().snapshot().bytes_to_guest, 5100);
}

#[test]
fn a_greedy_guest_gets_no_more_than_the_budget_at_a_time() {
    let (mut device, mut driver, notify, kick) = start();
    driver.add(&[(0x10_0000, 1 << 20, true)]);
    kick.write(1).unwrap();
    let (_, len) = driver.wait_used();
    assert_eq!(len, 128 << 10);
    driver.add(&[(0x10_0000, 100, true)]);
    kick.write(1).unwrap();
    assert_eq!(driver.wait_used().1, 100, "served once the next period begins");
    device.stop();
    assert!(notify.errors.lock().unwrap().is_empty());
}

#[test]
fn a_buffer_without_room_is_returned_empty() {
    let (mut device, mut driver, notify, kick) = start();
    for buffers in [
        vec![(0x4_0000, 0, true)],
        vec![(0x4_0000, 0, false)],
        vec![(0x4_0000, 64, false)],
        vec![(u64::MAX, 0, true), (0, 0, true)],
    ] {
        let head = driver.add(&buffers);
        kick.write(1).unwrap();
        assert_eq!(driver.wait_used(), (head, 0), "{buffers:?}");
    }
    let head = driver.add(&[(0x4_0000, 0, true), (0x4_0000, 64, true)]);
    kick.write(1).unwrap();
    assert_eq!(driver.wait_used(), (head, 64), "and the next one is filled");
    device.stop();
    assert!(notify.errors.lock().unwrap().is_empty());
}

#[test]
fn a_broken_chain_asks_for_a_reset_and_the_worker_still_stops() {
    let (mut device, mut driver, notify, kick) = start();
    driver.add(&[(0xffff_ffff_ffff_f000, 0x2000, true)]);
    kick.write(1).unwrap();
    assert!(matches!(notify.wait_error(), GuestError::BufferAddress { .. }));
    driver.add(&[(0x4_0000, 16, true)]);
    kick.write(1).unwrap();
    assert_eq!(device.stop().len(), 1);
    assert_eq!(driver.used(), None);
}
