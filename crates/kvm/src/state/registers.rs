//! General, special and debug registers and the LAPIC page, between KVM's form and ours.

use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use ostler_accel::{CpuState, DescriptorTable, LapicState, MpState, PendingEvents, Segment, SmmState};

/// P in a segment's rights.
const PRESENT: u16 = 1 << 7;

/// A state with these registers, and the rest to be filled in.
pub fn to_state(regs: &kvm_regs, sregs: &kvm_sregs, debug: &kvm_debugregs) -> CpuState {
    let [d0, d1, d2, d3] = debug.db;
    CpuState {
        gpr: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        segments: [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(to_segment),
        ldtr: to_segment(&sregs.ldt),
        tr: to_segment(&sregs.tr),
        gdtr: DescriptorTable {
            base: sregs.gdt.base,
            limit: sregs.gdt.limit,
        },
        idtr: DescriptorTable {
            base: sregs.idt.base,
            limit: sregs.idt.limit,
        },
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
        xcr0: 1,
        apic_base: sregs.apic_base,
        debug: [d0, d1, d2, d3, debug.dr6, debug.dr7],
        xsave: Vec::new(),
        msrs: Vec::new(),
        lapic: LapicState { registers: [0; 1024] },
        events: PendingEvents::default(),
        smm: SmmState::default(),
        mp: MpState::Runnable,
    }
}

/// General registers for KVM.
pub fn regs(state: &CpuState) -> kvm_regs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = state.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

/// Special registers for KVM. Interrupts on their way travel with the events instead of in `interrupt_bitmap`.
pub fn sregs(state: &CpuState) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = state.segments.each_ref().map(from_segment);
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: from_segment(&state.tr),
        ldt: from_segment(&state.ldtr),
        gdt: from_table(state.gdtr),
        idt: from_table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

fn from_table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        ..Default::default()
    }
}

fn to_segment(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u16::from(value & 1) << at;
    let present = segment.present & 1 & !segment.unusable;
    let rights = u16::from(segment.type_ & 15)
        | bit(segment.s, 4)
        | u16::from(segment.dpl & 3) << 5
        | bit(present, 7)
        | bit(segment.avl, 12)
        | bit(segment.l, 13)
        | bit(segment.db, 14)
        | bit(segment.g, 15);
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        rights,
    }
}

fn from_segment(segment: &Segment) -> kvm_segment {
    let rights = segment.rights;
    let bit = |at: u32| (rights >> at & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (rights & 15) as u8,
        present: bit(7),
        dpl: (rights >> 5 & 3) as u8,
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: u8::from(rights & PRESENT == 0),
        padding: 0,
    }
}

/// The LAPIC page in our form.
pub fn lapic_to_state(lapic: &kvm_lapic_state) -> LapicState {
    LapicState {
        registers: lapic.regs.map(|byte| byte as u8),
    }
}

/// The LAPIC page in KVM's form.
pub fn lapic(state: &CpuState) -> kvm_lapic_state {
    kvm_lapic_state {
        regs: state.lapic.registers.map(|byte| byte as std::ffi::c_char),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_segment_survives_the_way_there_and_back(
            selector: u16, base: u64, limit: u32, rights in any::<u16>().prop_map(|bits| bits & 0xf0ff),
        ) {
            let segment = Segment { selector, base, limit, rights };
            prop_assert_eq!(to_segment(&from_segment(&segment)), segment);
        }

        #[test]
        fn registers_survive_the_way_there_and_back(gpr: [u64; 16], cr3: u64, efer: u64, base: u64, limit: u16) {
            let mut state = ostler_accel::reset_state(1);
            state.gpr = gpr;
            state.cr3 = cr3;
            state.efer = efer;
            state.idtr = DescriptorTable { base, limit };
            let debug = super::super::debug_registers(&state);
            let mut back = to_state(&regs(&state), &sregs(&state), &debug);
            back.lapic = lapic_to_state(&lapic(&state));
            back.xsave = state.xsave.clone();
            back.mp = state.mp;
            prop_assert_eq!(back, state);
        }
    }

    #[test]
    fn an_unusable_segment_is_not_present() {
        let segment = kvm_segment {
            present: 1,
            unusable: 1,
            dpl: 3,
            ..Default::default()
        };
        assert_eq!(to_segment(&segment).rights, 3 << 5);
        assert_eq!(from_segment(&to_segment(&segment)).unusable, 1);
    }
}
