//! Divisions.
//!
//! A division that would fault is the interpreter's: what can be seen cheaply to be safe is done in place. For DIV that is exact; for
//! IDIV it is the case that compilers make, a dividend that fits into its lower half.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::assembler::{Memory, RAX, RDX, S0, S1, S2, condition};
use super::flags::Flags;
use super::lower::Lowering;
use super::memory::{Access, is_simple};

impl Lowering<'_> {
    /// DIV and IDIV with 32 and 64 bits. `None` leaves it to the interpreter.
    pub(super) fn divide(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let signed = match i.mnemonic() {
            Mnemonic::Div => false,
            Mnemonic::Idiv => true,
            _ => return None,
        };
        let size = match i.op0_kind() {
            OpKind::Register => i.op0_register().size(),
            _ => i.memory_size().size(),
        };
        let wide = match size {
            4 => false,
            8 => true,
            _ => return None,
        };
        self.spare_flags();
        if i.op0_kind() == OpKind::Register {
            self.load_register(S1, i.op0_register())?;
        } else {
            if !is_simple(i) {
                return None;
            }
            self.operand(i, index, Access::Read, size);
            if wide {
                self.code.load(S1, Memory::at(S0, 0));
            } else {
                self.code.load32(S1, Memory::at(S0, 0));
            }
        }
        let miss = self.miss(index);
        if signed {
            self.code.mov(S2, RAX);
            self.code.spread_sign(wide, S2);
            self.code.cmp_registers(wide, S2, RDX);
            self.code.jump_if(condition::NE, miss);
            // Neither 0 nor -1.
            self.code.lea(S2, Memory::at(S1, 1));
            self.code.mov_imm32(S0, 1);
            self.code.cmp_registers(wide, S2, S0);
            self.code.jump_if(condition::BE, miss);
            self.code.idiv(wide, S1);
        } else {
            self.code.cmp_registers(wide, RDX, S1);
            self.code.jump_if(condition::AE, miss);
            self.code.div(wide, S1);
        }
        // The flags are undefined now: those in the state are as good as any.
        self.flags = Flags::State;
        self.recipe = None;
        Some(())
    }
}
