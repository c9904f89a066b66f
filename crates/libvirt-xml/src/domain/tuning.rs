//! What the host may give a guest: `<cputune>`, `<memtune>`, `<blkiotune>`, `<numatune>`, `<resource>`.

use crate::table::{Family, Row, honoured, kept};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured("blkiotune/weight", "", "weight of the guest's disk I/O"),
    kept("blkiotune/device", "", "no limits of single disks are set").whole(),
    honoured(
        "memtune/{hard_limit,soft_limit,swap_hard_limit}",
        "",
        "most memory of the host that the guest's process takes",
    ),
    honoured("memtune/{hard_limit,soft_limit,swap_hard_limit}@unit", "", ""),
    kept("memtune/min_guarantee", "", "of another hypervisor").whole(),
    honoured(
        "cputune/vcpupin@{vcpu,cpuset}",
        "",
        "host CPUs of one vCPU thread",
    ),
    honoured("cputune/emulatorpin@cpuset", "", "host CPUs of the other threads"),
    honoured("cputune/shares", "", "weight of the guest's CPU time"),
    honoured(
        "cputune/{period,quota}",
        "",
        "CPU time of each vCPU thread: so many microseconds of so many",
    ),
    honoured(
        "cputune/{global_period,global_quota}",
        "",
        "that of the whole guest",
    ),
    honoured(
        "cputune/{emulator_period,emulator_quota}",
        "",
        "that of the other threads",
    ),
    kept(
        "cputune/{iothread_period,iothread_quota}",
        "",
        "the workers of disks are among the other threads",
    ),
    kept(
        "cputune/{iothreadpin,vcpusched,iothreadsched,emulatorsched,cachetune,memorytune}",
        "",
        "",
    )
    .whole(),
    kept("numatune", "", "memory comes from where the host has it").whole(),
    kept(
        "resource",
        "",
        "the daemon's configuration names the parent of guests' control groups",
    )
    .whole(),
];

pub(crate) const FAMILY: Family = Family::root("What the host gives", ROWS);

/// Where a guest's threads run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTune {
    /// Number of a vCPU, and the host's CPUs that it may run on.
    pub pins: Vec<(u32, String)>,
    /// The host's CPUs that other threads may run on.
    pub emulator: Option<String>,
    /// Weight of its CPU time.
    pub shares: Option<u64>,
    /// CPU time of each vCPU.
    pub vcpu: CpuQuota,
    /// CPU time of the other threads.
    pub others: CpuQuota,
    /// CPU time of all of them.
    pub whole: CpuQuota,
}

/// A limit of CPU time, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuQuota {
    /// In each period of this length, 1000 to 1,000,000.
    pub period: Option<u64>,
    /// So much, 1000 or more; less than 0 for any amount.
    pub quota: Option<i64>,
}

impl CpuQuota {
    /// Whether anything is said.
    pub fn is_stated(&self) -> bool {
        *self != Self::default()
    }

    fn read(tune: &Element, prefix: &str) -> Result<Self, Error> {
        let bad = |element: &Element, range: &str| {
            let (name, line) = (&element.name, element.line);
            Error::Xml(format!(
                "Value of cputune '{name}' must be in range {range} (line {line})"
            ))
        };
        let period = tune.child(&format!("{prefix}period")).map(|element| {
            let period =
                value::number(&element.text()).filter(|period| *period == 0 || PERIODS.contains(period));
            period.ok_or_else(|| bad(element, "[1000, 1000000]"))
        });
        let quota = tune.child(&format!("{prefix}quota")).map(|element| {
            let quota = element.text().trim().parse::<i64>().ok();
            let quota = quota.filter(|quota| *quota <= 0 || QUOTAS.contains(quota));
            quota.ok_or_else(|| bad(element, "[1000, 17592186044415]"))
        });
        Ok(Self {
            period: period.transpose()?.filter(|period| *period != 0),
            quota: quota.transpose()?.filter(|quota| *quota != 0),
        })
    }
}

/// What a period may be, in microseconds; 0 is not said.
const PERIODS: std::ops::RangeInclusive<u64> = 1000..=1_000_000;
/// What a quota may be, in microseconds; 0 is not said.
const QUOTAS: std::ops::RangeInclusive<i64> = 1000..=17_592_186_044_415;
/// From this number of KiB on a limit of memory is none.
const UNLIMITED: u64 = 9_007_199_254_740_991;

