//! Instructions that access memory element by element: masked moves and gathers. Only enabled elements are accessed, and so
//! only they can fault.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::NativeOp;
use super::fpu_image;
use crate::fault::{Flow, Result, Stop};
use crate::mmu::access::Access;
use crate::state::{Cpu, VectorRegister};

/// Bytes of a whole vector register.
const VECTOR: usize = 32;

/// Operands of a masked move or a gather.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elements {
    /// Number of the register that is loaded or stored.
    data: u8,
    /// Number of the mask register.
    mask: u8,
    /// Number of the index register of a gather.
    index: u8,
    /// Bytes an element.
    size: u8,
    /// Bytes an index.
    index_size: u8,
    /// Elements.
    count: u8,
    /// Gathers must not use a register twice.
    clash: bool,
}

impl Elements {
    /// The operands of `instruction`, if it is one of this file's.
    pub fn of(instruction: &Instruction) -> Option<Self> {
        use Mnemonic as M;
        let number = |register: Register| register.number() as u8;
        let register = |operand: u32| instruction.op_register(operand);
        let (size, index_size): (u8, u8) = match instruction.mnemonic() {
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => (1, 0),
            M::Vmaskmovps | M::Vpmaskmovd => (4, 0),
            M::Vmaskmovpd | M::Vpmaskmovq => (8, 0),
            M::Vgatherdps | M::Vpgatherdd => (4, 4),
            M::Vgatherdpd | M::Vpgatherdq => (8, 4),
            M::Vgatherqps | M::Vpgatherqd => (4, 8),
            M::Vgatherqpd | M::Vpgatherqq => (8, 8),
            _ => return None,
        };
        if index_size != 0 {
            let (data, mask, index) = (register(0), register(2), instruction.memory_index());
            let bytes = data.size().max(index.size());
            let (data, mask, index) = (number(data), number(mask), number(index));
            let count = (bytes / usize::from(size.max(index_size))) as u8;
            let clash = data == mask || data == index || mask == index;
            return Some(Self {
                data,
                mask,
                index,
                size,
                index_size,
                count,
                clash,
            });
        }
        // Byte masks: mem, data, mask. Loads: data, mask, mem. Stores: mem, mask, data.
        let (data, mask) = match (size, instruction.op0_kind() == OpKind::Memory) {
            (1, _) => (register(1), register(2)),
            (_, true) => (register(2), register(1)),
            (_, false) => (register(0), register(1)),
        };
        let count = (data.size() / usize::from(size)) as u8;
        Some(Self {
            data: number(data),
            mask: number(mask),
            index: 0,
            size,
            index_size,
            count,
            clash: false,
        })
    }
}

/// A vector register's bytes.
fn bytes_of(register: VectorRegister) -> [u8; VECTOR] {
    std::array::from_fn(|i| register.0[i / 8].to_le_bytes()[i % 8])
}

/// The reverse.
fn from_bytes(bytes: [u8; VECTOR]) -> VectorRegister {
    VectorRegister(std::array::from_fn(|q| {
        u64::from_le_bytes(std::array::from_fn(|i| bytes[q * 8 + i]))
    }))
}

