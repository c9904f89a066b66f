//! What KVM offers a Linux guest beyond hardware: clock, steal time, hypercalls (Linux, Documentation/virt/kvm/x86/msr.rst and
//! hypercalls.rst).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::thread::ThreadId;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_accel::TimeSpent;

use super::lapic::{self, Destination, Message};
use crate::fault::Result;
use crate::host;
use crate::shared::VmShared;
use crate::state::{Cpu, reg};

/// The paravirtual registers.
#[derive(Debug, Clone, Default)]
pub struct Paravirtual {
    /// Address of the wall clock.
    pub wall_clock: u64,
    /// Address of the system time, bit 0 enables it.
    pub system_time: u64,
    /// Address of the steal time, bit 0 enables it.
    pub steal_time: u64,
    /// Address of the word in which a CPU may say that an interrupt needs no end, bit 0 enables it. This CPU never says so: an end
    /// costs nothing here. It is kept for a guest that moves to KVM, where each is an exit.
    pub end_of_interrupt: u64,
    /// The [`VmShared::boot_tsc`] that the time page was written for.
    boot_tsc: u64,
    /// What the steal time was last told.
    since: Option<Baseline>,
}

/// The clock, and what had been lost by then by which thread.
#[derive(Debug, Clone, Copy)]
struct Baseline {
    clock: u64,
    lost: u64,
    thread: ThreadId,
}

/// Nanoseconds of `ticks` at `khz`.
fn nanoseconds(ticks: u64, khz: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(khz.max(1))) as u64
}

/// The clock in nanoseconds since the guest's boot.
pub fn clock(vm: &VmShared) -> u64 {
    nanoseconds(
        host::tsc().wrapping_sub(vm.boot_tsc.load(Ordering::Relaxed)),
        vm.tsc_khz,
    )
}

/// Multiplier and shift that turn TSC ticks at `khz` into nanoseconds: `(ticks << shift) * multiplier >> 32`.
pub fn tsc_scale(khz: u64) -> (u32, i8) {
    let mut shift = 0i8;
    let mut hz = u128::from(khz.max(1)) * 1000;
    let second = 1_000_000_000u128;
    // Bring the frequency into (10^9, 2 * 10^9], so that the multiplier has all its 32 bits.
    while hz > second * 2 {
        hz >>= 1;
        shift -= 1;
    }
    while hz <= second {
        hz <<= 1;
        shift += 1;
    }
    (((second << 32) / hz) as u32, shift)
}

/// The page that the guest reads its time from (struct pvclock_vcpu_time_info).
fn time_info(version: u32, tsc: u64, khz: u64) -> [u8; 32] {
    const TSC_STABLE: u8 = 1;
    let (multiplier, shift) = tsc_scale(khz);
    let mut info = [0; 32];
    info[0..4].copy_from_slice(&version.to_le_bytes());
    info[8..16].copy_from_slice(&tsc.to_le_bytes());
    // Nanoseconds at `tsc`: zero, since that is when the guest's time began.
    info[24..28].copy_from_slice(&multiplier.to_le_bytes());
    info[28] = shift as u8;
    info[29] = TSC_STABLE;
    info
}

/// Writes the time page again: after the guest placed it, or moved its TSC.
pub fn update_clock(cpu: &mut Cpu) {
    let register = cpu.msrs.paravirtual.system_time;
    if register & 1 == 0 {
        return;
    }
    let gpa = register & !1;
    let mut version = [0; 4];
    if cpu.read_physical(gpa, &mut version).is_none() {
        return;
    }
    // Odd while it changes, even and different afterwards.
    let odd = u32::from_le_bytes(version).wrapping_add(1) | 1;
    let began = cpu.vm.boot_tsc.load(Ordering::Relaxed);
    cpu.msrs.paravirtual.boot_tsc = began;
    let boot = began.wrapping_add(cpu.msrs.tsc_offset);
    let khz = cpu.vm.tsc_khz;
    let mut info = time_info(odd, boot, khz);
    cpu.write_physical(gpa, &info[..4]);
    cpu.write_physical(gpa, &info);
    info[0..4].copy_from_slice(&odd.wrapping_add(1).to_le_bytes());
    cpu.write_physical(gpa, &info[..4]);
}

