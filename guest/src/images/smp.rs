//! A guest with two CPUs.

image! {
    /// CPU 0 starts CPU 1 by INIT and start-up IPI; each waits for the other once.
    smp, OSTLER_GUEST_SMP, OSTLER_GUEST_SMP_END,
    "
        .code64
        call    94f
        movl    $0x01000000, 0x310(%rbx)
        movl    $0x4500, 0x300(%rbx)
        movl    $0x01000000, 0x310(%rbx)
        movl    $0x4609, 0x300(%rbx)
1:      pause
        cmpl    $1, 0x7100
        jne     1b
        lea     2f(%rip), %rsi
        call    90f
        movl    $2, 0x7100
3:      hlt
        jmp     3b
2:      .asciz  \"cpu 0 sees cpu 1\\n\"
    ",
    routines!(),
    "
        .skip   0x1000 - (. - 0b)
        .code16
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        lock incw 0x7100
1:      pause
        cmpw    $2, 0x7100
        jne     1b
        mov     $'!', %al
        mov     $0x3f8, %dx
        outb    %al, %dx
        xor     %al, %al
        outb    %al, $0xf4
2:      hlt
        jmp     2b
    ",
}
