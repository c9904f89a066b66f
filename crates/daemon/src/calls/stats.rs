//! Calls for figures of guests.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    AllStatsArgs, BlockInfo, BlockInfoArgs, BlockStatsArgs, CpuStatsArgs, DiskError, DiskErrors,
    DiskErrorsArgs, GetVcpusArgs, GetVcpusRet, List, MAX_DOMAINS, MemoryStat, MemoryStatsArgs, OldBlockStats,
    OldBlockStatsArgs, Opaque, Parameters, StatsRecord, TypedParameter, VcpuInfo,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Disk, DiskSource};
use serde_json::Value;

use super::domain::memory_now;
use super::{Context, Dispatcher, check_flags, interfaces, list};
use crate::domains::definition::Definition;
use crate::domains::domain::Domain;
use crate::guest::{Control, GuestProcess};
use crate::storage::Pools;

/// `virVcpuState`: there is no other for a CPU that is there.
const VCPU_RUNNING: i32 = 1;

/// Flag of calls with parameters: text may be among them. Clients set it once they know that we know it.
pub(super) const STRING_OKAY: u32 = 4;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainGetVcpus>(vcpus);
    to.on::<DomainGetCpuStats>(cpu_stats);
    to.on::<DomainMemoryStats>(memory_stats);
    to.on::<DomainGetBlockInfo>(block_info);
    to.on::<DomainBlockStats>(old_block_stats);
    to.on::<DomainBlockStatsFlags>(block_stats);
    to.on::<DomainGetDiskErrors>(disk_errors);
    to.on::<ConnectGetAllDomainStats>(all_stats);
}

/// What figures are taken from.
struct Sources {
    process: Arc<GuestProcess>,
    control: Arc<Control>,
}

fn sources(domain: &Domain) -> Result<Sources, RemoteError> {
    domain.with_live(|live| Sources {
        process: live.process.clone(),
        control: live.control.clone(),
    })
}

fn vcpus(context: &Context<'_>, args: GetVcpusArgs) -> Result<GetVcpusRet, RemoteError> {
    let cpus = sources(context.domain(&args.domain)?.as_ref())?.process.vcpus();
    let room = args.max_info.max(0) as usize;
    let length = args.map_length.clamp(0, 2048) as usize;
    let mut answer = GetVcpusRet {
        info: List(Vec::new()),
        maps: Opaque(Vec::new()),
    };
    for cpu in cpus.iter().take(room) {
        answer.info.0.push(VcpuInfo {
            number: cpu.number,
            state: VCPU_RUNNING,
            cpu_time: cpu.time,
            cpu: cpu.last_cpu,
        });
        let map = cpu.allowed.iter().copied().chain(std::iter::repeat(0));
        answer.maps.0.extend(map.take(length));
    }
    Ok(answer)
}

/// The number of parameters, or the parameters, for a caller with room for `room`.
pub(super) fn parameters<const MAX: usize>(params: Vec<TypedParameter>, room: usize) -> Parameters<MAX> {
    let count = params.len() as i32;
    if room == 0 {
        let params = List(Vec::new());
        return Parameters { params, count };
    }
    let params: Vec<_> = params.into_iter().take(room).collect();
    Parameters {
        count: params.len() as i32,
        params: List(params),
    }
}

fn cpu_stats(context: &Context<'_>, args: CpuStatsArgs) -> Result<Parameters<2048>, RemoteError> {
    check_flags(args.flags, STRING_OKAY)?;
    let process = sources(context.domain(&args.domain)?.as_ref())?.process;
    if args.start >= 0 {
        // What the guest took of each CPU of the host is not counted apart.
        let why = "the host does not count a guest's time by CPU; use --total";
        return Err(RemoteError::new(Code::OperationUnsupported, why));
    }
    let time = process.cpu_time();
    let params = vec![
        TypedParameter::ulong("cpu_time", time.user + time.system),
        TypedParameter::ulong("user_time", time.user),
        TypedParameter::ulong("system_time", time.system),
    ];
    Ok(parameters(params, args.count as usize))
}

fn memory_stats(context: &Context<'_>, args: MemoryStatsArgs) -> Result<List<MemoryStat, 1024>, RemoteError> {
    const BALLOON: i32 = 6;
    const RESIDENT: i32 = 7;
    check_flags(args.flags, 0)?;
    let domain = context.domain(&args.domain)?;
    let process = sources(&domain)?.process;
    let memory = memory_now(&domain)?;
    let stats = [(BALLOON, memory), (RESIDENT, process.resident())];
    let stats = stats.into_iter().take(args.max as usize);
    Ok(List(
        stats.map(|(tag, value)| MemoryStat { tag, value }).collect(),
    ))
}

