//! System behaviour as guest code sees it: levels, interrupts, the LAPIC and its timer, a second CPU, the paravirtual clock.

use std::time::Duration;

use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::prepared::{STACK0, prepared, run};
use ostler_accel::model::{self, Topology};
use ostler_accel::{Accelerator, CpuState, Exit, KickSource, MpState, reset_state};
use ostler_bus::Msi;
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_softcpu::vm::SoftCpu;

guest_code!(
    deadline,
    "deadline_begin",
    "deadline_end",
    "jmp 2f",
    ".balign 16",
    "inc ebx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
    "2:",
    "xor ebx, ebx",
    // x2APIC mode, software enable, timer in TSC-deadline mode on vector 0x50.
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x832",
    "mov eax, 0x40050",
    "wrmsr",
    "rdtsc",
    "add eax, 2000000",
    "adc edx, 0",
    "mov esi, eax",
    "mov edi, edx",
    "mov ecx, 0x6e0",
    "wrmsr",
    "sti",
    "hlt",
    "cli",
    "rdtsc",
    "sub eax, esi",
    "sbb edx, edi",
    // The deadline is over and disarmed.
    "mov edi, edx",
    "mov ecx, 0x6e0",
    "rdmsr",
    "mov esi, eax",
    "out 0xf4, al",
);

#[test]
fn a_halted_cpu_wakes_at_its_deadline_and_not_before() {
    let (_, state) = run(&deadline(), 16);
    assert_eq!(state.gpr[3], 1, "one interrupt");
    assert_eq!(state.gpr[7], 0, "the deadline had passed");
    assert_eq!(state.gpr[6], 0, "the register reads as zero");
}

guest_code!(
    user_mode,
    "user_mode_begin",
    "user_mode_end",
    "jmp 2f",
    ".balign 16",
    // The handler, at level 0: shows the error code and where the fault was.
    "pop rbx",
    "mov rsi, [rsp]",
    "mov edi, cs",
    "out 0xf4, al",
    "2:",
    // To level 3 by IRETQ, then a privileged instruction.
    "push 0x1b",
    "push 0x70000",
    "pushfq",
    "push 0x23",
    "lea rax, [rip + 3f]",
    "push rax",
    "iretq",
    "3:",
    "mov ecx, cs",
    "hlt",
);

#[test]
fn the_user_cannot_halt() {
    let (_, state) = run(&user_mode(), 16);
    assert_eq!(state.gpr[3], 0, "error code of #GP");
    assert_eq!((state.gpr[1], state.gpr[7]), (0x23, 8));
    assert_eq!(state.gpr[4], STACK0 - 40, "the TSS's stack");
    assert_eq!(state.gpr[6], CODE + user_mode().len() as u64 - 1);
}

guest_code!(
    wake_second,
    "wake_second_begin",
    "wake_second_end",
    "jmp 2f",
    ".balign 16",
    // The handler of the IPI that comes back.
    "inc ebx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    // INIT, then a start-up IPI to page 0x20, both to CPU 1.
    "mov ecx, 0x830",
    "mov edx, 1",
    "mov eax, 0x4500",
    "wrmsr",
    "mov eax, 0x4620",
    "wrmsr",
    "4: sti",
    "hlt",
    "cli",
    "test ebx, ebx",
    "jz 4b",
    "mov eax, [0x7000]",
    "out 0xf4, al",
);

guest_code!(
    second,
    "second_begin",
    "second_end",
    ".code16",
    // Real mode at 2000:0000: a word that shows where it runs, then an IPI of vector 0x60 to CPU 0 by the register page, in
    // unreal mode through a flat data segment.
    "mov ax, cs",
    "mov ds, ax",
    "lgdt [0x80]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    "mov bx, 8",
    "mov es, bx",
    "and al, 0xfe",
    "mov cr0, eax",
    "mov dword ptr es:[0x7000], 0x1234beef",
    "mov edi, 0xfee000f0",
    "mov dword ptr es:[edi], 0x1ff",
    "mov edi, 0xfee00310",
    "mov dword ptr es:[edi], 0",
    "mov edi, 0xfee00300",
    "mov dword ptr es:[edi], 0x4060",
    "cli",
    "hlt",
    ".code64",
);

