//! FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1, 10.5 and chapter 13).

use super::NativeOp;
use super::fpu_image::{self, summarised};
use super::x87::{Pointers, set_word, word};
use crate::fault::{Flow, Result};
use crate::state::{Cpu, FxArea, VectorRegister};

/// Bits of XCR0, XSTATE_BV and RFBM.
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Compaction, in XCOMP_BV.
const COMPACT: u64 = 1 << 63;
/// Where things are in the area.
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const HEADER: usize = 512;
const YMM: usize = 576;
/// Bytes of the area: legacy part, header, AVX state.
const AREA: usize = 832;
/// Bits of MXCSR that may be set.
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset.
const MXCSR_INIT: u32 = 0x1f80;

/// Which instruction of the family saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    Plain,
    Optimised,
    Compacted,
}

impl Cpu {
    /// XMM registers that the mode has.
    fn xmm_count(&self) -> usize {
        if self.is_long() { 16 } else { 8 }
    }

    /// The legacy part of the area with all that it can hold.
    fn legacy_image(&mut self, wide: bool) -> FxArea {
        self.sync_x87();
        let mut image = FxArea([0; 512]);
        let pointers = self.native.pointers;
        let out = &mut image.0;
        out[..XMM].copy_from_slice(&self.fx.0[..XMM]);
        set_word(out, 6, pointers.opcode);
        out[8..16].copy_from_slice(&pointers.instruction.to_le_bytes());
        out[16..24].copy_from_slice(&pointers.data.to_le_bytes());
        if !wide {
            set_word(out, 12, pointers.code_segment);
            set_word(out, 14, 0);
            set_word(out, 20, pointers.data_segment);
            set_word(out, 22, 0);
        }
        out[MXCSR..MXCSR + 4].copy_from_slice(&self.mxcsr.to_le_bytes());
        out[MXCSR + 4..ST].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for (index, register) in self.vec.iter().enumerate() {
            put_half(&mut out[XMM + index * 16..], &register.0[..2]);
        }
        image
    }

    /// Takes the x87 part of an image.
    fn take_x87(&mut self, image: &[u8], wide: bool) {
        self.sync_x87();
        let fx = &mut self.fx.0;
        let control = word(image, 0) & 0x1f3f | 0x40;
        set_word(fx, 0, control);
        set_word(fx, 2, summarised(word(image, 2), control));
        fx[4] = image[4];
        for register in 0..8 {
            let slot = ST + register * 16;
            fx[slot..slot + 10].copy_from_slice(&image[slot..slot + 10]);
        }
        let (instruction, data) = (quad(image, 8), quad(image, 16));
        let opcode = word(image, 6) & 0x7ff;
        self.native.pointers = if wide {
            Pointers {
                opcode,
                instruction,
                data,
                ..Pointers::default()
            }
        } else {
            Pointers {
                opcode,
                instruction: instruction & 0xffff_ffff,
                data: data & 0xffff_ffff,
                code_segment: word(image, 12),
                data_segment: word(image, 20),
            }
        };
    }

    /// Takes the XMM registers of an image.
    fn take_xmm(&mut self, image: &[u8]) {
        for index in 0..self.xmm_count() {
            let at = XMM + index * 16;
            self.vec[index].0[..2].copy_from_slice(&[quad(image, at), quad(image, at + 8)]);
        }
    }

    /// The state-component bitmap of what is not in its initial state (XINUSE).
    fn in_use(&mut self) -> u64 {
        self.sync_x87();
        let fx = &self.fx.0;
        let initial =
            word(fx, 0) == 0x37f && fx[2..5].iter().all(|&b| b == 0) && fx[ST..XMM].iter().all(|&b| b == 0);
        let x87 = !initial || self.native.pointers != Pointers::default();
        let count = self.xmm_count();
        let any = |quarters: std::ops::Range<usize>| {
            self.vec[..count]
                .iter()
                .any(|register| register.0[quarters.clone()] != [0, 0])
        };
        (u64::from(x87) * X87) | (u64::from(any(0..2)) * SSE) | (u64::from(any(2..4)) * AVX)
    }

