//! The registers of VGA (VGA, "Registers"): general, sequencer, CRT controller, graphics controller, attribute controller,
//! and the DAC with its palette.

/// Miscellaneous output: the CRT controller is at 3Dx, else at 3Bx.
const MISC_COLOR: u8 = 0x01;
/// Attribute address: the palette is the screen's, and not the CPU's.
const PALETTE_IS_THE_SCREENS: u8 = 0x20;
/// Registers 0 to 7 of the CRT controller cannot be written, but for one bit.
const PROTECT: u8 = 0x80;
/// That bit of register 7: line compare.
const LINE_COMPARE_8: u8 = 0x10;
/// Input status 1: the screen is dark at the moment; the beam goes back.
const STATUS_1: u8 = 0x09;

/// Numbers of registers that others read.
pub(crate) mod number {
    pub const SEQUENCER_CLOCKING: usize = 1;
    pub const SEQUENCER_MAP_MASK: usize = 2;
    pub const SEQUENCER_FONTS: usize = 3;
    pub const SEQUENCER_MEMORY_MODE: usize = 4;
    pub const CRTC_END_HORIZONTAL: usize = 0x01;
    pub const CRTC_OVERFLOW: usize = 0x07;
    pub const CRTC_MAXIMUM_SCAN_LINE: usize = 0x09;
    pub const CRTC_CURSOR_START: usize = 0x0a;
    pub const CRTC_CURSOR_END: usize = 0x0b;
    pub const CRTC_START_HIGH: usize = 0x0c;
    pub const CRTC_CURSOR_HIGH: usize = 0x0e;
    pub const CRTC_PROTECT: usize = 0x11;
    pub const CRTC_END_VERTICAL: usize = 0x12;
    pub const CRTC_OFFSET: usize = 0x13;
    pub const GRAPHICS_SET_RESET: usize = 0;
    pub const GRAPHICS_ENABLE_SET_RESET: usize = 1;
    pub const GRAPHICS_COLOR_COMPARE: usize = 2;
    pub const GRAPHICS_ROTATE: usize = 3;
    pub const GRAPHICS_READ_MAP: usize = 4;
    pub const GRAPHICS_MODE: usize = 5;
    pub const GRAPHICS_MISCELLANEOUS: usize = 6;
    pub const GRAPHICS_DONT_CARE: usize = 7;
    pub const GRAPHICS_BIT_MASK: usize = 8;
    pub const ATTRIBUTE_MODE: usize = 0x10;
    pub const ATTRIBUTE_PLANES: usize = 0x12;
    pub const ATTRIBUTE_COLOR_SELECT: usize = 0x14;
}

/// A colour table with the two ways into it (VGA, "Video Digital-to-Analog Converter").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dac {
    /// Red, green and blue of each entry, as they were written.
    pub entries: [[u8; 3]; 256],
    /// Which bits of a pixel count.
    pub mask: u8,
    read_index: u8,
    write_index: u8,
    /// Which colour of the entry is next.
    component: u8,
    /// What was written of the entry so far.
    pending: [u8; 3],
    reading: bool,
}

impl Dac {
    fn new() -> Self {
        Self {
            entries: [[0; 3]; 256],
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            pending: [0; 3],
            reading: false,
        }
    }

    fn read(&mut self) -> u8 {
        let value = self.entries[usize::from(self.read_index)][usize::from(self.component)];
        self.component += 1;
        if self.component == 3 {
            self.component = 0;
            self.read_index = self.read_index.wrapping_add(1);
        }
        value
    }

    /// An entry changes as a whole, with its third colour.
    fn write(&mut self, value: u8) {
        self.pending[usize::from(self.component)] = value;
        self.component += 1;
        if self.component == 3 {
            self.component = 0;
            self.entries[usize::from(self.write_index)] = self.pending;
            self.write_index = self.write_index.wrapping_add(1);
        }
    }

    fn state(&self) -> u8 {
        if self.reading { 3 } else { 0 }
    }
}

