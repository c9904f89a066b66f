//! Into system management mode and out of it again.

use ostler_accel::{CpuState, Segment};
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use super::{BASE, COUNT, HANDLER, Machine, SAVED, count_handler, plain_handler};
use crate::common::{CODE, guest_code};

/// mov al, 1; out 0xb2, al; out 0xf4, al: the same bytes in every mode.
const ONE_SMI: [u8; 6] = [0xb0, 1, 0xe6, 0xb2, 0xe6, 0xf4];
const AFTER_SMI: u64 = 4;
/// Page tables of 32 bits, and of 32 bits with PAE.
const TABLES32: u64 = 0x20_0000;
const TABLES_PAE: u64 = 0x21_0000;

fn flat(selector: u16, rights: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

/// Each mode that code can be in, with registers that are all different.
fn modes(machine: &Machine) -> Vec<(&'static str, CpuState)> {
    let mut long = machine.bare.long_mode(0);
    for (n, register) in long.gpr.iter_mut().enumerate() {
        *register = 0x1111_2222_3333_4400 + n as u64;
    }
    long.segments[4].base = 0x7fff_1234_5678;
    long.segments[5].base = 0xffff_8880_0000_1000;
    long.debug[4] = 0xffff_0ff1;
    long.rflags = 0x46 | 1 << 21;
    let mut user = long.clone();
    user.segments = [flat(0x1b, 0xc0f3); 6];
    user.segments[1] = flat(0x23, 0xa0fb);
    user.rflags |= 3 << 12;
    let mut compatible = user.clone();
    compatible.segments[1] = flat(0x23, 0xc0fb);
    compatible.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
    compatible.segments[4].base = 0;
    compatible.segments[5].base = 0;

    let mut protected = compatible.clone();
    protected.segments = [flat(0x10, 0xc093); 6];
    protected.segments[1] = flat(8, 0xc09b);
    (protected.cr0, protected.cr3, protected.cr4, protected.efer) = (0x33, 0, 0, 0);
    for n in 0..1024u64 {
        let entry = (n as u32) << 22 | 0x87;
        machine.bare.write(TABLES32 + 4 * n, &entry.to_le_bytes());
    }
    let mut legacy = protected.clone();
    (legacy.cr0, legacy.cr3, legacy.cr4) = (0x8001_0033, TABLES32, 0x10);
    machine
        .bare
        .write(TABLES_PAE, &(TABLES_PAE + 0x1001).to_le_bytes());
    for n in 0..512u64 {
        machine
            .bare
            .write(TABLES_PAE + 0x1000 + 8 * n, &(n << 21 | 0x87).to_le_bytes());
    }
    let mut pae = protected.clone();
    (pae.cr0, pae.cr3, pae.cr4, pae.efer) = (0x8001_0033, TABLES_PAE, 0x20, 0x800);
    let mut sixteen = protected.clone();
    sixteen.segments[1].rights = 0x9b;
    sixteen.segments[1].base = CODE;
    sixteen.segments[1].limit = 0xffff;
    sixteen.rip = 0;
    let mut real = ostler_accel::reset_state(0);
    real.segments[1].selector = (CODE >> 4) as u16;
    real.segments[1].base = CODE;
    real.rip = 0;
    real.gpr[7] = 0x7777;
    let mut virtual86 = legacy.clone();
    virtual86.segments = [Segment {
        selector: 0x1000,
        base: 0x1_0000,
        limit: 0xffff,
        rights: 0xf3,
    }; 6];
    virtual86.rip = 0;
    virtual86.rflags = 2 | 1 << 17 | 3 << 12;
    vec![
        ("64-bit", long),
        ("64-bit, user", user),
        ("compatibility mode", compatible),
        ("32-bit without paging", protected),
        ("32-bit paging", legacy),
        ("PAE paging", pae),
        ("16-bit protected", sixteen),
        ("real mode", real),
        ("virtual 8086", virtual86),
    ]
}

#[test]
fn every_mode_comes_back_as_it_was() {
    let tables = Machine::new(1, &plain_handler());
    tables.bare.write(CODE, &ONE_SMI);
    for (name, before) in modes(&tables) {
        let machine = Machine::over(tables.bare.ram.clone(), 1, &plain_handler());
        let after = machine.run_from(&before);
        assert_eq!(machine.count(), 1, "{name}: handled once");
        let mut expected = before.clone();
        expected.gpr[0] = before.gpr[0] & !0xff | 1;
        expected.rip = after.rip;
        let picked = |state: &CpuState| {
            (
                (state.gpr, state.rip, state.rflags, state.segments),
                (state.ldtr, state.tr, state.gdtr, state.idtr),
                (state.cr0, state.cr2, state.cr3, state.cr4, state.efer),
                (state.debug, state.smm, state.events),
            )
        };
        assert_eq!(picked(&after), picked(&expected), "{name}");
        // Handlers begin in a mode like real mode.
        assert_eq!(machine.word(COUNT + 4) & 0xffff, (BASE >> 4) as u32, "{name}: CS");
        assert_eq!(machine.word(COUNT + 8) & 0xffff, 0, "{name}: DS");
        let cr0 = machine.word(COUNT + 12);
        assert_eq!(u64::from(cr0), before.cr0 & !0x8000_000d, "{name}: CR0");
        assert_eq!(machine.word(COUNT + 16), 0, "{name}: CR4");
        assert_eq!(machine.word(COUNT + 20), 2, "{name}: EFLAGS");
        assert_eq!(machine.word(COUNT + 24), 0x400, "{name}: DR7");
        assert_eq!(machine.word(COUNT + 28), 0, "{name}: EFER");
    }
}

#[test]
fn the_saved_state_is_where_firmware_looks_for_it() {
    let machine = Machine::new(1, &plain_handler());
    machine.bare.write(CODE, &ONE_SMI);
    let mut before = machine.bare.long_mode(0);
    for (n, register) in before.gpr.iter_mut().enumerate() {
        *register = 0x8877_6655_4433_2200 + n as u64;
    }
    before.segments[4].base = 0x7fff_1234_5678;
    before.gdtr.base = 0xffff_8000_1234_5000;
    before.gdtr.limit = 0x7f;
    before.tr.selector = 0x40;
    before.debug[4] = 0xffff_0ff2;
    machine.run_from(&before);
    let field = |offset: u64| {
        let mut bytes = [0; 8];
        let at = GuestAddress(BASE + offset);
        machine.bare.ram.read_slice(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    };
    // RAX RCX RDX RBX RSP RBP RSI RDI R8 ..: from 0xfff8 down (APM vol. 2, table 10-1).
    for n in 1..16 {
        assert_eq!(field(0xfff8 - 8 * n), 0x8877_6655_4433_2200 + n, "register {n}");
    }
    assert_eq!(field(0xfff8), 0x8877_6655_4433_2201);
    assert_eq!(field(0xff78), CODE + AFTER_SMI, "RIP");
    assert_eq!(field(0xff70), before.rflags, "RFLAGS");
    assert_eq!(field(0xff68), 0xffff_0ff2, "DR6");
    assert_eq!(field(0xff60), 0x400, "DR7");
    assert_eq!(field(0xff58), before.cr0, "CR0");
    assert_eq!(field(0xff50), before.cr3, "CR3");
    assert_eq!(field(0xff48), before.cr4, "CR4");
    assert_eq!(field(0xfed0), before.efer, "EFER");
    assert_eq!(field(0xff00) as u32, 0x3_0000, "SMBASE");
    assert_eq!(field(0xfefc) as u32, 0x2_0064, "revision");
    assert_eq!(field(0xfec8) >> 8 & 0xff, 0, "it was not halted");
    assert_eq!(field(0xfe10), 0xffff_ffff_a09b_0008, "CS");
    assert_eq!(field(0xfe20), 0xffff_ffff_c093_0010, "SS");
    assert_eq!(field(0xfe48), 0x7fff_1234_5678, "base of FS");
    assert_eq!(field(0xfe68), 0xffff_8000_1234_5000, "base of the GDT");
    assert_eq!(field(0xfe64) & 0xffff, 0x7f, "limit of the GDT");
    assert_eq!(field(0xfe90) & 0xffff, 0x40, "TR");
    assert_eq!(SAVED, BASE + 0xfe00);
}

guest_code!(
    relocate,
    "smm_relocate_begin",
    "smm_relocate_end",
    ".code16",
    "inc dword ptr [0x7000]",
    // SMBASE becomes 0x50000, of which 0x5ff00 is the saved copy then.
    "mov eax, 0x50000",
    "mov edi, 0x3ff00",
    "mov [edi], eax",
    // What resumes goes on at another place.
    "mov edi, 0x3ff78",
    "mov eax, [edi]",
    "add eax, 2",
    "mov [edi], eax",
    "rsm",
    ".code64",
);

#[test]
fn smbase_and_what_resumes_can_be_changed_in_the_saved_state() {
    let machine = Machine::new(1, &relocate());
    // mov al, 1; out 0xb2, al; jmp $ (skipped); out 0xb2, al; out 0xf4, al
    machine
        .bare
        .write(CODE, &[0xb0, 1, 0xe6, 0xb2, 0xeb, 0xfe, 0xe6, 0xb2, 0xe6, 0xf4]);
    machine.bare.write(0x5_8000, &count_handler());
    // The old handler is not entered again.
    let after = machine.run_from(&machine.bare.long_mode(0));
    assert_eq!(machine.count(), 2);
    assert_eq!(after.smm.base, 0x5_0000);
    assert_eq!(machine.word(0x5_ff00), 0x5_0000);
    // INIT leaves SMBASE alone, RESET does not.
    assert_eq!(ostler_accel::reset_state(0).smm.base, BASE as u32);
    assert_eq!(HANDLER, 0x3_8000);
}

guest_code!(
    far_away,
    "smm_far_begin",
    "smm_far_end",
    ".code16",
    // Code of 16 bits, at 0x40000 from the segment's start: the instructions follow each other there.
    "inc dword ptr [0x7000]",
    "mov eax, 0x11223344",
    // Its data is as far away.
    "mov edi, 0x40100",
    "mov ebx, cs:[edi]",
    "mov cs:[edi], eax",
    "mov [0x7004], ebx",
    "rsm",
    ".code64",
);

#[test]
fn handlers_go_beyond_64_kib_in_their_segment() {
    // mov eax, 0x40000; jmp eax, in code of 16 bits
    let machine = Machine::new(1, &[0x66, 0xb8, 0, 0, 4, 0, 0x66, 0xff, 0xe0]);
    machine.bare.write(BASE + 0x4_0000, &far_away());
    machine.bare.write(BASE + 0x4_0100, &0x5566_7788u32.to_le_bytes());
    machine.bare.write(CODE, &ONE_SMI);
    machine.run_from(&machine.bare.long_mode(0));
    assert_eq!(machine.count(), 1);
    assert_eq!(machine.word(COUNT + 4), 0x5566_7788);
    assert_eq!(machine.word(BASE + 0x4_0100), 0x1122_3344);
}