    /// EDX:EAX as a bitmap limited to what XCR0 enables (RFBM).
    fn requested(&self) -> u64 {
        (self.gpr[0] & 0xffff_ffff | self.gpr[2] << 32) & self.xcr0
    }

    /// Offset of the memory operand, which must be aligned to `alignment` bytes: #GP(0).
    fn aligned_operand(&mut self, op: &NativeOp, alignment: u64) -> Result<u64> {
        let offset = op.address.offset(self);
        let base = if op.address.segment() >= crate::state::seg::FS || !self.is_long() {
            self.segs[op.address.segment()].base
        } else {
            0
        };
        if base.wrapping_add(offset) & (alignment - 1) != 0 {
            return Err(self.gp0());
        }
        Ok(offset)
    }
}

/// Eight bytes of an image.
fn quad(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| image[at + i]))
}

/// Four bytes of an image.
fn dword(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| image[at + i]))
}

/// Writes half a vector register.
fn put_half(out: &mut [u8], half: &[u64]) {
    out[..8].copy_from_slice(&half[0].to_le_bytes());
    out[8..16].copy_from_slice(&half[1].to_le_bytes());
}

/// FXSAVE and FXSAVE64.
pub fn fxsave(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let offset = cpu.aligned_operand(op, 16)?;
    let image = cpu.legacy_image(op.wide);
    let end = XMM + cpu.xmm_count() * 16;
    cpu.store_bytes(op.address.segment(), offset, &image.0[..end])?;
    Ok(Flow::Next)
}

/// FXRSTOR and FXRSTOR64.
pub fn fxrstor(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let offset = cpu.aligned_operand(op, 16)?;
    let mut image = [0; 512];
    cpu.load_bytes(op.address.segment(), offset, &mut image)?;
    let mxcsr = dword(&image, MXCSR);
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    cpu.take_x87(&image, op.wide);
    cpu.take_xmm(&image);
    cpu.mxcsr = mxcsr;
    Ok(cpu.vector_state_changed())
}

/// XSAVE.
pub fn xsave(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    save(cpu, op, Save::Plain)
}

/// XSAVEOPT: leaves components alone that are in their initial state.
pub fn xsaveopt(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    save(cpu, op, Save::Optimised)
}

/// XSAVEC: the same, in the compacted format.
pub fn xsavec(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    save(cpu, op, Save::Compacted)
}

/// The saving instructions (SDM vol. 1, 13.7 to 13.10).
fn save(cpu: &mut Cpu, op: &NativeOp, kind: Save) -> Result<Flow> {
    let offset = cpu.aligned_operand(op, 64)?;
    let segment = op.address.segment();
    let requested = cpu.requested();
    let mut in_use = cpu.in_use();
    if kind == Save::Compacted && cpu.mxcsr != MXCSR_INIT {
        in_use |= SSE;
    }
    let image = cpu.legacy_image(op.wide);
    let written = if kind == Save::Plain {
        requested
    } else {
        requested & in_use
    };
    let state = match kind {
        Save::Compacted => requested & in_use,
        _ => {
            let old: u64 = cpu.load(segment, offset.wrapping_add(HEADER as u64))?;
            old & !requested | requested & in_use
        }
    };
    let mut put = |at: usize, bytes: &[u8]| cpu.store_bytes(segment, offset.wrapping_add(at as u64), bytes);
    if written & X87 != 0 {
        put(0, &image.0[..MXCSR])?;
        put(ST, &image.0[ST..XMM])?;
    }
    let mxcsr = match kind {
        Save::Compacted => written & SSE,
        _ => requested & (SSE | AVX),
    };
    if mxcsr != 0 {
        put(MXCSR, &image.0[MXCSR..ST])?;
    }
    let count = cpu.xmm_count();
    let mut put = |at: usize, bytes: &[u8]| cpu.store_bytes(segment, offset.wrapping_add(at as u64), bytes);
    if written & SSE != 0 {
        put(XMM, &image.0[XMM..XMM + count * 16])?;
    }
    if written & AVX != 0 {
        let mut upper = [0; 256];
        for (index, register) in cpu.vec[..count].iter().enumerate() {
            put_half(&mut upper[index * 16..], &register.0[2..]);
        }
        cpu.store_bytes(segment, offset.wrapping_add(YMM as u64), &upper[..count * 16])?;
    }
    let mut header = [0; 16];
    header[..8].copy_from_slice(&state.to_le_bytes());
    header[8..].copy_from_slice(&(requested | COMPACT).to_le_bytes());
    let len = if kind == Save::Compacted { 16 } else { 8 };
    cpu.store_bytes(segment, offset.wrapping_add(HEADER as u64), &header[..len])?;
    Ok(Flow::Next)
}

