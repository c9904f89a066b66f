//! What /proc says of a process and everything it started.

use std::collections::BTreeMap;
use std::fs;

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
