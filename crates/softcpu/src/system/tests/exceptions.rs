use super::long_mode::long;
use super::{exec, fault, poke, protected, stack_of, user};
use crate::fault::{Exception, Flow, vector};
use crate::flags::bit;
use crate::state::{cr0, reg, seg};
use crate::system::syscall;

/// What the manual leaves undefined is as on Intel's processors since the 80386: QEMU's test-i386 and test386 look at it.
#[test]
fn aam_and_aad_define_all_flags() {
    for (code, ax, result, flags) in [
        ([0xd4, 10], 0x47u64, 0x0701, 0u64),
        ([0xd4, 10], 0x00, 0x0000, bit::ZF | bit::PF),
        ([0xd5, 10], 0x0407, 0x002f, 0),
        ([0xd5, 10], 0x0509, 0x003b, 0),
        ([0xd5, 10], 0x0f6f, 0x0005, bit::CF | bit::AF | bit::PF),
        ([0xd5, 10], 0x077f, 0x00c5, bit::OF | bit::SF | bit::AF | bit::PF),
    ] {
        for before in [0, bit::ARITHMETIC] {
            let mut cpu = protected();
            cpu.gpr[reg::RAX] = ax;
            cpu.set_rflags(2 | before);
            exec(&mut cpu, &code).unwrap();
            assert_eq!(
                (cpu.gpr[reg::RAX], cpu.rflags() & bit::ARITHMETIC),
                (result, flags),
                "{code:x?} with {ax:#x}"
            );
        }
    }
}

#[test]
fn arpl_changes_the_lower_half_of_a_register() {
    // arpl eax, ebx; arpl ax, bx
    for code in [&[0x63, 0xd8][..], &[0x66, 0x63, 0xd8]] {
        for (before, own, after, adjusted) in [
            (0x1234_5679u64, 0x0762_123fu64, 0x1234_567bu64, true),
            (0x1234_567b, 0x0762_123d, 0x1234_567b, false),
        ] {
            let mut cpu = protected();
            cpu.gpr[reg::RAX] = before;
            cpu.gpr[reg::RBX] = own;
            exec(&mut cpu, code).unwrap();
            assert_eq!(cpu.gpr[reg::RAX], after);
            assert_eq!(cpu.rflags() & bit::ZF != 0, adjusted);
        }
    }
}

#[test]
fn bound_raises_br_outside_its_limits() {
    // bound eax, [0x6000] and the same with 16 bits
    let wide = [0x62, 0x05, 0, 0x60, 0, 0];
    let narrow = [0x66, 0x62, 0x05, 0, 0x60, 0, 0];
    for (value, inside) in [
        (-6i32, false),
        (-5, true),
        (0, true),
        (9, true),
        (10, false),
        (i32::MIN, false),
    ] {
        let mut cpu = protected();
        cpu.gpr[reg::RAX] = u64::from(value as u32);
        poke(&mut cpu, 0x6000, &(-5i32).to_le_bytes());
        poke(&mut cpu, 0x6004, &9i32.to_le_bytes());
        check_bound(&mut cpu, &wide, inside);
        if value == i32::MIN {
            continue;
        }
        poke(&mut cpu, 0x6000, &(-5i16).to_le_bytes());
        poke(&mut cpu, 0x6002, &9i16.to_le_bytes());
        // Only the lower half counts.
        cpu.gpr[reg::RAX] = 0x7777_0000 | u64::from(value as u16);
        check_bound(&mut cpu, &narrow, inside);
    }
    let mut cpu = protected();
    cpu.segs[seg::DS].limit = 0x6006;
    cpu.update_mode();
    let result = exec(&mut cpu, &wide);
    assert_eq!(
        fault(&mut cpu, result),
        Exception::gp(0),
        "the limits end past the segment"
    );
}

fn check_bound(cpu: &mut crate::state::Cpu, code: &[u8], inside: bool) {
    let result = exec(cpu, code);
    if inside {
        assert_eq!(result, Ok(Flow::Next));
    } else {
        assert_eq!(fault(cpu, result), Exception::plain(vector::BR));
    }
}

#[test]
fn into_traps_when_the_overflow_flag_is_set() {
    let mut cpu = protected();
    assert_eq!(exec(&mut cpu, &[0xce]), Ok(Flow::Next));
    cpu.set_rflags(bit::OF);
    assert_eq!(exec(&mut cpu, &[0xce]), Ok(Flow::Jump));
    assert_eq!(cpu.rip, 0x10_0400);
    assert_eq!(stack_of(&mut cpu)[0], 0x1236, "behind the instruction");
    // Like INT n it asks for the gate's privilege.
    let mut cpu = user();
    cpu.set_rflags(bit::OF);
    let result = exec(&mut cpu, &[0xce]);
    assert_eq!(fault(&mut cpu, result), Exception::gp(4 * 8 + 2));
}

