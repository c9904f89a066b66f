//! Sound: `<sound>`, `<audio>`.

use crate::table::{Family, kept};

/// `<sound>`.
pub(crate) const SOUND: Family = Family::of("devices/sound", &[kept("", "", "there is no sound").whole()]);
/// `<audio>`.
pub(crate) const AUDIO: Family = Family::of("devices/audio", &[kept("", "", "there is no sound").whole()]);
