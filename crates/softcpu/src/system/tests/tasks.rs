use super::{GDT, TSS, exec, fault, peek32, poke, protected};
use crate::fault::{Exception, Flow, vector};
use crate::flags::bit;
use crate::state::{Cpu, cr0, cr4, mode, reg, seg};

/// Where the other task's state is.
const NEW: u64 = 0x5000;
/// Selectors: the 32-bit task, the 16-bit task, a task gate to the former.
const TASK32: u8 = 0x60;
const TASK16: u8 = 0x68;

/// `jmp selector:0` or `call selector:0`.
fn far(opcode: u8, selector: u8) -> [u8; 7] {
    [opcode, 0, 0, 0, 0, selector, 0]
}

const JMP: u8 = 0xea;
const CALL: u8 = 0x9a;
const IRET: [u8; 1] = [0xcf];

fn kind_of(cpu: &mut Cpu, selector: u8) -> u32 {
    peek32(cpu, GDT + u64::from(selector) + 4) >> 8 & 0xf
}

/// A CPU with another task of 32 bits and one of 16.
fn with_tasks() -> Box<Cpu> {
    let mut cpu = protected();
    poke(
        &mut cpu,
        GDT + u64::from(TASK32),
        &(0x0000_8900_0000_0067u64 | NEW << 16).to_le_bytes(),
    );
    poke(
        &mut cpu,
        GDT + u64::from(TASK16),
        &(0x0000_8100_0000_002bu64 | (NEW + 0x800) << 16).to_le_bytes(),
    );
    let words: [(u64, u32); 9] = [
        (0x20, 0x9999),
        (0x24, 0x402),
        (0x28, 0x1111_2222),
        (0x38, 0x6000),
        (0x48, 0x10),
        (0x4c, 8),
        (0x50, 0x10),
        (0x54, 0x10),
        (0x1c, 0x7_0000),
    ];
    for (at, value) in words {
        poke(&mut cpu, NEW + at, &value.to_le_bytes());
    }
    let words: [(u64, u16); 8] = [
        (0xe, 0x8888),
        (0x10, 0x2),
        (0x12, 0x3333),
        (0x1a, 0x5ff0),
        (0x22, 0x10),
        (0x24, 8),
        (0x26, 0x10),
        (0x28, 0x10),
    ];
    for (at, value) in words {
        poke(&mut cpu, NEW + 0x800 + at, &value.to_le_bytes());
    }
    cpu.gpr[reg::RAX] = 0xaaaa_5555;
    cpu.dr7 = 0x401;
    cpu
}

#[test]
fn a_jump_to_a_task_leaves_the_old_one_free() {
    let mut cpu = with_tasks();
    assert_eq!(exec(&mut cpu, &far(JMP, TASK32)), Ok(Flow::Jump));
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RAX], cpu.gpr[reg::RSP]),
        (0x9999, 0x1111_2222, 0x6000)
    );
    assert_eq!(cpu.rflags() & (bit::DF | bit::NT), bit::DF, "no nesting");
    assert_eq!((kind_of(&mut cpu, 0x50), kind_of(&mut cpu, TASK32)), (9, 11));
    assert_eq!(cpu.tr.selector, u16::from(TASK32));
    assert_ne!(cpu.cr0 & cr0::TS, 0);
    assert_eq!(cpu.dr7 & 1, 0, "local breakpoints end with the task");
    let saved = [0x20, 0x28, 0x4c].map(|at| peek32(&mut cpu, TSS + at));
    assert_eq!(saved, [0x123b, 0xaaaa_5555, 8], "behind the jump");
}

#[test]
fn a_call_of_a_task_is_nested_and_iret_returns() {
    let mut cpu = with_tasks();
    exec(&mut cpu, &far(CALL, TASK32)).unwrap();
    assert_eq!(cpu.rflags_rest & bit::NT, bit::NT);
    assert_eq!((kind_of(&mut cpu, 0x50), kind_of(&mut cpu, TASK32)), (11, 11));
    assert_eq!(peek32(&mut cpu, NEW) & 0xffff, 0x50, "the link");
    exec(&mut cpu, &IRET).unwrap();
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RAX], cpu.tr.selector),
        (0x123b, 0xaaaa_5555, 0x50)
    );
    assert_eq!((kind_of(&mut cpu, 0x50), kind_of(&mut cpu, TASK32)), (11, 9));
    assert_eq!(
        peek32(&mut cpu, NEW + 0x24) as u64 & bit::NT,
        0,
        "saved without NT"
    );
    assert_eq!(peek32(&mut cpu, NEW + 0x20), 0x999a, "behind IRET");
}

