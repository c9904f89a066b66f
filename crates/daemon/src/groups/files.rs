//! The files of control groups: what is written where, in both versions.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{CpuQuota, MemoryTune};

use super::tree::Version;

/// What the kernel has where nothing is said, in microseconds.
const USUAL_PERIOD: u64 = 100_000;
const USUAL_SHARES: u64 = 1024;
const USUAL_WEIGHT: u64 = 100;

/// Writes into a file of a group.
pub fn put(group: &Path, file: &str, value: impl Display) -> Result<(), RemoteError> {
    let value = value.to_string();
    let path = group.join(file);
    let refused = |why: String| RemoteError::new(Code::OperationFailed, why);
    if !path.exists() {
        return Err(refused(format!(
            "the host's kernel does not limit that: it has no file {file} for the guest's control group"
        )));
    }
    fs::write(&path, &value).map_err(|error| {
        refused(format!(
            "the host's kernel does not take {value} as {file} of the guest's control group: {error}"
        ))
    })
}

/// Writes what was asked for, or else what is usual, which may not be possible.
fn put_or_usual<T: Display>(
    group: &Path,
    file: &str,
    value: Option<T>,
    usual: impl Display,
) -> Result<(), RemoteError> {
    match value {
        Some(value) => put(group, file, value),
        None => {
            // A kernel without the file limits nothing.
            let _ = put(group, file, usual);
            Ok(())
        }
    }
}

/// Has a group have as much CPU time as it likes.
pub fn lift_quota(group: &Path, version: Version) {
    let _ = match version {
        Version::One => put(group, "cpu.cfs_quota_us", -1),
        Version::Two => put(group, "cpu.max", "max"),
    };
}

/// Whether a limit leaves more CPU time than the one around it.
pub fn is_more(quota: CpuQuota, around: CpuQuota) -> bool {
    let part = |of: CpuQuota| {
        let amount = u128::try_from(of.quota?).ok()?;
        let period = of.period.filter(|period| *period > 0).unwrap_or(USUAL_PERIOD);
        Some((amount, u128::from(period)))
    };
    match (part(quota), part(around)) {
        (Some((amount, period)), Some((whole, in_all))) => amount * in_all > whole * period,
        _ => false,
    }
}

/// Limits CPU time.
pub fn set_quota(group: &Path, version: Version, quota: CpuQuota) -> Result<(), RemoteError> {
    // Less than 0 is any amount.
    let amount = quota.quota.map(|quota| quota.max(-1));
    match version {
        Version::One => {
            // Of the period and the quota, which are set one after another, only both together make sense.
            lift_quota(group, version);
            put_or_usual(group, "cpu.cfs_period_us", quota.period, USUAL_PERIOD)?;
            put_or_usual(group, "cpu.cfs_quota_us", amount, -1)
        }
        Version::Two => {
            let text = match amount {
                Some(amount @ 0..) => amount.to_string(),
                _ => "max".into(),
            };
            let text = format!("{text} {}", quota.period.unwrap_or(USUAL_PERIOD));
            put_or_usual(group, "cpu.max", quota.is_stated().then_some(&text), &text)
        }
    }
}

/// Sets the weight of CPU time. libvirt's number is the kernel's own, whose range is another in each version.
pub fn set_shares(group: &Path, version: Version, shares: Option<u64>) -> Result<(), RemoteError> {
    match version {
        Version::One => put_or_usual(group, "cpu.shares", shares, USUAL_SHARES),
        Version::Two => put_or_usual(group, "cpu.weight", shares, USUAL_WEIGHT),
    }
}

/// Limits memory.
pub fn set_memory(group: &Path, version: Version, limits: MemoryTune) -> Result<(), RemoteError> {
    let MemoryTune {
        hard,
        soft,
        swap_hard,
    } = limits;
    match version {
        Version::One => {
            // The limit with swap is never below that without.
            let both = "memory.memsw.limit_in_bytes";
            let _ = put(group, both, -1);
            put_or_usual(group, "memory.limit_in_bytes", hard, -1)?;
            put_or_usual(group, "memory.soft_limit_in_bytes", soft, -1)?;
            swap_hard.map_or(Ok(()), |bytes| put(group, both, bytes))
        }
        Version::Two => {
            // What is swapped out is counted alone.
            let swap = swap_hard.map(|bytes| bytes - hard.unwrap_or(0).min(bytes));
            put_or_usual(group, "memory.max", hard, "max")?;
            put_or_usual(group, "memory.high", soft, "max")?;
            put_or_usual(group, "memory.swap.max", swap, "max")
        }
    }
}

/// Sets the weight of disk I/O.
pub fn set_io_weight(group: &Path, version: Version, weight: u32) -> Result<(), RemoteError> {
    let names = match version {
        Version::One => ["blkio.weight", "blkio.bfq.weight"],
        Version::Two => ["io.weight", "io.bfq.weight"],
    };
    // Which there is follows from the scheduler that the kernel has.
    let name = names.iter().find(|name| group.join(name).exists());
    put(group, name.unwrap_or(&names[0]), weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_compared_by_the_part_of_the_time_that_they_are() {
        let quota = |quota, period| CpuQuota { period, quota };
        let (most, few) = (quota(Some(90_000), None), quota(Some(30_000), Some(50_000)));
        assert!(is_more(most, few) && !is_more(few, most) && !is_more(few, few));
        assert!(is_more(most, quota(Some(60_000), Some(0))));
        for any in [quota(None, None), quota(Some(-1), Some(50_000))] {
            assert!(!is_more(any, few) && !is_more(most, any));
        }
    }
}
