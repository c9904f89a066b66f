//! Pages of the host's memory: those of the system, and huge ones.

use std::fs;
use std::io;
use std::path::PathBuf;

/// KiB of the system's pages.
pub fn system() -> u32 {
    (rustix::param::page_size() >> 10) as u32
}

/// Sizes in KiB that there are, the system's first.
pub fn sizes() -> Vec<u32> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten();
    let size = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let mut huge: Vec<u32> = entries
        .filter_map(|entry| size(entry.file_name().to_str()?))
        .collect();
    huge.sort_unstable();
    std::iter::once(system()).chain(huge).collect()
}

/// The folder of huge pages of a NUMA node or the host.
fn folder(node: Option<u32>, size: u32) -> PathBuf {
    let name = format!("hugepages-{size}kB");
    match node {
        None => PathBuf::from("/sys/kernel/mm/hugepages").join(name),
        Some(node) => PathBuf::from(format!("/sys/devices/system/node/node{node}/hugepages")).join(name),
    }
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Pages of `size` KiB that are free; none if there is no such size or node.
pub fn free(node: Option<u32>, size: u32) -> Option<u64> {
    if size == system() {
        return Some(super::memory(node)?.free / u64::from(size));
    }
    number(folder(node, size).join("free_hugepages"))
}

/// Huge pages of `size` KiB that there are; none if there is no such size or node.
pub fn huge(node: Option<u32>, size: u32) -> Option<u64> {
    number(folder(node, size).join("nr_hugepages"))
}

/// Has `count` huge pages of `size` KiB be there; the kernel makes as many as it can.
pub fn set_huge(node: Option<u32>, size: u32, count: u64) -> io::Result<()> {
    fs::write(folder(node, size).join("nr_hugepages"), count.to_string())
}
