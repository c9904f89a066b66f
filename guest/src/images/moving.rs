//! A guest that has something in every part of a CPU's state when it is moved.

image! {
    /// CPU 1 sleeps in real mode. CPU 0 is in x2APIC mode with interrupts off, has one requested and its deadline armed, vector
    /// registers, XCR0, PAT and the SYSENTER registers full. AVX is on from the start if the word at 0x7010 says so: not every KVM
    /// hides from CPUID what it does not offer, and QEMU's SVM lets XSETBV past it. After the move R15 collects what is wrong, a bit each; then
    /// the interrupts arrive, and CPU 1 is woken.
    whole_state, OSTLER_GUEST_WHOLE, OSTLER_GUEST_WHOLE_END,
    "
        .code64
        call    94f
        lea     7f(%rip), %rax
        mov     $0x40, %edi
        call    93f
        lea     8f(%rip), %rax
        mov     $0x51, %edi
        call    93f
        mov     $0x1b, %ecx
        rdmsr
        or      $0x400, %eax
        wrmsr
        mov     $0x80f, %ecx
        mov     $0x1ff, %eax
        xor     %edx, %edx
        wrmsr

        mov     $0x830, %ecx
        mov     $1, %edx
        mov     $0x4500, %eax
        wrmsr
        mov     $0x4609, %eax
        wrmsr
1:      pause
        cmpw    $1, 0x7108
        jne     1b

        xor     %ecx, %ecx
        mov     $3, %al
1:      movb    %al, 0x5000(%rcx)
        add     $7, %al
        add     %ch, %al
        inc     %ecx
        cmp     $512, %ecx
        jb      1b

        mov     $1, %eax
        xor     %ecx, %ecx
        cpuid
        mov     %ecx, %r14d
        xor     %r13d, %r13d
        cmpl    $1, 0x7010
        jne     2f
        inc     %r13d
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovups 0x5000+32*\\n, %ymm\\n
        .endr
        jmp     3f
2:
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movups  0x5000+32*\\n, %xmm\\n
        .endr
3:
        mov     $0x277, %ecx
        mov     $0x00070106, %edx
        mov     $0x00070406, %eax
        wrmsr
        xor     %edx, %edx
        mov     $0x174, %ecx
        mov     $0x10, %eax
        wrmsr
        inc     %ecx
        mov     $0x11223344, %eax
        wrmsr
        inc     %ecx
        mov     $0x55667788, %eax
        wrmsr

        bt      $24, %r14d
        jnc     4f
        mov     $0x832, %ecx
        mov     $0x40040, %eax
        xor     %edx, %edx
        wrmsr
        mfence
        rdtsc
        shl     $32, %rdx
        lea     (%rax, %rdx), %r12
        mov     $0x80000000, %eax
        add     %rax, %r12
        mov     %r12, %rax
        mov     %r12, %rdx
        shr     $32, %rdx
        mov     $0x6e0, %ecx
        wrmsr
4:      mov     $0x83f, %ecx
        mov     $0x51, %eax
        xor     %edx, %edx
        wrmsr
        rdtsc
        shl     $32, %rdx
        lea     (%rax, %rdx), %r10
        mov     $1, %al
        outb    %al, $0xf8

        xor     %r15d, %r15d
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        cmp     %r10, %rax
        jae     1f
        or      $1, %r15d
1:      mov     $0x1b, %ecx
        rdmsr
        and     $0xc00, %eax
        cmp     $0xc00, %eax
        je      1f
        or      $2, %r15d
1:      mov     $0x80f, %ecx
        rdmsr
        cmp     $0x1ff, %eax
        je      1f
        or      $4, %r15d
1:      mov     $0x822, %ecx
        rdmsr
        bt      $0x11, %eax
        jc      1f
        or      $8, %r15d
1:      mov     $0x277, %ecx
        rdmsr
        cmp     $0x00070406, %eax
        jne     2f
        cmp     $0x00070106, %edx
        je      1f
2:      or      $0x10, %r15d
1:      mov     $0x174, %ecx
        rdmsr
        mov     %eax, %r11d
        inc     %ecx
        rdmsr
        add     %eax, %r11d
        inc     %ecx
        rdmsr
        add     %eax, %r11d
        cmp     $0x6688aadc, %r11d
        je      1f
        or      $0x20, %r15d
1:      bt      $24, %r14d
        jnc     1f
        mov     $0x6e0, %ecx
        rdmsr
        shl     $32, %rdx
        or      %rdx, %rax
        jz      2f
        cmp     %r12, %rax
        je      1f
        or      $0x40, %r15d
        jmp     1f
2:      rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        cmp     %r12, %rax
        jae     1f
        or      $0x80, %r15d
1:      test    %r13d, %r13d
        jz      2f
        mov     $0xd, %eax
        xor     %ecx, %ecx
        cpuid
        cmp     $832, %ebx
        je      1f
        or      $0x100, %r15d
1:
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovups %ymm\\n, 0x5400+32*\\n
        .endr
        mov     $24, %r11d
        jmp     3f
2:
        .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movups  %xmm\\n, 0x5400+32*\\n
        .endr
        mov     $8, %r11d
3:      xor     %ecx, %ecx
1:      mov     0x5000(%rcx), %rax
        mov     %ecx, %edx
        and     $24, %edx
        cmp     %r11d, %edx
        ja      2f
        cmp     %rax, 0x5400(%rcx)
        je      2f
        or      $0x200, %r15d
2:      add     $8, %ecx
        cmp     $512, %ecx
        jb      1b
        mov     %r15, %rax
        call    91f

        bt      $24, %r14d
        jnc     1f
        mov     $1, %r8d
        call    96f
1:      sti
2:      pause
        cmpl    $1, 0x7104
        jne     2b
        mov     0x7104, %eax
        call    91f
        mov     $0x830, %ecx
        mov     $1, %edx
        mov     $0x4044, %eax
        wrmsr
1:      pause
        cmpw    $1, 0x710c
        jne     1b
        movzwl  0x710c, %eax
        call    91f
        xor     %eax, %eax
        jmp     92f

7:      call    85f
        incl    0x7100
        jmp     9f
8:      call    85f
        incl    0x7104
9:      push    %rax
        push    %rcx
        push    %rdx
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
    "
        .skip   0x1000 - (. - 0b)
        .code16
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x4f00, %sp
        movw    $(2f - 0b + 0x8000), 0x110
        movw    $0, 0x112
        mov     $0x1b, %ecx
        rdmsr
        or      $0xc00, %eax
        wrmsr
        mov     $0x80f, %ecx
        mov     $0x1ff, %eax
        xor     %edx, %edx
        wrmsr
        lock incw 0x7108
1:      sti
        hlt
        jmp     1b
2:      lock incw 0x710c
        mov     $0x80b, %ecx
        xor     %eax, %eax
        xor     %edx, %edx
        wrmsr
        iretw
    ",
}
