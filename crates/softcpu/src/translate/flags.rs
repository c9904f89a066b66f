//! Where the arithmetic flags are.
//!
//! Between regions, and whenever the interpreter is called, they are in the state. In between they may be in the host's flags only,
//! or nowhere, if they can be computed again ([`super::recipe`]) or nothing looks at them before they are overwritten.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::Single;
use super::generic::is_copied;
use super::lower::Lowering;
use super::memory::is_simple;
use super::registers::is_high_byte;
use crate::block::Owner;
use crate::exec::fast::select::is_nop;
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
    /// Nowhere; the recipe computes them.
    Recipe,
    /// Nowhere; they are overwritten before anything can look at them.
    Dead,
}

/// What an instruction does with the flags.
#[derive(Debug, Clone, Copy)]
pub struct Effect {
    /// It needs them before: because it reads some, or lets some through.
    pub needs: bool,
    /// It reads some.
    pub reads: bool,
    /// It leaves others.
    pub changes: bool,
}

/// The effect of `i`.
pub fn effect(i: &Instruction) -> Effect {
    let modified = i.rflags_modified() & ARITHMETIC;
    let reads = i.rflags_read() & ARITHMETIC != 0;
    if is_shift(i.mnemonic()) {
        // By how much CL shifts is not known, and a shift by zero lets flags through. Processors change OF even where a rotation
        // goes all the way round.
        return Effect {
            needs: modified != ARITHMETIC || !shifts_by_constant(i),
            reads,
            changes: true,
        };
    }
    Effect {
        needs: reads || modified != 0 && modified != ARITHMETIC,
        reads,
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

/// True unless it is certain that `single` needs no flags but those that it reads: it may fault, or be the interpreter's.
pub fn may_stop(single: &Single) -> bool {
    let i = &single.instruction;
    let copied = match &single.owner {
        Owner::Family(family) => {
            is_nop(i)
                || matches!(i.mnemonic(), Mnemonic::Lea) && is_simple(i) && i.op0_register().size() >= 4
                || !matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) && is_copied(i, *family)
        }
        _ => false,
    };
    let operands = 0..i.op_count();
    !copied
        || i.mnemonic() != Mnemonic::Lea && operands.clone().any(|n| matches!(i.op_kind(n), OpKind::Memory))
        || operands
            .clone()
            .any(|n| i.op_kind(n) == OpKind::Register && is_high_byte(i.op_register(n)))
}

impl Lowering<'_> {
    pub(super) const FLAGS: usize = offset_of!(Cpu, flags);

    /// Brings the flags into the state, before translated code is left or the interpreter is called.
    pub fn flags_to_state(&mut self) {
        match self.flags {
            Flags::State | Flags::Both => return,
            Flags::Host => {}
            Flags::Recipe => match self.recipe {
                Some(recipe) => self.cook(&recipe),
                None => self.broken = true,
            },
            Flags::Dead => {
                self.broken = true;
                return;
            }
        }
        self.code.save_flags(Self::FLAGS);
        self.flags = Flags::Both;
    }

    /// Brings the flags into the host's. Uses `S1` and `S2`.
    pub fn flags_to_host(&mut self) {
        match self.flags {
            Flags::Host | Flags::Both => {}
            Flags::State => {
                self.code.load_flags(Self::FLAGS);
                self.flags = Flags::Both;
            }
            Flags::Recipe => match self.recipe {
                Some(recipe) => {
                    self.cook(&recipe);
                    self.flags = Flags::Host;
                }
                None => self.broken = true,
            },
            Flags::Dead => self.broken = true,
        }
    }

    /// Before the host's flags are changed by something that is not the guest's.
    pub fn spare_flags(&mut self) {
        if self.flags == Flags::Host && self.recipe.is_none() {
            self.flags_to_state();
        }
        self.flags = match self.flags {
            Flags::Host => Flags::Recipe,
            Flags::Both => Flags::State,
            other => other,
        };
    }

    /// True if the flags after instruction `index` are overwritten before anything looks at them.
    pub fn are_dead_after(&self, index: usize) -> bool {
        self.region.are_dead_from(self.part, index + 1, self.singles)
    }
}
