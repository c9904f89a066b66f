//! What the host may give a guest: `<cputune>`, `<memtune>`, `<blkiotune>`, `<numatune>`, `<resource>`.

use crate::table::{Family, Row, honoured, kept};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    kept("blkiotune", "", "no limits of disk I/O are set").whole(),
    kept("memtune", "", "no limits of memory are set").whole(),
    honoured(
        "cputune/vcpupin@{vcpu,cpuset}",
        "",
        "host CPUs of one vCPU thread",
    ),
    honoured("cputune/emulatorpin@cpuset", "", "host CPUs of the other threads"),
    honoured("cputune/shares", "", "weight of the guest's CPU time"),
    kept(
        "cputune/{period,quota,global_period,global_quota,emulator_period,emulator_quota,iothread_period,iothread_quota}",
        "",
        "no quota of CPU time is set",
    ),
    kept(
        "cputune/{iothreadpin,vcpusched,iothreadsched,emulatorsched,cachetune,memorytune}",
        "",
        "",
    )
    .whole(),
    kept("numatune", "", "memory comes from where the host has it").whole(),
    kept("resource", "", "cgroups are not made").whole(),
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
        })
    }
}
