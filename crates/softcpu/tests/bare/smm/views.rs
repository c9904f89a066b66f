//! Two memories at one address: what is where the display is, and SMRAM.

use super::{COUNT, Machine, SMRAM};
use crate::common::{CODE, guest_code};
use ostler_memory::vm_memory::{Bytes, GuestAddress};

/// Where the function is that both have.
const FUNCTION: u64 = SMRAM + 0x1000;
const GDT: u64 = 0x7100;

guest_code!(
    long_handler,
    "smm_long_begin",
    "smm_long_end",
    ".code16",
    "mov edi, 0x7200",
    "lgdt [edi]",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, 0x100000",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, 0x80000011",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long 0x38000 + (2f - smm_long_begin)",
    ".word 8",
    ".code64",
    "2: mov esp, 0xaf000",
    "mov ebx, 0xa1000",
    "mov ecx, 20",
    "3: call rbx",
    "add [0x7004], eax",
    "dec ecx",
    "jnz 3b",
    // Its own data, in SMRAM.
    "inc dword ptr [0xa0000]",
    "inc dword ptr [0x7000]",
    "rsm",
);

guest_code!(
    caller,
    "smm_caller_begin",
    "smm_caller_end",
    "mov r12d, 50",
    "xor r13d, r13d",
    "mov ebx, 0xa1000",
    "2: mov ecx, 20",
    "3: call rbx",
    "add r13d, eax",
    "dec ecx",
    "jnz 3b",
    "mov al, 1",
    "out 0xb2, al",
    "dec r12d",
    "jnz 2b",
    // The display's memory is what it was.
    "mov r14d, [0xa0000]",
    "out 0xf4, al",
);

/// mov eax, VALUE; ret
fn function(value: u8) -> [u8; 6] {
    [0xb8, value, 0, 0, 0, 0xc3]
}

#[test]
fn code_and_data_of_smram_are_not_those_of_the_display() {
    let machine = Machine::new(1, &long_handler());
    for (n, descriptor) in [0u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        .iter()
        .enumerate()
    {
        machine.bare.write(GDT + 8 * n as u64, &descriptor.to_le_bytes());
    }
    machine.bare.write(0x7200, &[0x17, 0, 0, 0x71, 0, 0]);
    machine.show(0, &0x55u32.to_le_bytes());
    machine.show(0x1000, &function(1));
    machine.bare.write(FUNCTION, &function(3));
    machine.bare.write(SMRAM, &[0; 4]);
    machine.bare.write(CODE, &caller());
    let after = machine.run_from(&machine.bare.long_mode(0));
    assert_eq!(machine.count(), 50);
    assert_eq!(after.gpr[13], 1000, "what normal code executes");
    assert_eq!(
        machine.word(COUNT + 4),
        3000,
        "what system management mode executes"
    );
    assert_eq!(after.gpr[14], 0x55);
    let mut counted = [0; 4];
    machine
        .bare
        .ram
        .read_slice(&mut counted, GuestAddress(SMRAM))
        .unwrap();
    assert_eq!(u32::from_le_bytes(counted), 50);
}
