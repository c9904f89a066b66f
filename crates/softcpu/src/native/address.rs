//! Memory operands of native instructions in a form that is quick to evaluate.

use iced_x86::{Instruction, OpKind, Register};

use crate::exec::address::segment_index;
use crate::fault::Result;
use crate::mmu::access::Access;
use crate::state::{Cpu, reg, seg};

/// A memory operand: `segment:[base + (index << shift) + displacement] & mask`.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    segment: u8,
    base: u8,
    index: u8,
    shift: u8,
    displacement: u64,
    mask: u64,
}

impl Address {
    /// The memory operand of `instruction`; of no meaning if it has none.
    pub fn of(instruction: &Instruction) -> Self {
        let number = |register: Register| match register {
            Register::None => reg::ZERO as u8,
            Register::RIP | Register::EIP => reg::RIP_BASE as u8,
            _ if register.is_gpr() => register.full_register().number() as u8,
            _ => reg::ZERO as u8,
        };
        let implied = (0..instruction.op_count()).find_map(|operand| match instruction.op_kind(operand) {
            OpKind::MemorySegDI => Some(Register::DI),
            OpKind::MemorySegEDI => Some(Register::EDI),
            OpKind::MemorySegRDI => Some(Register::RDI),
            _ => None,
        });
        let base = implied.unwrap_or(instruction.memory_base());
        let index = instruction.memory_index();
        let width = [base, index]
            .into_iter()
            .find(|register| register.is_gpr() || register.is_ip())
            .map_or(instruction.memory_displ_size() as usize, Register::size);
        Self {
            segment: segment_index(instruction.memory_segment()).unwrap_or(seg::DS) as u8,
            base: number(base),
            index: number(index),
            shift: instruction.memory_index_scale().trailing_zeros() as u8,
            displacement: instruction.memory_displacement64(),
            mask: match width {
                2 => 0xffff,
                4 => 0xffff_ffff,
                _ => u64::MAX,
            },
        }
    }

    /// The segment register's index.
    #[inline]
    pub fn segment(&self) -> usize {
        usize::from(self.segment)
    }

    /// The offset in the segment, by the current register values.
    #[inline]
    pub fn offset(&self, cpu: &Cpu) -> u64 {
        let index = cpu.gpr[usize::from(self.index)] << self.shift;
        cpu.gpr[usize::from(self.base)]
            .wrapping_add(index)
            .wrapping_add(self.displacement)
            & self.mask
    }

    /// The offset that `index`, from a vector register, gives instead of the index register's value.
    pub fn offset_with_index(&self, cpu: &Cpu, index: u64) -> u64 {
        cpu.gpr[usize::from(self.base)]
            .wrapping_add(index << self.shift)
            .wrapping_add(self.displacement)
            & self.mask
    }

    /// The linear address of `len` bytes, checked as [`Cpu::linear`] does.
    #[inline]
    pub fn linear(&self, cpu: &mut Cpu, len: usize, access: Access) -> Result<u64> {
        let offset = self.offset(cpu);
        cpu.linear(self.segment(), offset, len as u64, access)
    }
}
