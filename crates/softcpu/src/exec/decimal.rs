//! Decimal adjustment and BOUND's kin of old: instructions that 64-bit mode does not have. The host executes in 64-bit mode, so
//! these are written out (SDM vol. 2).

use iced_x86::{Instruction, Mnemonic};

use super::alu::Alu;
use crate::fault::{Exception, Flow, Result};
use crate::flags::{HOST_AF, HOST_CF, HOST_OF, HOST_PF, HOST_SF, HOST_ZF, HostFlags};
use crate::state::{Cpu, reg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let ax = cpu.gpr[reg::RAX] as u16;
    let (al, ah) = (ax as u8, (ax >> 8) as u8);
    let (half, carry) = (cpu.flags & HOST_AF != 0, cpu.flags & HOST_CF != 0);
    let low_adjust = al & 15 > 9 || half;
    match i.mnemonic() {
        Mnemonic::Aaa | Mnemonic::Aas => {
            let sign = if i.mnemonic() == Mnemonic::Aaa {
                1u16
            } else {
                u16::MAX
            };
            let new = if low_adjust {
                ax.wrapping_add(0x106u16.wrapping_mul(sign))
            } else {
                ax
            };
            set_ax(cpu, new & 0xff0f);
            set_flags(
                cpu,
                HOST_AF | HOST_CF,
                if low_adjust { HOST_AF | HOST_CF } else { 0 },
            );
        }
        Mnemonic::Daa | Mnemonic::Das => {
            let add = i.mnemonic() == Mnemonic::Daa;
            let apply = |value: u8, by: u8| {
                if add {
                    value.wrapping_add(by)
                } else {
                    value.wrapping_sub(by)
                }
            };
            let high_adjust = al > 0x99 || carry;
            let mut new = al;
            let mut out = 0;
            if low_adjust {
                new = apply(new, 6);
                out |= HOST_AF;
                if !add && (carry || al < 6) {
                    out |= HOST_CF;
                }
            }
            if high_adjust {
                new = apply(new, 0x60);
                out |= HOST_CF;
            }
            set_ax(cpu, ax & 0xff00 | u16::from(new));
            set_result_flags(cpu, new);
            set_flags(cpu, HOST_AF | HOST_CF, out);
        }
        Mnemonic::Aam => {
            let base = i.immediate8();
            if base == 0 {
                return Err(cpu.raise(Exception::de()));
            }
            set_ax(cpu, u16::from(al / base) << 8 | u16::from(al % base));
            set_result_flags(cpu, al % base);
            // CF, OF and AF are undefined; processors clear them, and set them by AAD as by the addition in it.
            set_flags(cpu, HOST_CF | HOST_OF | HOST_AF, 0);
        }
        _ => {
            const ALL: HostFlags = HOST_CF | HOST_PF | HOST_AF | HOST_ZF | HOST_SF | HOST_OF;
            let (new, flags) = Alu::add(al, ah.wrapping_mul(i.immediate8()));
            set_ax(cpu, u16::from(new));
            set_flags(cpu, ALL, flags & ALL);
        }
    }
    Ok(Flow::Next)
}

fn set_ax(cpu: &mut Cpu, ax: u16) {
    cpu.gpr[reg::RAX] = cpu.gpr[reg::RAX] & !0xffff | u64::from(ax);
}

fn set_flags(cpu: &mut Cpu, which: HostFlags, to: HostFlags) {
    cpu.flags = cpu.flags & !which | to;
}

/// SF, ZF, PF by `value`.
fn set_result_flags(cpu: &mut Cpu, value: u8) {
    let (_, flags) = Alu::or(value, value);
    let which = HOST_SF | HOST_ZF | HOST_PF;
    set_flags(cpu, which, flags & which);
}
