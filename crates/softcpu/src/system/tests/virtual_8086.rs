use super::{STACK0, TSS, exec, fault, peek32, poke, user};
use crate::fault::{Exception, Flow, Stop};
use crate::flags::bit;
use crate::state::{Cpu, PendingExit, cr4, mode, reg, seg};
use crate::system::segment;

/// Where the 8086 program is and its stack.
const CODE: u16 = 0x400;
const STACK: u16 = 0x600;

/// An 8086 program with privilege `iopl` for I/O, whose vector 0x21 leads to 0555:0066; with CR4.VME if `vme` is set.
fn v86(iopl: u64, vme: bool) -> Box<Cpu> {
    let mut cpu = user();
    cpu.set_rflags(2 | bit::VM | iopl << 12);
    for (index, selector) in [(seg::ES, 1), (seg::CS, CODE), (seg::SS, STACK), (seg::DS, 2)] {
        cpu.segs[index] = segment::real_segment(&cpu, index, selector);
    }
    cpu.gpr[reg::RSP] = 0x100;
    cpu.rip = 0x10;
    cpu.cr4 = if vme { cr4::VME } else { 0 };
    poke(&mut cpu, 4 * 0x21, &[0x66, 0, 0x55, 5]);
    // The I/O bitmap at 0x90, the redirection bitmap before it: vector 0x21 goes to the program, 0x22 does not.
    cpu.tr.limit = 0x100;
    poke(&mut cpu, TSS + 0x66, &0x90u16.to_le_bytes());
    poke(&mut cpu, TSS + 0x70, &[0xff; 0x20]);
    poke(&mut cpu, TSS + 0x70 + 0x21 / 8, &[!2]);
    poke(&mut cpu, TSS + 0x90, &[0xfe, 0xff, 0x7f, 0xfe, 0xff]);
    cpu.update_mode();
    assert_ne!(cpu.mode & mode::V86, 0);
    cpu
}

/// A word of the program's stack.
fn stack_word(cpu: &mut Cpu, at: u64) -> u16 {
    peek32(cpu, u64::from(STACK) * 16 + at) as u16
}

/// What INT n leads to.
#[derive(Debug, PartialEq)]
enum Way {
    /// The program's own handler.
    Program,
    /// The protected-mode handler.
    Monitor,
    /// #GP(0).
    Refused,
}

