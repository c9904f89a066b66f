//! Which specialised handler an instruction gets.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::arithmetic::{self, Adc, Add, And, Cmp, Or, Rol, Ror, Sar, Sbb, Shl, Shr, Sub, Test, Xor};
use super::{Base, Index, Segmented, branch, moves, stack};
use crate::block::{Handler, Op, Owner};
use crate::exec::operand::{register_offset, size};
use crate::exec::{Family, condition_code, control};
use crate::state::{reg, seg};

/// Calls back with the type for an operand size of 1, 4 or 8 bytes.
macro_rules! sized {
    ($size:expr, $t:ident => $handler:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $handler as Handler
            }
            4 => {
                type $t = u32;
                $handler as Handler
            }
            8 => {
                type $t = u64;
                $handler as Handler
            }
            _ => return None,
        }
    };
}

/// The same for 4 and 8 bytes.
macro_rules! wide {
    ($size:expr, $t:ident => $handler:expr) => {
        match $size {
            4 => {
                type $t = u32;
                $handler as Handler
            }
            8 => {
                type $t = u64;
                $handler as Handler
            }
            _ => return None,
        }
    };
}

/// How the memory operand's address is formed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Base,
    Index,
    Segmented,
}

/// Calls back with the way to form the memory operand's address.
macro_rules! addressed {
    ($shape:expr, $a:ident => $handler:expr) => {
        match $shape {
            Shape::Base => {
                type $a = Base;
                $handler
            }
            Shape::Index => {
                type $a = Index;
                $handler
            }
            Shape::Segmented => {
                type $a = Segmented;
                $handler
            }
        }
    };
}

/// Calls back with the arithmetic instruction's kind.
macro_rules! kinds {
    ($mnemonic:expr, $k:ident => $handler:expr) => {
        match $mnemonic {
            Mnemonic::Add => {
                type $k = Add;
                $handler
            }
            Mnemonic::Or => {
                type $k = Or;
                $handler
            }
            Mnemonic::Adc => {
                type $k = Adc;
                $handler
            }
            Mnemonic::Sbb => {
                type $k = Sbb;
                $handler
            }
            Mnemonic::And => {
                type $k = And;
                $handler
            }
            Mnemonic::Sub => {
                type $k = Sub;
                $handler
            }
            Mnemonic::Xor => {
                type $k = Xor;
                $handler
            }
            Mnemonic::Cmp => {
                type $k = Cmp;
                $handler
            }
            Mnemonic::Test => {
                type $k = Test;
                $handler
            }
            _ => return None,
        }
    };
}

/// Calls back with the condition code as a constant.
macro_rules! conditions {
    ($code:expr, $c:ident => $handler:expr) => {
        conditions!(@ $code, $c => $handler; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $code:expr, $c:ident => $handler:expr; $($n:literal)*) => {
        match $code {
            $($n => {
                const $c: u8 = $n;
                $handler
            })*
            _ => return None,
        }
    };
}

/// Where operands come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    RegisterRegister,
    RegisterImmediate,
    RegisterMemory,
    MemoryRegister,
    MemoryImmediate,
    Other,
}

fn form(i: &Instruction) -> Form {
    use OpKind::{Memory, Register};
    let immediate = |kind: OpKind| kind >= OpKind::Immediate8 && kind <= OpKind::Immediate32to64;
    match (i.op0_kind(), i.op1_kind()) {
        (Register, Register) => Form::RegisterRegister,
        (Register, Memory) => Form::RegisterMemory,
        (Memory, Register) => Form::MemoryRegister,
        (Register, kind) if immediate(kind) => Form::RegisterImmediate,
        (Memory, kind) if immediate(kind) => Form::MemoryImmediate,
        _ => Form::Other,
    }
}

