//! The kernel's view of a vCPU: counters from KVM's statistics descriptor, times from the thread's accounting.
//!
//! The descriptor (KVM_GET_STATS_FD, Linux 5.14) describes itself: a header, one record a counter with its name and place,
//! then the values. Only names are relied on; a counter that this host does not have is shown as unavailable.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use ostler_accel::{ExitCause, TimeSpent, VcpuStats};

/// Bytes of the header and of a record before its name (linux/kvm.h: kvm_stats_header, kvm_stats_desc).
const HEADER_SIZE: usize = 24;
const RECORD_SIZE: usize = 16;
/// Bounds on what the kernel may describe; today it is some fifty counters with names of 48 bytes.
const MAX_RECORDS: u32 = 4096;
const MAX_NAME_SIZE: u32 = 1024;

/// Makes `stats` fetch the kernel's counters of a vCPU, whose statistics are in `kernel` and whose thread is `thread`.
pub fn attach(stats: &VcpuStats, kernel: Option<OwnedFd>, thread: Arc<AtomicI32>) {
    // An ioeventfd that rings is counted nowhere.
    stats.set_exits_unavailable(ExitCause::Doorbell);
    let counters = kernel.and_then(|fd| Counters::open(File::from(fd)).ok());
    for cause in [ExitCause::Halt, ExitCause::Interrupt, ExitCause::Other] {
        if counters.is_none() {
            stats.set_exits_unavailable(cause);
        }
    }
    let account = OnceLock::new();
    stats.set_refresher(move |stats| {
        if let Some(counters) = &counters {
            counters.copy_to(stats);
        }
        if let Some(times) = thread_times(&account, thread.load(Ordering::Relaxed)) {
            stats.set_time(TimeSpent::Guest, times.guest);
            stats.set_time(TimeSpent::Kernel, times.kernel);
        }
    });
}

/// The counters that are shown, and where the kernel keeps them.
struct Counters {
    file: File,
    exits: Option<u64>,
    halts: Option<u64>,
    injections: Option<u64>,
    waited: Option<u64>,
}

impl Counters {
    fn open(file: File) -> io::Result<Self> {
        let records = read_records(&file)?;
        let offset_of = |name: &str| records.iter().find(|(known, _)| known == name).map(|(_, at)| *at);
        Ok(Self {
            exits: offset_of("exits"),
            halts: offset_of("halt_exits"),
            injections: offset_of("irq_injections"),
            waited: offset_of("halt_wait_ns"),
            file,
        })
    }

    fn value(&self, offset: Option<u64>) -> Option<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, offset?).ok()?;
        Some(u64::from_ne_bytes(value))
    }

    fn copy_to(&self, stats: &VcpuStats) {
        let set = |cause: ExitCause, value: Option<u64>| match value {
            Some(value) => stats.set_exits(cause, value),
            None => stats.set_exits_unavailable(cause),
        };
        set(ExitCause::Halt, self.value(self.halts));
        set(ExitCause::Interrupt, self.value(self.injections));
        // What the kernel dealt with on its own: page faults, MSRs, CPUID, host interrupts, doorbells.
        let known: u64 = [
            ExitCause::PortRead,
            ExitCause::PortWrite,
            ExitCause::MmioRead,
            ExitCause::MmioWrite,
            ExitCause::Halt,
            ExitCause::EndOfInterrupt,
            ExitCause::Shutdown,
            ExitCause::EmulationFailed,
        ]
        .iter()
        .map(|&cause| stats.exits(cause))
        .sum();
        set(
            ExitCause::Other,
            self.value(self.exits).map(|all| all.saturating_sub(known)),
        );
        if let Some(waited) = self.value(self.waited) {
            stats.set_time(TimeSpent::Idle, waited);
        }
    }
}