#[test]
fn int_n_goes_to_the_program_or_the_monitor() {
    use Way::*;
    let rows = [
        (0x21, 3, false, Monitor),
        (0x21, 0, false, Refused),
        (0x21, 3, true, Program),
        (0x21, 0, true, Program),
        (0x22, 3, true, Monitor),
        (0x22, 0, true, Refused),
    ];
    for (vector, iopl, vme, expected) in rows {
        let mut cpu = v86(iopl, vme);
        // Gates of level 3 for both.
        for gate in [0x21u64, 0x22] {
            poke(&mut cpu, super::IDT + 8 * gate + 5, &[0xee]);
        }
        let way = match exec(&mut cpu, &[0xcd, vector]) {
            Ok(Flow::Jump) if cpu.mode & mode::V86 != 0 => {
                assert_eq!((cpu.segs[seg::CS].selector, cpu.rip), (0x555, 0x66));
                Program
            }
            Ok(Flow::Jump) => {
                assert_eq!((cpu.cpl, cpu.rip), (0, 0x10_0000 | u64::from(vector) << 8));
                assert_eq!(cpu.gpr[reg::RSP], STACK0 - 36);
                assert_eq!(peek32(&mut cpu, STACK0 - 36), 0x12, "behind the instruction");
                Monitor
            }
            Err(Stop::Fault) => {
                assert_eq!(cpu.exception.take(), Some(Exception::gp(0)));
                Refused
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(way, expected, "vector {vector:#x}, IOPL {iopl}, VME {vme}");
    }
}

#[test]
fn a_redirected_int_n_pushes_the_virtual_interrupt_flag() {
    // IOPL, VIF and IF before; IF and IOPL of the image; VIF and IF afterwards.
    let rows = [
        (0, bit::VIF, bit::IF | bit::IOPL, 0),
        (0, 0, bit::IOPL, 0),
        (0, bit::IF, bit::IOPL, bit::IF),
        (3, bit::IF, bit::IF | bit::IOPL, 0),
    ];
    for (iopl, before, image, after) in rows {
        let mut cpu = v86(iopl, true);
        cpu.set_rflags(cpu.rflags() | before | bit::TF);
        exec(&mut cpu, &[0xcd, 0x21]).unwrap();
        assert_eq!(cpu.gpr[reg::RSP], 0x100 - 6);
        assert_eq!(stack_word(&mut cpu, 0xfa), 0x12);
        assert_eq!(stack_word(&mut cpu, 0xfc), CODE);
        let pushed = u64::from(stack_word(&mut cpu, 0xfe));
        assert_eq!(pushed & (bit::IF | bit::IOPL), image, "IOPL {iopl}, {before:#x}");
        assert_eq!(
            cpu.rflags() & (bit::IF | bit::VIF | bit::TF),
            after,
            "IOPL {iopl}, {before:#x}"
        );
    }
}

#[test]
fn the_interrupt_flag_is_real_virtual_or_out_of_reach() {
    // CLI, STI, PUSHF, POPF, IRET, PUSHFD, POPFD, IRETD.
    let all: [&[u8]; 8] = [
        &[0xfa],
        &[0xfb],
        &[0x9c],
        &[0x9d],
        &[0xcf],
        &[0x66, 0x9c],
        &[0x66, 0x9d],
        &[0x66, 0xcf],
    ];
    for (iopl, vme, allowed) in [
        (3, false, 0b1111_1111),
        (3, true, 0b1111_1111),
        (0, true, 0b0001_1111),
        (0, false, 0),
    ] {
        for (n, code) in all.iter().enumerate() {
            let mut cpu = v86(iopl, vme);
            let done = exec(&mut cpu, code);
            let expected = allowed >> n & 1 != 0;
            assert_eq!(done.is_ok(), expected, "IOPL {iopl}, VME {vme}, {code:02x?}");
            if !expected {
                assert_eq!(cpu.exception.take(), Some(Exception::gp(0)));
            }
        }
    }
}

#[test]
fn the_virtual_interrupt_flag_follows_cli_sti_popf_and_iret() {
    let mut cpu = v86(0, true);
    exec(&mut cpu, &[0xfb]).unwrap();
    assert_eq!(cpu.rflags() & (bit::VIF | bit::IF), bit::VIF);
    exec(&mut cpu, &[0x9c]).unwrap();
    let image = stack_word(&mut cpu, 0xfe);
    assert_eq!(u64::from(image) & (bit::IF | bit::IOPL), bit::IF | bit::IOPL);
    exec(&mut cpu, &[0xfa]).unwrap();
    assert_eq!(cpu.rflags() & bit::VIF, 0);
    exec(&mut cpu, &[0x9d]).unwrap();
    assert_eq!(cpu.rflags() & (bit::VIF | bit::IF | bit::IOPL), bit::VIF);
    // IRET to 0777:0088 with IF clear.
    poke(
        &mut cpu,
        u64::from(STACK) * 16 + 0x100,
        &[0x88, 0, 0x77, 7, 0xd7, 0x30],
    );
    exec(&mut cpu, &[0xcf]).unwrap();
    assert_eq!(
        (cpu.segs[seg::CS].base, cpu.rip, cpu.gpr[reg::RSP]),
        (0x7770, 0x88, 0x106)
    );
    assert_eq!(cpu.rflags(), bit::VM | 0xd7, "neither VIF nor IOPL");
    // With an interrupt pending, turning interrupts on is the monitor's business; so is single step.
    for (pending, image, refused) in [
        (bit::VIP, bit::IF, true),
        (0, bit::TF, true),
        (bit::VIP, 0, false),
        (0, bit::IF, false),
    ] {
        for code in [0x9d, 0xcf] {
            let mut cpu = v86(0, true);
            cpu.set_rflags(cpu.rflags() | pending);
            let frame = if code == 0x9d { 0 } else { 4 };
            poke(
                &mut cpu,
                u64::from(STACK) * 16 + 0x100 + frame,
                &(image as u16).to_le_bytes(),
            );
            let done = exec(&mut cpu, &[code]);
            assert_eq!(done.is_err(), refused, "{code:#x} {pending:#x} {image:#x}");
        }
    }
    let mut cpu = v86(0, true);
    cpu.set_rflags(cpu.rflags() | bit::VIP);
    let result = exec(&mut cpu, &[0xfb]);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0), "STI with VIP");
}

