//! What the architecture leaves open about an instruction that faulted: processors differ there.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, Register,
};

use super::machine_state::{CODE, Case, DATA, DATA_PAGES, Final, MEMORY, PAGE, Registers, STACK};

/// Makes equal on both sides what the fault that ended `case` leaves open.
pub fn settle(case: &Case, native: &mut Final, guest: &mut Final) {
    if native.outcome.vector != guest.outcome.vector
        || native.outcome.registers.rip != guest.outcome.registers.rip
    {
        return;
    }
    match native.outcome.vector {
        12..=14 => {}
        // Whether an unmasked underflow reports inexactness too is open.
        19 => {
            for side in [native, guest] {
                side.outcome.registers.xsave[24] &= !0x20;
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
        // Ten bytes may be stored in two parts, of which the first stays.
        Mnemonic::Fstp | Mnemonic::Fbstp
            if matches!(instruction.memory_size(), MemorySize::Float80 | MemorySize::Bcd) =>
        {
            forget_operand(&instruction, native, guest);
        }
        _ => {}
    }
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
    if register.is_segment_register() {
        return Some(0);
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
