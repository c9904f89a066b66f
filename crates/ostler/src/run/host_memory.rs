//! How much memory this process may use: the host's RAM, or less where a control group limits it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A limit, and whose it is.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    bytes: u64,
    of: &'static str,
}

/// A guest must fit into the host's memory.
pub fn check(wanted: u64) -> Result<(), Failure> {
    check_below(Path::new("/"), wanted)
}

fn check_below(root: &Path, wanted: u64) -> Result<(), Failure> {
    match limit(root) {
        Some(limit) if wanted > limit.bytes => Err(Failure::bad_input(format!(
            "the guest cannot have {} MiB of memory: {} {} MiB; change --memory",
            wanted >> 20,
            limit.of,
            limit.bytes >> 20
        ))),
        _ => Ok(()),
    }
}

/// The smallest of all limits that can be found out.
fn limit(root: &Path) -> Option<Limit> {
    let host = host_ram(root).map(|bytes| Limit {
        bytes,
        of: "this host has",
    });
    let group = group_limit(root).map(|bytes| Limit {
        bytes,
        of: "this process's control group is limited to",
    });
    host.into_iter().chain(group).min_by_key(|limit| limit.bytes)
}

fn host_ram(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The smallest limit of this process's control group and those above it, in either version of control groups.
fn group_limit(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = text.lines().filter_map(|line| {
        // cgroups(7): hierarchy:controllers:path
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        smallest(&root.join(mount), path, file)
    });
    limits.min()
}

/// From the group at `path` up to the root of its hierarchy. A group without a limit says "max", or a number near 2^63.
fn smallest(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let relative = PathBuf::from(path.trim_start_matches('/'));
    relative
        .ancestors()
        .filter_map(|group| fs::read_to_string(mount.join(group).join(file)).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    const RAM: (&str, &str) = ("proc/meminfo", "MemTotal:  2097152 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_hosts_ram_is_the_limit() {
        let host = host(&[RAM]);
        assert!(check_below(host.path(), 2 << 30).is_ok());
        let refused = check_below(host.path(), (2 << 30) + 4096).unwrap_err();
        assert!(refused.message.contains("this host has 2048 MiB"), "{refused:?}");
    }

    #[test]
    fn a_group_above_ours_may_limit_us() {
        let host = host(&[
            RAM,
            ("proc/self/cgroup", "0::/user/session\n"),
            ("sys/fs/cgroup/user/memory.max", "536870912\n"),
            ("sys/fs/cgroup/user/session/memory.max", "max\n"),
        ]);
        assert!(check_below(host.path(), 512 << 20).is_ok());
        let refused = check_below(host.path(), 513 << 20).unwrap_err();
        assert!(refused.message.contains("limited to 512 MiB"), "{refused:?}");
    }

    #[test]
    fn the_first_version_of_control_groups_counts_too() {
        let host = host(&[
            RAM,
            ("proc/self/cgroup", "5:devices:/\n4:cpu,memory:/box\n0::/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n"),
        ]);
        assert!(check_below(host.path(), 1 << 30).is_ok());
        assert!(check_below(host.path(), 2 << 30).is_err());
    }

    #[test]
    fn an_unknown_host_refuses_nothing() {
        let host = host(&[("proc/self/cgroup", "nonsense\n")]);
        assert!(check_below(host.path(), u64::MAX).is_ok());
    }
}
