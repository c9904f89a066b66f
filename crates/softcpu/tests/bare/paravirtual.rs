//! Steal time, kicks by hypercall, random numbers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ostler_accel::{Exit, MpState, Vcpu};
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::prepared::{prepared, run};

guest_code!(
    steal,
    "steal_begin",
    "steal_end",
    "2:",
    // Some milliseconds of work: the record is not written more often than once in one.
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "lea rsi, [rax + 20000000]",
    "3:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "cmp rax, rsi",
    "jb 3b",
    // The steal time's register, enabled once more.
    "mov ecx, 0x4b564d03",
    "mov eax, 0x7201",
    "xor edx, edx",
    "wrmsr",
    "out 0xf4, al",
    "jmp 2b",
);

/// A vCPU that tells its steal time at each run.
fn stealing() -> (Bare, Box<dyn Vcpu>) {
    let bare = Bare::new(1);
    bare.write(CODE, &steal());
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&prepared(&bare, CODE)).unwrap();
    run_to_end(&mut *vcpu);
    (bare, vcpu)
}

/// Nanoseconds stolen so far.
fn stolen(bare: &Bare) -> u64 {
    bare.ram.read_obj(GuestAddress(0x7200)).unwrap()
}

#[test]
fn a_pause_outside_the_guest_is_not_stolen() {
    let (bare, mut vcpu) = stealing();
    // On a busy host the thread may really have to wait; then once more.
    let least = (0..50)
        .map(|_| {
            let before = stolen(&bare);
            thread::sleep(Duration::from_millis(50));
            run_to_end(&mut *vcpu);
            stolen(&bare) - before
        })
        .find(|&stolen| stolen < 20_000_000);
    assert!(least.is_some(), "each pause of 50 ms was counted as stolen");
    let version: u32 = bare.ram.read_obj(GuestAddress(0x7208)).unwrap();
    assert!(version != 0 && version.is_multiple_of(2));
}

/// Binds the calling thread to host CPU `number`.
fn bind(number: usize) -> bool {
    // SAFETY: an all-zero set is valid, and the call reads it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(number, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

#[test]
fn time_that_another_thread_takes_is_stolen() {
    const NAME: &str = "time_that_another_thread_takes_is_stolen";
    // SAFETY: no memory is involved.
    let here = unsafe { libc::sched_getcpu() };
    if here < 0 || !bind(here as usize) {
        eprintln!("SKIPPED {NAME}: the thread cannot be bound to one of the host's CPUs");
        return;
    }
    let (bare, mut vcpu) = stealing();
    let before = stolen(&bare);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Inherits the binding.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        for _ in 0..1000 {
            run_to_end(&mut *vcpu);
            if stolen(&bare) - before > 1_000_000 {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(
        stolen(&bare) - before > 1_000_000,
        "{} ns",
        stolen(&bare) - before
    );
}

guest_code!(
    kicks_the_other,
    "kicks_the_other_begin",
    "kicks_the_other_end",
    // KVM_HC_KICK_CPU for APIC id 1.
    "mov eax, 5",
    "xor ebx, ebx",
    "mov ecx, 1",
    "vmcall",
    "out 0xf4, al",
);

guest_code!(
    sleeps,
    "sleeps_begin",
    "sleeps_end",
    "mov byte ptr [0x7000], 1",
    "cli",
    "hlt",
    "mov ebx, 0x1234",
    "out 0xf4, al",
);

#[test]
fn a_hypercall_wakes_another_cpu_that_halted_with_interrupts_off() {
    let bare = Bare::new(2);
    bare.write(CODE, &kicks_the_other());
    bare.write(CODE + 0x1000, &sleeps());
    let (mut first, mut second) = (bare.vcpu(0), bare.vcpu(1));
    first.set_state(&prepared(&bare, CODE)).unwrap();
    let mut state = bare.long_mode(1);
    state.rip = CODE + 0x1000;
    state.mp = MpState::Runnable;
    second.set_state(&state).unwrap();
    let kicker = second.kicker();
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            // It sleeps; when someone comes along, it goes on sleeping.
            match second.run().unwrap() {
                Exit::Kicked => assert!(matches!(second.state().unwrap().mp, MpState::Halted)),
                exit => panic!("unexpected {exit:?}"),
            }
            run_to_end(&mut *second);
            second.state().unwrap().gpr[3]
        });
        while bare.ram.read_obj::<u8>(GuestAddress(0x7000)).unwrap() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        kicker.kick(ostler_accel::KickSource::Control);
        thread::sleep(Duration::from_millis(20));
        assert!(!other.is_finished(), "HLT without a kick sleeps on");
        run_to_end(&mut *first);
        assert_eq!(other.join().unwrap(), 0x1234);
    });
}

guest_code!(
    random_numbers,
    "random_numbers_begin",
    "random_numbers_end",
    "mov r15, 0x20000",
    "xor r14d, r14d",
    "mov ebp, 16",
    "2:",
    // All flags but CF are cleared.
    "xor eax, eax",
    "dec eax",
    "rdrand rax",
    "pushfq",
    "pop rbx",
    "mov [r15], rax",
    "rdseed rcx",
    "adc r14d, 0",
    "mov [r15 + 8], rcx",
    "mov rdx, -1",
    "rdrand edx",
    "adc r14d, 0",
    "mov [r15 + 16], rdx",
    "mov rsi, -1",
    "rdseed si",
    "adc r14d, 0",
    "mov [r15 + 24], rsi",
    "rdrand r8w",
    "adc r14d, 0",
    "rdseed r9d",
    "adc r14d, 0",
    "and ebx, 0x8d5",
    "cmp ebx, 1",
    "jne 3f",
    "inc r14d",
    "3:",
    "add r15, 32",
    "dec ebp",
    "jnz 2b",
    "out 0xf4, al",
);

#[test]
fn random_numbers_come_in_all_widths_whatever_the_host_has() {
    let (bare, state) = run(&random_numbers(), 0);
    assert_eq!(state.gpr[14], 6 * 16, "CF is set each time, and no other flag");
    let mut numbers = [HashSet::new(), HashSet::new(), HashSet::new(), HashSet::new()];
    for round in 0..16 {
        for (kind, numbers) in numbers.iter_mut().enumerate() {
            let at = 0x2_0000 + 32 * round + 8 * kind as u64;
            numbers.insert(bare.ram.read_obj::<u64>(GuestAddress(at)).unwrap());
        }
    }
    assert_eq!((numbers[0].len(), numbers[1].len()), (16, 16), "64 bits");
    assert!(numbers[2].len() > 14, "32 bits");
    assert!(
        numbers[2].iter().all(|n| n >> 32 == 0),
        "the upper half is cleared"
    );
    assert!(numbers[3].len() > 10, "16 bits");
    assert!(
        numbers[3].iter().all(|n| n >> 16 == u64::MAX >> 16),
        "the rest stays"
    );
}
