//! What is on the screen at one moment: the registers as they were, and the memory as it is.

use crate::memory::VideoMemory;
use crate::registers::{Vga, number as reg};
use crate::text::Text;
use crate::vbe::{Mode, Vbe};

/// Graphics controller, miscellaneous: dots instead of characters.
const GRAPHICS: u8 = 0x01;
/// Graphics mode: four bytes are four dots of 256 colours; bits of pairs of planes are the colours of CGA.
const COLORS_256: u8 = 0x40;
const COLORS_CGA: u8 = 0x20;
/// Sequencer, clocking mode: the screen is off.
const SCREEN_OFF: u8 = 0x20;

/// How the picture is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Picture {
    /// Nothing is shown.
    Dark,
    Text(Text),
    /// Dots of sixteen colours in four planes, 256 colours in bytes, or colours themselves.
    Dots(Mode),
}

/// A screen.
#[derive(Debug, Clone)]
pub struct Screen {
    vga: Vga,
    memory: VideoMemory,
    picture: Picture,
    width: u32,
    height: u32,
    /// Bits by which a colour of the DAC has to be widened.
    dac_shift: u32,
}

impl Screen {
    /// The screen of these registers.
    pub fn new(vga: &Vga, vbe: &Vbe, memory: &VideoMemory) -> Self {
        Self::with(picture(vga, vbe), vga, vbe, memory)
    }

    /// The screen of a display without VGA: dark without a mode of VBE's. The palette is that of `vga` after a reset.
    pub fn plain(vga: &Vga, vbe: &Vbe, memory: &VideoMemory) -> Self {
        let picture = vbe.mode().map_or(Picture::Dark, Picture::Dots);
        Self::with(picture, vga, vbe, memory)
    }

    fn with(picture: Picture, vga: &Vga, vbe: &Vbe, memory: &VideoMemory) -> Self {
        let (width, height) = match &picture {
            Picture::Text(text) => (text.width(), text.height()),
            Picture::Dots(mode) => (mode.width, mode.height),
            // As large as what is not shown would be.
            Picture::Dark => match vbe.mode() {
                Some(mode) => (mode.width, mode.height),
                None => (vga.columns() * 8, vga.scan_lines()),
            },
        };
        Self {
            vga: vga.clone(),
            memory: memory.clone(),
            picture,
            width,
            height,
            dac_shift: if vbe.is_enabled() && vbe.has_eight_bit_dac() {
                0
            } else {
                2
            },
        }
    }

    /// Dots of a line, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Lines, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The text on it, in a text mode, with its rows.
    pub fn text(&self) -> Option<(&Text, Vec<String>)> {
        match &self.picture {
            Picture::Text(text) => Some((text, text.lines(&self.memory))),
            _ => None,
        }
    }

    /// What kind of picture it is: "text", "graphics", or "dark".
    pub fn kind(&self) -> &'static str {
        match self.picture {
            Picture::Dark => "dark",
            Picture::Text(_) => "text",
            Picture::Dots(_) => "graphics",
        }
    }

    /// Puts the colours of line `y` into `rgb`: red, green and blue of each dot. Lines that are not there are black.
    pub fn row(&self, y: u32, rgb: &mut Vec<u8>) {
        rgb.clear();
        if y < self.height {
            match &self.picture {
                Picture::Dark => {}
                Picture::Text(text) => text.draw(&self.vga, &self.memory, y, |color| {
                    rgb.extend(self.table(self.vga.dac_index(color)));
                }),
                Picture::Dots(mode) => self.dots(mode, y, rgb),
            }
        }
        rgb.resize(self.width as usize * 3, 0);
    }

    /// A colour of the DAC's table.
    fn table(&self, index: u8) -> [u8; 3] {
        let entry = self.vga.dac.entries[usize::from(index & self.vga.dac.mask)];
        match self.dac_shift {
            0 => entry,
            // Six bits to eight, so that the brightest is the brightest.
            _ => entry.map(|color| color << 2 | color >> 4 & 3),
        }
    }

    fn dots(&self, mode: &Mode, y: u32, rgb: &mut Vec<u8>) {
        let start = mode.start + u64::from(y) * mode.pitch;
        let bytes_of_a_dot = match mode.depth {
            4 => return self.planes(mode, start, rgb),
            15 => 2,
            depth => usize::from(depth / 8),
        };
        let mut line = vec![0; mode.width as usize * bytes_of_a_dot];
        self.memory.read(start, &mut line);
        for dot in line.chunks_exact(bytes_of_a_dot) {
            rgb.extend(match (mode.depth, dot) {
                (8, [index]) => self.table(*index),
                (15, [low, high]) => split(u16::from_le_bytes([*low, *high]), 10, 5, 5),
                (16, [low, high]) => split(u16::from_le_bytes([*low, *high]), 11, 5, 6),
                (_, [blue, green, red, ..]) => [*red, *green, *blue],
                _ => [0; 3],
            });
        }
    }

    fn planes(&self, mode: &Mode, start: u64, rgb: &mut Vec<u8>) {
        let first = (start / 4) as u32;
        for x in 0..mode.width {
            let planes = self.memory.planes(first.wrapping_add(x / 8)).to_le_bytes();
            let bit = 7 - x % 8;
            let color = (0..4).fold(0, |color, plane| color | (planes[plane] >> bit & 1) << plane);
            rgb.extend(self.table(self.vga.dac_index(color)));
        }
    }
}

/// Colours of two bytes: blue in the lowest five bits, green of `green` bits above, red of five bits from bit `red` on.
fn split(dot: u16, red: u32, green_at: u32, green: u32) -> [u8; 3] {
    let widen = |value: u16, bits: u32| ((value << (8 - bits)) | (value >> (2 * bits - 8))) as u8;
    [
        widen(dot >> red & 0x1f, 5),
        widen(dot >> green_at & ((1 << green) - 1), green),
        widen(dot & 0x1f, 5),
    ]
}

fn picture(vga: &Vga, vbe: &Vbe) -> Picture {
    let is_off = vga.sequencer[reg::SEQUENCER_CLOCKING] & SCREEN_OFF != 0;
    if vga.is_dark() || is_off {
        return Picture::Dark;
    }
    if let Some(mode) = vbe.mode() {
        return Picture::Dots(mode);
    }
    if vga.graphics[reg::GRAPHICS_MISCELLANEOUS] & GRAPHICS == 0 {
        return Picture::Text(Text::new(vga));
    }
    let shift = vga.graphics[reg::GRAPHICS_MODE];
    let pitch = u64::from(vga.crtc[reg::CRTC_OFFSET]) * 8;
    let start = u64::from(vga.crtc_pair(reg::CRTC_START_HIGH)) * 4;
    let lines = vga.lines_of_a_row() << u32::from(vga.doubles_lines());
    let (width, depth) = match shift {
        shift if shift & COLORS_256 != 0 => (vga.columns() * 4, 8),
        // The modes of CGA, whose lines are in two or four banks, are not drawn.
        shift if shift & COLORS_CGA != 0 => return Picture::Dark,
        _ => (vga.columns() * 8, 4),
    };
    let height = (vga.scan_lines() / lines).max(1);
    Picture::Dots(Mode {
        width,
        height,
        depth,
        pitch,
        start,
    })
}
