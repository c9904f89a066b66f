//! A display: VGA with Bochs' VBE registers, as PCI function 1234:1111, or these registers and a frame buffer alone.
//!
//! Firmware, boot loaders and systems have drivers for it (SeaBIOS' vgabios-stdvga, QemuVideoDxe of EDK II, bochs-drm of Linux), and
//! a PC's boot menus need its text. The frame buffer is memory of the guest; the registers are plain state ([`Vga`], [`Vbe`])
//! with pure functions, and [`Card`] is their glue to the bus. Nobody looks at a screen all the time: [`Screen`] is what is on it
//! at one moment, from which a picture is written row by row ([`write_picture`]), or its text is read.
//!
//! Sources: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (1992), cited as *VGA*; the registers of Bochs'
//! VBE display interface (`vbe_display_api.txt`), cited as *VBE DISPI*; `docs/specs/standard-vga.rst` of QEMU for where they are in BAR 2.

mod card;
mod cp437;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod image;
mod memory;
mod planes;
mod registers;
mod screen;
mod text;
mod vbe;

#[cfg(test)]
mod tests;

pub use card::{Card, FrameBufferMap};
pub use image::{Format, write_picture};
pub use memory::{MEMORY_SIZE, VideoMemory};
pub use registers::Vga;
pub use screen::Screen;
pub use text::Text;
pub use vbe::{MAX_HEIGHT, MAX_WIDTH, Vbe};

/// First of the display's old ports (VGA, "Registers").
pub const LEGACY_PORTS: u64 = 0x3b0;
/// How many there are.
pub const LEGACY_PORT_COUNT: u64 = 0x30;
/// VBE's index port; its data ports follow.
pub const VBE_PORTS: u64 = 0x1ce;
/// How many there are.
pub const VBE_PORT_COUNT: u64 = 3;
/// Start of the window for display memory below 1 MiB.
pub const LEGACY_WINDOW: u64 = 0xa_0000;
/// Its bytes.
pub const LEGACY_WINDOW_SIZE: u64 = 0x2_0000;

/// Why there is no display, or no picture of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused memory.
    #[error(
        "the host gave no {0} bytes for a display's memory: {1}; stop other programs, or start the guest without a display"
    )]
    Memory(u64, String),
    /// The picture cannot be written.
    #[error("the picture of the screen cannot be written: {0}")]
    Write(#[from] std::io::Error),
}
