//! Keyboards, mice, tablets and hubs: `<input>`, `<hub>`.

use crate::table::{Family, kept, refused};

/// `<input>`.
pub(crate) const FAMILY: Family = Family::of(
    "devices/input",
    &[
        refused(
            "@type",
            "passthrough|evdev",
            "devices of the host are not passed on",
        ),
        kept("", "", "a PS/2 keyboard is always there, and nothing else").whole(),
    ],
);
/// `<hub>`.
pub(crate) const HUB: Family = Family::of("devices/hub", &[kept("", "", "there is no USB").whole()]);
