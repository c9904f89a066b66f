//! What the architecture leaves open about an instruction that faulted: processors differ there.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpKind, Register,
};

use super::machine_state::{
    CODE, Case, DATA, DATA_PAGES, FS_BASE, Final, GS_BASE, MEMORY, PAGE, Registers, STACK,
};

/// Makes equal on both sides what the fault that ended `case` leaves open.
pub fn settle(case: &Case, native: &mut Final, guest: &mut Final) {
    if is_store_of_nothing(case, native, guest) {
        *guest = native.clone();
        return;
    }
    if is_conversion_that_cannot_be_stored(case, native, guest)
        || is_around_four_gigabytes(case, native, guest)
    {
        *guest = native.clone();
        return;
    }
    if native.outcome.vector != guest.outcome.vector
        || native.outcome.registers.rip != guest.outcome.registers.rip
    {
        return;
    }
    match native.outcome.vector {
        12..=14 => {}
        19 => {
            // A dot product is several steps, of which it is open how many report; and it is open whether an unmasked underflow
            // reports inexactness too. After an unmasked overflow that is not open, but the interpreter, which sees the masked
            // response only, always reports it.
            let dot =
                decode(case, native.outcome.registers.rip).is_some_and(|i| is_dot_product(i.mnemonic()));
            let flags = match () {
                () if dot => SIMD_FLAGS,
                () if is_out_of_range(native) && is_out_of_range(guest) => 0x20,
                () => 0,
            };
            for side in [native, guest] {
                side.outcome.registers.xsave[MXCSR] &= !flags;
            }
            return;
        }
        _ => return,
    }
    let Some(instruction) = decode(case, native.outcome.registers.rip) else {
        return;
    };
    match instruction.mnemonic() {
        mnemonic if is_gather(mnemonic) => settle_gather(&instruction, native, guest),
        // Only the page of a masked store's fault is certain.
        Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq => {
            for side in [native, guest] {
                side.outcome.cr2 &= !0xfff;
            }
        }
        // The conversion may have reported before its result could not be stored.
        Mnemonic::Vcvtps2ph => {
            for side in [native, guest] {
                side.outcome.registers.xsave[MXCSR] &= !SIMD_FLAGS;
            }
        }
        // Intel takes the flags back to those before the repetition (SDM volume 2, REP), AMD leaves the last iteration's.
        mnemonic
            if is_compared_string(mnemonic)
                && (instruction.has_rep_prefix() || instruction.has_repne_prefix()) =>
        {
            for side in [native, guest] {
                side.outcome.registers.rflags &= !ARITHMETIC;
            }
        }
        // The first MMX instruction may have set the stack's top before its operand faulted.
        _ if is_mmx(&instruction) => {
            for side in [native, guest] {
                turn_stack(&mut side.outcome.registers.xsave);
            }
        }
        // Ten bytes may be stored in two parts, of which the first stays.
        Mnemonic::Fstp | Mnemonic::Fbstp
            if matches!(instruction.memory_size(), MemorySize::Float80 | MemorySize::Bcd) =>
        {
            forget_operand(&instruction, native, guest);
        }
        _ => {}
    }
}

/// True if the exceptions are #GP(0) and #SS(0) for a stack operand: which of them one that is both misaligned and not canonical
/// raises is open.
pub fn is_either_of_two(case: &Case, native: &Final, guest: &Final) -> bool {
    let rip = native.outcome.registers.rip;
    native.outcome.vector == 13
        && guest.outcome.vector == 12
        && rip == guest.outcome.registers.rip
        && decode(case, rip).is_some_and(|i| {
            (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
                && i.memory_segment() == Register::SS
                && i.memory_size().size() >= 16
        })
}

/// Bytes of MXCSR in an image, and its exception flags.
const MXCSR: usize = 24;
const SIMD_FLAGS: u8 = 0x3f;
/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC: u64 = 0x8d5;

/// True if the interpreter faulted on the memory operand of an x87 store whose unmasked exception keeps it from storing anything:
/// then processors may not look at the operand at all, and go on to the next instruction that waits.
fn is_store_of_nothing(case: &Case, native: &Final, guest: &Final) -> bool {
    use Mnemonic::*;
    const SUMMARY: u8 = 0x80;
    let rip = guest.outcome.registers.rip;
    guest.outcome.vector == 14
        && native.outcome.registers.rip > rip
        && native.outcome.registers.xsave[2] & SUMMARY != 0
        && decode(case, rip)
            .is_some_and(|i| matches!(i.mnemonic(), Fst | Fstp | Fist | Fistp | Fisttp | Fbstp))
}

/// True if MXCSR says that a result was tiny or too large, and that this is not masked.
fn is_out_of_range(side: &Final) -> bool {
    const RANGE: u16 = 0b11000;
    let mxcsr = u16::from_le_bytes([
        side.outcome.registers.xsave[MXCSR],
        side.outcome.registers.xsave[MXCSR + 1],
    ]);
    mxcsr & !(mxcsr >> 7) & RANGE != 0
}

/// True if one side reported the exception of a conversion to memory, and the other that its result cannot be stored: which comes
/// first is open.
fn is_conversion_that_cannot_be_stored(case: &Case, native: &Final, guest: &Final) -> bool {
    let rip = guest.outcome.registers.rip;
    native.outcome.registers.rip == rip
        && matches!((native.outcome.vector, guest.outcome.vector), (19, 14) | (14, 19))
        && decode(case, rip).is_some_and(|i| i.mnemonic() == Mnemonic::Vcvtps2ph)
}

/// True if an access reached past the end of a segment of 4 GiB: whether that breaks the limit or wraps around is open (SDM volume 3,
/// 5.3).
fn is_around_four_gigabytes(case: &Case, native: &Final, guest: &Final) -> bool {
    const LAST: u64 = 0xffff_ffc0;
    !case.long
        && native.outcome.registers.rip == guest.outcome.registers.rip
        && native.outcome.vector == 14
        && native.outcome.cr2 >= LAST
        && matches!(guest.outcome.vector, 12 | 13)
}

fn is_dot_product(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
    )
}