/// Little-endian integer of up to eight bytes.
fn integer(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// True if the element's most significant bit is set in the mask.
fn enabled(mask: &[u8; VECTOR], element: usize, size: usize) -> bool {
    mask[(element + 1) * size - 1] & 0x80 != 0
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ from memory.
pub fn load(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let elements = op.elements;
    let size = usize::from(elements.size);
    let mask = bytes_of(cpu.vec[usize::from(elements.mask)]);
    let start = op.address.offset(cpu);
    let mut result = [0; VECTOR];
    for element in 0..usize::from(elements.count) {
        if enabled(&mask, element, size) {
            let at = element * size;
            let offset = start.wrapping_add(at as u64);
            cpu.load_bytes(op.address.segment(), offset, &mut result[at..at + size])?;
        }
    }
    cpu.vec[usize::from(elements.data)] = from_bytes(result);
    Ok(Flow::Next)
}

/// The same to memory, and MASKMOVDQU and VMASKMOVDQU, which store bytes to `[rDI]`.
pub fn store(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let data = bytes_of(cpu.vec[usize::from(op.elements.data)]);
    let mask = bytes_of(cpu.vec[usize::from(op.elements.mask)]);
    store_enabled(cpu, op, &data, &mask)
}

/// MASKMOVQ, whose operands are MMX registers.
pub fn store_mmx(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    cpu.sync_x87();
    let register = |number: u8| {
        // An MMX register is a fixed x87 register; the image is in stack order.
        let top = usize::from(cpu.fx.0[3] >> 3 & 7);
        let slot = 32 + (usize::from(number) + 8 - top) % 8 * 16;
        let mut bytes = [0; VECTOR];
        bytes[..8].copy_from_slice(&cpu.fx.0[slot..slot + 8]);
        bytes
    };
    let (data, mask) = (register(op.elements.data), register(op.elements.mask));
    let flow = store_enabled(cpu, op, &data, &mask)?;
    fpu_image::begin_mmx(&mut cpu.fx.0);
    Ok(flow)
}

/// Stores the enabled elements; nothing at all if one of them cannot be stored.
fn store_enabled(cpu: &mut Cpu, op: &NativeOp, data: &[u8; VECTOR], mask: &[u8; VECTOR]) -> Result<Flow> {
    let size = usize::from(op.elements.size);
    let start = op.address.offset(cpu);
    let segment = op.address.segment();
    let chosen: Vec<usize> = (0..usize::from(op.elements.count))
        .filter(|&element| enabled(mask, element, size))
        .collect();
    for &element in &chosen {
        let offset = start.wrapping_add((element * size) as u64);
        let linear = cpu.linear(segment, offset, size as u64, Access::Write)?;
        cpu.probe(linear, size as u64, Access::Write, cpu.cpl == 3)?;
    }
    for element in chosen {
        let at = element * size;
        cpu.store_bytes(segment, start.wrapping_add(at as u64), &data[at..at + size])?;
    }
    Ok(Flow::Next)
}

/// The gathers. What was loaded before a fault stays loaded and its mask bits are cleared, so that a restart goes on.
pub fn gather(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let elements = op.elements;
    if elements.clash {
        return Err(cpu.ud());
    }
    let (size, index_size) = (usize::from(elements.size), usize::from(elements.index_size));
    let before = cpu.vec[usize::from(elements.data)];
    let mut data = bytes_of(before);
    let mut mask = bytes_of(cpu.vec[usize::from(elements.mask)]);
    let indices = bytes_of(cpu.vec[usize::from(elements.index)]);
    let count = usize::from(elements.count);
    // Before anything is loaded, an element's mask becomes its sign (SDM volume 2, VGATHERDPS).
    for element in 0..count {
        let sign = if enabled(&mask, element, size) { 0xff } else { 0 };
        mask[element * size..][..size].fill(sign);
    }
    mask[count * size..].fill(0);
    for element in 0..count {
        let at = element * size;
        if enabled(&mask, element, size) {
            let raw = integer(&indices[element * index_size..][..index_size]);
            let index = if index_size == 4 {
                raw as u32 as i32 as u64
            } else {
                raw
            };
            let offset = op.address.offset_with_index(cpu, index);
            let mut value = [0; 8];
            if let Err(stop) = cpu.load_bytes(op.address.segment(), offset, &mut value[..size]) {
                // A device's answer comes by executing the whole instruction again.
                if stop == Stop::Fault {
                    cpu.vec[usize::from(elements.data)] = from_bytes(data);
                    cpu.vec[usize::from(elements.mask)] = from_bytes(mask);
                }
                return Err(stop);
            }
            data[at..at + size].copy_from_slice(&value[..size]);
        }
        mask[at..at + size].fill(0);
    }
    data[count * size..].fill(0);
    cpu.vec[usize::from(elements.data)] = from_bytes(data);
    cpu.vec[usize::from(elements.mask)] = VectorRegister::default();
    Ok(Flow::Next)
}
