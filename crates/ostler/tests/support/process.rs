//! What the host's kernel knows of a guest's processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The process of the guest itself, which `ostler run` started.
pub fn guest_process(parent: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let mut children = children.split_whitespace();
    let child = children.next().expect("ostler run has a child").parse().unwrap();
    assert_eq!(children.next(), None, "more than one child");
    child
}

/// Whether a process listens at the socket `path`, by the name that it has given. The file is there a moment earlier.
pub fn listens(path: &Path) -> bool {
    const ACCEPTS: u32 = 1 << 16;
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().skip(1).any(|socket| {
        let fields: Vec<_> = socket.split_whitespace().collect();
        fields.get(7).is_some_and(|name| Path::new(name) == path)
            && u32::from_str_radix(fields[3], 16).is_ok_and(|flags| flags & ACCEPTS != 0)
    })
}

/// Seconds of CPU time that the process has used so far, in user and kernel mode.
pub fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in parentheses may hold anything; the third field follows it.
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|f| f.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Bytes that were read and written, above the file system and below it, added up: io_uring shows only below, and system calls
/// on cached files only above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub read: u64,
    pub written: u64,
}

/// What the whole process has moved, threads that ended included; `None` where the kernel does not tell.
pub fn moved_by_process(process: u32) -> Option<Moved> {
    moved(&format!("/proc/{process}/io"))
}

/// What each thread whose name begins with `prefix` has moved.
pub fn moved_by_threads(process: u32, prefix: &str) -> BTreeMap<String, Moved> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let folder = entry.path();
        // A thread may end while we look.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else {
            continue;
        };
        if let (true, Some(moved)) = (
            name.starts_with(prefix),
            moved(folder.join("io").to_str().unwrap()),
        ) {
            threads.insert(name.trim().to_owned(), moved);
        }
    }
    threads
}

fn moved(file: &str) -> Option<Moved> {
    let text = fs::read_to_string(file).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(Moved {
        read: field("rchar:")? + field("read_bytes:")?,
        written: field("wchar:")? + field("write_bytes:")?,
    })
}
