//! Specialised handlers of the forms that matter for speed, in 64-bit mode and for operands of 1, 4 and 8 bytes.
//!
//! A handler whose memory operand misses the TLB hands the instruction to its family ([`OpRef::out_of_line`]), which takes the
//! long way and fills the TLB.

mod arithmetic;
mod branch;
mod moves;
pub mod select;
mod stack;

use crate::block::{Op, OpRef};
use crate::host::Int;
use crate::state::Cpu;

/// Reads a general register at its byte offset.
#[inline(always)]
fn get<T: Int>(cpu: &Cpu, offset: u8) -> T {
    // SAFETY: offsets come from `operand::register_offset`, at most 121 of the file's 144 bytes.
    unsafe {
        cpu.gpr
            .as_ptr()
            .cast::<u8>()
            .add(usize::from(offset))
            .cast::<T>()
            .read_unaligned()
    }
}

/// Writes a general register; 32 bits clear the upper half.
#[inline(always)]
fn set<T: Int>(cpu: &mut Cpu, offset: u8, value: T) {
    let ptr = cpu
        .gpr
        .as_mut_ptr()
        .cast::<u8>()
        .wrapping_add(usize::from(offset));
    // SAFETY: as for `get`; 4-byte registers have offsets that are multiples of 8.
    unsafe {
        if T::SIZE == 4 {
            ptr.cast::<u64>().write_unaligned(value.into());
        } else {
            ptr.cast::<T>().write_unaligned(value);
        }
    }
}

/// How a memory operand's address is formed.
trait Address {
    /// The linear address.
    fn linear(cpu: &Cpu, op: &Op) -> u64;
}

/// Base and displacement.
struct Base;
/// Base, scaled index and displacement.
struct Index;

/// A segment's base, base, scaled index and displacement.
struct Segmented;

/// A register of the file, which has a power of two of them or a few more: the index is checked once, at decoding.
#[inline(always)]
fn file(cpu: &Cpu, index: u8) -> u64 {
    // SAFETY: decoded indices are below 18.
    unsafe { *cpu.gpr.get_unchecked(usize::from(index)) }
}

impl Address for Base {
    #[inline(always)]
    fn linear(cpu: &Cpu, op: &Op) -> u64 {
        file(cpu, op.base).wrapping_add(op.disp as i64 as u64)
    }
}

impl Address for Index {
    #[inline(always)]
    fn linear(cpu: &Cpu, op: &Op) -> u64 {
        file(cpu, op.base)
            .wrapping_add(file(cpu, op.index) << (op.scale & 3))
            .wrapping_add(op.disp as i64 as u64)
    }
}

impl Address for Segmented {
    #[inline(always)]
    fn linear(cpu: &Cpu, op: &Op) -> u64 {
        Index::linear(cpu, op).wrapping_add(cpu.segs[usize::from(op.segment & 7).min(5)].base)
    }
}

/// Loads the memory operand if the TLB has its page.
#[inline(always)]
fn load<T: Int, A: Address>(cpu: &Cpu, op: OpRef) -> Option<T> {
    let ptr = cpu.mmu.read_hit(A::linear(cpu, &op), T::SIZE)?;
    // SAFETY: the TLB leads to mapped guest RAM with room for the access.
    Some(unsafe { T::load(ptr) })
}

/// Host address of the memory operand for writing, if the TLB has its page.
#[inline(always)]
fn place<T: Int, A: Address>(cpu: &Cpu, op: OpRef) -> Option<*mut u8> {
    cpu.mmu.write_hit(A::linear(cpu, &op), T::SIZE)
}

/// Stores to a place that [`place`] found.
#[inline(always)]
fn put<T: Int>(ptr: *mut u8, value: T) {
    // SAFETY: the TLB leads to mapped, plainly writable guest RAM with room for the access.
    unsafe { T::store(ptr, value) }
}

/// Reads from a place that [`place`] found.
#[inline(always)]
fn peek<T: Int>(ptr: *mut u8) -> T {
    // SAFETY: as for `put`.
    unsafe { T::load(ptr) }
}
