//! Guests that start in 64-bit mode and take no interrupts.

image! {
    /// Port accesses of 1, 2 and 4 bytes, and strings.
    port_io, OSTLER_GUEST_PORTS, OSTLER_GUEST_PORTS_END,
    "
        .code64
        cld
        mov     $0x100, %edx
        mov     $0x11223344, %eax
        outl    %eax, %dx
        mov     $0x5566, %eax
        outw    %ax, %dx
        mov     $0x77, %eax
        outb    %al, %dx
        mov     $-1, %rax
        inl     %dx, %eax
        call    91f
        mov     $-1, %rax
        mov     $0x100, %edx
        inw     %dx, %ax
        call    91f
        mov     $-1, %rax
        mov     $0x100, %edx
        inb     %dx, %al
        call    91f
        lea     3f(%rip), %rsi
        mov     $0x3f8, %edx
        mov     $7, %ecx
        rep outsb
        mov     $0x108, %edx
        mov     $0x4000, %edi
        mov     $8, %ecx
        rep insb
        mov     0x4000, %rax
        call    91f
        xor     %eax, %eax
        jmp     92f
3:      .ascii  \"string\\n\"
    ",
    routines!(),
}

image! {
    /// Loads and stores of 1, 2, 4 and 8 bytes on a device, sign extension, and read-modify-write.
    mmio, OSTLER_GUEST_MMIO, OSTLER_GUEST_MMIO_END,
    "
        .code64
        mov     $0xd0000000, %ebx
        movabs  $0x8877665544332211, %rax
        mov     %rax, (%rbx)
        mov     $0x99, %al
        mov     %al, 8(%rbx)
        mov     $0xbbaa, %ax
        mov     %ax, 10(%rbx)
        mov     $0xffeeddcc, %eax
        mov     %eax, 12(%rbx)
        movl    $-2, 16(%rbx)
        mov     (%rbx), %rax
        call    91f
        mov     8(%rbx), %rax
        call    91f
        mov     12(%rbx), %eax
        call    91f
        movzwl  10(%rbx), %eax
        call    91f
        movsbq  8(%rbx), %rax
        call    91f
        movslq  12(%rbx), %rax
        call    91f
        addl    $5, 16(%rbx)
        mov     16(%rbx), %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
    ",
    routines!(),
}

image! {
    /// Rings doorbells, and misses one by its value.
    doorbells, OSTLER_GUEST_BELLS, OSTLER_GUEST_BELLS_END,
    "
        .code64
        mov     $0xd0001000, %ebx
        movl    $1, (%rbx)
        movl    $1, (%rbx)
        movl    $2, (%rbx)
        movl    $1, (%rbx)
        movb    $9, 0x10(%rbx)
        movw    $9, 0x10(%rbx)
        movl    $9, 0x10(%rbx)
        mov     $0x510, %edx
        mov     $7, %eax
        outw    %ax, %dx
        outw    %ax, %dx
        xor     %eax, %eax
        jmp     92f
    ",
    routines!(),
}

image! {
    /// Writes to three pages while a dirty log is on.
    dirty, OSTLER_GUEST_DIRTY, OSTLER_GUEST_DIRTY_END,
    "
        .code64
        movb    $1, 0x150000
        mov     $1, %al
        outb    %al, $0xf8
        movb    $1, 0x100000
        movl    $1, 0x103ffc
        movq    $1, 0x1ff000
        mov     0x150000, %al
        mov     $2, %al
        outb    %al, $0xf8
        movb    $1, 0x120000
        mov     $3, %al
        outb    %al, $0xf8
        xor     %eax, %eax
        jmp     92f
    ",
    routines!(),
}

