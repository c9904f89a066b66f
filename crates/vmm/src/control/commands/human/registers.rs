//! A CPU's registers in QEMU's layout.

use std::fmt::Write;

use ostler_accel::{CpuState, DescriptorTable, MpState, Segment};

/// EFER.LMA, and L of the code segment's rights: 64-bit mode.
const EFER_LMA: u64 = 1 << 10;
const RIGHTS_LONG: u16 = 1 << 13;
/// The first MXCSR byte of an XSAVE area, and its first XMM register (SDM vol. 1, 13.4).
const MXCSR: usize = 24;
const XMM: usize = 160;

/// Names by QEMU's order, with their place in the state.
const FIRST: [(&str, usize); 8] = [
    ("AX", 0),
    ("BX", 3),
    ("CX", 1),
    ("DX", 2),
    ("SI", 6),
    ("DI", 7),
    ("BP", 5),
    ("SP", 4),
];

pub(super) fn show(state: &CpuState) -> String {
    let long = state.efer & EFER_LMA != 0 && state.segments[1].rights & RIGHTS_LONG != 0;
    // Writing to a text does not fail.
    let mut shown = String::new();
    for (index, (name, at)) in FIRST.into_iter().enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = match long {
            true => write!(shown, "R{name}={:016x}{end}", state.gpr[at]),
            false => write!(shown, "E{name}={:08x}{end}", state.gpr[at] as u32),
        };
    }
    if long {
        for index in 8..16 {
            let end = if index % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(shown, "{:<3}={:016x}{end}", format!("R{index}"), state.gpr[index]);
        }
    }
    let flags: String = [
        (10, 'D'),
        (11, 'O'),
        (7, 'S'),
        (6, 'Z'),
        (4, 'A'),
        (2, 'P'),
        (0, 'C'),
    ]
    .into_iter()
    .map(|(bit, letter)| if state.rflags & 1 << bit != 0 { letter } else { '-' })
    .collect();
    let cpl = state.segments[2].rights >> 5 & 3;
    let (shadow, halted) = (
        u8::from(state.events.interrupt_shadow),
        u8::from(state.mp == MpState::Halted),
    );
    let _ = match long {
        true => write!(shown, "RIP={:016x} RFL={:08x}", state.rip, state.rflags),
        false => write!(shown, "EIP={:08x} EFL={:08x}", state.rip as u32, state.rflags),
    };
    let _ = writeln!(shown, " [{flags}] CPL={cpl} II={shadow} A20=1 SMM=0 HLT={halted}");
    let [es, cs, ss, ds, fs, gs] = &state.segments;
    let named = [
        ("ES", es),
        ("CS", cs),
        ("SS", ss),
        ("DS", ds),
        ("FS", fs),
        ("GS", gs),
    ];
    for (name, segment) in named.into_iter().chain([("LDT", &state.ldtr), ("TR", &state.tr)]) {
        show_segment(&mut shown, name, segment, long);
    }
    show_table(&mut shown, "GDT", &state.gdtr, long);
    show_table(&mut shown, "IDT", &state.idtr, long);
    let _ = match long {
        true => writeln!(
            shown,
            "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}",
            state.cr0, state.cr2, state.cr3, state.cr4
        ),
        false => writeln!(
            shown,
            "CR0={:08x} CR2={:08x} CR3={:08x} CR4={:08x}",
            state.cr0, state.cr2 as u32, state.cr3 as u32, state.cr4
        ),
    };
    let [dr0, dr1, dr2, dr3, dr6, dr7] = state.debug;
    let _ = writeln!(
        shown,
        "DR0={dr0:016x} DR1={dr1:016x} DR2={dr2:016x} DR3={dr3:016x} "
    );
    let _ = writeln!(shown, "DR6={dr6:016x} DR7={dr7:016x}");
    let _ = writeln!(shown, "EFER={:016x}", state.efer);
    show_vectors(&mut shown, &state.xsave, if long { 16 } else { 8 });
    shown
}

fn show_segment(shown: &mut String, name: &str, segment: &Segment, long: bool) {
    let flags = u32::from(segment.rights) << 8;
    let _ = match long {
        true => writeln!(
            shown,
            "{name:<3}={:04x} {:016x} {:08x} {flags:08x}",
            segment.selector, segment.base, segment.limit
        ),
        false => writeln!(
            shown,
            "{name:<3}={:04x} {:08x} {:08x} {flags:08x}",
            segment.selector, segment.base as u32, segment.limit
        ),
    };
}

fn show_table(shown: &mut String, name: &str, table: &DescriptorTable, long: bool) {
    let _ = match long {
        true => writeln!(shown, "{name}=     {:016x} {:08x}", table.base, table.limit),
        false => writeln!(shown, "{name}=     {:08x} {:08x}", table.base as u32, table.limit),
    };
}

fn show_vectors(shown: &mut String, xsave: &[u8], count: usize) {
    let word = |at: usize| -> u64 {
        let bytes = xsave.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let _ = writeln!(
        shown,
        "FCW={:04x} FSW={:04x} FTW={:02x} MXCSR={:08x}",
        word(0) as u16,
        (word(0) >> 16) as u16,
        (word(0) >> 32) as u8,
        word(MXCSR) as u32
    );
    for index in 0..count {
        let (low, high) = (word(XMM + 16 * index), word(XMM + 16 * index + 8));
        let end = if index % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(shown, "XMM{index:02}={high:016x} {low:016x}{end}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_after_reset_looks_as_qemu_shows_it() {
        let shown = show(&ostler_accel::reset_state(0));
        for line in [
            "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0",
            "CS =f000 ffff0000 0000ffff 00009b00",
            "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000",
            "DR6=00000000ffff0ff0 DR7=0000000000000400",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        assert!(!shown.contains("R8 "));
    }

    #[test]
    fn a_64_bit_cpu_shows_all_of_its_registers() {
        let mut state = ostler_accel::reset_state(0);
        state.efer = EFER_LMA;
        state.segments[1].rights |= RIGHTS_LONG;
        state.gpr[9] = 0x1234_5678_9abc_def0;
        state.rip = u64::MAX;
        state.rflags = 0x246;
        state.xsave.truncate(10);
        let shown = show(&state);
        assert!(shown.contains("R9 =123456789abcdef0"), "{shown}");
        assert!(
            shown.contains("RIP=ffffffffffffffff RFL=00000246 [---Z-P-]"),
            "{shown}"
        );
        assert!(shown.contains("XMM15="), "{shown}");
    }
}
