//! Guests that start in real mode.

image! {
    /// Prints through a 16550, polling its line status.
    hello, OSTLER_GUEST_HELLO, OSTLER_GUEST_HELLO_END,
    "
        .code16
        cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7000, %sp
        mov     $(3f - 0b + 0x8000), %si
1:      lodsb
        test    %al, %al
        jz      4f
        mov     %al, %ah
        mov     $0x3fd, %dx
2:      inb     %dx, %al
        test    $0x20, %al
        jz      2b
        mov     %ah, %al
        mov     $0x3f8, %dx
        outb    %al, %dx
        jmp     1b
4:      xor     %al, %al
        outb    %al, $0xf4
5:      hlt
        jmp     5b
3:      .asciz  \"hello from real mode\\n\"
    "
}

image! {
    /// Goes from real mode through protected mode into 64-bit mode, with a descriptor table of its own.
    mode_switch, OSTLER_GUEST_MODES, OSTLER_GUEST_MODES_END,
    "
        .code16
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        lgdtl   (6f - 0b + 0x8000)
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $0x18, $(2f - 0b + 0x8000)
        .code32
2:      mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $0x7000, %esp
        mov     $'3', %al
        mov     $0x3f8, %edx
        outb    %al, %dx
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     $0x10000, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        ljmpl   $0x08, $(4f - 0b + 0x8000)
        .code64
4:      lea     7f(%rip), %rsi
        call    90f
        mov     $0xc0000080, %ecx
        rdmsr
        call    91f
        xor     %eax, %eax
        jmp     92f
        .balign 8
5:      .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
6:      .word   31
        .long   (5b - 0b + 0x8000)
7:      .asciz  \"2, then 64 bits: EFER \"
    ",
    routines!(),
}