fn is_compared_string(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq
    )
}

fn is_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_register(operand).is_mm())
}

/// Puts the x87 registers, which images hold in stack order, into the order of their numbers, and forgets the top.
fn turn_stack(image: &mut [u8]) {
    let top = usize::from(image[3] >> 3 & 7);
    image[3] &= !0x38;
    image[32..160].rotate_right(top * 16);
}

/// The instruction at `rip`.
fn decode(case: &Case, rip: u64) -> Option<Instruction> {
    let bytes = case.code.get(usize::try_from(rip.checked_sub(CODE)?).ok()?..)?;
    let bitness = if case.long { 64 } else { 32 };
    let instruction = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

fn is_gather(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Vgatherdps | Vgatherqps | Vgatherdpd | Vgatherqpd | Vpgatherdd | Vpgatherqd | Vpgatherdq | Vpgatherqq
    )
}

/// Elements below the first that is still to be loaded have been; about those from it on nothing is promised. Of the mask only the
/// sign bits mean something.
fn settle_gather(instruction: &Instruction, native: &mut Final, guest: &mut Final) {
    use Mnemonic::*;
    let lane = match instruction.mnemonic() {
        Vgatherdps | Vgatherqps | Vpgatherdd | Vpgatherqd => 4,
        _ => 8,
    };
    let (data, mask) = (
        instruction.op0_register().number(),
        instruction.op2_register().number(),
    );
    let lanes = 16 / lane;
    for side in [native, guest] {
        let image = &mut side.outcome.registers.xsave;
        let upper = instruction.op0_register().is_ymm();
        let at = |register: usize, index: usize| match index < lanes {
            true => 160 + register * 16 + index * lane,
            false => 576 + register * 16 + (index - lanes) * lane,
        };
        let count = if upper { 2 * lanes } else { lanes };
        let waits = |image: &[u8], index: usize| image[at(mask, index) + lane - 1] & 0x80 != 0;
        let first = (0..count).find(|&index| waits(image, index)).unwrap_or(count);
        for index in first..2 * lanes {
            image[at(data, index)..][..lane].fill(0);
            let sign = if index == first && first < count { 0xff } else { 0 };
            image[at(mask, index)..][..lane].fill(sign);
        }
    }
}

/// Forgets what both sides have where the memory operand lies.
fn forget_operand(instruction: &Instruction, native: &mut Final, guest: &mut Final) {
    let registers = native.outcome.registers;
    let mut infos = InstructionInfoFactory::new();
    let address = infos
        .info(instruction)
        .used_memory()
        .first()
        .and_then(|memory| memory.virtual_address(0, |register, _, _| value(&registers, register)));
    let Some(address) = address else { return };
    for byte in address..address.wrapping_add(instruction.memory_size().size() as u64) {
        if let Some(at) = place(byte) {
            native.memory[at] = 0;
            guest.memory[at] = 0;
        }
    }
}

fn value(registers: &Registers, register: Register) -> Option<u64> {
    match register {
        Register::FS => return Some(FS_BASE),
        Register::GS => return Some(GS_BASE),
        _ if register.is_segment_register() => return Some(0),
        _ => {}
    }
    let full = registers.gpr[register.full_register().number()];
    Some(if register.size() == 4 {
        full & 0xffff_ffff
    } else {
        full
    })
}

/// Where the byte at `address` is in a [`Case::memory`].
fn place(address: u64) -> Option<usize> {
    let data = (DATA_PAGES + 1) * PAGE;
    let at = match address {
        _ if address.wrapping_sub(DATA) < data as u64 => (address - DATA) as usize,
        _ if address.wrapping_sub(STACK) < PAGE as u64 => data + (address - STACK) as usize,
        _ => return None,
    };
    (at < MEMORY).then_some(at)
}
