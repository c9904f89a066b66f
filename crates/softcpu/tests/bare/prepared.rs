//! A machine with descriptor tables and handlers.

use ostler_accel::{CpuState, DescriptorTable, Segment};

use crate::common::{Bare, CODE, run_to_end};

pub const GDT: u64 = 0x4000;
pub const IDT: u64 = 0x5000;
pub const TSS: u64 = 0x6000;
pub const STACK0: u64 = 0x8_0000;

/// 64-bit mode at level 0 with a GDT, a TSS and an IDT whose gates all lead to `handler`.
pub fn prepared(bare: &Bare, handler: u64) -> CpuState {
    let mut state = bare.long_mode(0);
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
    ];
    for (n, d) in descriptors.iter().enumerate() {
        bare.write(GDT + 8 * n as u64, &u64::to_le_bytes(*d));
    }
    for vector in 0..256 {
        set_gate(bare, vector, handler);
    }
    bare.write(TSS + 4, &STACK0.to_le_bytes());
    state.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x2f,
    };
    state.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    state.tr = Segment {
        selector: 0x28,
        base: TSS,
        limit: 0x67,
        rights: 0x8b,
    };
    state
}

/// Runs `code` on one CPU with all gates leading to its byte `handler`, and returns the state at its end.
pub fn run(code: &[u8], handler: u64) -> (Bare, CpuState) {
    let bare = Bare::new(1);
    bare.write(CODE, code);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE + handler)).unwrap();
    run_to_end(&mut *vcpu);
    let state = vcpu.state().unwrap();
    (bare, state)
}

/// Lets `vector` lead to `handler` instead.
pub fn set_gate(bare: &Bare, vector: u64, handler: u64) {
    let gate = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    bare.write(IDT + 16 * vector, &u128::from(gate).to_le_bytes());
}
