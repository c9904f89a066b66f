use ostler_accel::Segment;

use super::{GDT, fault, flat, peek32, poke, protected, user};
use crate::fault::Exception;
use crate::state::{reg, rights, seg};
use crate::system::{far, iret, segment, stack};

#[test]
fn data_segments_are_checked_for_type_level_and_presence() {
    let cases = [
        (seg::DS, 0x10, None),
        (seg::DS, 0x08, None),
        (seg::DS, 0x40, None),
        (seg::DS, 0x00, None),
        (seg::DS, 0x03, None),
        (seg::DS, 0x48, Some(Exception::gp(0x48))),
        (seg::DS, 0x50, Some(Exception::gp(0x50))),
        (seg::DS, 0x30, Some(Exception::np(0x30))),
        (seg::DS, 0x13, Some(Exception::gp(0x10))),
        (seg::DS, 0x77, Some(Exception::gp(0x74))),
        (seg::ES, 0x1ff8, Some(Exception::gp(0x1ff8))),
        (seg::DS, 0x38, None),
        (seg::SS, 0x10, None),
        (seg::SS, 0x00, Some(Exception::gp(0))),
        (seg::SS, 0x11, Some(Exception::gp(0x10))),
        (seg::SS, 0x23, Some(Exception::gp(0x20))),
        (seg::SS, 0x40, Some(Exception::gp(0x40))),
        (seg::SS, 0x08, Some(Exception::gp(0x08))),
        (seg::SS, 0x30, Some(Exception::ss(0x30))),
    ];
    for (index, selector, expected) in cases {
        let mut cpu = protected();
        let result = segment::load(&mut cpu, index, selector);
        match expected {
            None => {
                assert!(result.is_ok(), "{selector:#x}: {:?}", cpu.exception);
                assert_eq!(cpu.segs[index].selector, selector);
            }
            Some(expected) => assert_eq!(fault(&mut cpu, result), expected, "{selector:#x}"),
        }
    }
}

#[test]
fn the_user_may_load_its_own_and_conforming_segments() {
    let cases = [
        (0x23, true),
        (0x20, true),
        (0x10, false),
        (0x13, false),
        (0x3b, true),
        (0, true),
    ];
    for (selector, allowed) in cases {
        let mut cpu = user();
        assert_eq!(
            segment::load(&mut cpu, seg::ES, selector).is_ok(),
            allowed,
            "{selector:#x}"
        );
    }
}

#[test]
fn a_load_sets_the_accessed_bit() {
    let mut cpu = protected();
    poke(&mut cpu, GDT + 0x10, &0x00cf_9200_0000_ffffu64.to_le_bytes());
    segment::load(&mut cpu, seg::DS, 0x10).unwrap();
    assert_eq!(peek32(&mut cpu, GDT + 0x14), 0x00cf_9300);
}

#[test]
fn far_jumps_are_checked() {
    let cases = [
        (0x08, None),
        (0x38, None),
        (0x00, Some(Exception::gp(0))),
        (0x10, Some(Exception::gp(0x10))),
        (0x18, Some(Exception::gp(0x18))),
        (0x0b, Some(Exception::gp(0x08))),
        (0x28, Some(Exception::np(0x28))),
        (0x58, Some(Exception::gp(0x58))),
        (0x50, Some(Exception::gp(0x50))),
    ];
    for (selector, expected) in cases {
        let mut cpu = protected();
        let result = far::jump(&mut cpu, selector, 0x4444);
        match expected {
            None => {
                result.unwrap();
                assert_eq!((cpu.segs[seg::CS].selector, cpu.rip), (selector, 0x4444));
            }
            Some(expected) => assert_eq!(fault(&mut cpu, result), expected, "{selector:#x}"),
        }
    }
}

#[test]
fn a_call_gate_leads_to_an_inner_level_and_back() {
    let mut cpu = user();
    far::call(&mut cpu, 0x63, 0, 4).unwrap();
    assert_eq!((cpu.cpl, cpu.segs[seg::CS].selector, cpu.rip), (0, 8, 0x5678));
    assert_eq!(cpu.segs[seg::SS].selector, 0x10);
    let sp = super::STACK0 - 16;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    let pushed: Vec<u32> = (0..4).map(|n| peek32(&mut cpu, sp + 4 * n)).collect();
    assert_eq!(pushed, [0x1236, 0x1b, super::STACK as u32, 0x23]);
    far::ret(&mut cpu, 4, 0).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[reg::RSP]), (3, 0x1236, super::STACK));
    assert_eq!(cpu.segs[seg::SS].selector, 0x23);
}

#[test]
fn a_return_outwards_drops_segments_of_the_inner_level() {
    let mut cpu = protected();
    for value in [0x23u64, 0x6000, 0x202, 0x1b, 0x4000] {
        stack::push(&mut cpu, 4, value).unwrap();
    }
    segment::load(&mut cpu, seg::ES, 0x20).unwrap();
    iret::iret(&mut cpu, 4).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[reg::RSP]), (3, 0x4000, 0x6000));
    assert_eq!(cpu.segs[seg::DS].rights, 0, "level 0 data is gone");
    assert_eq!(cpu.segs[seg::ES].selector, 0x20);
}

#[test]
fn iret_enters_virtual_8086_mode_and_an_interrupt_leaves_it() {
    let mut cpu = protected();
    // GS FS DS ES SS ESP EFLAGS CS EIP, pushed in this order.
    for value in [5u64, 4, 3, 2, 0x900, 0x100, 0x2_3202, 0x1000, 0x44] {
        stack::push(&mut cpu, 4, value).unwrap();
    }
    iret::iret(&mut cpu, 4).unwrap();
    assert_eq!((cpu.cpl, cpu.segs[seg::CS].base, cpu.rip), (3, 0x1_0000, 0x44));
    assert_eq!(cpu.segs[seg::GS].base, 0x50);
    let event = crate::system::interrupt::Event {
        vector: 0x30,
        error_code: None,
        source: crate::system::interrupt::Source::External,
        return_rip: cpu.rip,
    };
    crate::system::interrupt::enter(&mut cpu, &event).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.segs[seg::DS].selector), (0, 0x10_3000, 0));
    let sp = cpu.gpr[reg::RSP];
    assert_eq!(sp, super::STACK0 - 36);
    let pushed: Vec<u32> = (0..9).map(|n| peek32(&mut cpu, sp + 4 * n)).collect();
    assert_eq!(pushed, [0x44, 0x1000, 0x2_3202, 0x100, 0x900, 2, 3, 4, 5]);
}

#[test]
fn what_an_outer_level_may_not_use_becomes_null_but_keeps_its_base() {
    let mut cpu = user();
    // Data of level 0, and some that the user may use.
    cpu.segs[seg::GS] = Segment {
        base: 0x40_0000,
        ..flat(0x10, 0xc093)
    };
    cpu.segs[seg::FS].base = 0x1000;
    segment::drop_inner_segments(&mut cpu);
    let gs = cpu.segs[seg::GS];
    assert_eq!((gs.selector, gs.base), (0, 0x40_0000));
    assert_eq!(gs.rights & rights::PRESENT, 0);
    let fs = cpu.segs[seg::FS];
    assert_eq!((fs.selector, fs.base, fs.rights), (0x23, 0x1000, 0xc0f3));
}
