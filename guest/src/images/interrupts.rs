//! Guests that take interrupts. Their handlers count at 0x7100.

/// 96 waits in HLT until the counter at 0x7100 has the value in R8D. 85 is called by interrupt handlers, first of all.
///
/// No processor takes an interrupt between STI and HLT. QEMU's emulation of SVM does: it forgets the shadow of STI when the
/// guest is left and entered again there. The handler would return to the HLT, and the guest sleep for ever, through no
/// fault of the accelerator that is tested. So 85 moves such a return behind the HLT.
macro_rules! wait_for_count {
    () => {
        "
96:     cli
        cmp     %r8d, 0x7100
        jae     1f
        sti
86:     hlt
        jmp     96b
1:      ret

85:     push    %rax
        lea     86b(%rip), %rax
        cmp     %rax, 16(%rsp)
        jne     1f
        incq    16(%rsp)
1:      pop     %rax
        ret
        "
    };
}

/// Handler 97, placed behind [`wait_for_count`]: counts, and ends the interrupt at the LAPIC.
macro_rules! counting_handler {
    () => {
        "
97:     call    85b
        push    %rax
        incl    0x7100
        mov     $0xfee000b0, %eax
        movl    $0, (%rax)
        pop     %rax
        iretq
        "
    };
}

image! {
    /// HLT until the LAPIC timer fires, three times.
    timer, OSTLER_GUEST_TIMER, OSTLER_GUEST_TIMER_END,
    "
        .code64
        call    94f
        lea     97f(%rip), %rax
        mov     $0x40, %edi
        call    93f
        movl    $0xb, 0x3e0(%rbx)
        movl    $0x40, 0x320(%rbx)
        xor     %r8d, %r8d
1:      inc     %r8d
        movl    $100000, 0x380(%rbx)
        call    96f
        cmp     $3, %r8d
        jb      1b
        mov     0x7100, %eax
        call    91f
        mov     0x390(%rbx), %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
    ",
    wait_for_count!(),
    counting_handler!(),
    routines!(),
}

image! {
    /// x2APIC mode: an interrupt to itself, and the timer by TSC deadline where CPUID has it.
    x2apic, OSTLER_GUEST_X2APIC, OSTLER_GUEST_X2APIC_END,
    "
        .code64
        call    94f
        lea     7f(%rip), %rax
        mov     $0x40, %edi
        call    93f
        mov     $0x1b, %ecx
        rdmsr
        or      $0x400, %eax
        wrmsr
        mov     $0x80f, %ecx
        mov     $0x1ff, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x802, %ecx
        rdmsr
        call    91f
        mov     $0x83f, %ecx
        mov     $0x40, %eax
        xor     %edx, %edx
        wrmsr
        mov     $1, %r8d
        call    96f
        mov     $1, %eax
        xor     %ecx, %ecx
        cpuid
        bt      $24, %ecx
        jnc     3f
        mov     $0x832, %ecx
        mov     $0x40040, %eax
        xor     %edx, %edx
        wrmsr
        mfence
        rdtsc
        add     $2000000, %eax
        adc     $0, %edx
        mov     $0x6e0, %ecx
        wrmsr
        jmp     4f
3:      mov     $0x832, %ecx
        mov     $0x40, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x838, %ecx
        mov     $100000, %eax
        wrmsr
4:      mov     $2, %r8d
        call    96f
        mov     0x7100, %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
7:      call    85f
        push    %rax
        push    %rcx
        push    %rdx
        incl    0x7100
        mov     $0x80b, %ecx
        xor     %eax, %eax
        xor     %edx, %edx
        wrmsr
        pop     %rdx
        pop     %rcx
        pop     %rax
        iretq
    ",
    wait_for_count!(),
    routines!(),
}

