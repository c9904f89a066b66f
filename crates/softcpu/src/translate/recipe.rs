//! Flags that are computed once more where they are needed, instead of being saved.
//!
//! Most flags are overwritten before anything looks at them, but what looks may also be a fault. As long as the operands of the
//! instruction that left the flags are where they were, or can be had back from its result, the flags need not be saved: what needs
//! them executes it again, on a scratch register.

use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::assembler::{Memory, Reg, S1, S2};
use super::flags::{self, Flags};
use super::gpr_at;
use super::lower::Lowering;
use super::registers::{HOME, is_high_byte, number, sized};

/// Instructions of a [`Recipe`] at most.
const STEPS: usize = 3;

/// The instructions that compute the flags, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The first one lets some flags through, which are in the state.
    from_state: bool,
    steps: [u16; STEPS],
    len: usize,
    /// General registers whose values it needs, as bits.
    inputs: u16,
}

impl Recipe {
    /// True if one of the registers in `written` is needed.
    pub fn needs(&self, written: u16) -> bool {
        self.inputs & written != 0
    }
}

/// How the flags of an instruction can be had again after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// By the instruction itself, which only compares.
    Compare,
    /// From its result.
    Result,
    /// By the instruction itself, on what its destination held before.
    Undo,
}

/// How `i`'s flags can be had again, and which registers that takes.
fn again(i: &Instruction) -> Option<(Again, u16)> {
    use Mnemonic::*;
    let way = match i.mnemonic() {
        Cmp | Test | Bt => Again::Compare,
        And | Or | Xor => Again::Result,
        Add | Sub | Inc | Dec | Neg => Again::Undo,
        _ => return None,
    };
    let destination = (i.op0_kind() == OpKind::Register).then(|| i.op0_register())?;
    let mut inputs = 1 << number(destination)?;
    if is_high_byte(destination) {
        return None;
    }
    if way != Again::Result && i.op_count() > 1 {
        match i.op1_kind() {
            OpKind::Memory => return None,
            OpKind::Register => {
                let source = i.op1_register();
                let bit = 1 << number(source)?;
                if is_high_byte(source) || way == Again::Undo && bit == inputs {
                    return None;
                }
                inputs |= bit;
            }
            // Its opposite does not fit into 32 bits.
            _ if i.immediate(1) as i32 == i32::MIN => return None,
            _ => {}
        }
    }
    Some((way, inputs))
}

/// The same as `code`, which may be a form for the accumulator alone.
fn for_any_register(code: Code) -> Code {
    match code {
        Code::Add_AL_imm8 => Code::Add_rm8_imm8,
        Code::Add_AX_imm16 => Code::Add_rm16_imm16,
        Code::Add_EAX_imm32 => Code::Add_rm32_imm32,
        Code::Add_RAX_imm32 => Code::Add_rm64_imm32,
        Code::Sub_AL_imm8 => Code::Sub_rm8_imm8,
        Code::Sub_AX_imm16 => Code::Sub_rm16_imm16,
        Code::Sub_EAX_imm32 => Code::Sub_rm32_imm32,
        Code::Sub_RAX_imm32 => Code::Sub_rm64_imm32,
        other => other,
    }
}