image! {
    /// Fills registers, computes, is moved in the middle, and shows that nothing was lost.
    state, OSTLER_GUEST_STATE, OSTLER_GUEST_STATE_END,
    "
        .code64
        mov     $0xc0000082, %ecx
        mov     $0x11112222, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0xc0000102, %ecx
        mov     $0x33334444, %eax
        wrmsr
        mov     $0xc0000101, %ecx
        mov     $0x4800, %eax
        wrmsr
        mov     $2, %eax
        mov     %rax, %cr8
        mov     $0x123456, %eax
        mov     %rax, %dr0
        mov     $0x777000, %eax
        mov     %rax, %cr2
        movl    $0xabcdef, 0x4810
        mov     $0x0808, %r8
        mov     $0x0909, %r9
        mov     $0x1010, %r10
        mov     $0x1212, %r12
        mov     $0x1313, %r13
        mov     $0x1414, %r14
        mov     $0x1515, %ebp
        mov     $1, %ebx
        xor     %r15d, %r15d
        movabs  $6364136223846793005, %rsi
        movabs  $1442695040888963407, %rdi
        mov     $2000, %ecx
1:      imul    %rsi, %rbx
        add     %rdi, %rbx
        rol     $1, %r15
        xor     %rbx, %r15
        dec     %ecx
        jnz     1b
        stc
        mov     $1, %al
        outb    %al, $0xf8
        adc     $0, %r15
        mov     $2000, %ecx
1:      imul    %rsi, %rbx
        add     %rdi, %rbx
        rol     $1, %r15
        xor     %rbx, %r15
        dec     %ecx
        jnz     1b
        mov     %r15, %rax
        call    91f
        lea     (%r8, %r9), %rax
        add     %r10, %rax
        add     %r12, %rax
        add     %r13, %rax
        add     %r14, %rax
        add     %rbp, %rax
        call    91f
        mov     $0xc0000082, %ecx
        rdmsr
        mov     %eax, %eax
        call    91f
        mov     $0xc0000102, %ecx
        rdmsr
        mov     %eax, %eax
        call    91f
        mov     %gs:0x10, %eax
        call    91f
        mov     %cr8, %rax
        call    91f
        mov     %dr0, %rax
        call    91f
        mov     %cr2, %rax
        call    91f
        xor     %eax, %eax
        jmp     92f
    ",
    routines!(),
}

image! {
    /// An exception with an empty interrupt table.
    triple_fault, OSTLER_GUEST_TRIPLE, OSTLER_GUEST_TRIPLE_END,
    "
        .code64
        lidt    3f(%rip)
        ud2
        mov     $1, %al
        jmp     92f
3:      .word   0
        .quad   0
    ",
    routines!(),
}

image! {
    /// Undefined instruction, division by zero, page fault, and a general protection fault by an unknown MSR: each handler
    /// prints what it finds and goes on at R12.
    exceptions, OSTLER_GUEST_FAULTS, OSTLER_GUEST_FAULTS_END,
    "
        .code64
        call    94f
        lea     10f(%rip), %rax
        mov     $6, %edi
        call    93f
        lea     11f(%rip), %rax
        mov     $0, %edi
        call    93f
        lea     12f(%rip), %rax
        mov     $14, %edi
        call    93f
        lea     13f(%rip), %rax
        mov     $13, %edi
        call    93f

        lea     2f(%rip), %r12
        ud2
2:      lea     3f(%rip), %r12
        xor     %ecx, %ecx
        mov     $1, %eax
        xor     %edx, %edx
        div     %ecx
3:      lea     4f(%rip), %r12
        movabs  $0x140000000, %r13
        movl    $1, 8(%r13)
4:      lea     5f(%rip), %r12
        mov     $0x12345678, %ecx
        rdmsr
5:      xor     %eax, %eax
        jmp     92f

10:     lea     20f(%rip), %rsi
        call    90f
        mov     %r12, (%rsp)
        iretq
11:     lea     21f(%rip), %rsi
        call    90f
        mov     %r12, (%rsp)
        iretq
12:     lea     22f(%rip), %rsi
        call    90f
        mov     %cr2, %rax
        call    91f
        pop     %rax
        call    91f
        mov     %r12, (%rsp)
        iretq
13:     lea     23f(%rip), %rsi
        call    90f
        pop     %rax
        call    91f
        mov     %r12, (%rsp)
        iretq
20:     .asciz  \"#UD\\n\"
21:     .asciz  \"#DE\\n\"
22:     .asciz  \"#PF \"
23:     .asciz  \"#GP \"
    ",
    routines!(),
}

image! {
    /// Spins until the other side, which can only do so after kicks, writes to the mailbox.
    kick, OSTLER_GUEST_KICK, OSTLER_GUEST_KICK_END,
    "
        .code64
        mov     $1, %al
        outb    %al, $0xf8
1:      pause
        cmpl    $1, 0x7008
        jne     1b
        xor     %eax, %eax
        jmp     92f
    ",
    routines!(),
}