/// Every counter's name and the place of its (first) value in the file.
fn read_records(file: &File) -> io::Result<Vec<(String, u64)>> {
    let mut header = [0; HEADER_SIZE];
    file.read_exact_at(&mut header, 0)?;
    let field = |index: usize| u32_at(&header, index * 4);
    let (name_size, count, records_at, data_at) = (field(1), field(2), field(4), field(5));
    if name_size > MAX_NAME_SIZE || count > MAX_RECORDS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = RECORD_SIZE + name_size as usize;
    let mut table = vec![0; size * count as usize];
    file.read_exact_at(&mut table, records_at.into())?;
    Ok(table
        .chunks_exact(size)
        .map(|record| {
            let name = record[RECORD_SIZE..]
                .split(|&byte| byte == 0)
                .next()
                .unwrap_or(&[]);
            let offset = u64::from(data_at) + u64::from(u32_at(record, 8));
            (String::from_utf8_lossy(name).into_owned(), offset)
        })
        .collect())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

/// Nanoseconds of a thread, in the resolution of the kernel's accounting (clock ticks).
#[derive(Debug, PartialEq)]
struct Times {
    guest: u64,
    kernel: u64,
}

/// The times of thread `id` of this process, or `None` before it runs and where /proc is not to be seen.
fn thread_times(account: &OnceLock<Option<File>>, id: i32) -> Option<Times> {
    if id == 0 {
        return None;
    }
    let file = account
        .get_or_init(|| File::open(format!("/proc/self/task/{id}/stat")).ok())
        .as_ref()?;
    let mut text = [0; 1024];
    let len = file.read_at(&mut text, 0).ok()?;
    // SAFETY: the call takes a number and touches no memory of ours.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    parse_times(
        std::str::from_utf8(&text[..len]).ok()?,
        u64::try_from(ticks_per_second).ok()?,
    )
}

/// Fields 15 (stime) and 43 (guest_time) of proc(5)'s stat; the name in field 2 may hold spaces and brackets.
fn parse_times(stat: &str, ticks_per_second: u64) -> Option<Times> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let field = |number: usize| {
        after_name
            .split_ascii_whitespace()
            .nth(number - 3)?
            .parse::<u64>()
            .ok()
    };
    let tick = 1_000_000_000u64.checked_div(ticks_per_second)?;
    Some(Times {
        guest: field(43)?.saturating_mul(tick),
        kernel: field(15)?.saturating_mul(tick),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn times_are_found_behind_a_hostile_thread_name() {
        let mut stat = String::from("12 (a) b (c)) S");
        for field in 4..=52 {
            stat += &format!(" {field}");
        }
        assert_eq!(
            parse_times(&stat, 100),
            Some(Times {
                guest: 430_000_000,
                kernel: 150_000_000
            })
        );
        assert_eq!(parse_times("12 (x) S 1", 100), None);
        assert_eq!(parse_times("", 100), None);
    }

    #[test]
    fn counters_are_found_by_name_and_missing_ones_are_unavailable() {
        let mut image = Vec::new();
        for word in [0u32, 16, 2, 24, 24, 24 + 2 * 32] {
            image.extend(word.to_ne_bytes());
        }
        for (name, offset) in [("exits", 0u32), ("halt_exits", 8)] {
            image.extend([0; 8]);
            image.extend(offset.to_ne_bytes());
            image.extend([0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(16, 0);
            image.extend(padded);
        }
        image.extend(100u64.to_ne_bytes());
        image.extend(30u64.to_ne_bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        let stats = VcpuStats::default();
        stats.count_exit(ExitCause::PortWrite);
        Counters::open(file).unwrap().copy_to(&stats);
        assert_eq!(stats.exits(ExitCause::Halt), 30);
        assert_eq!(stats.exits(ExitCause::Other), 69);
        assert_eq!(stats.exits_if_measured(ExitCause::Interrupt), None);
        assert_eq!(stats.time(TimeSpent::Idle), None);
    }

    #[test]
    fn a_description_beyond_reason_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xff; HEADER_SIZE]).unwrap();
        assert!(read_records(&file).is_err());
        assert!(read_records(&tempfile::tempfile().unwrap()).is_err());
    }
}
