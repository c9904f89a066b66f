use ostler_bus::testing::Input;

use super::program::play;
use crate::balloon::{BalloonDevice, BalloonOptions};

/// A driver of a balloon; outside other sizes are wanted, and statistics. The first byte is what the balloon offers.
pub fn balloon(input: &[u8]) {
    let mut input = Input::new(input);
    let first = input.u8();
    let options = BalloonOptions {
        deflate_on_oom: first & 1 != 0,
        free_page_reporting: first & 2 != 0,
    };
    let mut device = BalloonDevice::new(options).expect("an eventfd");
    let control = device.control();
    play(&mut input, &mut device, |input| match input.u8() & 3 {
        0 => control.set_wanted(input.u32()),
        1 => control.set_interval(input.u8().into()),
        2 => {
            let _ = (control.take_change(), control.actual(), control.statistics());
        }
        // Statistics are asked for at each round.
        _ => control.set_interval(1),
    });
}