/// Writes the time page again if the clock was set since the last time.
#[inline]
pub fn follow_clock(cpu: &mut Cpu) {
    let enabled = cpu.msrs.paravirtual.system_time & 1 != 0;
    if enabled && cpu.msrs.paravirtual.boot_tsc != cpu.vm.boot_tsc.load(Ordering::Relaxed) {
        update_clock(cpu);
    }
}

/// Writes the wall clock at the guest's boot (struct pvclock_wall_clock).
pub fn write_wall_clock(cpu: &mut Cpu) {
    let gpa = cpu.msrs.paravirtual.wall_clock;
    let mut version = [0; 4];
    if gpa == 0 || cpu.read_physical(gpa, &mut version).is_none() {
        return;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let boot = now.saturating_sub(Duration::from_nanos(clock(&cpu.vm)));
    let odd = u32::from_le_bytes(version).wrapping_add(1) | 1;
    let mut info = [0; 12];
    info[0..4].copy_from_slice(&odd.to_le_bytes());
    info[4..8].copy_from_slice(&(boot.as_secs() as u32).to_le_bytes());
    info[8..12].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
    cpu.write_physical(gpa, &info);
    cpu.write_physical(gpa, &odd.wrapping_add(1).to_le_bytes());
}

/// What tells how long the calling thread waited for a processor: its line in /proc, opened once.
fn run_delay() -> Option<u64> {
    thread_local! {
        static SCHEDSTAT: Option<File> = File::open("/proc/thread-self/schedstat").ok();
    }
    let mut line = [0; 80];
    let len = SCHEDSTAT.with(|file| file.as_ref()?.read_at(&mut line, 0).ok())?;
    parse_schedstat(std::str::from_utf8(&line[..len]).ok()?)
}

/// The second number: time executed, time waited, slices. A kernel that does not count says zero to all.
fn parse_schedstat(line: &str) -> Option<u64> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
    let executed = numbers.next()?.ok()?;
    let waited = numbers.next()?.ok()?;
    (executed != 0).then_some(waited)
}

/// Processor time of the calling thread in nanoseconds.
fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call fills a structure of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return 0;
    }
    (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}

/// Nanoseconds that the vCPU's thread wanted to run and did not; only differences mean something. Where the host does not count
/// them, what passed without processor time, sleep, and user mode, in which a pause is nobody's theft.
fn lost_time(cpu: &Cpu, now: u64) -> u64 {
    run_delay().unwrap_or_else(|| {
        let spent = |what| cpu.shared.stats.time(what).unwrap_or(0);
        now.saturating_sub(thread_time() + spent(TimeSpent::Idle) + spent(TimeSpent::User))
    })
}

/// Nanoseconds between two looks at the time lost, which cost a system call each.
const STEAL_INTERVAL: u64 = 1_000_000;

/// Adds to the steal time what the vCPU's thread wanted to run but did not, since the last time.
pub fn update_steal_time(cpu: &mut Cpu) {
    let register = cpu.msrs.paravirtual.steal_time;
    if register & 1 == 0 {
        return;
    }
    let now = clock(&cpu.vm);
    let before = cpu.msrs.paravirtual.since;
    if before.is_some_and(|before| now.saturating_sub(before.clock) < STEAL_INTERVAL) {
        return;
    }
    let thread = std::thread::current().id();
    let same = before.filter(|before| before.thread == thread);
    let seen = lost_time(cpu, now);
    let lost = same.map_or(seen, |before| seen.max(before.lost));
    cpu.msrs.paravirtual.since = Some(Baseline {
        clock: now,
        lost,
        thread,
    });
    let stolen = same.map_or(0, |before| lost - before.lost);
    // struct kvm_steal_time: steal, version, flags, preempted.
    let gpa = register & !0x3f;
    let mut record = [0; 12];
    if cpu.read_physical(gpa, &mut record).is_none() {
        return;
    }
    let (steal, version) = record.split_at(8);
    let steal = u64::from_le_bytes(steal.try_into().unwrap_or_default());
    let version = u32::from_le_bytes(version.try_into().unwrap_or_default());
    let odd = version.wrapping_add(1) | 1;
    cpu.write_physical(gpa + 8, &odd.to_le_bytes());
    cpu.write_physical(gpa, &steal.wrapping_add(stolen).to_le_bytes());
    cpu.write_physical(gpa + 8, &odd.wrapping_add(1).to_le_bytes());
}