/// All registers, and what the CPU's last read left in the latches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vga {
    misc: u8,
    feature: u8,
    enable: u8,
    sequencer_index: u8,
    pub(crate) sequencer: [u8; 5],
    crtc_index: u8,
    pub(crate) crtc: [u8; 25],
    graphics_index: u8,
    pub(crate) graphics: [u8; 9],
    attribute_index: u8,
    /// The next write to the attribute port is data.
    attribute_data_is_next: bool,
    pub(crate) attribute: [u8; 21],
    pub(crate) dac: Dac,
    pub(crate) latches: u32,
    status_1: u8,
}

impl Default for Vga {
    fn default() -> Self {
        let mut vga = Self {
            misc: 0,
            feature: 0,
            enable: 0,
            sequencer_index: 0,
            sequencer: [0; 5],
            crtc_index: 0,
            crtc: [0; 25],
            graphics_index: 0,
            graphics: [0; 9],
            attribute_index: 0,
            attribute_data_is_next: false,
            attribute: [0; 21],
            dac: Dac::new(),
            latches: 0,
            status_1: 0,
        };
        vga.graphics[number::GRAPHICS_BIT_MASK] = 0xff;
        vga
    }
}

/// Bits of each sequencer register that exist.
const SEQUENCER_BITS: [u8; 5] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
/// The same of the graphics controller.
const GRAPHICS_BITS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
/// The same of the attribute controller, from the mode control register on.
const ATTRIBUTE_BITS: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];

impl Vga {
    /// Whether the port belongs to the monitor, colour or monochrome, that is not there.
    fn is_elsewhere(&self, port: u16) -> bool {
        let color = self.misc & MISC_COLOR != 0;
        match port {
            0x3b0..=0x3bf => color,
            0x3d0..=0x3df => !color,
            _ => false,
        }
    }

    /// True while the palette is taken away from the screen, which is dark then.
    pub(crate) fn is_dark(&self) -> bool {
        self.attribute_index & PALETTE_IS_THE_SCREENS == 0
    }

    /// Reads a port, 0x3b0 to 0x3df. One without a register reads as ones.
    pub fn read_port(&mut self, port: u16) -> u8 {
        if self.is_elsewhere(port) {
            return 0xff;
        }
        let at = |registers: &[u8], index: u8| registers.get(usize::from(index)).copied().unwrap_or(0);
        match port {
            0x3c0 => match self.attribute_data_is_next {
                false => self.attribute_index,
                true => 0,
            },
            0x3c1 => at(&self.attribute, self.attribute_index & 0x1f),
            // No interrupt, and a monitor that is there.
            0x3c2 => 0x10,
            0x3c3 => self.enable,
            0x3c4 => self.sequencer_index,
            0x3c5 => at(&self.sequencer, self.sequencer_index),
            0x3c6 => self.dac.mask,
            0x3c7 => self.dac.state(),
            0x3c8 => self.dac.write_index,
            0x3c9 => self.dac.read(),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.graphics_index,
            0x3cf => at(&self.graphics, self.graphics_index),
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => at(&self.crtc, self.crtc_index),
            0x3ba | 0x3da => {
                self.attribute_data_is_next = false;
                // Who waits for the beam to go back, or to come again, waits for one read.
                self.status_1 ^= STATUS_1;
                self.status_1
            }
            _ => 0xff,
        }
    }

    /// Writes a port.
    pub fn write_port(&mut self, port: u16, value: u8) {
        if self.is_elsewhere(port) {
            return;
        }
        match port {
            0x3c0 => self.write_attribute(value),
            0x3c2 => self.misc = value & 0xef,
            0x3c3 => self.enable = value & 1,
            0x3c4 => self.sequencer_index = value & 7,
            0x3c5 => set(
                &mut self.sequencer,
                self.sequencer_index,
                value & bits(&SEQUENCER_BITS, self.sequencer_index),
            ),
            0x3c6 => self.dac.mask = value,
            0x3c7 => {
                self.dac.read_index = value;
                self.dac.component = 0;
                self.dac.reading = true;
            }
            0x3c8 => {
                self.dac.write_index = value;
                self.dac.component = 0;
                self.dac.reading = false;
            }
            0x3c9 => self.dac.write(value),
            0x3ce => self.graphics_index = value & 0x0f,
            0x3cf => set(
                &mut self.graphics,
                self.graphics_index,
                value & bits(&GRAPHICS_BITS, self.graphics_index),
            ),
            0x3b4 | 0x3d4 => self.crtc_index = value,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & 0x10,
            _ => {}
        }
    }