/// Fills in the memory operand. `None` if it needs the long way, as for a narrow address.
fn memory(i: &Instruction, op: &mut Op) -> Option<Shape> {
    let number = |register: Register| match register {
        Register::None => Some(reg::ZERO as u8),
        Register::RIP => Some(reg::RIP_BASE as u8),
        _ if register.is_gpr64() => Some(register.number() as u8),
        _ => None,
    };
    op.base = number(i.memory_base())?;
    op.index = number(i.memory_index())?;
    if i.memory_base() == Register::None && i.memory_index() == Register::None && i.memory_displ_size() != 8 {
        // An absolute address: sign-extended from 32 bits, or narrow under an address-size prefix.
        let sign_extended = i.memory_displacement64() as i32 as i64 as u64;
        if i.memory_displ_size() == 4 || sign_extended != i.memory_displacement64() {
            return None;
        }
    }
    op.disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
    op.scale = i.memory_index_scale().trailing_zeros() as u8;
    Some(match i.memory_segment() {
        Register::FS | Register::GS => {
            op.segment = if i.memory_segment() == Register::FS {
                seg::FS
            } else {
                seg::GS
            } as u8;
            Shape::Segmented
        }
        _ if i.memory_index() != Register::None => Shape::Index,
        _ => Shape::Base,
    })
}

/// Chooses the handler of `i` and fills in `op`; `flags_live` says whether anybody may look at its flags. Returns whether the
/// handler needs the decoded instruction, or `None` if there is no specialised one.
pub fn select(i: &Instruction, flags_live: bool, op: &mut Op) -> Option<bool> {
    if i.has_lock_prefix() {
        return None;
    }
    let touches_memory = i.op0_kind() == OpKind::Memory || i.op1_kind() == OpKind::Memory;
    let shape = if touches_memory {
        memory(i, op)?
    } else {
        Shape::Base
    };
    op.handler = match op.family {
        Family::Integer => arithmetic(i, flags_live, shape, op)?,
        Family::Shift => shift(i, flags_live, op)?,
        Family::MulDiv => multiply(i, op)?,
        Family::Moves => moves(i, shape, op)?,
        Family::SetCondition | Family::MoveCondition => conditional(i, op)?,
        Family::Stack => stack(i, op)?,
        Family::Control => {
            return control(i, shape, op).map(|handler| {
                op.handler = handler;
                true
            });
        }
        _ => return None,
    };
    Some(touches_memory || op.family == Family::Stack)
}

fn arithmetic(i: &Instruction, live: bool, shape: Shape, op: &mut Op) -> Option<Handler> {
    let width = size(i, 0);
    let mnemonic = i.mnemonic();
    if i.op_count() == 1 {
        if i.op0_kind() != OpKind::Register {
            return None;
        }
        op.a = register_offset(i.op0_register());
        return Some(match (mnemonic, live) {
            (Mnemonic::Inc, true) => sized!(width, T => arithmetic::inc::<T, true>),
            (Mnemonic::Inc, false) => sized!(width, T => arithmetic::inc::<T, false>),
            (Mnemonic::Dec, true) => sized!(width, T => arithmetic::dec::<T, true>),
            (Mnemonic::Dec, false) => sized!(width, T => arithmetic::dec::<T, false>),
            (Mnemonic::Neg, _) => sized!(width, T => arithmetic::neg::<T>),
            (Mnemonic::Not, _) => sized!(width, T => arithmetic::not::<T>),
            _ => return None,
        });
    }
    let form = form(i);
    match form {
        Form::RegisterRegister | Form::RegisterMemory | Form::RegisterImmediate => {
            op.a = register_offset(i.op0_register());
        }
        _ => {}
    }
    if matches!(form, Form::RegisterRegister | Form::MemoryRegister) {
        op.b = register_offset(i.op1_register());
    }
    if matches!(form, Form::RegisterImmediate | Form::MemoryImmediate) {
        op.imm = i.immediate(1);
    }
    Some(match (form, live) {
        (Form::RegisterRegister, true) => {
            kinds!(mnemonic, K => sized!(width, T => arithmetic::rr::<K, T, true>))
        }
        (Form::RegisterRegister, false) => {
            kinds!(mnemonic, K => sized!(width, T => arithmetic::rr::<K, T, false>))
        }
        (Form::RegisterImmediate, true) => {
            kinds!(mnemonic, K => sized!(width, T => arithmetic::ri::<K, T, true>))
        }
        (Form::RegisterImmediate, false) => {
            kinds!(mnemonic, K => sized!(width, T => arithmetic::ri::<K, T, false>))
        }
        (Form::RegisterMemory, _) => {
            kinds!(mnemonic, K => sized!(width, T => addressed!(shape, A => arithmetic::rm::<K, T, A>)))
        }
        (Form::MemoryRegister, _) => {
            kinds!(mnemonic, K => sized!(width, T => addressed!(shape, A => arithmetic::mr::<K, T, A>)))
        }
        (Form::MemoryImmediate, _) => {
            kinds!(mnemonic, K => sized!(width, T => addressed!(shape, A => arithmetic::mi::<K, T, A>)))
        }
        (Form::Other, _) => return None,
    })
}