/// The path of a disk's image, also of one that is a volume of a pool.
fn image_of(pools: &Pools, disk: &Disk) -> Option<PathBuf> {
    match disk.source.as_ref()? {
        DiskSource::Volume { pool, volume } => pools.volume_path(pool, volume).ok(),
        _ => path_of(disk).map(Path::to_owned),
    }
}

/// The path that a definition names as a disk's image.
fn path_of(disk: &Disk) -> Option<&Path> {
    match disk.source.as_ref()? {
        DiskSource::File(path) | DiskSource::Block(path) => Some(Path::new(path)),
        DiskSource::Volume { .. } => None,
    }
}

/// The disk that a client calls by its target or its path.
pub(super) fn find_disk<'a>(definition: &'a Definition, name: &str) -> Result<&'a Disk, RemoteError> {
    let mut disks = definition.devices.disks.iter();
    disks
        .find(|disk| disk.target == name || path_of(disk).is_some_and(|path| path.as_os_str() == name))
        .ok_or_else(|| {
            RemoteError::new(
                Code::InvalidArgument,
                format!("invalid path {name} not assigned to domain"),
            )
        })
}

/// Sizes of an image or a block device.
fn sizes(path: &Path) -> std::io::Result<BlockInfo> {
    let meta = fs::metadata(path)?;
    if meta.file_type().is_block_device() {
        let end = std::io::Seek::seek(&mut fs::File::open(path)?, std::io::SeekFrom::End(0))?;
        return Ok(BlockInfo {
            allocation: end,
            capacity: end,
            physical: end,
        });
    }
    Ok(BlockInfo {
        allocation: meta.blocks() * 512,
        capacity: meta.len(),
        physical: meta.len(),
    })
}

fn block_info(context: &Context<'_>, args: BlockInfoArgs) -> Result<BlockInfo, RemoteError> {
    check_flags(args.flags, 0)?;
    let domain = context.domain(&args.domain)?;
    let definition = domain.state().current()?.clone();
    let disk = find_disk(&definition, &args.path)?;
    let lacks = || RemoteError::new(Code::NoSource, disk.target.clone());
    let path = image_of(&context.shared.pools, disk).ok_or_else(lacks)?;
    sizes(&path).map_err(|e| {
        let path = path.display();
        RemoteError::new(Code::System, format!("cannot look at \"{path}\": {e}"))
    })
}

/// The counters of a guest's virtio disks, by target; SATA drives have none of their own.
fn disk_counters(domain: &Domain) -> Vec<(String, Value)> {
    let Ok((control, definition, devices)) = domain.with_live(|live| {
        (
            live.control.clone(),
            live.definition.clone(),
            live.devices.clone(),
        )
    }) else {
        return Vec::new();
    };
    let answer = control.execute("query-blockstats").unwrap_or_default();
    let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |disk: &Disk| {
        let attached = devices.get(disk.common.alias.as_deref()?)?;
        let path = format!("/machine/peripheral/{}/virtio-backend", attached.id);
        let found = all.iter().find(|entry| entry["qdev"] == *path)?;
        Some((disk.target.clone(), found["stats"].clone()))
    };
    definition.devices.disks.iter().filter_map(of).collect()
}

/// Names of counters: ours, of DOMAIN_BLOCK_STATS_FLAGS, of CONNECT_GET_ALL_DOMAIN_STATS.
const COUNTERS: &[(&str, &str, &str)] = &[
    ("rd_operations", "rd_operations", "rd.reqs"),
    ("rd_bytes", "rd_bytes", "rd.bytes"),
    ("rd_total_time_ns", "rd_total_times", "rd.times"),
    ("wr_operations", "wr_operations", "wr.reqs"),
    ("wr_bytes", "wr_bytes", "wr.bytes"),
    ("wr_total_time_ns", "wr_total_times", "wr.times"),
    ("flush_operations", "flush_operations", "fl.reqs"),
    ("flush_total_time_ns", "flush_total_times", "fl.times"),
];

fn counter(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or(0)
}

