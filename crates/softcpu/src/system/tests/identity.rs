//! CPUID as an instruction, and what PCIDs and INVPCID do to translations.

use super::long_mode::long;
use super::{exec, fault, poke, protected};
use crate::fault::Exception;
use crate::state::{Cpu, cr4, reg};
use crate::system::{control, msr};

/// EAX, EBX, ECX and EDX of a leaf.
fn cpuid(cpu: &mut Cpu, leaf: u64, subleaf: u64) -> [u64; 4] {
    (cpu.gpr[reg::RAX], cpu.gpr[reg::RCX]) = (0xffff_ffff_0000_0000 | leaf, subleaf);
    exec(cpu, &[0x0f, 0xa2]).unwrap();
    [reg::RAX, reg::RBX, reg::RCX, reg::RDX].map(|register| cpu.gpr[register])
}

#[test]
fn cpuid_follows_the_control_registers() {
    const OSXSAVE: u64 = 1 << 27;
    const APIC: u64 = 1 << 9;
    let mut cpu = protected();
    cpu.cr4 = 0;
    assert_eq!(cpuid(&mut cpu, 1, 0)[2] & OSXSAVE, 0);
    cpu.cr4 = cr4::OSXSAVE;
    assert_eq!(cpuid(&mut cpu, 1, 0)[2] & OSXSAVE, OSXSAVE);
    assert_eq!(cpuid(&mut cpu, 1, 0)[3] & APIC, APIC);
    msr::write(&mut cpu, msr::index::APIC_BASE, 0xfee0_0000).unwrap();
    assert_eq!(cpuid(&mut cpu, 1, 0)[3] & APIC, 0, "the APIC is off");
}

#[test]
fn cpuid_tells_the_size_of_what_xcr0_enables() {
    let leaves = crate::system::cpuid::supported(2_000_000);
    if !leaves.iter().any(|leaf| leaf.leaf == 0xd) {
        eprintln!("SKIPPED cpuid_tells_the_size_of_what_xcr0_enables: the host has no XSAVE");
        return;
    }
    let mut cpu = protected();
    cpu.cpuid = leaves.into();
    cpu.cr4 = cr4::OSXSAVE;
    for (xcr0, size) in [(1, 576), (3, 576), (7, 832), (3, 576)] {
        control::xsetbv(&mut cpu, 0, xcr0).unwrap();
        let [all, now, most, _] = cpuid(&mut cpu, 0xd, 0);
        assert_eq!((all, now, most), (7, size, 832), "XCR0 {xcr0}");
        assert_eq!(cpuid(&mut cpu, 0xd, 1)[1], size, "XCR0 {xcr0}, compacted");
    }
    assert_eq!(cpuid(&mut cpu, 0xd, 2)[..2], [256, 576]);
}

#[test]
fn the_timer_of_the_lapic_always_runs() {
    const ARAT: u64 = 1 << 2;
    let mut cpu = protected();
    assert_eq!(cpuid(&mut cpu, 6, 0)[0] & ARAT, ARAT);
}

/// Page tables like those of [`long`] for another address space.
const OTHER: u64 = 0x2_0000;
/// A page of the first address space, and what it leads to.
const PAGE: u64 = 0x20_0000 - 0x1000;

/// 64-bit code of level `cpl` with PCIDs, whose page [`PAGE`] leads to 0x6000 in the address space of PCID 1 and to 0x7000 in that of
/// PCID 2. Returns the two values for CR3.
fn two_spaces(cpl: u8) -> (Box<Cpu>, [u64; 2]) {
    let mut cpu = long(cpl);
    for (tables, target) in [(OTHER, 0x6007u64), (OTHER + 0x8000, 0x7007)] {
        for (at, value) in [
            (0, tables + 0x1007),
            (0x1000, tables + 0x2007),
            (0x2000, tables + 0x3007),
        ] {
            poke(&mut cpu, tables + at, &u64::to_le_bytes(value));
        }
        for page in 0..512u64 {
            poke(
                &mut cpu,
                tables + 0x3000 + 8 * page,
                &(page << 12 | 7).to_le_bytes(),
            );
        }
        poke(&mut cpu, entry_of(tables), &target.to_le_bytes());
    }
    poke(&mut cpu, 0x6000, &0x1111u64.to_le_bytes());
    poke(&mut cpu, 0x7000, &0x2222u64.to_le_bytes());
    cpu.cr4 |= cr4::PCIDE;
    cpu.update_mode();
    (cpu, [OTHER | 1, (OTHER + 0x8000) | 2])
}