#[test]
fn a_task_of_16_bits_sets_the_upper_halves() {
    let mut cpu = with_tasks();
    cpu.segs[seg::FS] = super::flat(0x10, 0xc093);
    exec(&mut cpu, &far(CALL, TASK16)).unwrap();
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RAX], cpu.gpr[reg::RSP]),
        (0x8888, 0xffff_3333, 0xffff_5ff0)
    );
    assert_eq!(cpu.segs[seg::FS].rights, 0, "it has no FS");
    exec(&mut cpu, &IRET).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[reg::RAX]), (0x123b, 0xaaaa_5555));
    assert_eq!(peek32(&mut cpu, NEW + 0x800 + 0xe) & 0xffff, 0x8889);
}

#[test]
fn a_task_brings_its_page_tables_where_paging_is_on() {
    // Two directories that map the first 4 MiB one to one.
    for paging in [false, true] {
        let mut cpu = with_tasks();
        for directory in [0x1_0000, 0x7_0000] {
            poke(&mut cpu, directory, &0x87u32.to_le_bytes());
        }
        cpu.cr3 = 0x1_0000;
        cpu.cr4 = cr4::PSE;
        if paging {
            cpu.cr0 |= cr0::PG;
        }
        cpu.switch_address_space(false);
        cpu.update_mode();
        exec(&mut cpu, &far(JMP, TASK32)).unwrap();
        assert_eq!(cpu.cr3, if paging { 0x7_0000 } else { 0x1_0000 });
        assert_eq!(cpu.load_linear::<u32>(NEW + 0x28), Ok(0x1111_2222));
    }
}

#[test]
fn a_task_with_the_trap_bit_begins_by_a_debug_exception() {
    let mut cpu = with_tasks();
    poke(&mut cpu, NEW + 0x64, &[1]);
    let result = exec(&mut cpu, &far(JMP, TASK32));
    assert_eq!(fault(&mut cpu, result), Exception::db(1 << 15));
    assert_eq!(
        (cpu.rip, cpu.tr.selector),
        (0x9999, u16::from(TASK32)),
        "in the new task"
    );
}

#[test]
fn a_task_may_run_in_virtual_8086_mode() {
    let mut cpu = with_tasks();
    poke(&mut cpu, NEW + 0x24, &0x2_0002u32.to_le_bytes());
    exec(&mut cpu, &far(JMP, TASK32)).unwrap();
    assert_ne!(cpu.mode & mode::V86, 0);
    assert_eq!(
        (cpu.cpl, cpu.segs[seg::CS].base, cpu.segs[seg::DS].base),
        (3, 0x80, 0x100)
    );
}

#[test]
fn bad_tasks_are_refused_before_and_after_the_switch() {
    type Change = fn(&mut Cpu);
    let before: [(Change, Exception); 5] = [
        (|cpu| poke(cpu, GDT + 0x65, &[0x8b]), Exception::gp(0x60)),
        (|cpu| poke(cpu, GDT + 0x65, &[0x09]), Exception::np(0x60)),
        (|cpu| poke(cpu, GDT + 0x60, &[0x66]), Exception::ts(0x60)),
        (|cpu| cpu.gdtr.limit = 0x5f, Exception::gp(0x60)),
        (|cpu| poke(cpu, GDT + 0x65, &[0x82]), Exception::gp(0x60)),
    ];
    for (n, (change, expected)) in before.into_iter().enumerate() {
        let mut cpu = with_tasks();
        change(&mut cpu);
        let result = exec(&mut cpu, &far(JMP, TASK32));
        assert_eq!(fault(&mut cpu, result), expected, "row {n}");
        assert_eq!(
            (cpu.tr.selector, cpu.rip),
            (0x50, 0x1234),
            "row {n}: the old task"
        );
    }
    let after: [(u64, u16, Exception); 6] = [
        (0x4c, 0, Exception::ts(0)),
        (0x4c, 0x10, Exception::ts(0x10)),
        (0x4c, 0x28, Exception::np(0x28)),
        (0x50, 0, Exception::ts(0)),
        (0x54, 0x48, Exception::ts(0x48)),
        (0x60, 0x10, Exception::ts(0x10)),
    ];
    for (at, selector, expected) in after {
        let mut cpu = with_tasks();
        poke(&mut cpu, NEW + at, &selector.to_le_bytes());
        let result = exec(&mut cpu, &far(JMP, TASK32));
        assert_eq!(fault(&mut cpu, result), expected, "{at:#x}");
        assert_eq!(
            (cpu.tr.selector, cpu.rip),
            (u16::from(TASK32), 0x9999),
            "{at:#x}: the new task"
        );
    }
    // A return to a task that is not busy.
    let mut cpu = with_tasks();
    cpu.rflags_rest |= bit::NT;
    poke(&mut cpu, TSS, &u16::from(TASK32).to_le_bytes());
    let result = exec(&mut cpu, &IRET);
    assert_eq!(fault(&mut cpu, result).vector, vector::TS);
}