fn shift(i: &Instruction, live: bool, op: &mut Op) -> Option<Handler> {
    if i.op_count() != 2 || i.op0_kind() != OpKind::Register {
        return None;
    }
    op.a = register_offset(i.op0_register());
    let width = size(i, 0);
    if i.op1_kind() == OpKind::Register {
        return Some(match i.mnemonic() {
            Mnemonic::Shl => wide!(width, T => arithmetic::shift_rc::<Shl, T>),
            Mnemonic::Shr => wide!(width, T => arithmetic::shift_rc::<Shr, T>),
            Mnemonic::Sar => wide!(width, T => arithmetic::shift_rc::<Sar, T>),
            Mnemonic::Rol => wide!(width, T => arithmetic::shift_rc::<Rol, T>),
            Mnemonic::Ror => wide!(width, T => arithmetic::shift_rc::<Ror, T>),
            _ => return None,
        });
    }
    op.imm = i.immediate(1);
    Some(match (i.mnemonic(), live) {
        (Mnemonic::Shl, true) => wide!(width, T => arithmetic::shift_ri::<Shl, T, true>),
        (Mnemonic::Shl, false) => wide!(width, T => arithmetic::shift_ri::<Shl, T, false>),
        (Mnemonic::Shr, true) => wide!(width, T => arithmetic::shift_ri::<Shr, T, true>),
        (Mnemonic::Shr, false) => wide!(width, T => arithmetic::shift_ri::<Shr, T, false>),
        (Mnemonic::Sar, true) => wide!(width, T => arithmetic::shift_ri::<Sar, T, true>),
        (Mnemonic::Sar, false) => wide!(width, T => arithmetic::shift_ri::<Sar, T, false>),
        (Mnemonic::Rol, true) => wide!(width, T => arithmetic::shift_ri::<Rol, T, true>),
        (Mnemonic::Rol, false) => wide!(width, T => arithmetic::shift_ri::<Rol, T, false>),
        (Mnemonic::Ror, true) => wide!(width, T => arithmetic::shift_ri::<Ror, T, true>),
        (Mnemonic::Ror, false) => wide!(width, T => arithmetic::shift_ri::<Ror, T, false>),
        _ => return None,
    })
}

fn multiply(i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.mnemonic() != Mnemonic::Imul || i.op_count() < 2 || i.op1_kind() != OpKind::Register {
        return None;
    }
    op.a = register_offset(i.op0_register());
    op.b = register_offset(i.op1_register());
    if i.op_count() == 2 {
        return Some(wide!(size(i, 0), T => arithmetic::imul_rr::<T>));
    }
    op.imm = i.immediate(2);
    Some(wide!(size(i, 0), T => arithmetic::imul_rri::<T>))
}

fn moves(i: &Instruction, shape: Shape, op: &mut Op) -> Option<Handler> {
    let form = form(i);
    if i.op0_kind() == OpKind::Register {
        op.a = register_offset(i.op0_register());
    }
    if i.op_count() > 1 && i.op1_kind() == OpKind::Register {
        op.b = register_offset(i.op1_register());
    }
    match i.mnemonic() {
        Mnemonic::Mov => {
            if matches!(form, Form::RegisterImmediate | Form::MemoryImmediate) {
                op.imm = i.immediate(1);
            }
            let width = size(i, 0);
            Some(match form {
                Form::RegisterRegister => sized!(width, T => moves::rr::<T>),
                Form::RegisterImmediate => sized!(width, T => moves::ri::<T>),
                Form::RegisterMemory => sized!(width, T => addressed!(shape, A => moves::rm::<T, A>)),
                Form::MemoryRegister if width == 2 => addressed!(shape, A => moves::mr::<u16, A>),
                Form::MemoryRegister => sized!(width, T => addressed!(shape, A => moves::mr::<T, A>)),
                Form::MemoryImmediate if width == 2 => addressed!(shape, A => moves::mi::<u16, A>),
                Form::MemoryImmediate => sized!(width, T => addressed!(shape, A => moves::mi::<T, A>)),
                Form::Other => return None,
            })
        }
        Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => extend(i, form, shape),
        // The offset without the segment's base.
        Mnemonic::Lea if shape == Shape::Segmented => None,
        Mnemonic::Lea => {
            Some(wide!(i.op0_register().size(), T => addressed!(shape, A => moves::lea::<T, A>)))
        }
        Mnemonic::Nop | Mnemonic::Endbr64 => Some(moves::nop),
        _ => None,
    }
}

