//! Descriptors in the GDT and LDT (SDM vol. 3, 3.4.5 and 3.5).

use ostler_accel::Segment;

use crate::fault::{Exception, Result};
use crate::state::{Cpu, rights};

/// Types of system descriptors (S clear).
pub mod kind {
    /// Available 16-bit TSS.
    pub const TSS16: u8 = 1;
    /// LDT.
    pub const LDT: u8 = 2;
    /// Busy 16-bit TSS.
    pub const TSS16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub const CALL16: u8 = 4;
    /// Task gate.
    pub const TASK: u8 = 5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT16: u8 = 6;
    /// 16-bit trap gate.
    pub const TRAP16: u8 = 7;
    /// Available 32-bit or 64-bit TSS.
    pub const TSS: u8 = 9;
    /// Busy 32-bit or 64-bit TSS.
    pub const TSS_BUSY: u8 = 11;
    /// 32-bit or 64-bit call gate.
    pub const CALL: u8 = 12;
    /// 32-bit or 64-bit interrupt gate.
    pub const INTERRUPT: u8 = 14;
    /// 32-bit or 64-bit trap gate.
    pub const TRAP: u8 = 15;
}

/// A descriptor as it lies in memory, with where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// The first eight bytes.
    pub low: u64,
    /// The next eight, of a 16-byte descriptor in IA-32e mode.
    pub high: u64,
    /// Linear address of the first byte.
    pub address: u64,
}

impl Descriptor {
    /// Type, 4 bits.
    pub fn kind(&self) -> u8 {
        (self.low >> 40) as u8 & 0xf
    }

    /// Code or data segment.
    pub fn is_segment(&self) -> bool {
        self.low & (1 << 44) != 0
    }

    /// System descriptor of type `kind`.
    pub fn is_system(&self, kind: u8) -> bool {
        !self.is_segment() && self.kind() == kind
    }

    /// Code segment.
    pub fn is_code(&self) -> bool {
        self.is_segment() && self.low & (1 << 43) != 0
    }

    /// Conforming code, or expand-down data.
    pub fn is_conforming(&self) -> bool {
        self.low & (1 << 42) != 0
    }

    /// Data segment that can be written.
    pub fn is_writable_data(&self) -> bool {
        self.is_segment() && !self.is_code() && self.low & (1 << 41) != 0
    }

    /// Data segment, or code that can be read.
    pub fn is_readable(&self) -> bool {
        self.is_segment() && (!self.is_code() || self.low & (1 << 41) != 0)
    }

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.low >> 45) as u8 & 3
    }

    /// Present.
    pub fn present(&self) -> bool {
        self.low & (1 << 47) != 0
    }

    /// 64-bit code.
    pub fn is_long(&self) -> bool {
        self.low & (1 << 53) != 0
    }

    /// D/B.
    pub fn is_big(&self) -> bool {
        self.low & (1 << 54) != 0
    }

    /// Base address of a segment or system segment.
    pub fn base(&self) -> u64 {
        (self.low >> 16 & 0xff_ffff) | (self.low >> 56) << 24 | (self.high & 0xffff_ffff) << 32
    }

    /// Limit in bytes, granularity applied.
    pub fn limit(&self) -> u32 {
        let raw = (self.low & 0xffff) as u32 | (self.low >> 32) as u32 & 0xf_0000;
        if self.low & (1 << 55) != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }

    /// The hidden part for a segment register that holds `selector`.
    pub fn segment(&self, selector: u16) -> Segment {
        let rights = (self.low >> 40) as u16 & 0xf0ff;
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            rights,
        }
    }

    /// Target selector of a gate.
    pub fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// Target offset of a 32-bit or 64-bit gate.
    pub fn gate_offset(&self) -> u64 {
        (self.low & 0xffff) | (self.low >> 48) << 16 | (self.high & 0xffff_ffff) << 32
    }
}