    /// One port for the index and what is in the register, in turn (VGA, "Attribute Controller").
    fn write_attribute(&mut self, value: u8) {
        let is_data = self.attribute_data_is_next;
        self.attribute_data_is_next = !is_data;
        if !is_data {
            self.attribute_index = value & 0x3f;
            return;
        }
        let index = self.attribute_index & 0x1f;
        match index {
            // The CPU has the palette only while the screen has not.
            0..=15 if self.attribute_index & PALETTE_IS_THE_SCREENS != 0 => {}
            0..=15 => self.attribute[usize::from(index)] = value & 0x3f,
            _ => set(
                &mut self.attribute,
                index,
                value & bits(&ATTRIBUTE_BITS, index - 16),
            ),
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let index = self.crtc_index;
        if index > 7 || self.crtc[number::CRTC_PROTECT] & PROTECT == 0 {
            set(&mut self.crtc, index, value);
        } else if usize::from(index) == number::CRTC_OVERFLOW {
            let overflow = &mut self.crtc[number::CRTC_OVERFLOW];
            *overflow = *overflow & !LINE_COMPARE_8 | value & LINE_COMPARE_8;
        }
    }

    /// A number of 16 bits in two registers of the CRT controller, the upper half first.
    pub(crate) fn crtc_pair(&self, high: usize) -> u32 {
        u32::from(self.crtc[high]) << 8 | u32::from(self.crtc[high + 1])
    }

    /// Lines of the picture that the CRT controller draws.
    pub(crate) fn scan_lines(&self) -> u32 {
        let overflow = u32::from(self.crtc[number::CRTC_OVERFLOW]);
        let low = u32::from(self.crtc[number::CRTC_END_VERTICAL]);
        (low | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1
    }

    /// Characters, each eight or nine dots wide, of a line.
    pub(crate) fn columns(&self) -> u32 {
        u32::from(self.crtc[number::CRTC_END_HORIZONTAL]) + 1
    }

    /// Lines that one row of characters, or of dots, takes.
    pub(crate) fn lines_of_a_row(&self) -> u32 {
        u32::from(self.crtc[number::CRTC_MAXIMUM_SCAN_LINE] & 0x1f) + 1
    }

    /// Whether each line is drawn twice.
    pub(crate) fn doubles_lines(&self) -> bool {
        self.crtc[number::CRTC_MAXIMUM_SCAN_LINE] & 0x80 != 0
    }

    /// Index into the DAC's table for one of the attribute controller's sixteen colours.
    pub(crate) fn dac_index(&self, color: u8) -> u8 {
        let select = self.attribute[number::ATTRIBUTE_COLOR_SELECT];
        let six = self.attribute[usize::from(color & self.attribute[number::ATTRIBUTE_PLANES] & 0x0f)];
        // Mode control, bit 7: bits 4 and 5 come from the colour select register too.
        let six = match self.attribute[number::ATTRIBUTE_MODE] & 0x80 {
            0 => six,
            _ => six & 0x0f | (select & 0x03) << 4,
        };
        six | (select & 0x0c) << 4
    }
}

fn bits(bits: &[u8], index: u8) -> u8 {
    bits.get(usize::from(index)).copied().unwrap_or(0)
}

fn set(registers: &mut [u8], index: u8, value: u8) {
    if let Some(register) = registers.get_mut(usize::from(index)) {
        *register = value;
    }
}
