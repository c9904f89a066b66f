//! A guest of instructions that a KVM without hardware's help cannot emulate.

image! {
    /// Places the paravirtual clock's pages. Then exchanges 16 bytes, traps, looks at segments and at MXCSR in a loop, with
    /// interrupts on, until the mailbox says that all messages were sent. Each result is checked; RBP collects the wrong
    /// ones. Every processor has these instructions.
    hand_over, OSTLER_GUEST_HAND_OVER, OSTLER_GUEST_HAND_OVER_END,
    "
        .code64
        call    94f
        lea     97f(%rip), %rax
        mov     $0x41, %edi
        call    93f
        lea     7f(%rip), %rax
        mov     $3, %edi
        call    93f
        mov     $2, %eax
        mov     %rax, %cr8
        mov     $0x40000001, %eax
        xor     %ecx, %ecx
        cpuid
        bt      $3, %eax
        jnc     1f
        xor     %edx, %edx
        mov     $0x5000, %eax
        mov     $0x4b564d00, %ecx
        wrmsr
        mov     $0x5041, %eax
        inc     %ecx
        wrmsr
1:      movq    $0, 0x5000
        movl    $0, 0x5008
        xor     %edx, %edx
        mov     $0x12345678, %eax
        mov     $0xc0000102, %ecx
        wrmsr

        movabs  $0x0102030405060708, %rax
        mov     %rax, 0x5200
        not     %rax
        mov     %rax, 0x5208
        movups  0x5200, %xmm3
        movups  0x5200, %xmm12
        movl    $0x1f80, 0x5210
        xor     %r12d, %r12d
        xor     %ebp, %ebp
        movq    $0, 0x5100
        movq    $-1, 0x5108
        mov     $1, %al
        outb    %al, $0xf8
        sti

2:      mov     %r12, %rax
        mov     %r12, %rdx
        not     %rdx
        lea     1(%r12), %rbx
        mov     %rbx, %rcx
        not     %rcx
        lock cmpxchg16b 0x5100
        setnz   %al
        movzbl  %al, %eax
        or      %rax, %rbp
        inc     %r12
        int3
        mov     $8, %ecx
        lsl     %ecx, %eax
        inc     %eax
        or      %rax, %rbp
        lar     %ecx, %eax
        and     $0x00f0ff00, %eax
        xor     $0x00a09b00, %eax
        or      %rax, %rbp
        ldmxcsr 0x5210
        movl    $0, 0x5214
        stmxcsr 0x5214
        mov     0x5214, %eax
        xor     $0x1f80, %eax
        or      %rax, %rbp
        cmpl    $1, 0x7008
        jne     2b

        cli
        mov     %rbp, %rax
        call    91f
        mov     0x7100, %eax
        call    91f
        mov     0x7104, %eax
        xor     %r12d, %eax
        call    91f
        mov     0x5000, %rax
        or      0x5004, %rax
        call    91f
        mov     %cr8, %rax
        call    91f
        mov     $0xc0000102, %ecx
        rdmsr
        mov     %eax, %eax
        call    91f
        movups  %xmm3, 0x5300
        movups  %xmm12, 0x5310
        mov     0x5300, %rax
        call    91f
        mov     0x5318, %rax
        call    91f
        xor     %eax, %eax
        jmp     92f

7:      incl    0x7104
        iretq
    ",
    wait_for_count!(),
    counting_handler!(),
    routines!(),
}
