//! String instructions.
//!
//! The host executes the guest's instruction on its own memory: RSI and RDI are moved to host addresses and back. That is done where
//! the whole of it lies in one page at either end, upwards, with 64-bit addresses. The rest is the interpreter's.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::assembler::{Label, Memory, RCX, RDI, RSI, Reg, S0, S1, S2, condition};
use super::flags::Flags;
use super::lower::Lowering;
use super::memory::{Access, find, host_minus_linear, segment_base_of};
use super::registers::HOME;
use super::state_at;
use crate::flags::bit;
use crate::state::{Cpu, reg};

/// What a string instruction does.
struct Form {
    /// Bytes of an element.
    width: u8,
    /// Without prefixes, in the form for bytes.
    opcode: u8,
    /// It reads at RSI.
    source: bool,
    /// What it does at RDI.
    target: Option<Access>,
    /// It sets the flags.
    compares: bool,
}

impl Form {
    fn of(i: &Instruction) -> Option<Self> {
        use Mnemonic::*;
        let width = match i.mnemonic() {
            Movsb | Stosb | Lodsb | Cmpsb | Scasb => 1,
            Movsw | Stosw | Lodsw | Cmpsw | Scasw => 2,
            Movsd | Stosd | Lodsd | Cmpsd | Scasd => 4,
            _ => 8,
        };
        let (opcode, source, target) = match i.mnemonic() {
            Movsb | Movsw | Movsd | Movsq => (0xa4, true, Some(Access::Write)),
            Cmpsb | Cmpsw | Cmpsd | Cmpsq => (0xa6, true, Some(Access::Read)),
            Stosb | Stosw | Stosd | Stosq => (0xaa, false, Some(Access::Write)),
            Lodsb | Lodsw | Lodsd | Lodsq => (0xac, true, None),
            Scasb | Scasw | Scasd | Scasq => (0xae, false, Some(Access::Read)),
            _ => return None,
        };
        Some(Self {
            width,
            opcode,
            source,
            target,
            compares: target == Some(Access::Read),
        })
    }

    /// The instruction's bytes.
    fn bytes(&self, i: &Instruction) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4);
        if self.width == 2 {
            bytes.push(0x66);
        }
        if i.has_repne_prefix() && self.compares {
            bytes.push(0xf2);
        } else if i.has_repne_prefix() || i.has_rep_prefix() {
            bytes.push(0xf3);
        }
        if self.width == 8 {
            bytes.push(0x48);
        }
        bytes.push(self.opcode | u8::from(self.width > 1));
        bytes
    }
}

impl Lowering<'_> {
    /// MOVS, STOS, LODS, CMPS, SCAS, also repeated. `None` leaves it to the interpreter.
    pub(super) fn string(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let form = Form::of(i)?;
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        let at_home = [reg::RAX, reg::RCX, reg::RSI, reg::RDI]
            .into_iter()
            .all(|number| HOME[number] == Some(Reg(number as u8)));
        let narrow = (0..i.op_count()).any(|n| {
            matches!(
                i.op_kind(n),
                OpKind::MemorySegSI
                    | OpKind::MemorySegESI
                    | OpKind::MemorySegDI
                    | OpKind::MemorySegEDI
                    | OpKind::MemoryESDI
                    | OpKind::MemoryESEDI
            )
        });
        // Nobody repeats LODS.
        if !at_home || narrow || repeated && form.target.is_none() {
            return None;
        }
        self.flags_to_state();
        self.flags = Flags::State;
        let (miss, done) = (self.miss(index), self.code.label());
        self.code
            .test_state32(offset_of!(Cpu, rflags_rest), bit::DF as u32);
        self.code.jump_if(condition::NE, miss);
        if repeated {
            self.code.cmp_imm(RCX, 0);
            self.code.jump_if(condition::E, done);
            // So many do not fit into a page, and what follows would overflow.
            self.code.cmp_imm(RCX, 4096 / i32::from(form.width));
            self.code.jump_if(condition::A, miss);
        }
        if let Some(access) = form.target {
            self.code.mov(S0, RDI);
            self.page_of(access, &form, repeated, miss);
            self.code.load(S0, host_minus_linear(access));
        }
        if form.source {
            if form.target.is_some() {
                self.code.store_state(S0, state_at::KEPT);
            }
            let base = segment_base_of(i);
            self.code.mov(S0, RSI);
            if let Some(base) = base {
                self.code.add_state(S0, base);
            }
            self.page_of(Access::Read, &form, repeated, miss);
            self.code.load(S1, host_minus_linear(Access::Read));
            if let Some(base) = base {
                self.code.add_state(S1, base);
            }
            if form.target.is_some() {
                self.code.load_state(S0, state_at::KEPT);
            }
        }
        let moves = [(form.target.is_some(), RDI, S0), (form.source, RSI, S1)];
        let moves = moves.into_iter().filter(|(moved, ..)| *moved);
        for (_, register, by) in moves.clone() {
            self.code.lea(register, sum(register, by));
            self.code.neg(by);
        }
        self.code.raw(&form.bytes(i));
        for (_, register, by) in moves {
            self.code.lea(register, sum(register, by));
        }
        if form.compares {
            self.flags = Flags::Host;
            self.recipe = None;
            if repeated {
                // Where nothing was compared the host's flags are not the guest's.
                self.flags_to_state();
                self.flags = Flags::State;
            }
        }
        self.code.place(done);
        Some(())
    }

    /// Puts the TLB's entry for the linear address in `S0` into `S1`, if all elements from there on lie in the page.
    fn page_of(&mut self, access: Access, form: &Form, repeated: bool, miss: Label) {
        find(self.code, access);
        if repeated {
            // The difference to the tag is never so large that this overflows: below an entry's index they are the same.
            let index = Some((RCX, form.width.trailing_zeros() as u8));
            self.code.lea(
                S2,
                Memory {
                    base: Some(S2),
                    index,
                    disp: 0,
                },
            );
            self.code.cmp_imm(S2, 4096);
        } else {
            self.code.cmp_imm(S2, 4096 - i32::from(form.width));
        }
        self.code.jump_if(condition::A, miss);
    }
}

/// The address that is the sum of two registers.
fn sum(base: Reg, index: Reg) -> Memory {
    Memory {
        base: Some(base),
        index: Some((index, 0)),
        disp: 0,
    }
}
