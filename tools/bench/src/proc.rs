//! What /proc says of a process and everything it started.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

/// CPU seconds, user and system, that the processes under `root` have used so far.
pub(crate) fn cpu_seconds(root: u32) -> f64 {
    let ticks: u64 = tree(root)
        .iter()
        .filter_map(|pid| stat(*pid))
        .map(|stat| stat.ticks)
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// KiB of memory, by proportional share, that the processes under `root` use beside `guest_ram_kib` of guest RAM.
pub(crate) fn own_memory_kib(root: u32, guest_ram_kib: u64) -> u64 {
    let smaps = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/smaps")).ok();
    tree(root)
        .iter()
        .filter_map(smaps)
        .map(|text| own_kib(&text, guest_ram_kib))
        .sum()
}

/// How many of the host's CPUs were idle while `span` went by.
pub(crate) fn free_cpus(span: Duration) -> f64 {
    let read = || {
        fs::read_to_string("/proc/stat")
            .ok()
            .as_deref()
            .and_then(parse_total)
    };
    let before = read();
    thread::sleep(span);
    match before.zip(read()) {
        Some((before, after)) => free(
            before,
            after,
            thread::available_parallelism().map_or(1, usize::from),
        ),
        None => 0.0,
    }
}

/// Ticks that all CPUs together were idle, and all their ticks.
type Total = (u64, u64);

/// proc(5): the first line adds up all CPUs; the 4th and 5th of its numbers are idle. A hypervisor's share (the 8th) is not.
fn parse_total(text: &str) -> Option<Total> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|n| n.parse().ok())
        .collect();
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

fn free(before: Total, after: Total, cpus: usize) -> f64 {
    let idle = after.0.saturating_sub(before.0) as f64;
    let all = after.1.saturating_sub(before.1).max(1) as f64;
    idle / all * cpus as f64
}

/// `root` and its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(stat) = stat(pid)
        {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

struct Stat {
    parent: u32,
    /// User and system time, of the process and of children that it has waited for.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): the name, in parentheses, may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks,
    })
}

/// The Pss of all mappings but guest RAM. A mapping at least as large as guest RAM holds it; what such a mapping has
/// beyond (the kernel joins neighbours) counts as our own, so the result is never too small.
fn own_kib(smaps: &str, guest_ram_kib: u64) -> u64 {
    let field = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse()
            .ok()
    };
    let (mut own, mut size) = (0, 0);
    for line in smaps.lines() {
        if let Some(kib) = field(line, "Size:") {
            size = kib;
        } else if let Some(pss) = field(line, "Pss:") {
            own += if size >= guest_ram_kib {
                pss.min(size - guest_ram_kib)
            } else {
                pss
            };
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_cpus_are_those_that_idled() {
        let total = |text| parse_total(text).unwrap();
        let before = total("cpu  10 0 10 100 0 0 0 0 5 5\ncpu0 1\n");
        let after = total("cpu  20 0 20 260 20 0 0 0 9 9\n");
        assert_eq!((before, after), ((100, 120), (280, 320)));
        assert!((free(before, after, 2) - 1.8).abs() < 1e-9);
        assert!(parse_total("intr 5").is_none());
        assert!((0.0..=4096.0).contains(&free_cpus(Duration::from_millis(50))));
    }

    #[test]
    fn a_name_with_parentheses_is_no_trap() {
        let stat = parse_stat("12 (a) b (c)) S 7 1 1 0 -1 0 0 0 0 0 3 4 5 6 20 0").unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 18));
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn guest_memory_does_not_count_but_its_neighbours_do() {
        let smaps = "55 r-xp\nSize: 100 kB\nPss: 60 kB\nPss_Dirty: 9 kB\n\
                     7f rw-p\nSize: 1000 kB\nPss: 900 kB\n\
                     7f rw-p\nSize: 1010 kB\nPss: 800 kB\n";
        assert_eq!(own_kib(smaps, 1000), 60 + 10);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let pid = std::process::id();
        assert!(own_memory_kib(pid, u64::MAX) > 100);
        assert!(tree(pid).contains(&pid));
        assert!(cpu_seconds(pid) >= 0.0);
    }
}
