//! Graphics cards: `<video>`.

use super::Common;
use crate::Error;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;

const ROWS: &[Row] = &[
    kept("driver@{name,vgaconf}", "", "one display, by this program"),
    honoured(
        "model@type",
        "vga",
        "a display, VGA with Bochs' VBE registers; also if no model is given",
    ),
    honoured(
        "model@type",
        "bochs",
        "a frame buffer with these registers and nothing of VGA",
    ),
    honoured("model@type", "none", "no display"),
    kept(
        "model@type",
        "cirrus|vmvga|qxl|virtio|ramfb|xen|vbox|gop|parallels",
        "there is no such card: the guest has none",
    ),
    refused("model@type", "", "there is no such card"),
    kept(
        "model@{heads,primary,vram,vram64,ram,vgamem,blob,edid}",
        "",
        "the display is one screen with 16 MiB",
    ),
    kept("model/acceleration", "", "nothing is accelerated").whole(),
    kept("model/resolution", "", "the guest chooses").whole(),
];

pub(crate) const FAMILY: Family = Family::device("devices/video", ROWS);

/// A graphics card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    /// What all devices have.
    pub common: Common,
    /// Which.
    pub model: VideoModel,
}

/// Kinds of graphics cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoModel {
    /// VGA with Bochs' VBE registers.
    Vga,
    /// A frame buffer with these registers and nothing of VGA.
    Bochs,
    /// None.
    None,
    /// One that is only kept.
    Other,
}

impl VideoModel {
    fn of(video: &Element) -> Self {
        match video.child_get("model", "type") {
            Some("vga") => Self::Vga,
            Some("bochs") => Self::Bochs,
            Some("none") => Self::None,
            _ => Self::Other,
        }
    }

    /// Whether the guest sees something of it.
    pub fn is_display(self) -> bool {
        matches!(self, Self::Vga | Self::Bochs)
    }
}

/// Whether a `<video>` is more than kept.
pub(crate) fn is_display(video: &Element) -> bool {
    VideoModel::of(video).is_display()
}

pub(crate) fn fill(video: &mut Element) {
    video.child_or_new("model").set_default("type", "vga");
}

impl Video {
    pub(crate) fn read(video: &Element) -> Result<Self, Error> {
        Ok(Self {
            common: Common::read(video)?,
            model: VideoModel::of(video),
        })
    }
}
