//! VGA's memory as the CPU sees it below 1 MiB: four planes behind one window (VGA, "Graphics Controller", "Sequencer").
//!
//! The planes' bytes lie in turn in display memory: plane p of place a is byte 4 a + p. So the character and the attribute of
//! a cell of text are the first two bytes of its place, and a mode with 256 colours is linear.

use crate::memory::VideoMemory;
use crate::registers::{Vga, number as reg};

/// Sequencer, memory mode: an address's two low bits are the plane.
const CHAIN_4: u8 = 0x08;
/// Graphics mode: its lowest bit is the plane, as text has it.
const ODD_EVEN: u8 = 0x10;
/// Graphics mode: a read compares colours.
const COMPARES: u8 = 0x08;

/// The address in VGA's memory of `offset` in the window, if it is decoded: by the graphics controller's memory map field.
fn decode(vga: &Vga, offset: u32) -> Option<u32> {
    let (start, size) = match vga.graphics[reg::GRAPHICS_MISCELLANEOUS] >> 2 & 3 {
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    };
    let at = offset.checked_sub(start)?;
    (at < size).then_some(at & 0xffff)
}

/// Each of four bits as a byte of ones or zeroes.
fn expand(bits: u8) -> u32 {
    (0..4)
        .filter(|plane| bits >> plane & 1 != 0)
        .fold(0, |all, plane| all | 0xff << (8 * plane))
}

/// The same byte in each plane.
fn replicate(value: u8) -> u32 {
    u32::from_le_bytes([value; 4])
}

/// A byte of the window as the CPU reads it.
pub(crate) fn read(vga: &mut Vga, memory: &VideoMemory, offset: u32) -> u8 {
    let Some(address) = decode(vga, offset) else {
        return 0xff;
    };
    if vga.sequencer[reg::SEQUENCER_MEMORY_MODE] & CHAIN_4 != 0 {
        return memory.byte(address);
    }
    let mode = vga.graphics[reg::GRAPHICS_MODE];
    let map = u32::from(vga.graphics[reg::GRAPHICS_READ_MAP]);
    if mode & ODD_EVEN != 0 {
        return memory.byte((address >> 1) * 4 + (map & 2 | address & 1));
    }
    vga.latches = memory.planes(address);
    if mode & COMPARES == 0 {
        return vga.latches.to_le_bytes()[map as usize & 3];
    }
    let color = expand(vga.graphics[reg::GRAPHICS_COLOR_COMPARE]);
    let care = expand(vga.graphics[reg::GRAPHICS_DONT_CARE]);
    let [a, b, c, d] = ((vga.latches ^ color) & care).to_le_bytes();
    !(a | b | c | d)
}

/// A byte of the window as the CPU writes it.
pub(crate) fn write(vga: &Vga, memory: &VideoMemory, offset: u32, value: u8) {
    let Some(address) = decode(vga, offset) else {
        return;
    };
    let enabled = vga.sequencer[reg::SEQUENCER_MAP_MASK];
    if vga.sequencer[reg::SEQUENCER_MEMORY_MODE] & CHAIN_4 != 0 {
        if enabled >> (address & 3) & 1 != 0 {
            memory.write(address.into(), &[value]);
        }
        return;
    }
    if vga.graphics[reg::GRAPHICS_MODE] & ODD_EVEN != 0 {
        let plane = address & 1;
        if enabled >> plane & 1 != 0 {
            memory.write(u64::from((address >> 1) * 4 + plane), &[value]);
        }
        return;
    }
    let new = combine(vga, value).to_le_bytes();
    for (plane, byte) in (0u64..).zip(new) {
        if enabled >> plane & 1 != 0 {
            memory.write(u64::from(address) * 4 + plane, &[byte]);
        }
    }
}

/// What becomes of a byte on its way to the planes: the four write modes.
fn combine(vga: &Vga, value: u8) -> u32 {
    let graphics = &vga.graphics;
    let set_reset = expand(graphics[reg::GRAPHICS_SET_RESET]);
    let rotated = value.rotate_right(u32::from(graphics[reg::GRAPHICS_ROTATE] & 7));
    let mask = graphics[reg::GRAPHICS_BIT_MASK];
    let (source, mask) = match graphics[reg::GRAPHICS_MODE] & 3 {
        0 => {
            let from_set_reset = expand(graphics[reg::GRAPHICS_ENABLE_SET_RESET]);
            (
                replicate(rotated) & !from_set_reset | set_reset & from_set_reset,
                mask,
            )
        }
        1 => return vga.latches,
        2 => (expand(value & 0x0f), mask),
        _ => (set_reset, mask & rotated),
    };
    let result = match graphics[reg::GRAPHICS_ROTATE] >> 3 & 3 {
        0 => source,
        1 => source & vga.latches,
        2 => source | vga.latches,
        _ => source ^ vga.latches,
    };
    let mask = replicate(mask);
    result & mask | vga.latches & !mask
}
