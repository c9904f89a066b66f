//! What the interpreter executes: an op for each instruction of a block.

use std::ops::Deref;
use std::ptr::NonNull;

use iced_x86::Instruction;

use super::{Outcome, select};
use crate::exec::Family;
use crate::fault::Stop;
use crate::native::NativeOp;
use crate::state::{Cpu, reg};

/// What executes an op and those after it.
pub type Handler = fn(&mut Cpu, OpRef) -> Outcome;

/// One decoded instruction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Op {
    /// What executes it.
    pub handler: Handler,
    /// Immediate operand; target of a direct branch relative to [`reg::RIP_BASE`]; the condition of SETcc and CMOVcc; address of
    /// the native form.
    pub imm: u64,
    /// Address of the decoded instruction where the handler may need it; see [`OpRef::instruction`].
    pub long: u64,
    /// Displacement of the memory operand; target of a fused jump.
    pub disp: i32,
    /// First register operand, as byte offset into [`Cpu::gpr`].
    pub a: u8,
    /// Second register operand.
    pub b: u8,
    /// Base register of the memory operand, as index into [`Cpu::gpr`].
    pub base: u8,
    /// Index register.
    pub index: u8,
    /// Offset of the instruction in its linear page.
    pub offset: u16,
    /// Its length in bytes.
    pub len: u8,
    /// Shift of the index register.
    pub scale: u8,
    /// Segment register of the memory operand, where its base matters.
    pub segment: u8,
    /// The family that executes the instruction out of line.
    pub family: Family,
}

const _: () = assert!(std::mem::size_of::<Op>() == 40);

/// An op in its block. Every op but a block's last has another after it, and the last one's handler does not ask for it.
#[derive(Clone, Copy)]
pub struct OpRef(*const Op);

/// What a block's ops lie in, and behind them the instructions that handlers out of line work from.
#[repr(C)]
#[derive(Clone, Copy)]
union Slot {
    op: Op,
    instruction: Instruction,
}

const _: () = assert!(std::mem::size_of::<Slot>() == std::mem::size_of::<Op>());

impl Deref for OpRef {
    type Target = Op;

    #[inline(always)]
    fn deref(&self) -> &Op {
        // SAFETY: an OpRef is only made for ops of a block, and a block outlives its execution.
        unsafe { &*self.0 }
    }
}

impl OpRef {
    /// No op.
    pub(super) const NONE: OpRef = OpRef(std::ptr::null());

    pub(super) fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// The op after this one.
    #[inline(always)]
    pub fn next(self) -> OpRef {
        OpRef(self.0.wrapping_add(1))
    }

    /// This op and those after it, `count` altogether; none if there is no op.
    pub(super) fn up_to(self, count: u16) -> impl Iterator<Item = OpRef> {
        let count = if self.is_none() { 0 } else { count };
        (0..usize::from(count)).map(move |at| OpRef(self.0.wrapping_add(at)))
    }

    /// Executes the op after this one, and those after it.
    #[inline(always)]
    pub fn continue_with_next(self, cpu: &mut Cpu) -> Outcome {
        let next = self.next();
        (next.handler)(cpu, next)
    }

    /// The decoded instruction of an op whose handler may go out of line.
    #[inline]
    pub fn instruction(&self) -> &Instruction {
        // SAFETY: the form put the address of an instruction behind the ops there, which lives as long as they.
        unsafe { &*(self.long as *const Instruction) }
    }

    /// Executes the instruction by its family, and those after it.
    #[cold]
    #[inline(never)]
    pub fn out_of_line(self, cpu: &mut Cpu) -> Outcome {
        select::family_op(cpu, self)
    }

    /// Executes the block's last instruction by its family.
    #[cold]
    #[inline(never)]
    pub fn out_of_line_end(self, cpu: &mut Cpu) -> Outcome {
        select::family_end(cpu, self)
    }

    /// The native form of an op whose handler is the native one.
    #[inline]
    pub fn native(&self) -> &NativeOp {
        // SAFETY: as for `instruction`.
        unsafe { &*(self.imm as *const NativeOp) }
    }

    /// Instruction pointer of this op.
    #[inline(always)]
    pub fn rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[reg::RIP_BASE].wrapping_add(u64::from(self.offset)) & cpu.rip_mask
    }

    /// Instruction pointer of what follows this op.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[reg::RIP_BASE].wrapping_add(u64::from(self.offset) + u64::from(self.len)) & cpu.rip_mask
    }

    /// Stops at this op.
    #[cold]
    #[inline(never)]
    pub fn stop(self, cpu: &mut Cpu, stop: Stop) -> Outcome {
        cpu.rip = self.rip(cpu);
        stop.into()
    }
}

/// A block's ops and what they lead to.
pub(super) struct Form {
    slots: NonNull<Slot>,
    /// How many slots.
    len: u16,
    natives: Option<Box<Natives>>,
}

/// Native forms; few blocks have any.
struct Natives(Box<[NativeOp]>);

/// What an allocation takes besides its contents, about.
pub(super) const ALLOCATION: usize = 16;

impl Form {
    /// Puts `ops` together with the instructions and the native forms that those with the given indices lead to.
    pub(super) fn new(
        ops: &mut [Op],
        long: &[(usize, Instruction)],
        natives: &mut Vec<(usize, NativeOp)>,
    ) -> Self {
        let len = ops.len() + long.len();
        let (places, natives): (Vec<usize>, Vec<NativeOp>) = natives.drain(..).unzip();
        let natives = natives.into_boxed_slice();
        for (form, at) in natives.iter().zip(places) {
            ops[at].imm = &raw const *form as u64;
        }
        let mut slots = Vec::with_capacity(len);
        slots.extend(ops.iter().map(|&op| Slot { op }));
        slots.extend(long.iter().map(|&(_, instruction)| Slot { instruction }));
        // A block has 64 instructions at most, so the length fits.
        let slots = Box::leak(slots.into_boxed_slice());
        let (ops, instructions) = slots.split_at_mut(ops.len());
        for ((at, _), instruction) in long.iter().zip(instructions) {
            ops[*at].op.long = &raw const *instruction as u64;
        }
        Self {
            slots: NonNull::from(slots).cast(),
            len: len as u16,
            natives: (!natives.is_empty()).then(|| Box::new(Natives(natives))),
        }
    }

    /// The first op.
    pub(super) fn entry(&self) -> OpRef {
        OpRef(self.slots.as_ptr().cast())
    }

    /// Bytes of host memory.
    pub(super) fn footprint(&self) -> usize {
        let natives = self.natives.as_ref().map_or(0, |natives| {
            std::mem::size_of::<Natives>() + std::mem::size_of_val(&*natives.0) + 2 * ALLOCATION
        });
        usize::from(self.len) * std::mem::size_of::<Slot>() + ALLOCATION + natives
    }
}

impl Drop for Form {
    fn drop(&mut self) {
        let slots = NonNull::slice_from_raw_parts(self.slots, self.len.into());
        // SAFETY: `new` leaked a box of that many slots, and nobody else frees it.
        drop(unsafe { Box::from_raw(slots.as_ptr()) });
    }
}
