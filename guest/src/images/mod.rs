//! The guests' instructions, assembled together with the program and copied out of its read-only data.
//!
//! Every image is loaded at 0x8000 and entered at its first byte. Numbers are those of `layout`. Within an image the local
//! label `0` is its first byte, so that `label - 0b + 0x8000` is an address; 64-bit code addresses relative to RIP.

/// An image: a function that returns the bytes between two symbols.
macro_rules! image {
    ($(#[$meta:meta])* $name:ident, $start:ident, $end:ident, $($text:expr),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.ostler_guest, \"a\", @progbits",
            concat!(".globl ", stringify!($start)),
            concat!(".globl ", stringify!($end)),
            concat!(stringify!($start), ":"),
            "0:",
            $($text,)+
            concat!(stringify!($end), ":"),
            ".code64",
            ".popsection",
            options(att_syntax)
        );

        $(#[$meta])*
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            // SAFETY: both symbols are in one section of this program, in this order, and nobody writes in between.
            unsafe {
                let len = (&raw const $end).offset_from_unsigned(&raw const $start);
                std::slice::from_raw_parts(&raw const $start, len)
            }
        }
    };
}

/// Subroutines that 64-bit images end with:
/// 90 prints the string at RSI; 91 prints RAX in hexadecimal and a line feed; 92 ends the guest with the code in AL;
/// 93 makes the code at RAX the handler of vector RDI; 94 loads the interrupt table, and switches the LAPIC on, whose page
/// is then in RBX. All may change RAX, RCX, RDX, RSI, RDI and R11.
macro_rules! routines {
    () => {
        "
90:     lodsb
        test    %al, %al
        jz      1f
        mov     $0x3f8, %edx
        outb    %al, %dx
        jmp     90b
1:      ret

91:     mov     %rax, %r11
        mov     $16, %ecx
        mov     $0x3f8, %edx
1:      rol     $4, %r11
        mov     %r11d, %eax
        and     $15, %eax
        cmp     $10, %eax
        jb      2f
        add     $39, %eax
2:      add     $48, %eax
        outb    %al, %dx
        dec     %ecx
        jnz     1b
        mov     $10, %al
        outb    %al, %dx
        ret

92:     outb    %al, $0xf4
1:      hlt
        jmp     1b

93:     shl     $4, %rdi
        add     $0x6000, %rdi
        mov     %ax, (%rdi)
        movw    $8, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        shr     $16, %rax
        mov     %ax, 6(%rdi)
        shr     $16, %rax
        mov     %eax, 8(%rdi)
        movl    $0, 12(%rdi)
        ret

94:     lidt    95f(%rip)
        mov     $0xfee00000, %ebx
        movl    $0x1ff, 0xf0(%rbx)
        ret
95:     .word   0xfff
        .quad   0x6000
        "
    };
}

#[macro_use]
mod interrupts;
mod hand_over;
mod long;
mod moving;
mod real;
mod smp;

pub use hand_over::hand_over;
pub use interrupts::{end_of_interrupt, external, masked, messages, timer, x2apic};
pub use long::{dirty, doorbells, exceptions, kick, mmio, port_io, state, triple_fault};
pub use moving::whole_state;
pub use real::{hello, mode_switch};
pub use smp::smp;
