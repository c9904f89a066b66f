//! Instructions that are copied, with other registers and another memory operand.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::assembler::{Reg, S0, S1, S2};
use super::flags::{self, Flags};
use super::gpr_at;
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::registers::{HOME, is_high_byte, number, sized};
use super::spilled;
use crate::exec::Family;
use crate::exec::fast::select::is_nop;
use crate::native::{InPlace, NativeOp};

/// A guest register that lives in memory, while an instruction uses it.
struct Guest {
    number: usize,
    scratch: Reg,
    load: bool,
    store: bool,
}

/// How an instruction is copied.
struct Copying {
    /// Its memory operand must lie at a multiple of its size.
    aligned: bool,
    /// It writes a register that the flags' recipe needs.
    spent: bool,
}

/// What becomes of an instruction.
struct Plan {
    /// What the host executes.
    bytes: Vec<u8>,
    guests: Vec<Guest>,
    /// How memory is accessed, and how many bytes.
    memory: Option<(Access, usize)>,
}

impl Lowering<'_> {
    /// An instruction that the host can execute as well. `None` leaves it to the interpreter.
    pub(super) fn generic(
        &mut self,
        index: usize,
        i: &Instruction,
        family: Family,
        spent: bool,
    ) -> Option<()> {
        if is_nop(i) {
            return Some(());
        }
        if i.mnemonic() == Mnemonic::Lea {
            return self.lea(i);
        }
        if family == Family::MulDiv && matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) {
            return self.divide(index, i);
        }
        if family == Family::Bits && i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register {
            return self.bit_in_memory(index, i);
        }
        if !is_copied(i, family) {
            return None;
        }
        let plan = self.plan(i)?;
        self.copy(
            index,
            i,
            plan,
            Copying {
                aligned: i.mnemonic() == Mnemonic::Cmpxchg16b,
                spent,
            },
        );
        Some(())
    }

    /// An instruction without system semantics. `None` leaves it to the interpreter.
    pub(super) fn native(&mut self, index: usize, i: &Instruction, op: &NativeOp, spent: bool) -> Option<()> {
        let in_place = op.in_place(self.block.mode, self.usable)?;
        if matches!(i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr) {
            return self.load_mxcsr(index, i);
        }
        if in_place == InPlace::Nothing {
            return Some(());
        }
        let plan = self.plan(i)?;
        let alignment = usize::from(op.alignment());
        if plan
            .memory
            .is_some_and(|(_, size)| alignment != 1 && alignment != size)
        {
            return None;
        }
        if in_place == InPlace::X87 {
            self.need_x87(index, i);
        }
        self.need_vectors(in_place);
        let aligned = alignment != 1;
        self.copy(index, i, plan, Copying { aligned, spent });
        if in_place == InPlace::X87 {
            self.note_x87(i, op);
        }
        Some(())
    }

    /// Puts the copy of `i` that `plan` describes here.
    fn copy(&mut self, index: usize, i: &Instruction, plan: Plan, how: Copying) {
        let effect = flags::effect(i);
        if let Some((access, size)) = plan.memory {
            if how.aligned {
                self.aligned_operand(i, index, access, size);
            } else {
                self.operand(i, index, access, size);
            }
        }
        let moot = effect.needs && !effect.reads && self.are_dead_after(index);
        if effect.needs && !moot {
            self.flags_to_host();
        }
        for guest in plan.guests.iter().filter(|guest| guest.load) {
            self.code.load_state(guest.scratch, gpr_at(guest.number));
        }
        let before = match self.flags {
            Flags::State | Flags::Both => Some(None),
            Flags::Host if !how.spent => self.recipe.map(Some),
            _ => None,
        };
        self.code.raw(&plan.bytes);
        self.give_back(plan.bytes);
        for guest in plan.guests.iter().filter(|guest| guest.store) {
            self.code.store_state(guest.scratch, gpr_at(guest.number));
        }
        if moot {
            self.flags = Flags::Dead;
            self.recipe = None;
        } else if effect.changes {
            self.flags = Flags::Host;
            self.note_recipe(index, before);
        }
    }

    fn plan(&mut self, i: &Instruction) -> Option<Plan> {
        let info = self.infos.info(i);
        let memory = match info.used_memory() {
            [] => None,
            [one] => {
                let access = match one.access() {
                    OpAccess::Read | OpAccess::CondRead => Access::Read,
                    _ => Access::Write,
                };
                Some((access, i.memory_size().size()))
            }
            _ => return None,
        };
        if memory.is_some_and(|(_, size)| !matches!(size, 1 | 2 | 4 | 8 | 10 | 16 | 32) || !is_simple(i)) {
            return None;
        }
        let operands = (0..i.op_count()).filter(|&n| i.op_kind(n) == OpKind::Register);
        // What it uses without naming it has to be where the host expects it.
        let named = |register: Register| {
            operands
                .clone()
                .any(|n| number(i.op_register(n)) == number(register))
                || memory.is_some() && [i.memory_base(), i.memory_index()].contains(&register.full_register())
        };
        let hidden_elsewhere = info.used_registers().iter().any(|used| {
            number(used.register()).is_some_and(|n| HOME[n] != Some(Reg(n as u8)) && !named(used.register()))
        });
        if hidden_elsewhere {
            return None;
        }

        let in_memory = if memory.is_none() {
            spilled::form(i, info)
        } else {
            None
        };
        let mut pool = [S2, S1, S0]
            .into_iter()
            .take(if memory.is_some() { 2 } else { 3 });
        let mut guests: Vec<Guest> = Vec::new();
        let mut copy = *i;
        for n in operands {
            let register = i.op_register(n);
            if !register.is_gpr() || in_memory.is_some_and(|form| form.operand == n) {
                continue;
            }
            let number = number(register)?;
            if is_high_byte(register) {
                continue;
            }
            let host = match (HOME[number], guests.iter().find(|guest| guest.number == number)) {
                (Some(home), _) => home,
                (None, Some(guest)) => guest.scratch,
                (None, None) => {
                    let scratch = pool.next()?;
                    guests.push(Guest {
                        number,
                        scratch,
                        load: false,
                        store: false,
                    });
                    scratch
                }
            };
            if let Some(guest) = guests.iter_mut().find(|guest| guest.number == number) {
                let access = info.op_access(n);
                let whole = access == OpAccess::Write && register.size() >= 4;
                guest.load |= !whole;
                guest.store |= !matches!(access, OpAccess::Read | OpAccess::CondRead);
            }
            copy.set_op_register(n, sized(register, host));
        }
        if memory.is_some() {
            copy.set_memory_base(Register::R13);
            copy.set_memory_index(Register::None);
            copy.set_memory_index_scale(1);
            copy.set_memory_displacement64(0);
            copy.set_memory_displ_size(0);
            copy.set_segment_prefix(Register::None);
        }
        if let Some(form) = in_memory {
            form.apply(&mut copy);
        }
        copy.set_has_xacquire_prefix(false);
        copy.set_has_xrelease_prefix(false);
        let bytes = self.encode(&copy)?;
        Some(Plan {
            bytes,
            guests,
            memory,
        })
    }

    /// Lets the encoder use its buffer again.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.encoder.set_buffer(buffer);
    }

    /// The host's encoding of `i`, in the encoder's buffer: see [`Lowering::give_back`].
    pub(super) fn encode(&mut self, i: &Instruction) -> Option<Vec<u8>> {
        let encoded = self.encoder.encode(i, 0);
        let bytes = self.encoder.take_buffer();
        if encoded.is_err() {
            // A part may have been written.
            self.give_back(bytes);
            return None;
        }
        Some(bytes)
    }

    /// LEA, which accesses no memory.
    fn lea(&mut self, i: &Instruction) -> Option<()> {
        let register = i.op0_register();
        if !is_simple(i) || register.size() < 4 {
            return None;
        }
        let number = number(register)?;
        self.effective_address(i);
        match (HOME[number], register.size()) {
            (Some(home), 8) => self.code.mov(home, S0),
            (Some(home), _) => self.code.mov32(home, S0),
            (None, 8) => self.code.store_state(S0, gpr_at(number)),
            (None, _) => {
                self.code.mov32(S0, S0);
                self.code.store_state(S0, gpr_at(number));
            }
        }
        Some(())
    }
}

/// True for instructions that do the same on the host, apart from where their operands are.
pub fn is_copied(i: &Instruction, family: Family) -> bool {
    use Mnemonic::*;
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    match family {
        Family::Integer | Family::Shift | Family::SetCondition | Family::MoveCondition => true,
        // A division may fault.
        Family::MulDiv => matches!(i.mnemonic(), Mul | Imul),
        // With a register as bit number the operand may lie beyond the address.
        Family::Bits => !memory || i.op1_kind() == OpKind::Immediate8 || matches!(i.mnemonic(), Bsf | Bsr),
        Family::Atomic => matches!(i.mnemonic(), Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b),
        Family::Moves => matches!(
            i.mnemonic(),
            Mov | Movzx
                | Movsx
                | Movsxd
                | Xchg
                | Bswap
                | Cbw
                | Cwde
                | Cdqe
                | Cwd
                | Cdq
                | Cqo
                | Clc
                | Stc
                | Cmc
        ),
        _ => false,
    }
}