#[test]
fn a_second_cpu_starts_in_real_mode_and_interrupts_the_first() {
    let bare = Bare::new(2);
    bare.write(CODE, &wake_second());
    bare.write(0x2_0000, &second());
    assert!(second().len() <= 0x80);
    // The table of the second CPU: a flat data segment.
    bare.write(0x2_0080, &[15, 0, 0x90, 0, 2, 0]);
    bare.write(0x2_0098, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    let mut first = bare.vcpu(0);
    let mut other = bare.vcpu(1);
    first.set_state(&prepared(&bare, CODE + 16)).unwrap();
    other.set_state(&reset_state(1)).unwrap();
    let kicker = other.kicker();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || match other.run().unwrap() {
            Exit::Kicked => other.state().unwrap(),
            exit => panic!("unexpected {exit:?}"),
        });
        run_to_end(&mut *first);
        // Give the second CPU time to reach its HLT; it stays there.
        std::thread::sleep(Duration::from_millis(20));
        kicker.kick(KickSource::Control);
        let end = thread.join().unwrap();
        assert_eq!(end.segments[1].base, 0x2_0000);
        assert!(matches!(end.mp, MpState::Halted | MpState::Runnable));
    });
    let state = first.state().unwrap();
    assert_eq!((state.gpr[0], state.gpr[3]), (0x1234_beef, 1));
    assert_eq!(first.stats().kicks(KickSource::Timer), Some(0));
    let ipis = first.stats().kicks(KickSource::Ipi).unwrap();
    assert!(
        (1..=2).contains(&ipis),
        "the second CPU sent one interrupt: {ipis}"
    );
}

#[test]
fn a_timer_and_a_message_are_counted_as_what_woke_the_cpu() {
    let bare = Bare::new(1);
    bare.write(CODE, &deadline());
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE + 16)).unwrap();
    run_to_end(&mut *vcpu);
    let kicks = |source| vcpu.stats().kicks(source);
    assert_eq!(
        (kicks(KickSource::Timer), kicks(KickSource::Device)),
        (Some(1), Some(0))
    );
    bare.vm.signal(Msi {
        address: 0xfee0_0000,
        data: 0x41,
    });
    assert_eq!(
        (kicks(KickSource::Timer), kicks(KickSource::Device)),
        (Some(1), Some(1))
    );
}

#[test]
fn what_is_sent_to_a_cpu_outside_guest_mode_is_in_its_state() {
    let bare = Bare::new(1);
    bare.write(CODE, &deadline());
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE + 16)).unwrap();
    run_to_end(&mut *vcpu);
    for data in [0x41, 0x400] {
        bare.vm.signal(Msi {
            address: 0xfee0_0000,
            data,
        });
    }
    let check = |state: &CpuState| {
        assert_eq!(
            state.lapic.registers[0x220..0x224],
            [2, 0, 0, 0],
            "vector 0x41 is requested"
        );
        assert_eq!(state.events.nmis_pending, 1);
    };
    let state = vcpu.state().unwrap();
    check(&state);
    // It goes along to where the state is loaded.
    let mut next = Bare::new(1).vcpu(0);
    next.set_state(&state).unwrap();
    check(&next.state().unwrap());
}

/// In xAPIC mode a guest may give its LAPICs any id, and several of them the same (SDM vol. 3, 11.4.6).
#[test]
fn all_cpus_with_one_xapic_id_are_reached() {
    const ID: usize = 0x20;
    const SPURIOUS: usize = 0xf0;
    let bare = Bare::new(2);
    let mut cpus = [0, 1].map(|id| bare.vcpu(id));
    for vcpu in &mut cpus {
        let mut state = vcpu.state().unwrap();
        state.lapic.registers[ID..ID + 4].copy_from_slice(&[0, 0, 0, 1]);
        state.lapic.registers[SPURIOUS..SPURIOUS + 4].copy_from_slice(&[0xff, 1, 0, 0]);
        vcpu.set_state(&state).unwrap();
    }
    for (id, data) in [(1, 0x41), (0, 0x42)] {
        bare.vm.signal(Msi {
            address: 0xfee0_0000 | id << 12,
            data,
        });
    }
    for vcpu in &mut cpus {
        let requested = vcpu.state().unwrap().lapic.registers[0x220..0x224].to_vec();
        assert_eq!(requested, [2, 0, 0, 0], "vector 0x41, and not that for id 0");
    }
}

guest_code!(
    clock,
    "clock_begin",
    "clock_end",
    "mov ecx, 0x4b564d01",
    "mov eax, 0x7001",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x4b564d00",
    "mov eax, 0x7100",
    "wrmsr",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov rbx, rax",
    "out 0xf4, al",
);

#[test]
fn the_paravirtual_clock_tells_nanoseconds_since_boot() {
    let (bare, state) = run(&clock(), 0);
    let mut page = [0; 32];
    bare.ram.read_slice(&mut page, GuestAddress(0x7000)).unwrap();
    let field = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let version = field(0) as u32;
    assert!(version != 0 && version.is_multiple_of(2));
    assert_eq!(page[29], 1, "stable");
    let ticks = state.gpr[3] - field(8);
    let shift = page[28] as i8;
    let shifted = if shift < 0 {
        ticks >> -shift
    } else {
        ticks << shift
    };
    let scaled = (u128::from(shifted) * u128::from(field(24) as u32)) >> 32;
    let guest = field(16) + scaled as u64;
    let host = bare.vm.clock().unwrap();
    assert!(guest > 0 && guest < host, "{guest} is before {host}");
    let mut wall = [0; 12];
    bare.ram.read_slice(&mut wall, GuestAddress(0x7100)).unwrap();
    let seconds = u32::from_le_bytes(wall[4..8].try_into().unwrap());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now - u64::from(seconds) < 3600);
}