fn extend(i: &Instruction, form: Form, shape: Shape) -> Option<Handler> {
    let signed = i.mnemonic() != Mnemonic::Movzx;
    macro_rules! pick {
        ($t:ty, $d:ty, $signed:literal) => {
            match form {
                Form::RegisterRegister => moves::extend_rr::<$t, $d, $signed>,
                Form::RegisterMemory => addressed!(shape, A => moves::extend_rm::<$t, $d, A, $signed>),
                _ => return None,
            }
        };
    }
    // Zero extension to 4 and to 8 bytes is the same.
    Some(match (size(i, 1), i.op0_register().size(), signed) {
        (1, 4 | 8, false) => pick!(u8, u64, false),
        (2, 4 | 8, false) => pick!(u16, u64, false),
        (1, 4, true) => pick!(u8, u32, true),
        (1, 8, true) => pick!(u8, u64, true),
        (2, 4, true) => pick!(u16, u32, true),
        (2, 8, true) => pick!(u16, u64, true),
        (4, 8, true) => pick!(u32, u64, true),
        _ => return None,
    })
}

fn conditional(i: &Instruction, op: &mut Op) -> Option<Handler> {
    op.imm = condition_code(i).into();
    if i.op0_kind() != OpKind::Register {
        return None;
    }
    op.a = register_offset(i.op0_register());
    if op.family == Family::SetCondition {
        return Some(moves::set_r);
    }
    if i.op1_kind() != OpKind::Register {
        return None;
    }
    op.b = register_offset(i.op1_register());
    Some(wide!(size(i, 0), T => moves::cmov_rr::<T>))
}

fn stack(i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.stack_pointer_increment().unsigned_abs() != 8 && i.mnemonic() != Mnemonic::Leave {
        return None;
    }
    match i.mnemonic() {
        Mnemonic::Push if i.op0_kind() == OpKind::Register => {
            op.a = register_offset(i.op0_register());
            Some(stack::push_r)
        }
        Mnemonic::Push if i.op0_kind() != OpKind::Memory => {
            op.imm = i.immediate(0);
            Some(stack::push_i)
        }
        Mnemonic::Pop if i.op0_kind() == OpKind::Register => {
            op.a = register_offset(i.op0_register());
            Some(stack::pop_r)
        }
        Mnemonic::Leave if i.code() == Code::Leaveq => Some(stack::leave),
        _ => None,
    }
}

fn control(i: &Instruction, shape: Shape, op: &mut Op) -> Option<Handler> {
    let direct = i.op_count() == 1 && i.op0_kind() == OpKind::NearBranch64;
    if direct {
        op.imm = control::relative(i);
    }
    if i.op_count() == 1 && i.op0_kind() == OpKind::Register {
        if i.op0_register().size() != 8 {
            return None;
        }
        op.a = register_offset(i.op0_register());
    }
    Some(match (i.mnemonic(), i.op0_kind()) {
        (Mnemonic::Jmp, OpKind::NearBranch64) => branch::jmp,
        (Mnemonic::Call, OpKind::NearBranch64) => stack::call,
        (Mnemonic::Jmp, OpKind::Register) => branch::jmp_r,
        (Mnemonic::Call, OpKind::Register) => stack::call_r,
        (Mnemonic::Jmp, OpKind::Memory) if size(i, 0) == 8 => addressed!(shape, A => branch::jmp_m::<A>),
        _ if i.code() == Code::Retnq => stack::ret,
        _ if direct && i.is_jcc_short_or_near() => conditions!(condition_code(i), C => branch::jcc::<C>),
        _ => return None,
    })
}