/// The disks of which the guest was told an error: its counters do not say which.
fn disk_errors(context: &Context<'_>, args: DiskErrorsArgs) -> Result<DiskErrors, RemoteError> {
    const UNSPECIFIED: i32 = 1;
    check_flags(args.flags, 0)?;
    let domain = context.domain(&args.domain)?;
    let disks = domain.with_live(|live| live.definition.devices.disks.len())?;
    if args.max == 0 {
        return Ok(DiskErrors {
            errors: List(Vec::new()),
            count: disks as i32,
        });
    }
    let has_failed = |stats: &Value| {
        let mut kinds = ["rd", "wr", "flush", "unmap"].iter();
        kinds.any(|kind| counter(stats, &format!("failed_{kind}_operations")) > 0)
    };
    let failed = disk_counters(&domain)
        .into_iter()
        .filter(|(_, stats)| has_failed(stats));
    let error = |(disk, _)| DiskError {
        disk,
        error: UNSPECIFIED,
    };
    let errors: Vec<_> = failed.map(error).take((args.max as usize).min(256)).collect();
    Ok(DiskErrors {
        count: errors.len() as i32,
        errors: List(errors),
    })
}

fn block_stats(context: &Context<'_>, args: BlockStatsArgs) -> Result<Parameters<16>, RemoteError> {
    check_flags(args.flags, STRING_OKAY)?;
    let domain = context.domain(&args.domain)?;
    let chosen = chosen_counters(&domain, &args.path)?;
    let sum = |name: &str| chosen.iter().map(|stats| counter(stats, name)).sum::<u64>();
    let param = |(ours, name, _): &(&str, &str, &str)| TypedParameter::long(*name, sum(ours) as i64);
    Ok(parameters(
        COUNTERS.iter().map(param).collect(),
        args.count.max(0) as usize,
    ))
}

/// The counters of one disk, or of all.
fn chosen_counters(domain: &Domain, path: &str) -> Result<Vec<Value>, RemoteError> {
    let definition = domain.with_live(|live| live.definition.clone())?;
    let mut all = disk_counters(domain);
    if !path.is_empty() {
        let target = &find_disk(&definition, path)?.target;
        all.retain(|(other, _)| other == target);
    }
    if all.is_empty() {
        let why = "a SATA drive has no counters of its own";
        return Err(RemoteError::new(Code::OperationUnsupported, why));
    }
    Ok(all.into_iter().map(|(_, stats)| stats).collect())
}

fn old_block_stats(context: &Context<'_>, args: OldBlockStatsArgs) -> Result<OldBlockStats, RemoteError> {
    let domain = context.domain(&args.domain)?;
    let chosen = chosen_counters(&domain, &args.path)?;
    let sum = |name: &str| chosen.iter().map(|stats| counter(stats, name)).sum::<u64>() as i64;
    Ok(OldBlockStats {
        reads: sum("rd_operations"),
        read_bytes: sum("rd_bytes"),
        writes: sum("wr_operations"),
        written_bytes: sum("wr_bytes"),
        errors: sum("failed_rd_operations") + sum("failed_wr_operations"),
    })
}

/// Groups of figures (`virDomainStatsTypes`).
mod group {
    pub const STATE: u32 = 1 << 0;
    pub const CPU: u32 = 1 << 1;
    pub const BALLOON: u32 = 1 << 2;
    pub const VCPU: u32 = 1 << 3;
    pub const INTERFACE: u32 = 1 << 4;
    pub const BLOCK: u32 = 1 << 5;
    pub const KNOWN: u32 = STATE | CPU | BALLOON | VCPU | INTERFACE | BLOCK;
}

fn all_stats(
    context: &Context<'_>,
    args: AllStatsArgs,
) -> Result<List<StatsRecord, MAX_DOMAINS>, RemoteError> {
    /// Flags that choose guests, and those that say how figures are taken.
    const CHOOSE: u32 = 0xff;
    const NO_WAIT: u32 = 1 << 29;
    const BACKING: u32 = 1 << 30;
    const ENFORCE: u32 = 1 << 31;
    check_flags(args.flags, CHOOSE | NO_WAIT | BACKING | ENFORCE)?;
    if args.flags & ENFORCE != 0 && args.stats & !group::KNOWN != 0 {
        let why = format!(
            "there are no figures of the groups {:#x}",
            args.stats & !group::KNOWN
        );
        return Err(RemoteError::new(Code::ArgumentUnsupported, why));
    }
    let groups = if args.stats == 0 { group::KNOWN } else { args.stats };
    let domains = match args.domains.0.as_slice() {
        [] => list::wanted(context, args.flags & CHOOSE),
        // One that has gone meanwhile has no figures.
        named => named
            .iter()
            .filter_map(|domain| context.domain(domain).ok())
            .collect(),
    };
    Ok(List(
        domains
            .iter()
            .filter_map(|domain| record(context, domain, groups))
            .collect(),
    ))
}

