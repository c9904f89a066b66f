use super::{STACK, STACK0, fault, peek32, poke, protected, user};
use crate::fault::{Exception, vector};
use crate::flags::bit;
use crate::state::{Activity, cr0, reg, seg};
use crate::system::interrupt::{Event, Source, deliver, enter, software};

#[test]
fn an_exception_of_the_user_switches_to_the_stack_of_the_tss() {
    let mut cpu = user();
    cpu.set_rflags(0x3202);
    deliver(&mut cpu, Exception::pf(6, 0xdead_0000)).unwrap();
    assert_eq!((cpu.cpl, cpu.segs[seg::CS].selector, cpu.rip), (0, 8, 0x10_0e00));
    assert_eq!(cpu.cr2, 0xdead_0000);
    assert_eq!(cpu.rflags_rest & bit::IF, 0, "an interrupt gate");
    let sp = STACK0 - 24;
    assert_eq!(cpu.gpr[reg::RSP], sp);
    let pushed: Vec<u32> = (0..6).map(|n| peek32(&mut cpu, sp + 4 * n)).collect();
    assert_eq!(
        pushed,
        [6, 0x1234, 0x1b, 0x1_3202, STACK as u32, 0x23],
        "RF is set in the flags of a fault"
    );
}

#[test]
fn int_n_returns_behind_itself_and_checks_the_gate() {
    let mut cpu = user();
    software(&mut cpu, 0x80, Source::IntN).unwrap();
    assert_eq!(peek32(&mut cpu, STACK0 - 20), 0x1236);
    for (vector, expected) in [
        (0x30, Exception::gp(0x30 * 8 + 2)),
        (0x81, Exception::gp(0x81 * 8 + 2)),
        (0x82, Exception::gp(0x82 * 8 + 2)),
    ] {
        let mut cpu = user();
        let result = software(&mut cpu, vector, Source::IntN);
        assert_eq!(fault(&mut cpu, result), expected);
    }
    let mut cpu = protected();
    let result = software(&mut cpu, 0x81, Source::IntN);
    assert_eq!(fault(&mut cpu, result), Exception::np(0x81 * 8 + 2));
    cpu.idtr.limit = 0x17f;
    let result = software(&mut cpu, 0x30, Source::IntN);
    assert_eq!(fault(&mut cpu, result), Exception::gp(0x30 * 8 + 2));
}

#[test]
fn faults_on_the_way_of_an_external_event_have_the_ext_bit() {
    let mut cpu = protected();
    let event = Event {
        vector: 0x81,
        error_code: None,
        source: Source::External,
        return_rip: 0x1234,
    };
    let result = enter(&mut cpu, &event);
    assert_eq!(fault(&mut cpu, result), Exception::np(0x81 * 8 + 3));
}

/// What becomes of a second exception while a first is delivered, by removing the first's gate.
#[test]
fn exceptions_combine_to_double_faults_and_shutdown() {
    // The gate of the first is absent, which raises #NP, a contributory exception.
    let cases = [
        (Exception::gp(0), vector::DF),
        (Exception::de(), vector::DF),
        (Exception::pf(0, 0), vector::DF),
        (Exception::ud(), vector::NP),
        (Exception::plain(vector::MF), vector::NP),
    ];
    for (first, expected) in cases {
        let mut cpu = protected();
        let gate = super::IDT + 8 * u64::from(first.vector);
        poke(&mut cpu, gate + 5, &[0x0e]);
        deliver(&mut cpu, first).unwrap();
        assert_eq!(cpu.rip, 0x10_0000 | u64::from(expected) << 8, "{first:?}");
        assert_eq!(cpu.activity, Activity::Running);
    }
    let mut cpu = protected();
    cpu.idtr.limit = 0;
    deliver(&mut cpu, Exception::ud()).unwrap();
    assert_eq!(cpu.activity, Activity::Shutdown);
}

#[test]
fn real_mode_uses_the_vector_table_and_pushes_no_error_code() {
    let mut cpu = protected();
    cpu.cr0 &= !cr0::PE;
    cpu.idtr.base = 0;
    cpu.idtr.limit = 0x3ff;
    for s in &mut cpu.segs {
        (s.base, s.limit, s.rights) = (0, 0xffff, 0x93);
    }
    cpu.segs[seg::CS].selector = 0x123;
    cpu.set_rflags(0x302);
    cpu.update_mode();
    poke(&mut cpu, 13 * 4, &[0x78, 0x56, 0x34, 0x12]);
    deliver(&mut cpu, Exception::gp(0)).unwrap();
    assert_eq!(
        (cpu.segs[seg::CS].selector, cpu.segs[seg::CS].base, cpu.rip),
        (0x1234, 0x1_2340, 0x5678)
    );
    assert_eq!(cpu.gpr[reg::RSP], STACK - 6);
    assert_eq!(peek32(&mut cpu, STACK - 6), 0x0123_1234);
    assert_eq!(peek32(&mut cpu, STACK - 2) & 0xffff, 0x302);
    assert_eq!(cpu.rflags_rest & (bit::IF | bit::TF), 0);
}

#[test]
fn a_task_gate_switches_tasks_and_iret_comes_back() {
    let mut cpu = protected();
    const NEW: u64 = 0x5000;
    poke(
        &mut cpu,
        super::GDT + 0x60,
        &(0x0000_8900_0000_0067u64 | NEW << 16).to_le_bytes(),
    );
    poke(
        &mut cpu,
        super::IDT + 8 * 8,
        &(0x0000_8500_0060_0000u64).to_le_bytes(),
    );
    let words: [(u64, u32); 8] = [
        (0x20, 0x9999),
        (0x24, 2),
        (0x28, 0x1111),
        (0x38, 0x6000),
        (0x48, 0x10),
        (0x4c, 8),
        (0x50, 0x10),
        (0x54, 0x10),
    ];
    for (at, value) in words {
        poke(&mut cpu, NEW + at, &value.to_le_bytes());
    }
    cpu.gpr[reg::RAX] = 0x7777;
    deliver(&mut cpu, Exception::with_code(vector::DF, 0)).unwrap();
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RAX], cpu.tr.selector),
        (0x9999, 0x1111, 0x60)
    );
    assert_eq!(cpu.rflags_rest & bit::NT, bit::NT);
    assert_eq!(
        cpu.gpr[reg::RSP],
        0x6000 - 4,
        "the error code is on the new stack"
    );
    assert_ne!(cpu.cr0 & cr0::TS, 0);
    assert_eq!(peek32(&mut cpu, NEW) & 0xffff, 0x50, "the link to the old task");
    cpu.next_rip = 0x999b;
    crate::system::iret::iret(&mut cpu, 4).unwrap();
    assert_eq!(
        (cpu.rip, cpu.gpr[reg::RAX], cpu.tr.selector),
        (0x1234, 0x7777, 0x50)
    );
    assert_eq!(peek32(&mut cpu, NEW + 0x20), 0x999b);
    assert_eq!(
        peek32(&mut cpu, super::GDT + 0x64) >> 8 & 0xf,
        9,
        "no longer busy"
    );
}