#[test]
fn ports_are_guarded_by_the_bitmap_whatever_iopl_says() {
    // The bitmap lets port 0, port 0x17 and port 0x18 pass.
    let rows: [(&[u8], bool); 9] = [
        (&[0xe4, 0], true),
        (&[0xe4, 1], false),
        (&[0xe5, 0], false),
        (&[0xe6, 0x17], true),
        (&[0xe7, 0x17], true),
        (&[0xe7, 0x18], false),
        (&[0x66, 0xe7, 0x15], false),
        // The last byte that the limit has, and past it.
        (&[0xec], false),
        (&[0x6c], false),
    ];
    for iopl in [0, 3] {
        for (code, allowed) in rows {
            let mut cpu = v86(iopl, false);
            cpu.gpr[reg::RDX] = 0x400;
            let result = exec(&mut cpu, code);
            if allowed {
                assert_eq!(result, Err(Stop::Exit), "{code:02x?}");
                assert_ne!(cpu.exit, PendingExit::None);
            } else {
                assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{code:02x?}");
            }
        }
    }
    let mut cpu = v86(0, false);
    cpu.tr.limit = 0x66;
    let result = exec(&mut cpu, &[0xe4, 0]);
    assert_eq!(
        fault(&mut cpu, result),
        Exception::gp(0),
        "a TSS without a bitmap"
    );
}

#[test]
fn privileged_and_protected_mode_instructions_are_refused() {
    let rows: [(&[u8], Exception); 8] = [
        (&[0xf4], Exception::gp(0)),
        (&[0x0f, 0x20, 0xc0], Exception::gp(0)),
        (&[0x0f, 0x30], Exception::gp(0)),
        (&[0x0f, 0x01, 0x16, 0, 0], Exception::gp(0)),
        (&[0x0f, 0x00, 0xc0], Exception::ud()),
        (&[0x0f, 0x00, 0xd8], Exception::ud()),
        (&[0x0f, 0x02, 0xc0], Exception::ud()),
        (&[0x63, 0xc0], Exception::ud()),
    ];
    for (code, expected) in rows {
        let mut cpu = v86(3, false);
        let result = exec(&mut cpu, code);
        assert_eq!(fault(&mut cpu, result), expected, "{code:02x?}");
    }
}

#[test]
fn segment_loads_are_those_of_real_mode() {
    let mut cpu = v86(0, false);
    cpu.gpr[reg::RAX] = 0x1234;
    exec(&mut cpu, &[0x8e, 0xd8]).unwrap();
    let ds = cpu.segs[seg::DS];
    assert_eq!((ds.selector, ds.base, ds.limit), (0x1234, 0x1_2340, 0xffff));
    // jmp 0777:0088
    assert_eq!(exec(&mut cpu, &[0xea, 0x88, 0, 0x77, 7]), Ok(Flow::Jump));
    assert_eq!((cpu.segs[seg::CS].base, cpu.rip, cpu.cpl), (0x7770, 0x88, 3));
}