#[test]
fn a_clock_that_is_set_shows_in_the_guest() {
    const HOUR: u64 = 3_600_000_000_000;
    let bare = Bare::new(1);
    bare.write(CODE, &clock());
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE)).unwrap();
    run_to_end(&mut *vcpu);
    let started = |bare: &Bare| {
        let mut tsc = [0; 8];
        bare.ram.read_slice(&mut tsc, GuestAddress(0x7008)).unwrap();
        u64::from_le_bytes(tsc)
    };
    let before = started(&bare);
    bare.vm.set_clock(HOUR).unwrap();
    assert!(bare.vm.clock().unwrap() >= HOUR);
    vcpu.kicker().kick(KickSource::Control);
    assert!(matches!(vcpu.run().unwrap(), Exit::Kicked));
    bare.write(CODE, &[0xe6, 0xf4]);
    let mut state = vcpu.state().unwrap();
    state.rip = CODE;
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    assert_ne!(started(&bare), before, "the page was written for the new clock");
}

#[test]
fn a_reset_state_brings_back_the_registers_of_reset() {
    let bare = Bare::new(1);
    bare.write(CODE, &clock());
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE)).unwrap();
    run_to_end(&mut *vcpu);
    let system_time = |state: &CpuState| {
        state
            .msrs
            .iter()
            .find(|m| m.index == 0x4b56_4d01)
            .map(|m| m.value)
    };
    assert_eq!(system_time(&vcpu.state().unwrap()), Some(0x7001));
    vcpu.set_state(&reset_state(0)).unwrap();
    assert_eq!(
        system_time(&vcpu.state().unwrap()),
        Some(0),
        "no clock is written into the next guest's memory"
    );
}

guest_code!(
    hypercalls,
    "hypercalls_begin",
    "hypercalls_end",
    "mov eax, 99",
    "vmmcall",
    "mov rbx, rax",
    // A kick for oneself: the HLT that follows does not sleep.
    "mov eax, 5",
    "xor ecx, ecx",
    "vmcall",
    "mov rsi, rax",
    "cli",
    "hlt",
    "out 0xf4, al",
);

#[test]
fn hypercalls_kick_and_unknown_ones_say_so() {
    let (_, state) = run(&hypercalls(), 0);
    assert_eq!(state.gpr[3] as i64, -1000);
    assert_eq!(state.gpr[6], 0);
}

guest_code!(
    sent_by_hypercall,
    "sent_by_hypercall_begin",
    "sent_by_hypercall_end",
    "cli",
    // To the CPUs 0 and 5, of which there is one.
    "mov eax, 10",
    "mov ebx, 0x21",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov esi, 0x41",
    "vmcall",
    "mov rdi, rax",
    // To ids that nobody has.
    "mov eax, 10",
    "mov edx, 0xffffffff",
    "vmcall",
    "mov r8, rax",
    // An ICR with a logical destination.
    "mov eax, 10",
    "mov esi, 0x841",
    "vmcall",
    "mov rbp, rax",
    "out 0xf4, al",
);

#[test]
fn interrupts_sent_by_hypercall_reach_the_cpus_that_are_there() {
    let (_, state) = run(&sent_by_hypercall(), 0);
    assert_eq!((state.gpr[7], state.gpr[8]), (1, 0));
    assert_eq!(state.gpr[5] as i64, -22);
}

guest_code!(
    trailing_zeros,
    "trailing_zeros_begin",
    "trailing_zeros_end",
    "mov eax, 0x700",
    "mov ebx, 0x55",
    "tzcnt ecx, eax",
    "lzcnt edx, eax",
    "xor eax, eax",
    "tzcnt ebx, eax",
    "out 0xf4, al",
);

#[test]
fn a_model_without_tzcnt_executes_bsf() {
    let ends = ["max", "x86-64-v2"].map(|model| {
        let supported = SoftCpu::default().supported_cpuid().unwrap();
        let leaves = model::build(model, &supported, Topology { cpus: 1 }, 0).unwrap();
        let bare = Bare::new(1);
        bare.write(CODE, &trailing_zeros());
        let mut vcpu = bare.vm.create_vcpu(0, &leaves).unwrap();
        vcpu.set_state(&prepared(&bare, CODE)).unwrap();
        run_to_end(&mut *vcpu);
        let state = vcpu.state().unwrap();
        [state.gpr[1], state.gpr[2], state.gpr[3]]
    });
    assert_eq!(
        ends[1],
        [8, 10, 0x55],
        "BSF and BSR; a source of zero leaves the destination"
    );
    if model::has_feature(&SoftCpu::default().supported_cpuid().unwrap(), "bmi1") {
        assert_eq!(ends[0], [8, 21, 32]);
    } else {
        eprintln!("SKIPPED a_model_without_tzcnt_executes_bsf (TZCNT itself): the host has no BMI1");
    }
}
