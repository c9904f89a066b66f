use ostler_bus::testing::Input;

use super::program::play;
use crate::rng::RngDevice;

/// A driver of the entropy source.
pub fn rng(input: &[u8]) {
    play(&mut Input::new(input), &mut RngDevice::new(), |_| {});
}
