//! LGDT, LIDT, SGDT, SIDT, and UMIP (SDM vol. 2).

use ostler_accel::DescriptorTable;

use super::control;
use super::descriptor::is_canonical;
use crate::fault::Result;
use crate::state::{Cpu, cr4};

/// `#GP(0)` for SGDT, SIDT, SLDT, STR and SMSW outside CPL 0 under CR4.UMIP.
pub fn prevented(cpu: &mut Cpu) -> Result<()> {
    if cpu.cr4 & cr4::UMIP != 0 && cpu.cpl != 0 {
        Err(cpu.gp0())
    } else {
        Ok(())
    }
}

/// LGDT (`global`) or LIDT from memory, with an operand size of `width` bytes (2: the base has 24 bits).
pub fn load(cpu: &mut Cpu, segment: usize, offset: u64, width: u8, global: bool) -> Result<()> {
    control::privileged(cpu)?;
    let limit = cpu.load::<u16>(segment, offset)?;
    let at = offset.wrapping_add(2);
    let base = match width {
        2 => u64::from(cpu.load::<u32>(segment, at)?) & 0xff_ffff,
        4 => u64::from(cpu.load::<u32>(segment, at)?),
        _ => cpu.load::<u64>(segment, at)?,
    };
    if !is_canonical(base) {
        return Err(cpu.gp0());
    }
    let table = DescriptorTable { base, limit };
    if global {
        cpu.gdtr = table;
    } else {
        cpu.idtr = table;
    }
    Ok(())
}

/// SGDT (`global`) or SIDT to memory.
pub fn store(cpu: &mut Cpu, segment: usize, offset: u64, global: bool) -> Result<()> {
    prevented(cpu)?;
    let table = if global { cpu.gdtr } else { cpu.idtr };
    let at = offset.wrapping_add(2);
    // The base goes first: should its page fault, nothing has been stored.
    if cpu.is_long() {
        cpu.store(segment, at, table.base)?;
    } else {
        cpu.store(segment, at, table.base as u32)?;
    }
    cpu.store(segment, offset, table.limit)
}