/// Where the entry for [`PAGE`] is.
fn entry_of(tables: u64) -> u64 {
    tables + 0x3000 + 8 * (PAGE >> 12)
}

/// MOV to CR3, whatever the level.
fn set_cr3(cpu: &mut Cpu, value: u64) {
    let level = std::mem::replace(&mut cpu.cpl, 0);
    control::write_cr(cpu, 3, value).unwrap();
    cpu.cpl = level;
    cpu.update_mode();
}

const NO_FLUSH: u64 = 1 << 63;

#[test]
fn address_spaces_are_kept_apart_by_their_pcid() {
    for cpl in [0, 3] {
        let (mut cpu, spaces) = two_spaces(cpl);
        for round in 0..3 {
            for (space, expected) in spaces.into_iter().zip([0x1111, 0x2222]) {
                set_cr3(&mut cpu, space | NO_FLUSH);
                assert_eq!(cpu.cr3, space, "bit 63 is not kept");
                assert_eq!(
                    cpu.load_linear::<u64>(PAGE),
                    Ok(expected),
                    "level {cpl}, round {round}"
                );
            }
        }
        // Without bit 63 what the address space had is forgotten.
        poke(&mut cpu, entry_of(OTHER), &0x7007u64.to_le_bytes());
        set_cr3(&mut cpu, spaces[0]);
        assert_eq!(cpu.load_linear::<u64>(PAGE), Ok(0x2222), "level {cpl}");
    }
}

#[test]
fn invpcid_forgets_what_it_is_asked_to() {
    // invpcid rax, [0x8000]
    let code = [0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0, 0x80, 0, 0];
    for cpl in [0, 3] {
        // Type, PCID, whether the invalidation comes while the other space is in use.
        for (kind, pcid, elsewhere) in [
            (0, 1, false),
            (0, 1, true),
            (1, 1, false),
            (1, 1, true),
            (2, 0, true),
            (3, 0, false),
            (3, 0, true),
        ] {
            let (mut cpu, [first, second]) = two_spaces(cpl);
            set_cr3(&mut cpu, first);
            assert_eq!(cpu.load_linear::<u64>(PAGE), Ok(0x1111));
            poke(&mut cpu, entry_of(OTHER), &0x7007u64.to_le_bytes());
            if elsewhere {
                set_cr3(&mut cpu, second | NO_FLUSH);
            }
            poke(&mut cpu, 0x8000, &u64::to_le_bytes(pcid));
            poke(&mut cpu, 0x8008, &PAGE.to_le_bytes());
            cpu.gpr[reg::RAX] = kind;
            let level = std::mem::replace(&mut cpu.cpl, 0);
            cpu.update_mode();
            exec(&mut cpu, &code).unwrap();
            cpu.cpl = level;
            cpu.update_mode();
            set_cr3(&mut cpu, first | NO_FLUSH);
            assert_eq!(
                cpu.load_linear::<u64>(PAGE),
                Ok(0x2222),
                "level {cpl}, type {kind}, elsewhere {elsewhere}"
            );
        }
    }
}

#[test]
fn invpcid_refuses_what_it_does_not_know() {
    let code = [0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0, 0x80, 0, 0];
    for (kind, pcid, linear, level, pcide) in [
        (4, 0, 0, 0, true),
        (u64::MAX, 0, 0, 0, true),
        (0, 0x1000, 0, 0, true),
        (1, 0x1000, 0, 0, true),
        (1, 1, 0, 0, false),
        (0, 1, 0x8000_0000_0000, 0, true),
        (2, 0, 0, 3, true),
    ] {
        let (mut cpu, [first, _]) = two_spaces(level);
        set_cr3(&mut cpu, first);
        if !pcide {
            cpu.cr4 &= !cr4::PCIDE;
        }
        poke(&mut cpu, 0x8000, &u64::to_le_bytes(pcid));
        poke(&mut cpu, 0x8008, &u64::to_le_bytes(linear));
        cpu.gpr[reg::RAX] = kind;
        let result = exec(&mut cpu, &code);
        assert_eq!(fault(&mut cpu, result), Exception::gp(0), "{kind} {pcid:#x}");
    }
}