#[test]
fn sysenter_and_sysexit_switch_levels_in_protected_mode() {
    let mut cpu = user();
    cpu.msrs.sysenter_cs = 0x0b;
    cpu.msrs.sysenter_eip = 0x1_8000_4444;
    cpu.msrs.sysenter_esp = 0x1_0000_7700;
    cpu.set_rflags(bit::IF | bit::VM | bit::DF);
    syscall::sysenter(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[reg::RSP]), (0, 0x8000_4444, 0x7700));
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector),
        (8, 0x10)
    );
    assert_eq!(cpu.rflags() & (bit::IF | bit::VM | bit::DF), bit::DF);
    cpu.gpr[reg::RDX] = 0x5555;
    cpu.gpr[reg::RCX] = 0x6666;
    // 0F 35
    assert_eq!(exec(&mut cpu, &[0x0f, 0x35]), Ok(Flow::Jump));
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[reg::RSP]), (3, 0x5555, 0x6666));
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector),
        (0x1b, 0x23)
    );
    let result = exec(&mut cpu, &[0x0f, 0x35]);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0), "not from level 3");
}

#[test]
fn sysenter_goes_to_64_bit_code_where_long_mode_is_active() {
    let mut cpu = long(3);
    cpu.msrs.sysenter_cs = 0x68;
    cpu.msrs.sysenter_eip = 0xffff_ffff_8100_0000;
    cpu.msrs.sysenter_esp = 0xffff_c900_0000_4000;
    assert_eq!(exec(&mut cpu, &[0x0f, 0x34]), Ok(Flow::Jump));
    assert_eq!((cpu.cpl, cpu.rip), (0, 0xffff_ffff_8100_0000));
    assert_eq!(cpu.gpr[reg::RSP], 0xffff_c900_0000_4000);
    assert!(cpu.is_long());
    // SYSEXIT with REX.W to 64-bit code, without it to 32-bit code.
    for (code, wide) in [(&[0x48, 0x0f, 0x35][..], true), (&[0x0f, 0x35], false)] {
        let mut cpu = long(0);
        cpu.msrs.sysenter_cs = 0x68;
        cpu.gpr[reg::RDX] = 0x7fff_1234_5678;
        cpu.gpr[reg::RCX] = 0x7fff_8765_4321;
        exec(&mut cpu, code).unwrap();
        let selectors = (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector);
        if wide {
            assert_eq!((cpu.rip, cpu.gpr[reg::RSP]), (0x7fff_1234_5678, 0x7fff_8765_4321));
            assert_eq!(selectors, (0x8b, 0x93));
        } else {
            assert_eq!((cpu.rip, cpu.gpr[reg::RSP]), (0x1234_5678, 0x8765_4321));
            assert_eq!(selectors, (0x7b, 0x83));
        }
        assert_eq!((cpu.cpl, cpu.is_long()), (3, wide));
    }
}

#[test]
fn sysenter_and_sysexit_need_their_segment_and_canonical_addresses() {
    for cs in [0, 3] {
        let mut cpu = protected();
        cpu.msrs.sysenter_cs = cs;
        for code in [[0x0f, 0x34], [0x0f, 0x35]] {
            let result = exec(&mut cpu, &code);
            assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{cs} {code:02x?}");
        }
    }
    for (rip, sp) in [(0x8000_0000_0000, 0), (0, 0x8000_0000_0000)] {
        let mut cpu = long(0);
        cpu.msrs.sysenter_cs = 0x68;
        cpu.gpr[reg::RDX] = rip;
        cpu.gpr[reg::RCX] = sp;
        let result = exec(&mut cpu, &[0x48, 0x0f, 0x35]);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0));
        assert_eq!(cpu.cpl, 0);
    }
    let mut cpu = protected();
    cpu.cr0 &= !cr0::PE;
    cpu.msrs.sysenter_cs = 8;
    let result = syscall::sysenter(&mut cpu);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0), "not in real mode");
}

#[test]
fn iret_with_nested_task_is_refused_in_long_mode() {
    let mut cpu = long(0);
    cpu.rflags_rest |= bit::NT;
    let before = (cpu.rip, cpu.gpr[reg::RSP]);
    let result = exec(&mut cpu, &[0x48, 0xcf]);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0));
    assert_eq!((cpu.rip, cpu.gpr[reg::RSP]), before);
}