/// A selector without its RPL: the form in which error codes name it.
pub fn code_of(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// True for the null selector, whatever its RPL.
pub fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The requested privilege level of a selector.
pub fn rpl(selector: u16) -> u8 {
    selector as u8 & 3
}

/// Which exception a bad selector raises.
pub type Refusal = fn(u32) -> Exception;

/// Reads the descriptor that `selector` names. `wide` asks for the 16 bytes of a system descriptor in IA-32e mode.
///
/// # Errors
/// `refusal(selector)` if it lies outside its table.
fn read(cpu: &mut Cpu, selector: u16, wide: bool, refusal: Refusal) -> Result<Descriptor> {
    let (base, limit) = if selector & 4 != 0 {
        if cpu.ldtr.rights & rights::PRESENT == 0 || is_null(cpu.ldtr.selector) {
            return Err(cpu.raise(refusal(code_of(selector))));
        }
        (cpu.ldtr.base, cpu.ldtr.limit)
    } else {
        (cpu.gdtr.base, u32::from(cpu.gdtr.limit))
    };
    let offset = u32::from(selector & !7);
    let last = offset + if wide { 15 } else { 7 };
    if last > limit {
        return Err(cpu.raise(refusal(code_of(selector))));
    }
    let address = base.wrapping_add(u64::from(offset));
    let low = cpu.load_system::<u64>(address)?;
    let high = if wide {
        cpu.load_system::<u64>(address.wrapping_add(8))?
    } else {
        0
    };
    Ok(Descriptor { low, high, address })
}

/// Reads the descriptor that `selector` names, with the second half of a system descriptor if IA-32e mode is active.
///
/// # Errors
/// `refusal(selector)` if it lies outside its table.
pub fn fetch(cpu: &mut Cpu, selector: u16, refusal: Refusal) -> Result<Descriptor> {
    let narrow = read(cpu, selector, false, refusal)?;
    if narrow.is_segment() || !cpu.long_active() || !is_wide_kind(narrow.kind()) {
        return Ok(narrow);
    }
    read(cpu, selector, true, refusal)
}

/// System descriptors that have 16 bytes in IA-32e mode.
fn is_wide_kind(kind: u8) -> bool {
    matches!(kind, kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL)
}

/// Sets the accessed bit of a code or data descriptor in memory, and in `descriptor`.
pub fn set_accessed(cpu: &mut Cpu, descriptor: &mut Descriptor) -> Result<()> {
    if descriptor.low & (1 << 40) == 0 {
        descriptor.low |= 1 << 40;
        cpu.store_system::<u8>(descriptor.address.wrapping_add(5), (descriptor.low >> 40) as u8)?;
    }
    Ok(())
}

/// Writes the type of a system descriptor (busy or available TSS).
pub fn set_kind(cpu: &mut Cpu, descriptor: &Descriptor, kind: u8) -> Result<()> {
    let byte = (descriptor.low >> 40) as u8 & 0xf0 | kind;
    cpu.store_system::<u8>(descriptor.address.wrapping_add(5), byte)
}

/// True if a 48-bit linear address is canonical.
pub fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_segment_is_taken_apart() {
        let d = Descriptor {
            low: 0x00cf_9b00_0000_ffff,
            ..Default::default()
        };
        assert!(
            d.is_code() && d.present() && d.is_readable() && d.is_big() && !d.is_conforming() && !d.is_long()
        );
        assert_eq!(
            d.segment(8),
            Segment {
                selector: 8,
                base: 0,
                limit: u32::MAX,
                rights: 0xc09b
            }
        );
    }

    #[test]
    fn base_and_limit_are_gathered_from_their_pieces() {
        let d = Descriptor {
            low: 0x1209_8256_3478_9abc,
            high: 0xfedc_ba98,
            address: 0,
        };
        assert_eq!(d.base(), 0xfedc_ba98_1256_3478);
        assert_eq!(d.limit(), 0x9_9abc);
        assert!(d.is_system(kind::LDT));
        assert_eq!(d.gate_selector(), 0x3478);
        assert_eq!(d.gate_offset(), 0xfedc_ba98_1209_9abc);
    }

    #[test]
    fn canonical_addresses_repeat_bit_47() {
        for (address, expected) in [
            (0, true),
            (0x7fff_ffff_ffff, true),
            (0x8000_0000_0000, false),
            (0xffff_8000_0000_0000, true),
            (0xffff_7fff_ffff_ffff, false),
        ] {
            assert_eq!(is_canonical(address), expected, "{address:#x}");
        }
    }
}