/// VMCALL and VMMCALL.
pub fn hypercall(cpu: &mut Cpu) -> Result<()> {
    const KICK_CPU: u64 = 5;
    const SEND_IPI: u64 = 10;
    const SCHED_YIELD: u64 = 11;
    /// KVM_ENOSYS, which is not the errno of that name.
    const ENOSYS: i64 = 1000;
    const EPERM: i64 = 1;
    let mask = if cpu.is_long() { u64::MAX } else { 0xffff_ffff };
    let number = cpu.gpr[reg::RAX] & mask;
    let answer = if cpu.cpl != 0 {
        -EPERM
    } else {
        match number {
            KICK_CPU => {
                let id = cpu.gpr[reg::RCX] & mask;
                let vm = cpu.vm.clone();
                if let Some(vcpu) = u32::try_from(id).ok().and_then(|id| vm.vcpu(id)) {
                    vcpu.lapic.post_unhalt();
                    vcpu.event_arrived(ostler_accel::KickSource::Ipi);
                }
                0
            }
            SEND_IPI => send_ipis(cpu, mask),
            SCHED_YIELD => {
                std::thread::yield_now();
                0
            }
            _ => -ENOSYS,
        }
    };
    cpu.gpr[reg::RAX] = answer as u64 & mask;
    Ok(())
}

/// KVM_HC_SEND_IPI: RSI is an ICR without destination, RBX and RCX are a set of APIC ids that begins with RDX. Returns how many were
/// reached, or a negated errno.
fn send_ipis(cpu: &Cpu, mask: u64) -> i64 {
    const EINVAL: i64 = 22;
    /// Logical destinations and shorthands.
    const ADDRESSED: u64 = 1 << 11 | 3 << 18;
    let width = u64::from(mask.count_ones());
    let [low, high, first, icr] =
        [reg::RBX, reg::RCX, reg::RDX, reg::RSI].map(|number| cpu.gpr[number] & mask);
    if icr & ADDRESSED != 0 {
        return -EINVAL;
    }
    let vm = cpu.vm.clone();
    let mut reached = 0;
    for at in 0..2 * width {
        let set = if at < width {
            low >> at
        } else {
            high >> (at - width)
        } & 1
            != 0;
        let id = u32::try_from((first & 0xffff_ffff) + at).ok();
        let Some(id) = id.filter(|&id| set && vm.vcpu(id).is_some()) else {
            continue;
        };
        let message = Message {
            destination: Destination::Physical(id),
            delivery: (icr >> 8) as u8 & 7,
            vector: icr as u8,
            level: false,
            ipi: true,
        };
        lapic::deliver(&vm, Some(cpu.id), &message);
        reached += 1;
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the guest computes.
    fn scaled(ticks: u64, khz: u64) -> u64 {
        let (multiplier, shift) = tsc_scale(khz);
        let shifted = if shift < 0 {
            ticks >> -shift
        } else {
            ticks << shift
        };
        ((u128::from(shifted) * u128::from(multiplier)) >> 32) as u64
    }

    #[test]
    fn a_second_of_ticks_is_a_second() {
        for khz in [
            100_000, 999_999, 1_000_000, 1_000_001, 2_000_000, 2_400_123, 5_200_000,
        ] {
            let second = scaled(khz * 1000, khz);
            assert!(
                (999_999_990..=1_000_000_000).contains(&second),
                "{khz} kHz: {second}"
            );
            let day = scaled(khz * 86_400_000, khz);
            assert!(day.abs_diff(86_400_000_000_000) < 86_400_000, "{khz} kHz: {day}");
        }
    }

    #[test]
    fn the_time_waited_is_the_second_number() {
        for (line, expected) in [
            ("95996 76902 2\n", Some(76902)),
            ("1 0 1", Some(0)),
            ("0 0 0\n", None),
            ("12", None),
            ("", None),
            ("a b c", None),
        ] {
            assert_eq!(parse_schedstat(line), expected, "{line:?}");
        }
    }

    #[test]
    fn the_time_page_has_the_layout_that_linux_reads() {
        let info = time_info(6, 0x1122_3344_5566_7788, 2_000_000);
        assert_eq!(info[0..4], 6u32.to_le_bytes());
        assert_eq!(info[8..16], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(info[16..24], [0; 8]);
        assert_eq!(info[24..28], 0x8000_0000u32.to_le_bytes());
        assert_eq!(info[28], 0);
        assert_eq!(info[29], 1);
    }
}