fn record(context: &Context<'_>, domain: &Domain, groups: u32) -> Option<StatsRecord> {
    let (wire, standing, definition) = {
        let state = domain.state();
        (
            domain.wire(&state),
            state.state_and_reason(),
            state.current().ok()?.clone(),
        )
    };
    // One that does not run has no process to ask.
    let live = sources(domain).ok();
    let mut params = Vec::new();
    if groups & group::STATE != 0 {
        params.push(TypedParameter::int("state.state", standing.state));
        params.push(TypedParameter::int("state.reason", standing.reason));
    }
    if let (Some(live), true) = (&live, groups & group::CPU != 0) {
        let time = live.process.cpu_time();
        params.push(TypedParameter::ulong("cpu.time", time.user + time.system));
        params.push(TypedParameter::ulong("cpu.user", time.user));
        params.push(TypedParameter::ulong("cpu.system", time.system));
    }
    if groups & group::BALLOON != 0 {
        params.push(TypedParameter::ulong("balloon.current", memory_now(domain).ok()?));
        params.push(TypedParameter::ulong(
            "balloon.maximum",
            definition.all_ram() >> 10,
        ));
        if let Some(live) = &live {
            params.push(TypedParameter::ulong("balloon.rss", live.process.resident()));
        }
    }
    if groups & group::VCPU != 0 {
        vcpu_figures(&definition, live.as_ref(), &mut params);
    }
    if let (Some(live), true) = (&live, groups & group::INTERFACE != 0) {
        net_figures(domain, live, &mut params);
    }
    if groups & group::BLOCK != 0 {
        block_figures(
            &context.shared.pools,
            &definition,
            &disk_counters(domain),
            &mut params,
        );
    }
    Some(StatsRecord {
        domain: wire,
        params: List(params),
    })
}

fn vcpu_figures(definition: &Definition, live: Option<&Sources>, params: &mut Vec<TypedParameter>) {
    params.push(TypedParameter::uint("vcpu.current", definition.vcpus.current));
    params.push(TypedParameter::uint("vcpu.maximum", definition.vcpus.max));
    let Some(live) = live else { return };
    for cpu in live.process.vcpus() {
        let number = cpu.number;
        params.push(TypedParameter::int(format!("vcpu.{number}.state"), VCPU_RUNNING));
        params.push(TypedParameter::ulong(format!("vcpu.{number}.time"), cpu.time));
    }
}

fn net_figures(domain: &Domain, live: &Sources, params: &mut Vec<TypedParameter>) {
    let counters = interfaces::counters(&live.control);
    let Ok(cards) = domain.with_live(|live| interfaces::cards(live, &counters)) else {
        return;
    };
    params.push(TypedParameter::uint("net.count", cards.len() as u32));
    for (number, (card, port, traffic)) in cards.iter().enumerate() {
        let name = |what: &str| format!("net.{number}.{what}");
        let shown = port.clone().or(card.common.alias.clone()).unwrap_or_default();
        params.push(TypedParameter::text(name("name"), shown));
        params.push(TypedParameter::ulong(name("rx.bytes"), traffic.received));
        params.push(TypedParameter::ulong(name("tx.bytes"), traffic.sent));
    }
}

fn block_figures(
    pools: &Pools,
    definition: &Definition,
    counters: &[(String, Value)],
    params: &mut Vec<TypedParameter>,
) {
    let disks = &definition.devices.disks;
    params.push(TypedParameter::uint("block.count", disks.len() as u32));
    for (number, disk) in disks.iter().enumerate() {
        let name = |what: &str| format!("block.{number}.{what}");
        params.push(TypedParameter::text(name("name"), &*disk.target));
        let path = image_of(pools, disk);
        if let Some(path) = &path {
            params.push(TypedParameter::text(name("path"), path.to_string_lossy()));
        }
        if let Some((_, stats)) = counters.iter().find(|(target, _)| *target == disk.target) {
            for (ours, _, theirs) in COUNTERS {
                params.push(TypedParameter::ulong(name(theirs), counter(stats, ours)));
            }
        }
        if let Some(Ok(sizes)) = path.as_deref().map(sizes) {
            params.push(TypedParameter::ulong(name("allocation"), sizes.allocation));
            params.push(TypedParameter::ulong(name("capacity"), sizes.capacity));
            params.push(TypedParameter::ulong(name("physical"), sizes.physical));
        }
    }
}
