//! BT, BTS, BTR, BTC of a bit in memory whose number is in a register: it may lie far from the operand's address.

use iced_x86::{Instruction, Mnemonic};

use super::assembler::{Memory, S0, S1};
use super::flags::{self, Flags};
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::state_at;

impl Lowering<'_> {
    /// One of them with 32 or 64 bits. `None` leaves it to the interpreter.
    pub(super) fn bit_in_memory(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let (opcode, access) = match i.mnemonic() {
            Mnemonic::Bt => (0xa3, Access::Read),
            Mnemonic::Bts => (0xab, Access::Write),
            Mnemonic::Btr => (0xb3, Access::Write),
            Mnemonic::Btc => (0xbb, Access::Write),
            _ => return None,
        };
        let source = i.op1_register();
        let wide = source.size() == 8;
        if !is_simple(i) || source.size() < 4 {
            return None;
        }
        let (bits, scale) = if wide { (64, 3) } else { (32, 2) };
        self.linear_address(i);
        self.load_register(S1, source)?;
        if !wide {
            self.code.sign_extend32(S1);
        }
        self.code.sar(S1, scale + 3);
        let word = Memory {
            base: Some(S0),
            index: Some((S1, scale)),
            disp: 0,
        };
        self.code.lea(S0, word);
        self.look_up(index, access, source.size());
        self.load_register(S1, source)?;
        self.code.and32(S1, bits - 1);
        if flags::effect(i).needs {
            self.code.store_state(S1, state_at::KEPT);
            self.flags_to_host();
            self.code.load_state(S1, state_at::KEPT);
        }
        if i.has_lock_prefix() {
            self.code.raw(&[0xf0]);
        }
        self.code.bit_operation(wide, opcode);
        self.flags = Flags::Host;
        self.recipe = None;
        Some(())
    }
}
