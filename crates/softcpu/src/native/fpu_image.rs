//! FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87 state in memory in its four old formats (SDM vol. 1, 8.1.10).

use super::NativeOp;
use super::x87::{Pointers, set_word, word};
use crate::fault::{Flow, Result};
use crate::state::{Cpu, FxArea};

/// Bytes of the eight registers in an FSAVE image.
const REGISTERS: usize = 80;
/// Bits of the opcode in FOP.
const OPCODE: u32 = 0x7ff;

/// Size and meaning of an environment.
#[derive(Clone, Copy)]
struct Format {
    /// Fields of 32 bits instead of 16.
    wide: bool,
    /// Selectors and offsets (protected mode) instead of linear addresses.
    protected: bool,
}

impl Format {
    fn of(cpu: &Cpu, op: &NativeOp) -> Self {
        Self {
            wide: matches!(op.size, 28 | 108),
            protected: cpu.is_protected(),
        }
    }

    fn len(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// The environment of the state in `cpu`, which is not live.
    fn encode(self, cpu: &Cpu) -> Vec<u8> {
        let fx = &cpu.fx.0;
        let p = &cpu.native.pointers;
        let (fip, fdp) = (p.instruction as u32, p.data as u32);
        let linear = |segment: u16, offset: u32| (u32::from(segment) << 4).wrapping_add(offset);
        let (code, data) = (linear(p.code_segment, fip), linear(p.data_segment, fdp));
        let opcode = u32::from(p.opcode) & OPCODE;
        let ones = 0xffff_0000;
        let control = [
            u32::from(word(fx, 0)),
            u32::from(word(fx, 2)),
            u32::from(full_tags(fx)),
        ];
        let rest = match (self.wide, self.protected) {
            (true, true) => [
                fip,
                u32::from(p.code_segment) | opcode << 16,
                fdp,
                u32::from(p.data_segment) | ones,
            ],
            (true, false) => [
                code & 0xffff | ones,
                (code >> 16) << 12 | opcode,
                data & 0xffff | ones,
                (data >> 16) << 12,
            ],
            (false, true) => [fip, u32::from(p.code_segment), fdp, u32::from(p.data_segment)],
            (false, false) => [code, (code >> 4) & 0xf000 | opcode, data, (data >> 4) & 0xf000],
        };
        let fields = control.into_iter().map(|field| field | ones).chain(rest);
        if self.wide {
            fields.flat_map(u32::to_le_bytes).collect()
        } else {
            fields.flat_map(|field| (field as u16).to_le_bytes()).collect()
        }
    }

    /// Takes the environment in `bytes` into `cpu`, whose state is not live.
    fn decode(self, cpu: &mut Cpu, bytes: &[u8]) {
        let field = |index: usize| {
            if self.wide {
                u32::from(word(bytes, index * 4)) | u32::from(word(bytes, index * 4 + 2)) << 16
            } else {
                u32::from(word(bytes, index * 2))
            }
        };
        let fx = &mut cpu.fx.0;
        let control = field(0) as u16;
        turn(fx, field(1) as u16 >> 11);
        set_word(fx, 0, control & 0x1f3f | 0x40);
        set_word(fx, 2, summarised(field(1) as u16, control));
        fx[4] = abridged_tags(field(2) as u16);
        cpu.native.pointers = match (self.wide, self.protected) {
            (true, true) => Pointers {
                instruction: u64::from(field(3)),
                code_segment: field(4) as u16,
                opcode: (field(4) >> 16 & OPCODE) as u16,
                data: u64::from(field(5)),
                data_segment: field(6) as u16,
            },
            (false, true) => Pointers {
                instruction: u64::from(field(3)),
                code_segment: field(4) as u16,
                opcode: cpu.native.pointers.opcode,
                data: u64::from(field(5)),
                data_segment: field(6) as u16,
            },
            (wide, false) => {
                let high = |index: usize| {
                    let high = field(index) >> 12;
                    u64::from(if wide { high & 0xffff } else { high & 0xf } << 16)
                };
                Pointers {
                    instruction: u64::from(field(3) & 0xffff) | high(4),
                    code_segment: 0,
                    opcode: (field(4) & OPCODE) as u16,
                    data: u64::from(field(5) & 0xffff) | high(6),
                    data_segment: 0,
                }
            }
        };
    }
}

/// The status word with its summary bits (ES and B) as `control` makes them.
pub fn summarised(status: u16, control: u16) -> u16 {
    const SUMMARY: u16 = 0x8080;
    if status & !control & 0x3f != 0 {
        status | SUMMARY
    } else {
        status & !SUMMARY
    }
}

/// The tag word, two bits a physical register, from an FXSAVE image: 0 valid, 1 zero, 2 special, 3 empty.
fn full_tags(fx: &[u8; 512]) -> u16 {
    let top = usize::from(word(fx, 2) >> 11 & 7);
    (0..8).fold(0, |tags, physical| {
        let register = &fx[32 + (physical + 8 - top) % 8 * 16..][..10];
        let exponent = word(register, 8) & 0x7fff;
        let mantissa = u64::from_le_bytes(std::array::from_fn(|i| register[i]));
        let tag = match (fx[4] >> physical & 1, exponent, mantissa) {
            (0, _, _) => 3,
            (_, 0, 0) => 1,
            (_, 0 | 0x7fff, _) => 2,
            (_, _, mantissa) if mantissa >> 63 == 0 => 2,
            _ => 0,
        };
        tags | tag << (physical * 2)
    })
}

/// The tags of an FXSAVE image, one bit a register: set unless empty.
fn abridged_tags(full: u16) -> u8 {
    (0..8).fold(0, |tags, physical| {
        tags | u8::from(full >> (physical * 2) & 3 != 3) << physical
    })
}

/// Puts the registers of an image, which are in the order of the stack, where they belong when its top moves to `top`.
pub fn turn(fx: &mut [u8; 512], top: u16) {
    let steps = usize::from(top.wrapping_sub(word(fx, 2) >> 11) & 7);
    fx[32..160].rotate_left(steps * 16);
}

/// What every MMX instruction but EMMS does first: the top of the stack is 0 and no register is empty.
pub fn begin_mmx(fx: &mut [u8; 512]) {
    turn(fx, 0);
    fx[3] &= !0x38;
    fx[4] = 0xff;
}

/// FNSTENV: stores the environment, then masks all exceptions.
pub fn fnstenv(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.sync_x87();
    let environment = Format::of(cpu, op).encode(cpu);
    let offset = op.address.offset(cpu);
    cpu.store_bytes(op.address.segment(), offset, &environment)?;
    let control = word(&cpu.fx.0, 0) | 0x3f;
    let status = summarised(word(&cpu.fx.0, 2), control);
    set_word(&mut cpu.fx.0, 0, control);
    set_word(&mut cpu.fx.0, 2, status);
    Ok(Flow::Next)
}

/// FLDENV.
pub fn fldenv(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    let format = Format::of(cpu, op);
    let mut bytes = [0; 28];
    let bytes = &mut bytes[..format.len()];
    let offset = op.address.offset(cpu);
    cpu.load_bytes(op.address.segment(), offset, bytes)?;
    cpu.sync_x87();
    format.decode(cpu, bytes);
    Ok(Flow::Next)
}

/// FNSAVE: environment and registers, then FNINIT.
pub fn fnsave(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.sync_x87();
    let mut image = Format::of(cpu, op).encode(cpu);
    image.reserve(REGISTERS);
    for register in 0..8 {
        image.extend_from_slice(&cpu.fx.0[32 + register * 16..][..10]);
    }
    let offset = op.address.offset(cpu);
    cpu.store_bytes(op.address.segment(), offset, &image)?;
    reset(&mut cpu.fx);
    cpu.native.pointers = Pointers::default();
    Ok(Flow::Next)
}

/// FRSTOR.
pub fn frstor(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    let format = Format::of(cpu, op);
    let mut bytes = [0; 28 + REGISTERS];
    let bytes = &mut bytes[..format.len() + REGISTERS];
    let offset = op.address.offset(cpu);
    cpu.load_bytes(op.address.segment(), offset, bytes)?;
    cpu.sync_x87();
    format.decode(cpu, bytes);
    for register in 0..8 {
        let from = &bytes[format.len() + register * 10..][..10];
        let slot = &mut cpu.fx.0[32 + register * 16..][..16];
        slot[..10].copy_from_slice(from);
        slot[10..].fill(0);
    }
    Ok(Flow::Next)
}

/// What FNINIT makes of an image: the registers' contents stay, all are tagged empty.
pub fn reset(fx: &mut FxArea) {
    turn(&mut fx.0, 0);
    fx.0[..24].fill(0);
    set_word(&mut fx.0, 0, 0x37f);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_contents_and_the_top_of_the_stack() {
        let mut fx = [0u8; 512];
        set_word(&mut fx, 2, 6 << 11);
        fx[4] = 0b1100_0001;
        // ST(0) is physical 6: one; ST(1) is physical 7: zero; ST(2) is physical 0: infinity.
        fx[32 + 7] = 0x80;
        set_word(&mut fx, 32 + 8, 0x3fff);
        fx[64 + 7] = 0x80;
        set_word(&mut fx, 64 + 8, 0x7fff);
        let full = full_tags(&fx);
        assert_eq!(full >> 12 & 3, 0);
        assert_eq!(full >> 14 & 3, 1);
        assert_eq!(full & 3, 2);
        assert_eq!(full >> 2 & 0x3ff, 0x3ff);
        assert_eq!(abridged_tags(full), fx[4]);
    }

    #[test]
    fn registers_stay_in_place_when_the_top_moves() {
        let mut fx = [0u8; 512];
        set_word(&mut fx, 2, 6 << 11);
        fx[32] = 6;
        fx[48] = 7;
        turn(&mut fx, 7);
        assert_eq!((fx[32], fx[32 + 7 * 16]), (7, 6));
    }

    #[test]
    fn the_summary_follows_the_masks() {
        assert_eq!(summarised(1, 0x37f), 1);
        assert_eq!(summarised(1, 0x37e), 0x8081);
        assert_eq!(summarised(0x8080, 0), 0);
    }
}