impl Lowering<'_> {
    /// Notes how the flags that instruction `index` has left in the host's can be had again. `before` is how the older ones could, or
    /// `None` in it if they are in the state.
    pub(super) fn note_recipe(&mut self, index: usize, before: Option<Option<Recipe>>) {
        let i = &self.singles[index].instruction;
        self.recipe = again(i).and_then(|(_, inputs)| {
            let mut recipe = Recipe {
                from_state: false,
                steps: [0; STEPS],
                len: 0,
                inputs: 0,
            };
            if flags::effect(i).needs {
                match before? {
                    Some(older) => recipe = older,
                    None => recipe.from_state = true,
                }
            }
            *recipe.steps.get_mut(recipe.len)? = index as u16;
            recipe.len += 1;
            recipe.inputs |= inputs;
            Some(recipe)
        });
    }

    /// The general registers that `i` writes, as bits.
    pub(super) fn written(&mut self, i: &Instruction) -> u16 {
        self.infos
            .info(i)
            .used_registers()
            .iter()
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead))
            .filter_map(|used| number(used.register()))
            .fold(0, |bits, number| bits | 1 << number)
    }

    /// Computes the flags by `recipe` into the host's. Uses `S1` and `S2`.
    pub(super) fn cook(&mut self, recipe: &Recipe) {
        if recipe.from_state {
            self.code.load_flags(Self::FLAGS);
        }
        for &step in &recipe.steps[..recipe.len] {
            let i = self.singles[usize::from(step)].instruction;
            let Some((way, _)) = again(&i) else {
                continue;
            };
            let destination = i.op0_register();
            let mut copy = i;
            match way {
                Again::Compare => {
                    let host = self.register_or(destination, S1);
                    copy.set_op_register(0, sized(destination, host));
                    self.name_source(&mut copy);
                }
                Again::Result => {
                    let host = sized(destination, self.register_or(destination, S1));
                    let code = match destination.size() {
                        1 => Code::Test_rm8_r8,
                        2 => Code::Test_rm16_r16,
                        4 => Code::Test_rm32_r32,
                        _ => Code::Test_rm64_r64,
                    };
                    let test = Instruction::with2(code, host, host);
                    self.broken |= test.is_err();
                    copy = test.unwrap_or_default();
                }
                Again::Undo => {
                    self.undo(&i);
                    copy.set_code(for_any_register(i.code()));
                    copy.set_op_register(0, sized(destination, S1));
                    self.name_source(&mut copy);
                }
            }
            match self.encode(&copy) {
                Some(bytes) => {
                    self.code.raw(&bytes);
                    self.give_back(bytes);
                }
                None => self.broken = true,
            }
        }
    }

    /// Puts what the destination of `i` held before into `S1`; its upper bits may be anything.
    fn undo(&mut self, i: &Instruction) {
        let host = self.register_or(i.op0_register(), S1);
        let by_register = i.op_count() > 1 && i.op1_kind() == OpKind::Register;
        if by_register {
            let source = self.register_or(i.op1_register(), S2);
            self.code.mov(S1, host);
            if i.mnemonic() == Mnemonic::Add {
                self.code.sub_register(S1, source);
            } else {
                self.code.add_register(S1, source);
            }
            return;
        }
        let by = match i.mnemonic() {
            Mnemonic::Inc => -1,
            Mnemonic::Dec => 1,
            Mnemonic::Add => (i.immediate(1) as i32).wrapping_neg(),
            Mnemonic::Sub => i.immediate(1) as i32,
            _ => {
                self.code.mov(S1, host);
                self.code.neg(S1);
                return;
            }
        };
        // LEA leaves alone the flags that INC and DEC let through.
        self.code.lea(S1, Memory::at(host, by));
    }

    /// The host register that holds `register`'s whole, which is `scratch` if it lives in memory.
    fn register_or(&mut self, register: Register, scratch: Reg) -> Reg {
        let number = number(register).unwrap_or_default();
        HOME[number].unwrap_or_else(|| {
            self.code.load_state(scratch, gpr_at(number));
            scratch
        })
    }

    /// Lets the second operand of `copy` be where the host has it.
    fn name_source(&mut self, copy: &mut Instruction) {
        if copy.op_count() > 1 && copy.op1_kind() == OpKind::Register {
            let source = copy.op1_register();
            let host = self.register_or(source, S2);
            copy.set_op_register(1, sized(source, host));
        }
    }

    /// Before instruction `index`: sees to it that the flags are not lost with a register that it writes. Returns true if the recipe
    /// does not outlast the instruction.
    pub(super) fn keep_flags(&mut self, index: usize) -> bool {
        let Some(recipe) = self
            .recipe
            .filter(|_| matches!(self.flags, Flags::Host | Flags::Recipe))
        else {
            return false;
        };
        let i = self.singles[index].instruction;
        if !recipe.needs(self.written(&i)) {
            return false;
        }
        let effect = flags::effect(&i);
        let overwritten = effect.changes && !effect.needs;
        let disturbs = self.flags == Flags::Recipe || flags::may_stop(&self.singles[index]);
        if !overwritten && disturbs && !self.are_dead_after(index) {
            self.flags_to_state();
        }
        true
    }

    /// True if the recipe is not the one of instruction `index`.
    pub(super) fn recipe_is_older(&self, index: usize) -> bool {
        self.recipe
            .is_none_or(|recipe| recipe.steps[..recipe.len].last() != Some(&(index as u16)))
    }

    /// After an instruction that has written a register of the recipe.
    pub(super) fn forget_recipe(&mut self) {
        self.recipe = None;
        if self.flags == Flags::Recipe {
            self.flags = Flags::Dead;
        }
    }
}
