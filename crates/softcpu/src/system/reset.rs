//! INIT and the start-up IPI (SDM vol. 3, 9.4.4 and 10.1).

use ostler_accel::{DescriptorTable, Segment};

use super::{debug, lapic};
use crate::state::{Activity, Cpu, cr0, reg, seg};

fn real(selector: u16, base: u64, rights: u16) -> Segment {
    Segment {
        selector,
        base,
        limit: 0xffff,
        rights,
    }
}

/// INIT: everything but the vector state, MSRs, TSC and the cache bits of CR0.
pub fn init(cpu: &mut Cpu) {
    const DATA: u16 = 0x93;
    const CODE: u16 = 0x9b;
    let zero = [0; 16];
    cpu.gpr[..16].copy_from_slice(&zero);
    cpu.gpr[reg::RDX] = 0x600;
    cpu.rip = 0xfff0;
    cpu.segs = [real(0, 0, DATA); 6];
    cpu.segs[seg::CS] = real(0xf000, 0xffff_0000, CODE);
    cpu.ldtr = real(0, 0, 0x82);
    cpu.tr = real(0, 0, 0x8b);
    cpu.gdtr = DescriptorTable {
        base: 0,
        limit: 0xffff,
    };
    cpu.idtr = DescriptorTable {
        base: 0,
        limit: 0xffff,
    };
    cpu.cr0 = cpu.cr0 & (cr0::CD | cr0::NW) | 0x10;
    (cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer) = (0, 0, 0, 0);
    cpu.dr = [0; 4];
    cpu.dr6 = debug::DR6_FIXED;
    cpu.dr7 = debug::DR7_FIXED;
    cpu.cpl = 0;
    cpu.shadow = false;
    cpu.stack_loaded = false;
    (cpu.nmis_pending, cpu.nmi_masked) = (0, false);
    cpu.exception = None;
    cpu.set_rflags(2);
    cpu.lapic.reset();
    cpu.lapic.publish(&cpu.shared.lapic);
    cpu.flush_tlb(true);
    cpu.switch_address_space(false);
    cpu.update_mode();
    let is_bsp = cpu.lapic.base() & lapic::BASE_BSP != 0;
    cpu.activity = if is_bsp {
        Activity::Running
    } else {
        Activity::WaitForSipi
    };
}

/// A start-up IPI: execution begins at `page` * 4096 in real mode.
pub fn start_up(cpu: &mut Cpu, page: u8) {
    let selector = u16::from(page) << 8;
    cpu.segs[seg::CS] = real(selector, u64::from(selector) << 4, 0x9b);
    cpu.rip = 0;
    cpu.activity = Activity::Running;
    cpu.update_mode();
}