/// Most memory of the host that a guest's process takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryTune {
    /// It never has more.
    pub hard: Option<u64>,
    /// It gives back what is more when others need it.
    pub soft: Option<u64>,
    /// Together with what is swapped out it never has more.
    pub swap_hard: Option<u64>,
}

impl MemoryTune {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let Some(tune) = root.child("memtune") else {
            return Ok(Self::default());
        };
        let limit = |name: &str| {
            let size = tune.child(name).map(|element| value::size(element, 1024));
            Ok(size.transpose()?.filter(|bytes| bytes >> 10 < UNLIMITED))
        };
        let tune = Self {
            hard: limit("hard_limit")?,
            soft: limit("soft_limit")?,
            swap_hard: limit("swap_hard_limit")?,
        };
        match (tune.hard, tune.swap_hard) {
            (hard, Some(both)) if hard.unwrap_or(0) > both => Err(Error::Xml(
                "memory hard_limit tunable value must be lower than or equal to swap_hard_limit".into(),
            )),
            _ => Ok(tune),
        }
    }
}

/// The weight of a guest's disk I/O.
pub(crate) fn io_weight(root: &Element) -> Result<Option<u32>, Error> {
    let weight = root.at("blkiotune/weight").map(|weight| {
        value::number(&weight.text()).ok_or_else(|| Error::text(weight.line, "weight", &weight.text()))
    });
    Ok(weight.transpose()?.filter(|weight| *weight != 0))
}

impl CpuTune {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let Some(tune) = root.child("cputune") else {
            return Ok(Self::default());
        };
        let pin = |pin: &Element| -> Result<(u32, String), Error> {
            let missing = |name| Error::missing(pin.line, "vcpupin", name);
            let vcpu = value::attribute(pin, "vcpu")?.ok_or_else(|| missing("vcpu"))?;
            Ok((
                vcpu,
                pin.get("cpuset").ok_or_else(|| missing("cpuset"))?.to_owned(),
            ))
        };
        let shares = tune.child("shares").map(|shares| {
            value::number(&shares.text()).ok_or_else(|| Error::text(shares.line, "shares", &shares.text()))
        });
        Ok(Self {
            pins: tune.all("vcpupin").map(pin).collect::<Result<_, _>>()?,
            emulator: tune.child_get("emulatorpin", "cpuset").map(str::to_owned),
            shares: shares.transpose()?,
            vcpu: CpuQuota::read(tune, "")?,
            others: CpuQuota::read(tune, "emulator_")?,
            whole: CpuQuota::read(tune, "global_")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::read;

    #[test]
    fn quotas_are_read_for_each_kind_of_threads() {
        let tune = |text: &str| {
            CpuTune::read(&read(&format!("<domain><cputune>{text}</cputune></domain>")).unwrap())
        };
        let all = tune(
            "<shares>7</shares><period>2000</period><quota>-1</quota><global_quota>1000</global_quota>\
             <emulator_period>0</emulator_period><emulator_quota>0</emulator_quota>",
        )
        .unwrap();
        let quota = |period, quota| CpuQuota { period, quota };
        assert_eq!(
            (all.shares, all.vcpu, all.whole, all.others),
            (
                Some(7),
                quota(Some(2000), Some(-1)),
                quota(None, Some(1000)),
                CpuQuota::default()
            )
        );
        for wrong in [
            "<period>999</period>",
            "<period>1000001</period>",
            "<global_quota>999</global_quota>",
            "<emulator_quota>x</emulator_quota>",
            "<emulator_period>-1</emulator_period>",
        ] {
            let said = tune(wrong).unwrap_err().to_string();
            assert!(said.contains("must be in range"), "{said}");
        }
    }

    #[test]
    fn limits_of_memory_have_units() {
        let tune = |text: &str| {
            MemoryTune::read(&read(&format!("<domain><memtune>{text}</memtune></domain>")).unwrap())
        };
        let all =
            tune("<hard_limit unit='MiB'>4</hard_limit><soft_limit>9007199254740991</soft_limit>").unwrap();
        assert_eq!((all.hard, all.soft, all.swap_hard), (Some(4 << 20), None, None));
        let wrong = "<hard_limit>2</hard_limit><swap_hard_limit>1</swap_hard_limit>";
        assert!(tune(wrong).unwrap_err().to_string().contains("swap_hard_limit"));
    }
}
