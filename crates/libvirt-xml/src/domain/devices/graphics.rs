//! Screens for people: `<graphics>`.

use crate::table::{Family, Row, kept, refused};

const ROWS: &[Row] = &[
    kept(
        "@type",
        "vnc|spice|egl-headless|sdl|dbus|desktop|rdp",
        "nobody shows the screen to viewers; a picture of it is had by `virsh screenshot`",
    ),
    refused("@type", "", "there is no such protocol"),
    kept(
        "",
        "",
        "with listen addresses and passwords; passwords are given back to those who may see them",
    )
    .whole(),
];

pub(crate) const FAMILY: Family = Family::of("devices/graphics", ROWS);
