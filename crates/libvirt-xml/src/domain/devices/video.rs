//! Graphics cards: `<video>`.

use crate::table::{Family, Row, kept};

const ROWS: &[Row] = &[kept("", "", "there is no screen yet").whole()];

pub(crate) const FAMILY: Family = Family::of("devices/video", ROWS);
