//! Which handler executes an instruction.

use iced_x86::{FlowControl, Instruction};

use super::{Op, OpRef, Outcome};
use crate::exec::Family;
use crate::fault::Flow;
use crate::native::{self, NativeOp};
use crate::state::Cpu;
use crate::system;

/// Who executes an instruction.
pub enum Owner {
    /// A family of legacy integer instructions.
    Family(Family),
    /// The native part.
    Native(Box<NativeOp>),
    /// The system part.
    System,
}

impl Owner {
    /// The owner of `i` in a block of mode `mode`.
    pub fn of(i: &Instruction, mode: u32) -> Self {
        match Family::of(i) {
            Some(family) => Owner::Family(family),
            None => match native::compile(i, mode) {
                Some(op) => Owner::Native(Box::new(op)),
                None => Owner::System,
            },
        }
    }

    /// True if nothing after `i` belongs to its block.
    pub fn ends_block(&self, i: &Instruction) -> bool {
        match self {
            Owner::System => system::ends_block(i),
            // A CPU that waits looks around.
            Owner::Family(Family::Pause) => true,
            _ => i.flow_control() != FlowControl::Next,
        }
    }
}

/// Sets the handler of an instruction without a specialised form.
pub fn out_of_line(owner: &Owner, i: &Instruction, op: &mut Op) {
    let ends = owner.ends_block(i);
    op.handler = match owner {
        Owner::Family(family) => {
            op.family = *family;
            if ends { family_end } else { family_op }
        }
        Owner::Native(_) => {
            if ends {
                native_end
            } else {
                native_op
            }
        }
        Owner::System => {
            if ends {
                system_end
            } else {
                system_op
            }
        }
    };
}

/// Makes the instruction pointers exact for a handler out of line.
#[inline(always)]
fn settle_rip(cpu: &mut Cpu, op: OpRef) {
    cpu.rip = op.rip(cpu);
    cpu.next_rip = op.next_rip(cpu);
}

/// Executes an instruction by its family.
pub fn family_op(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    match op.family.execute(cpu, op.instruction()) {
        Ok(Flow::Next) => op.continue_with_next(cpu),
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    }
}

/// Executes a block's last instruction by its family.
pub fn family_end(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    match op.family.execute(cpu, op.instruction()) {
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            Outcome::Next
        }
        Ok(Flow::Jump) => Outcome::Jump,
        Err(stop) => stop.into(),
    }
}

fn native_op(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    match native::execute(cpu, op.native()) {
        Ok(Flow::Next) => op.continue_with_next(cpu),
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    }
}

fn native_end(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    match native::execute(cpu, op.native()) {
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            Outcome::Look
        }
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    }
}

fn system_op(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    let mode = cpu.mode;
    match system::execute(cpu, op.instruction()) {
        Ok(Flow::Next) if system::may_go_on(cpu, mode) => op.continue_with_next(cpu),
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            Outcome::Halfway
        }
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    }
}

fn system_end(cpu: &mut Cpu, op: OpRef) -> Outcome {
    settle_rip(cpu, op);
    match system::execute(cpu, op.instruction()) {
        Ok(Flow::Next) => {
            cpu.rip = cpu.next_rip;
            Outcome::Look
        }
        Ok(Flow::Jump) => Outcome::Look,
        Err(stop) => stop.into(),
    }
}
