//! The registers of Bochs' VBE display interface (VBE DISPI): linear modes of any size and depth, by an index and a data port.

use crate::memory::{MEMORY_SIZE, VideoMemory};

/// Widest screen, in dots.
pub const MAX_WIDTH: u16 = 4096;
/// Highest screen, in lines.
pub const MAX_HEIGHT: u16 = 4096;
const MAX_DEPTH: u16 = 32;
/// Least width and its unit.
const WIDTH_UNIT: u16 = 8;

/// Latest version of the interface.
const ID: u16 = 0xb0c5;
const OLDEST_ID: u16 = 0xb0c0;

/// Numbers of registers.
pub(crate) mod number {
    pub const ID: u16 = 0;
    pub const WIDTH: u16 = 1;
    pub const HEIGHT: u16 = 2;
    pub const DEPTH: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRTUAL_WIDTH: u16 = 6;
    pub const VIRTUAL_HEIGHT: u16 = 7;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const MEMORY: u16 = 10;
}

/// Bits of the enable register.
const ENABLED: u16 = 0x01;
const GET_CAPABILITIES: u16 = 0x02;
const EIGHT_BIT_DAC: u16 = 0x20;
const LINEAR: u16 = 0x40;
const NO_CLEAR: u16 = 0x80;

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vbe {
    index: u16,
    id: u16,
    width: u16,
    height: u16,
    depth: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x_offset: u16,
    y_offset: u16,
}

impl Default for Vbe {
    fn default() -> Self {
        Self {
            index: 0,
            id: ID,
            width: 0,
            height: 0,
            depth: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
        }
    }
}

/// A mode that fits into the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Dots of a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits of a dot: 4 (planes), 8, 15, 16, 24 or 32.
    pub depth: u16,
    /// Bytes from a line to the next.
    pub pitch: u64,
    /// Where the first line starts.
    pub start: u64,
}

impl Vbe {
    /// True if the screen shows a VBE mode instead of VGA's.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// True if colours of the DAC have eight bits instead of six.
    pub(crate) fn has_eight_bit_dac(&self) -> bool {
        self.enable & EIGHT_BIT_DAC != 0
    }

    /// Where the window below 1 MiB starts in the memory, unless VGA's planes are behind it.
    pub(crate) fn window(&self) -> Option<u64> {
        (self.is_enabled() && self.depth != 4).then(|| u64::from(self.bank) << 16)
    }

    /// Reads the index register.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Writes it.
    pub fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Reads register `index`; one that is not there reads as zero.
    pub fn read(&self, index: u16) -> u16 {
        let limits = self.enable & GET_CAPABILITIES != 0;
        match index {
            number::ID => self.id,
            number::WIDTH if limits => MAX_WIDTH,
            number::HEIGHT if limits => MAX_HEIGHT,
            number::DEPTH if limits => MAX_DEPTH,
            number::WIDTH => self.width,
            number::HEIGHT => self.height,
            number::DEPTH => self.depth,
            number::ENABLE => self.enable,
            number::BANK => self.bank,
            number::VIRTUAL_WIDTH => self.virtual_width,
            number::VIRTUAL_HEIGHT => self.virtual_height(),
            number::X_OFFSET => self.x_offset,
            number::Y_OFFSET => self.y_offset,
            number::MEMORY => (MEMORY_SIZE >> 16) as u16,
            _ => 0,
        }
    }

    /// Writes register `index`. A geometry that does not fit is made to fit while a mode is on, and when it is turned on.
    pub fn write(&mut self, index: u16, value: u16, memory: &VideoMemory) {
        match index {
            number::ID if (OLDEST_ID..=ID).contains(&value) => self.id = value,
            number::WIDTH => self.width = value,
            number::HEIGHT => self.height = value,
            number::DEPTH => self.depth = value,
            number::ENABLE => self.turn(value, memory),
            number::BANK => self.bank = value & ((MEMORY_SIZE >> 16) - 1) as u16,
            number::VIRTUAL_WIDTH => self.virtual_width = value,
            number::X_OFFSET => self.x_offset = value,
            number::Y_OFFSET => self.y_offset = value,
            _ => {}
        }
        if self.is_enabled() {
            self.fit();
        }
    }

    fn turn(&mut self, value: u16, memory: &VideoMemory) {
        let was_on = self.is_enabled();
        self.enable = value & (ENABLED | GET_CAPABILITIES | EIGHT_BIT_DAC | LINEAR | NO_CLEAR);
        self.bank = 0;
        if was_on || !self.is_enabled() {
            return;
        }
        (self.virtual_width, self.x_offset, self.y_offset) = (0, 0, 0);
        self.fit();
        if value & NO_CLEAR == 0 {
            memory.clear(self.pitch() * u64::from(self.height));
        }
    }

    /// Bytes from a line to the next. Planes have a byte of each for eight dots.
    fn pitch(&self) -> u64 {
        let width = u64::from(self.virtual_width);
        match self.depth {
            4 => width / 2,
            15 => width * 2,
            depth => width * u64::from(depth / 8),
        }
    }

    /// Lines that there is memory for.
    fn virtual_height(&self) -> u16 {
        let reachable = match self.depth {
            4 => crate::memory::PLANE_BYTES.into(),
            _ => MEMORY_SIZE,
        };
        reachable
            .checked_div(self.pitch())
            .map_or(0, |lines| lines.min(0xffff) as u16)
    }

    /// Makes the geometry one that the memory has.
    fn fit(&mut self) {
        if !matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32) {
            self.depth = 8;
        }
        let in_units = |width: u16| (width & !(WIDTH_UNIT - 1)).clamp(WIDTH_UNIT, MAX_WIDTH);
        self.width = in_units(self.width);
        self.virtual_width = in_units(self.virtual_width).max(self.width);
        let lines = self.virtual_height();
        self.height = self.height.clamp(1, lines.min(MAX_HEIGHT));
        self.x_offset = self.x_offset.min(self.virtual_width - self.width);
        self.y_offset = self.y_offset.min(lines - self.height);
    }

    /// What is shown, if a mode is on.
    pub(crate) fn mode(&self) -> Option<Mode> {
        if !self.is_enabled() {
            return None;
        }
        let pitch = self.pitch();
        let x = u64::from(self.x_offset);
        let left = match self.depth {
            4 => x / 8 * 4,
            15 => x * 2,
            depth => x * u64::from(depth / 8),
        };
        Some(Mode {
            width: self.width.into(),
            height: self.height.into(),
            depth: self.depth,
            pitch,
            start: u64::from(self.y_offset) * pitch + left,
        })
    }
}
