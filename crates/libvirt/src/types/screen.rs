//! Of a guest's screen and its keyboard.

use super::{Domain, List};
use crate::xdr::xdr_struct;

/// Most keys that are pressed at once.
pub const MAX_KEYS: usize = 16;

xdr_struct! {
    /// Of DOMAIN_SCREENSHOT.
    ScreenshotArgs {
        /// The guest.
        domain: Domain,
        /// Which screen, from 0.
        screen: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SEND_KEY.
    SendKeyArgs {
        /// The guest.
        domain: Domain,
        /// Whose codes they are (`virKeycodeSet`).
        set: u32,
        /// ms that they are held; 0 for as long as is usual.
        hold: u32,
        /// The codes.
        keys: List<u32, MAX_KEYS>,
        /// None.
        flags: u32,
    }
}
