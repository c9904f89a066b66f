//! What the host is and what it is doing, as it says in /proc and /sys.

pub mod capabilities;
pub mod cpu;
pub mod cpus;
pub mod interfaces;
pub mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ostler_libvirt::types::Uuid;

/// Nanoseconds of a tick of /proc/stat.
const TICK: u64 = 10_000_000;

/// The host's processors.
#[derive(Debug, PartialEq, Eq)]
pub struct Topology {
    /// CPUs on line.
    pub online: u32,
    /// MHz of the first one.
    pub mhz: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// Sockets of a node.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// CPU time in ns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In the kernel.
    pub kernel: u64,
    /// Outside of it.
    pub user: u64,
    /// Nothing to do.
    pub idle: u64,
    /// Nothing to do but waiting for disks.
    pub iowait: u64,
}

/// Memory in KiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// Used by nobody.
    pub free: u64,
    /// Buffers.
    pub buffers: u64,
    /// The page cache.
    pub cached: u64,
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The host's name.
pub fn name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// What tells this host from others: what its firmware says, or what it was given when it was installed.
pub fn uuid() -> Option<Uuid> {
    let told = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"].map(read);
    let some = |uuid: &Uuid| *uuid != [0; 16] && *uuid != [0xff; 16];
    told.iter()
        .find_map(|text| crate::uuid::parse(text.trim()).filter(some))
}

/// The numbers in a list of the kernel, such as `0-3,8`.
fn list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?.min(1 << 16))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// A bit for each CPU of a list, the lowest first.
pub fn cpu_bits(text: &str) -> Vec<u8> {
    let mut bits = vec![0; (present().div_ceil(8)) as usize];
    for cpu in list(text) {
        if let Some(byte) = bits.get_mut((cpu / 8) as usize) {
            *byte |= 1 << (cpu % 8);
        }
    }
    bits
}

/// How many CPUs there are, on line or not.
pub fn present() -> u32 {
    let cpus = list(&read("/sys/devices/system/cpu/present"));
    cpus.last().map_or(1, |last| last + 1)
}

/// The CPUs that are on line, as the kernel lists them.
pub fn online() -> String {
    read("/sys/devices/system/cpu/online")
}

/// The NUMA nodes, each with its CPUs.
pub fn nodes() -> Vec<(u32, Vec<u32>)> {
    let cpus = |node: u32| list(&read(format!("/sys/devices/system/node/node{node}/cpulist")));
    let nodes = list(&read("/sys/devices/system/node/online")).into_iter();
    nodes.map(|node| (node, cpus(node))).collect()
}

/// How the processors are arranged.
pub fn topology() -> Topology {
    let cpus = list(&online());
    let online = cpus.len().max(1) as u32;
    let nodes = list(&read("/sys/devices/system/node/online")).len().max(1) as u32;
    let place = |cpu: &u32, what: &str| {
        let folder = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/topology"));
        read(folder.join(what)).trim().parse::<i64>().unwrap_or(0)
    };
    let sockets: BTreeSet<i64> = cpus.iter().map(|cpu| place(cpu, "physical_package_id")).collect();
    let cores: BTreeSet<_> = cpus
        .iter()
        .map(|cpu| (place(cpu, "physical_package_id"), place(cpu, "core_id")))
        .collect();
    let mut topology = Topology {
        online,
        mhz: mhz(&read("/proc/cpuinfo")),
        nodes,
        sockets: (sockets.len() as u32 / nodes).max(1),
        cores: (cores.len() / sockets.len().max(1)).max(1) as u32,
        threads: (cpus.len() / cores.len().max(1)).max(1) as u32,
    };
    // What is not arranged evenly cannot be told by factors: clients expect their product to be right.
    if topology.nodes * topology.sockets * topology.cores * topology.threads != online {
        (topology.nodes, topology.sockets, topology.cores, topology.threads) = (1, 1, online, 1);
    }
    topology
}

fn mhz(cpuinfo: &str) -> u32 {
    let line = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'));
    line.and_then(|(_, text)| text.trim().parse::<f64>().ok())
        .unwrap_or(0.0) as u32
}

/// CPU time since the host started: of one CPU, or of all. `None` if there is no such CPU.
pub fn cpu_times(cpu: Option<u32>) -> Option<CpuTimes> {
    times_of(&read("/proc/stat"), cpu)
}

fn times_of(stat: &str, cpu: Option<u32>) -> Option<CpuTimes> {
    let name = cpu.map_or("cpu".into(), |cpu| format!("cpu{cpu}"));
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let tick = |at: usize| ticks.get(at).copied().unwrap_or(0) * TICK;
    Some(CpuTimes {
        // System, interrupts, soft interrupts.
        kernel: tick(2) + tick(5) + tick(6),
        // Nice or not.
        user: tick(0) + tick(1),
        idle: tick(3),
        iowait: tick(4),
    })
}

/// Memory of one NUMA node, or of the host. `None` if there is no such node.
pub fn memory(node: Option<u32>) -> Option<Memory> {
    match node {
        None => Some(memory_of(&read("/proc/meminfo"))),
        Some(node) => {
            let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).ok()?;
            Some(memory_of(&text))
        }
    }
}

fn memory_of(meminfo: &str) -> Memory {
    let field = |name: &str| {
        // The files of nodes have "Node 0 " in front, and FilePages for what is cached.
        let line = meminfo
            .lines()
            .find_map(|line| line.split(' ').find(|word| *word == name).map(|_| line));
        let number = line.and_then(|line| line.rsplit_once(':')?.1.trim().split(' ').next()?.parse().ok());
        number.unwrap_or(0)
    };
    Memory {
        total: field("MemTotal:"),
        free: field("MemFree:"),
        buffers: field("Buffers:"),
        cached: field("Cached:") + field("FilePages:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_bits() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list(""), [] as [u32; 0]);
        assert_eq!(list("x-3,7-6"), [] as [u32; 0]);
    }

    #[test]
    fn what_proc_says() {
        let stat = "cpu  10 1 3 100 7 2 4 0 0 0\ncpu0 5 1 1 50 3 1 2 0 0 0\n";
        let times = times_of(stat, None).unwrap();
        assert_eq!((times.kernel, times.user), (9 * TICK, 11 * TICK));
        assert_eq!(times_of(stat, Some(0)).unwrap().idle, 50 * TICK);
        assert_eq!(times_of(stat, Some(1)), None);
        let node = "Node 0 MemTotal:       2048 kB\nNode 0 MemFree:  1024 kB\nNode 0 FilePages: 77 kB\n";
        assert_eq!(
            memory_of(node),
            Memory {
                total: 2048,
                free: 1024,
                buffers: 0,
                cached: 77
            }
        );
        let host = "MemTotal: 4096 kB\nBuffers: 5 kB\nCached: 6 kB\nSwapCached: 9 kB\n";
        assert_eq!(memory_of(host).cached, 6);
        assert_eq!(mhz("cpu MHz\t\t: 2599.998\n"), 2599);
    }

    #[test]
    fn this_host_makes_sense() {
        let topology = topology();
        assert_eq!(
            topology.nodes * topology.sockets * topology.cores * topology.threads,
            topology.online
        );
        assert!(memory(None).unwrap().total > 10_000);
        assert!(cpu_times(None).unwrap().idle > 0);
        assert!(!name().is_empty());
    }
}