/// XRSTOR (SDM vol. 1, 13.8).
pub fn xrstor(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let offset = cpu.aligned_operand(op, 64)?;
    let segment = op.address.segment();
    let requested = cpu.requested();
    let mut image = [0; AREA];
    cpu.load_bytes(segment, offset, &mut image[..YMM])?;
    let state = quad(&image, HEADER);
    let layout = quad(&image, HEADER + 8);
    let compact = layout & COMPACT != 0;
    let allowed = if compact { layout & !COMPACT } else { cpu.xcr0 };
    let reserved = if compact {
        HEADER + 16..YMM
    } else {
        HEADER + 8..HEADER + 24
    };
    let compact_offered =
        cpu.native.features & super::features::bit_of(iced_x86::CpuidFeature::XSAVEC).unwrap_or(0);
    let malformed = state & !allowed != 0
        || allowed & !cpu.xcr0 != 0
        || image[reserved].iter().any(|&byte| byte != 0)
        || compact && compact_offered == 0;
    let loads_mxcsr = if compact {
        requested & state & SSE != 0
    } else {
        requested & (SSE | AVX) != 0
    };
    let mxcsr = dword(&image, MXCSR);
    if malformed || loads_mxcsr && mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    if requested & state & AVX != 0 {
        cpu.load_bytes(segment, offset.wrapping_add(YMM as u64), &mut image[YMM..])?;
    }
    restore(cpu, &image, requested, state, op.wide);
    if loads_mxcsr {
        cpu.mxcsr = mxcsr;
    } else if compact && requested & SSE != 0 {
        cpu.mxcsr = MXCSR_INIT;
    }
    Ok(cpu.vector_state_changed())
}

/// Loads the requested components that `state` holds, and initialises the other requested ones.
fn restore(cpu: &mut Cpu, image: &[u8; AREA], requested: u64, state: u64, wide: bool) {
    let count = cpu.xmm_count();
    if requested & state & X87 != 0 {
        cpu.take_x87(image, wide);
    } else if requested & X87 != 0 {
        cpu.sync_x87();
        fpu_image::reset(&mut cpu.fx);
        cpu.fx.0[ST..XMM].fill(0);
        cpu.native.pointers = Pointers::default();
    }
    if requested & state & SSE != 0 {
        cpu.take_xmm(image);
    } else if requested & SSE != 0 {
        for VectorRegister(quarters) in &mut cpu.vec[..count] {
            quarters[..2].fill(0);
        }
    }
    if requested & AVX != 0 {
        let loaded = state & AVX != 0;
        for (index, VectorRegister(quarters)) in cpu.vec[..count].iter_mut().enumerate() {
            let at = YMM + index * 16;
            let upper = if loaded {
                [quad(image, at), quad(image, at + 8)]
            } else {
                [0, 0]
            };
            quarters[2..].copy_from_slice(&upper);
        }
    }
}
