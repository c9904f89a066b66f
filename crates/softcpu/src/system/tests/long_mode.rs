use super::{IDT, STACK, TSS, fault, flat, peek64, poke, protected};
use crate::fault::Exception;
use crate::flags::bit;
use crate::state::{Cpu, cr0, cr4, efer, mode, reg, seg};
use crate::system::{far, interrupt, iret, msr, syscall};

/// 64-bit code of level `cpl`, the first 2 MiB mapped one to one for everyone.
pub fn long(cpl: u8) -> Box<Cpu> {
    const TABLES: u64 = 0x1_0000;
    let mut cpu = protected();
    for (at, value) in [(0, TABLES + 0x1007), (0x1000, TABLES + 0x2007), (0x2000, 0x87)] {
        poke(&mut cpu, TABLES + at, &u64::to_le_bytes(value));
    }
    cpu.cr3 = TABLES;
    cpu.cr4 = cr4::PAE;
    cpu.cr0 |= cr0::PG;
    cpu.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
    let user = u16::from(cpl) << 5;
    cpu.segs = [flat(0x20 | u16::from(cpl), 0xc093 | user); 6];
    cpu.segs[seg::CS] = flat(if cpl == 0 { 0x68 } else { 0x73 }, 0xa09b | user);
    cpu.cpl = cpl;
    for vector in 0..128u64 {
        let low = vector << 8 | 0x68 << 16 | 0x8e00 << 32 | 0x10 << 48;
        poke(&mut cpu, IDT + 16 * vector, &u128::from(low).to_le_bytes());
    }
    poke(&mut cpu, TSS + 4, &0x8008u64.to_le_bytes());
    poke(&mut cpu, TSS + 0x24, &0x9000u64.to_le_bytes());
    cpu.switch_address_space(false);
    cpu.update_mode();
    cpu
}

#[test]
fn the_frame_has_five_words_on_an_aligned_stack() {
    let mut cpu = long(0);
    cpu.gpr[reg::RSP] = STACK - 3;
    interrupt::deliver(&mut cpu, Exception::gp(0x18)).unwrap();
    assert_eq!(cpu.rip, 0x10_0d00);
    let sp = cpu.gpr[reg::RSP];
    assert_eq!(sp, ((STACK - 3) & !0xf) - 48);
    let frame: Vec<u64> = (0..6).map(|n| peek64(&mut cpu, sp + 8 * n)).collect();
    assert_eq!(frame, [0x18, 0x1234, 0x68, 0x1_0002, STACK - 3, 0x20]);
    assert_eq!(
        cpu.segs[seg::SS].selector,
        0x20,
        "the level stays, and SS with it"
    );
}

#[test]
fn an_inner_level_gets_a_null_stack_segment_and_iretq_returns() {
    let mut cpu = long(3);
    cpu.set_rflags(0x202);
    interrupt::deliver(&mut cpu, Exception::ud()).unwrap();
    assert_eq!((cpu.cpl, cpu.segs[seg::SS].selector), (0, 0));
    assert_eq!(cpu.gpr[reg::RSP], 0x8000 - 40);
    // A 64-bit user segment to return to.
    poke(
        &mut cpu,
        super::GDT + 0x70,
        &0x00af_fb00_0000_ffffu64.to_le_bytes(),
    );
    cpu.gdtr.limit = 0x77;
    iret::iret(&mut cpu, 8).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[reg::RSP]), (3, 0x1234, STACK));
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector),
        (0x73, 0x23)
    );
    assert_eq!(cpu.rflags() & (bit::IF | bit::RF), bit::IF | bit::RF);
}

#[test]
fn the_interrupt_stack_table_replaces_the_stack() {
    let mut cpu = long(0);
    poke(&mut cpu, IDT + 16 * 2 + 4, &[1]);
    let event = interrupt::Event {
        vector: 2,
        error_code: None,
        source: interrupt::Source::External,
        return_rip: 0x1234,
    };
    interrupt::enter(&mut cpu, &event).unwrap();
    assert_eq!(cpu.gpr[reg::RSP], 0x9000 - 40);
    cpu.tr.limit = 0x2a;
    let result = interrupt::enter(&mut cpu, &event);
    assert_eq!(fault(&mut cpu, result), Exception::ts(0x51));
}

#[test]
fn a_handler_must_be_64_bit_code() {
    let mut cpu = long(0);
    poke(&mut cpu, IDT + 16 * 3 + 2, &[0x08, 0]);
    let result = interrupt::software(&mut cpu, 3, interrupt::Source::Software);
    assert_eq!(fault(&mut cpu, result), Exception::gp(8));
}

#[test]
fn syscall_and_sysret_switch_levels() {
    let mut cpu = long(3);
    cpu.msrs.star = 0x0063_0068 << 32;
    cpu.msrs.lstar = 0xffff_ffff_8100_0000;
    cpu.msrs.sfmask = 0x4_7700;
    cpu.set_rflags(0x4_0246);
    syscall::syscall(&mut cpu).unwrap();
    assert_eq!(
        (cpu.cpl, cpu.rip, cpu.gpr[reg::RCX]),
        (0, 0xffff_ffff_8100_0000, 0x1236)
    );
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector),
        (0x68, 0x70)
    );
    assert_eq!((cpu.gpr[11], cpu.rflags()), (0x4_0246, 0x46));
    syscall::sysret(&mut cpu, true).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.rflags()), (3, 0x1236, 0x4_0246));
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector),
        (0x73, 0x6b)
    );
    assert_ne!(cpu.mode & mode::LONG, 0);
    let result = syscall::sysret(&mut cpu, true);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
}

#[test]
fn sysret_refuses_an_address_that_is_not_canonical() {
    let mut cpu = long(0);
    cpu.gpr[reg::RCX] = 0x8000_0000_0000;
    let result = syscall::sysret(&mut cpu, true);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    assert_eq!(cpu.cpl, 0, "still at level 0");
}

#[test]
fn far_jumps_change_between_64_bit_and_compatibility_mode() {
    let mut cpu = long(0);
    far::jump(&mut cpu, 8, 0x2000).unwrap();
    assert_eq!(cpu.mode & (mode::LONG | mode::CODE32), mode::CODE32);
    far::jump(&mut cpu, 0x68, 0x3000).unwrap();
    assert_eq!(cpu.mode & mode::LONG, mode::LONG);
    let result = far::jump(&mut cpu, 0x68, 0x8000_0000_0000);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
}

#[test]
fn swapgs_exchanges_the_bases() {
    let mut cpu = long(0);
    msr::write(&mut cpu, msr::index::GS_BASE, 0x1111).unwrap();
    msr::write(&mut cpu, msr::index::KERNEL_GS_BASE, 0x2222).unwrap();
    syscall::swapgs(&mut cpu).unwrap();
    assert_eq!(msr::read(&mut cpu, msr::index::GS_BASE), Ok(0x2222));
    assert_eq!(msr::read(&mut cpu, msr::index::KERNEL_GS_BASE), Ok(0x1111));
}