image! {
    /// Message-signalled interrupts, sent at once and through events.
    messages, OSTLER_GUEST_MSI, OSTLER_GUEST_MSI_END,
    "
        .code64
        call    94f
        mov     $0x41, %r9d
1:      lea     97f(%rip), %rax
        mov     %r9d, %edi
        call    93f
        inc     %r9d
        cmp     $0x44, %r9d
        jb      1b
        xor     %r8d, %r8d
2:      inc     %r8d
        mov     %r8d, %eax
        outb    %al, $0xf8
        call    96f
        cmp     $3, %r8d
        jb      2b
        mov     0x7100, %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
    ",
    wait_for_count!(),
    counting_handler!(),
    routines!(),
}

image! {
    /// A level-triggered interrupt, whose end the platform must hear of.
    end_of_interrupt, OSTLER_GUEST_EOI, OSTLER_GUEST_EOI_END,
    "
        .code64
        call    94f
        lea     97f(%rip), %rax
        mov     $0x49, %edi
        call    93f
        mov     $1, %r8d
        mov     $1, %al
        outb    %al, $0xf8
        call    96f
        mov     $2, %r8d
        mov     $2, %al
        outb    %al, $0xf8
        call    96f
        mov     0x7100, %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
    ",
    wait_for_count!(),
    counting_handler!(),
    routines!(),
}

image! {
    /// Interrupts of an 8259 through LINT0, to a running and to a halted CPU; the third finds interrupts off at first.
    external, OSTLER_GUEST_EXTINT, OSTLER_GUEST_EXTINT_END,
    "
        .code64
        call    94f
        movl    $0x700, 0x350(%rbx)
        lea     3f(%rip), %rax
        mov     $0x50, %edi
        call    93f
        mov     $1, %r8d
        mov     $1, %al
        outb    %al, $0xf8
        call    96f
        mov     $2, %r8d
        mov     $2, %al
        outb    %al, $0xf8
        call    96f
        cli
        mov     $3, %r8d
        mov     $3, %al
        outb    %al, $0xf8
        mov     0x7100, %eax
        call    91f
        call    96f
        mov     0x7100, %eax
        call    91f
        xor     %eax, %eax
        jmp     92f
3:      call    85f
        incl    0x7100
        iretq
    ",
    wait_for_count!(),
    routines!(),
}

image! {
    /// Interrupts of an 8259 and of the LAPIC timer, off but for moments, until the mailbox says that all were sent. Between
    /// these moments the flags are loaded again and again. The handlers count those that found them off at 0x7104.
    masked, OSTLER_GUEST_MASKED, OSTLER_GUEST_MASKED_END,
    "
        .code64
        call    94f
        movl    $0x700, 0x350(%rbx)
        lea     7f(%rip), %rax
        mov     $0x50, %edi
        call    93f
        lea     8f(%rip), %rax
        mov     $0x40, %edi
        call    93f
        movl    $0xb, 0x3e0(%rbx)
        movl    $0x20040, 0x320(%rbx)
        movl    $500000, 0x380(%rbx)
        mov     $1, %al
        outb    %al, $0xf8
1:      sti
        .rept   8
        nop
        .endr
        cli
        mov     $8, %ecx
2:      pushfq
        popfq
        dec     %ecx
        jnz     2b
        cmpl    $1, 0x7008
        jne     1b
        cmpl    $0, 0x7100
        je      1b
        movl    $0x10000, 0x320(%rbx)
        mov     0x7104, %eax
        call    91f
        mov     0x7108, %eax
        call    91f
        xor     %eax, %eax
        cmp     %eax, 0x7100
        setne   %al
        call    91f
        xor     %eax, %eax
        jmp     92f

7:      testl   $0x200, 16(%rsp)
        jnz     1f
        incl    0x7104
1:      incl    0x7108
        iretq
8:      testl   $0x200, 16(%rsp)
        jnz     1f
        incl    0x7104
1:      incl    0x7100
        push    %rax
        mov     $0xfee000b0, %eax
        movl    $0, (%rax)
        pop     %rax
        iretq
    ",
    routines!(),
}
