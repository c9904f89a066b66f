//! A text mode of VGA: which cells are on the screen, with what font, and where the cursor is (VGA, "Alphanumeric Modes").

use crate::cp437;
use crate::memory::VideoMemory;
use crate::registers::{Vga, number as reg};

/// Sequencer, clocking mode: characters are eight dots wide, else nine.
const EIGHT_DOTS: u8 = 0x01;
/// Attribute mode: the ninth dot of line graphics is as the eighth.
const LINE_GRAPHICS: u8 = 0x04;
/// Attribute mode: an attribute's highest bit makes a character blink.
const BLINKS: u8 = 0x08;
const LINE_GRAPHICS_CODES: std::ops::RangeInclusive<u8> = 0xc0..=0xdf;
const CURSOR_OFF: u8 = 0x20;
/// Bytes of a font, and of a character in it.
const FONT: u32 = 8192;
const GLYPH: u32 = 32;
/// The plane that fonts are in.
const FONT_PLANE: usize = 2;

/// A screen of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Characters of a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
    /// Column and row of the cursor, where it is on the screen.
    pub cursor: Option<(u32, u32)>,
    start: u32,
    pitch: u32,
    glyph_width: u32,
    glyph_height: u32,
    cursor_lines: (u32, u32),
    /// Where the fonts start that attributes without and with their intensity bit have.
    fonts: [u32; 2],
}

/// A character with its attribute.
type Cell = (u8, u8);

impl Text {
    pub(crate) fn new(vga: &Vga) -> Self {
        let columns = vga.columns();
        let glyph_height = vga.lines_of_a_row();
        let lines = vga.scan_lines() >> u32::from(vga.doubles_lines());
        let rows = (lines / glyph_height).max(1);
        let (start, pitch) = (
            vga.crtc_pair(reg::CRTC_START_HIGH),
            u32::from(vga.crtc[reg::CRTC_OFFSET]) * 2,
        );
        let cursor_start = vga.crtc[reg::CRTC_CURSOR_START];
        let cursor_lines = (
            u32::from(cursor_start & 0x1f),
            u32::from(vga.crtc[reg::CRTC_CURSOR_END] & 0x1f),
        );
        let cursor = vga.crtc_pair(reg::CRTC_CURSOR_HIGH).wrapping_sub(start) & 0xffff;
        let cursor = cursor
            .checked_div(pitch)
            .map(|row| (cursor % pitch, row))
            .filter(|(column, row)| cursor_start & CURSOR_OFF == 0 && *column < columns && *row < rows);
        let select = vga.sequencer[reg::SEQUENCER_FONTS];
        // Three bits each: 0, 1 and 4 for one, 2, 3 and 5 for the other.
        let font =
            |low: u8, high: u8| FONT * (u32::from(select >> low & 3) << 1 | u32::from(select >> high & 1));
        Self {
            columns,
            rows,
            cursor,
            start,
            pitch,
            glyph_width: if vga.sequencer[reg::SEQUENCER_CLOCKING] & EIGHT_DOTS != 0 {
                8
            } else {
                9
            },
            glyph_height,
            cursor_lines,
            fonts: [font(0, 4), font(2, 5)],
        }
    }

    /// Dots of a line.
    pub(crate) fn width(&self) -> u32 {
        self.columns * self.glyph_width
    }

    /// Lines of dots.
    pub(crate) fn height(&self) -> u32 {
        self.rows * self.glyph_height
    }

    fn cell(&self, memory: &VideoMemory, column: u32, row: u32) -> Cell {
        let [character, attribute, ..] = memory
            .planes(self.start + row * self.pitch + column)
            .to_le_bytes();
        (character, attribute)
    }

    /// The rows as text, without spaces at their ends.
    pub fn lines(&self, memory: &VideoMemory) -> Vec<String> {
        let characters = cp437::characters();
        let row = |row| {
            let cells = (0..self.columns).map(|column| self.cell(memory, column, row).0);
            let line: String = cells.map(|code| characters[usize::from(code)]).collect();
            line.trim_end_matches([' ', '\u{a0}']).to_owned()
        };
        (0..self.rows).map(row).collect()
    }

    /// Gives the colours, of sixteen, of the dots of line `y`.
    pub(crate) fn draw(&self, vga: &Vga, memory: &VideoMemory, y: u32, mut dot: impl FnMut(u8)) {
        let mode = vga.attribute[reg::ATTRIBUTE_MODE];
        let (row, line) = (y / self.glyph_height, y % self.glyph_height);
        for column in 0..self.columns {
            let (character, attribute) = self.cell(memory, column, row);
            let foreground = attribute & 0x0f;
            let background = attribute >> 4 & if mode & BLINKS != 0 { 0x07 } else { 0x0f };
            let font = self.fonts[usize::from(attribute >> 3 & 1)];
            let at = font + u32::from(character) * GLYPH + line;
            let mut bits = memory.planes(at).to_le_bytes()[FONT_PLANE];
            let in_cursor = (self.cursor_lines.0..=self.cursor_lines.1).contains(&line);
            if in_cursor && self.cursor == Some((column, row)) {
                bits = 0xff;
            }
            for place in 0..self.glyph_width {
                let repeats = mode & LINE_GRAPHICS != 0 && LINE_GRAPHICS_CODES.contains(&character);
                let lit = match place {
                    0..=7 => bits >> (7 - place) & 1 != 0,
                    _ => repeats && bits & 1 != 0,
                };
                dot(if lit { foreground } else { background });
            }
        }
    }
}
