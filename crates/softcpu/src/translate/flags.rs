//! Where the arithmetic flags are.
//!
//! Between blocks, and whenever the interpreter may be called, they are in the state. In between they may be in the host's
//! flags only: until something changes those, or an instruction could stop.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::lower::Lowering;
use crate::state::Cpu;

/// The six arithmetic flags.
const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Where the flags are while a block is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// In the state; the host's may be anything.
    State,
    /// In the host's; those in the state are out of date.
    Host,
    /// In both.
    Both,
}

/// What an instruction does with the flags.
#[derive(Debug, Clone, Copy)]
pub struct Effect {
    /// It needs them before: because it reads some, or lets some through.
    pub needs: bool,
    /// It leaves others.
    pub changes: bool,
}

/// The effect of `i`.
pub fn effect(i: &Instruction) -> Effect {
    let modified = i.rflags_modified() & ARITHMETIC;
    if is_shift(i.mnemonic()) {
        // By how much CL shifts is not known, and a shift by zero lets flags through. Processors change OF even where a rotation
        // goes all the way round.
        return Effect {
            needs: modified != ARITHMETIC || !shifts_by_constant(i),
            changes: true,
        };
    }
    Effect {
        needs: i.rflags_read() & ARITHMETIC != 0 || modified != 0 && modified != ARITHMETIC,
        changes: modified != 0,
    }
}

fn is_shift(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
    )
}

fn shifts_by_constant(i: &Instruction) -> bool {
    let last = i.op_count() - 1;
    i.op_kind(last) == OpKind::Immediate8 && i.immediate8() & 31 != 0
}

impl Lowering<'_> {
    const FLAGS: usize = offset_of!(Cpu, flags);

    /// Brings the flags into the state, before the host's are changed or the interpreter is called.
    pub fn flags_to_state(&mut self) {
        if self.flags == Flags::Host {
            self.code.save_flags(Self::FLAGS);
            self.flags = Flags::Both;
        }
    }

    /// Brings the flags into the host's.
    pub fn flags_to_host(&mut self) {
        if self.flags == Flags::State {
            self.code.load_flags(Self::FLAGS);
            self.flags = Flags::Both;
        }
    }
}
