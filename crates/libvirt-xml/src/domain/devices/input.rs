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
        kept("", "", "there is no screen yet to use it with").whole(),
    ],
);
/// `<hub>`.
pub(crate) const HUB: Family = Family::of("devices/hub", &[kept("", "", "there is no USB").whole()]);
