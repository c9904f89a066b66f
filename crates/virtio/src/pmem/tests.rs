use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::PmemDevice;
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

const REQUEST: u64 = 1 << 20;
const ANSWER: u64 = REQUEST + 0x1000;

struct Setup {
    device: PmemDevice,
    driver: Driver,
    kick: Arc<EventFd>,
    notify: Arc<Recorder>,
}

fn start(file: File) -> Setup {
    let ram = ram();
    let mut device = PmemDevice::new(file, 5 << 30, 3 << 20);
    let driver = Driver::new(ram.clone(), 6 << 20, 64);
    let queue = driver.active(0, false);
    let kick = queue.kick.clone();
    let notify = Arc::new(Recorder::default());
    let activation = Activation {
        features: 0,
        queues: vec![queue],
        ram,
        notify: notify.clone(),
    };
    device.activate(activation).unwrap();
    Setup {
        device,
        driver,
        kick,
        notify,
    }
}

impl Setup {
    fn ask(&mut self, request: u32) -> i32 {
        self.driver.write(REQUEST, &request.to_le_bytes());
        self.driver.write(ANSWER, &[0xee; 4]);
        let head = self.driver.add(&[(REQUEST, 4, false), (ANSWER, 4, true)]);
        self.kick.write(1).unwrap();
        assert_eq!(self.driver.wait_used(), (head, 4));
        i32::from_le_bytes(self.driver.read(ANSWER, 4).try_into().unwrap())
    }
}

#[test]
fn a_flush_is_answered_and_nothing_else_is_known() {
    let mut setup = start(tempfile::tempfile().unwrap());
    let mut config = [0; 16];
    setup.device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), 5 << 30);
    assert_eq!(u64::from_le_bytes(config[8..].try_into().unwrap()), 3 << 20);
    assert_eq!(setup.ask(0), 0);
    for unknown in [1, 4, u32::MAX] {
        assert_eq!(setup.ask(unknown), -1);
    }
    assert_eq!(setup.ask(0), 0);
    assert_eq!(setup.device.metrics().snapshot().errors, 3);
}

#[test]
fn a_flush_that_fails_is_told() {
    // A pipe cannot be synchronized.
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut setup = start(File::from(OwnedFd::from(reader)));
    assert_eq!(setup.ask(0), -1);
}

#[test]
fn a_request_without_room_for_its_answer_ends_in_needs_reset() {
    for buffers in [
        &[(REQUEST, 4, false)][..],
        &[(REQUEST, 3, false), (ANSWER, 4, true)],
        &[(REQUEST, 4, false), (ANSWER, 3, true)],
        &[(ANSWER, 4, true)],
    ] {
        let mut setup = start(tempfile::tempfile().unwrap());
        setup.driver.add(buffers);
        setup.kick.write(1).unwrap();
        assert!(matches!(setup.notify.wait_error(), GuestError::Request(_)));
        assert_eq!(setup.device.stop().len(), 1, "it lives on after the reset");
    }
}

proptest! {
    #[test]
    fn any_configuration_access_is_survived(offset in any::<u64>(), len in 0usize..40) {
        let mut device = PmemDevice::new(tempfile::tempfile().unwrap(), 1, 2);
        device.read_config(offset, &mut vec![0; len]);
        device.write_config(offset, &vec![0; len]);
    }
}
