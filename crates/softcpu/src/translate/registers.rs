//! Which host register holds which guest register while translated code runs.
//!
//! Those that instructions use without naming them keep their place. RSP, R12 and R13 live elsewhere, since the host needs its own
//! stack pointer and the translator three scratch registers. R10, R11, R14 and R15 stay in memory.

use iced_x86::Register;

use super::assembler::Reg;
use crate::state::reg;

/// Where the guest's registers are, by number; `None` for memory.
pub const HOME: [Option<Reg>; 16] = [
    Some(Reg(0)),
    Some(Reg(1)),
    Some(Reg(2)),
    Some(Reg(3)),
    Some(STACK),
    Some(Reg(5)),
    Some(Reg(6)),
    Some(Reg(7)),
    Some(Reg(8)),
    Some(Reg(9)),
    None,
    None,
    Some(Reg(10)),
    Some(Reg(11)),
    None,
    None,
];

/// The guest's RSP.
pub const STACK: Reg = Reg(12);

/// Guest registers in host registers: numbers and homes.
pub fn pinned() -> impl Iterator<Item = (usize, Reg)> {
    HOME.iter()
        .enumerate()
        .filter_map(|(number, home)| home.map(|home| (number, home)))
}

/// Number of a general register of any width, or `None` for another kind of register.
pub fn number(register: Register) -> Option<usize> {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            Some(register as usize - Register::AH as usize)
        }
        _ if register.is_gpr() => Some(register.full_register() as usize - Register::RAX as usize),
        _ => None,
    }
}

/// True for AH, CH, DH and BH.
pub fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// The register of the width of `like` in the place of host register `host`.
pub fn sized(like: Register, host: Reg) -> Register {
    let number = u32::from(host.0);
    if like.is_gpr8() {
        match number {
            0..4 => Register::AL + number,
            4..8 => Register::SPL + (number - 4),
            _ => Register::R8L + (number - 8),
        }
    } else if like.is_gpr16() {
        Register::AX + number
    } else if like.is_gpr32() {
        Register::EAX + number
    } else {
        Register::RAX + number
    }
}

const _: () = assert!(reg::RSP == 4);