/// True if `i` does nothing.
pub fn is_nop(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64)
}

/// Makes one op of a CMP or TEST and the Jcc after it. False if they do not go together.
pub fn fuse(i: &Instruction, jump: &Instruction, op: &mut Op) -> bool {
    try_fuse(i, jump, op).is_some()
}

fn try_fuse(i: &Instruction, jump: &Instruction, op: &mut Op) -> Option<()> {
    let form = form(i);
    let fits = matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
        && matches!(form, Form::RegisterRegister | Form::RegisterImmediate)
        && jump.is_jcc_short_or_near()
        && jump.op0_kind() == OpKind::NearBranch64;
    if !fits {
        return None;
    }
    let code = condition_code(jump);
    let test = i.mnemonic() == Mnemonic::Test;
    let width = size(i, 0);
    let handler = match (form, test) {
        (Form::RegisterRegister, false) => {
            conditions!(code, C => sized!(width, T => branch::fused_rr::<Cmp, T, C>))
        }
        (Form::RegisterRegister, true) => {
            conditions!(code, C => sized!(width, T => branch::fused_rr::<Test, T, C>))
        }
        (_, false) => conditions!(code, C => sized!(width, T => branch::fused_ri::<Cmp, T, C>)),
        (_, true) => conditions!(code, C => sized!(width, T => branch::fused_ri::<Test, T, C>)),
    };
    let target = i32::try_from(control::relative(jump) as i64).ok()?;
    op.a = register_offset(i.op0_register());
    if form == Form::RegisterRegister {
        op.b = register_offset(i.op1_register());
    } else {
        op.imm = i.immediate(1);
    }
    op.disp = target;
    op.handler = handler;
    Some(())
}

/// For each instruction of a block: may anybody look at the arithmetic flags it leaves? Not if another one overwrites all of
/// them before one that reads flags, can stop, or ends the block.
pub fn live_flags(block: &[(Instruction, Owner)], live: &mut Vec<bool>) {
    live.clear();
    live.resize(block.len(), true);
    let mut wanted = true;
    for (at, (i, owner)) in block.iter().enumerate().rev() {
        live[at] = wanted;
        wanted = match effect(i, owner) {
            Effect::Overwrites => false,
            Effect::Ignores => wanted,
            Effect::Looks => true,
        };
    }
}

/// What an instruction has to do with the flags that those before it left.
enum Effect {
    /// Sets all six without looking.
    Overwrites,
    /// Neither sets them all nor looks, and cannot stop.
    Ignores,
    /// Looks at them, or can stop so that they are seen.
    Looks,
}

fn effect(i: &Instruction, owner: &Owner) -> Effect {
    let Owner::Family(family) = owner else {
        return Effect::Looks;
    };
    let lea = i.mnemonic() == Mnemonic::Lea;
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) && !lea;
    if memory {
        return Effect::Looks;
    }
    match (family, i.mnemonic()) {
        (Family::Integer, Mnemonic::Adc | Mnemonic::Sbb) => Effect::Looks,
        // INC and DEC let CF through.
        (Family::Integer, Mnemonic::Not | Mnemonic::Inc | Mnemonic::Dec) => Effect::Ignores,
        (Family::Integer, _) => Effect::Overwrites,
        (
            Family::Moves,
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Lea,
        ) => Effect::Ignores,
        (Family::Moves, Mnemonic::Bswap | Mnemonic::Nop | Mnemonic::Cdqe | Mnemonic::Cwde) => Effect::Ignores,
        (Family::Shift, mnemonic) if i.op_count() == 2 && i.op1_kind() == OpKind::Immediate8 => {
            // A count of zero leaves all flags, a rotation most of them.
            let count = i.immediate8() & 31;
            match mnemonic {
                Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar if count != 0 => Effect::Overwrites,
                Mnemonic::Rol | Mnemonic::Ror => Effect::Ignores,
                _ => Effect::Looks,
            }
        }
        (Family::MulDiv, Mnemonic::Imul) if i.op_count() > 1 => Effect::Overwrites,
        _ => Effect::Looks,
    }
}
