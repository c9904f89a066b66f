use super::{fault, protected, user};
use crate::fault::Exception;
use crate::flags::bit;
use crate::state::{cr0, cr4, efer};
use crate::system::{control, debug, flag_ops, msr};

#[test]
fn reserved_and_contradicting_bits_of_cr0_are_refused() {
    for value in [1 << 32, cr0::PG, cr0::NW, cr0::NW | cr0::PE] {
        let mut cpu = protected();
        let result = control::write_cr(&mut cpu, 0, value);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{value:#x}");
    }
    let mut cpu = protected();
    cpu.efer |= efer::LME;
    let result = control::write_cr(&mut cpu, 0, cr0::PE | cr0::PG);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0), "long mode needs PAE");
    cpu.cr4 |= cr4::PAE;
    control::write_cr(&mut cpu, 0, cr0::PE | cr0::PG).unwrap();
    assert_ne!(cpu.efer & efer::LMA, 0);
    let result = msr::write(&mut cpu, msr::index::EFER, 0);
    assert_eq!(
        fault(&mut cpu, result),
        Exception::gp(0),
        "LME is fixed while paging is on"
    );
}

#[test]
fn cr4_has_the_bits_of_the_model() {
    let mut cpu = protected();
    for value in [1 << 13, 1 << 18, 1 << 22, 1 << 40, cr4::PCIDE] {
        let result = control::write_cr(&mut cpu, 4, value);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{value:#x}");
    }
    let good = cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::UMIP | cr4::FSGSBASE | cr4::OSFXSR;
    control::write_cr(&mut cpu, 4, good).unwrap();
    assert_eq!(cpu.cr4, good);
}

#[test]
fn the_user_reaches_no_privileged_register() {
    let mut cpu = user();
    for number in [0, 2, 3, 4, 8] {
        let result = control::read_cr(&mut cpu, number);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    }
    let result = control::read_dr(&mut cpu, 7);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    let result = control::xsetbv(&mut cpu, 0, 1);
    assert_eq!(fault(&mut cpu, result), Exception::ud(), "CR4.OSXSAVE is clear");
}

#[test]
fn unknown_registers_raise_gp() {
    let mut cpu = protected();
    for number in [0, 0x3ff, 0x4b56_4d02, 0xc000_0085, 0xc001_0117, 0x80c] {
        let result = msr::read(&mut cpu, number);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{number:#x}");
        let result = msr::write(&mut cpu, number, 0);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{number:#x}");
    }
}

/// A guest may say where ends of interrupts can be left out, and takes that along to KVM.
#[test]
fn the_paravirtual_end_of_interrupt_is_kept() {
    let mut cpu = protected();
    assert_eq!(msr::read(&mut cpu, msr::index::KVM_PV_EOI).unwrap(), 0);
    msr::write(&mut cpu, msr::index::KVM_PV_EOI, 0x7205).unwrap();
    let result = msr::write(&mut cpu, msr::index::KVM_PV_EOI, 0x7207);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    let saved = msr::save(&mut cpu);
    let mut other = protected();
    msr::restore(&mut other, &saved).unwrap();
    assert_eq!(msr::read(&mut other, msr::index::KVM_PV_EOI).unwrap(), 0x7205);
}

#[test]
fn what_the_model_saves_can_be_restored() {
    let mut cpu = protected();
    msr::write(&mut cpu, msr::index::STAR, 0x1234).unwrap();
    msr::write(&mut cpu, msr::index::TSC_ADJUST, 77).unwrap();
    let saved = msr::save(&mut cpu);
    assert!(cpu.exception.is_none());
    let mut other = protected();
    msr::restore(&mut other, &saved).unwrap();
    let again = msr::save(&mut other);
    for (before, after) in saved.iter().zip(&again) {
        assert_eq!(before.index, after.index);
        if before.index == msr::index::TSC {
            assert!(after.value >= before.value);
        } else {
            assert_eq!(before.value, after.value, "{:#x}", before.index);
        }
    }
    let bad = [ostler_accel::Msr {
        index: 0x3ff,
        value: 0,
    }];
    assert!(msr::restore(&mut other, &bad).is_err());
}

#[test]
fn the_apic_base_follows_the_mode_diagram() {
    const ON: u64 = 0xfee0_0800;
    const X2: u64 = 0xfee0_0c00;
    const OFF: u64 = 0xfee0_0000;
    for (path, good) in [
        (&[ON, X2, OFF, ON][..], true),
        (&[X2, ON], false),
        (&[OFF, X2], false),
        (&[0xfee0_0400], false),
        (&[1 << 45 | ON], false),
        (&[ON | 1], false),
    ] {
        let mut cpu = protected();
        let done = path
            .iter()
            .all(|&value| msr::write(&mut cpu, msr::index::APIC_BASE, value).is_ok());
        assert_eq!(done, good, "{path:x?}");
    }
}

#[test]
fn x2apic_registers_exist_in_their_mode_only() {
    let mut cpu = protected();
    let result = msr::read(&mut cpu, 0x802);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    msr::write(&mut cpu, msr::index::APIC_BASE, 0xfee0_0d00).unwrap();
    assert_eq!(msr::read(&mut cpu, 0x802), Ok(0));
    for (number, value) in [
        (0x80b, 1),
        (0x808, 0x100),
        (0x80f, 0x1200),
        (0x83f, 0x100),
        (0x802, 0),
        (0x80e, 0),
    ] {
        let result = msr::write(&mut cpu, number, value);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{number:#x}");
    }
    msr::write(&mut cpu, 0x80b, 0).unwrap();
}

#[test]
fn debug_registers_have_aliases_and_a_lock() {
    let mut cpu = protected();
    control::write_dr(&mut cpu, 5, 0x2).unwrap();
    assert_eq!(control::read_dr(&mut cpu, 7), Ok(0x402));
    cpu.cr4 |= cr4::DE;
    let result = control::read_dr(&mut cpu, 4);
    assert_eq!(fault(&mut cpu, result), Exception::ud());
    control::write_dr(&mut cpu, 7, debug::DR7_GD).unwrap();
    let result = control::read_dr(&mut cpu, 0);
    assert_eq!(fault(&mut cpu, result), Exception::db(debug::DR6_BD));
}

#[test]
fn breakpoints_meet_what_they_watch() {
    let mut cpu = protected();
    // DR0: 4 bytes written at 0x1000; DR1: 2 bytes read or written at 0x2002; DR2: execution at 0x1234.
    (cpu.dr[0], cpu.dr[1], cpu.dr[2]) = (0x1001, 0x2002, 0x1234);
    cpu.dr7 = 1 | 1 << 2 | 1 << 4 | 0xd << 16 | 7 << 20;
    let cases = [
        (0x1003, 1, true, 1),
        (0x1003, 1, false, 0),
        (0x1004, 8, true, 0),
        (0xffc, 8, true, 1),
        (0x2003, 1, false, 2),
        (0x2004, 1, false, 0),
    ];
    for (linear, len, write, hits) in cases {
        cpu.msrs.debug_hits = 0;
        debug::note_data_access(&mut cpu, linear, len, write);
        assert_eq!(cpu.msrs.debug_hits, hits, "{linear:#x}");
    }
    let result = debug::begin_step(&mut cpu);
    assert_eq!(fault(&mut cpu, result), Exception::db(4));
    cpu.rflags_rest |= bit::RF;
    assert_eq!(
        debug::begin_step(&mut cpu),
        Ok(false),
        "RF lets the instruction pass"
    );
    assert_eq!(debug::trap(&mut cpu, false), None);
    assert_eq!(cpu.rflags_rest & bit::RF, 0);
    assert_eq!(debug::trap(&mut cpu, true), Some(Exception::db(debug::DR6_BS)));
}

#[test]
fn iopl_decides_about_the_interrupt_flag() {
    let mut cpu = user();
    let result = flag_ops::cli(&mut cpu);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    cpu.rflags_rest |= bit::IOPL | bit::IF;
    flag_ops::cli(&mut cpu).unwrap();
    assert_eq!(cpu.rflags_rest & bit::IF, 0);
    assert!(!cpu.shadow);
    flag_ops::sti(&mut cpu).unwrap();
    assert!(cpu.shadow && cpu.rflags_rest & bit::IF != 0);
}

#[test]
fn popf_leaves_to_the_user_what_is_not_its_own() {
    for (mut cpu, expected) in [(user(), 0x24_0cd7), (protected(), 0x24_7fd7 & !0x100)] {
        cpu.set_rflags(2);
        crate::system::stack::push(&mut cpu, 4, 0x3f_7ed7 | 0x20_0000).unwrap();
        flag_ops::popf(&mut cpu, 4).unwrap();
        let user_only = 0x24_0cd7 | bit::NT;
        let expected = if cpu.cpl == 3 {
            user_only
        } else {
            expected & !0x100
        };
        assert_eq!(cpu.rflags() & !2, expected & !2, "CPL {}", cpu.cpl);
    }
}
