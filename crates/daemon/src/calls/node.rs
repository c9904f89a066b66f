//! Calls about the host.

use std::path::Path;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    CellsArgs, CpuMapArgs, CpuMapRet, List, NodeCpuStatsArgs, NodeInfo, NodeMemoryStatsArgs,
    NodeParametersArgs, NodeStat, NodeStats, Opaque, Parameters, TypedParameter,
};
use ostler_libvirt::xdr::Chars;
use ostler_libvirt::{Code, RemoteError};

use super::stats::{STRING_OKAY, parameters};
use super::{Dispatcher, check_flags};
use crate::host;

/// Stands for all CPUs, or all NUMA nodes.
const ALL: i32 = -1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<NodeGetInfo>(|_, ()| Ok(info()));
    to.on::<NodeGetCpuStats>(|_, args| cpu_stats(&args));
    to.on::<NodeGetMemoryStats>(|_, args| memory_stats(&args));
    to.on::<NodeGetFreeMemory>(|_, ()| Ok(memory(ALL)?.free << 10));
    to.on::<NodeGetCellsFreeMemory>(|_, args| cells_free_memory(&args));
    to.on::<NodeGetMemoryParameters>(|_, args| memory_parameters(&args));
    to.on::<NodeGetCpuMap>(|_, args| cpu_map(&args));
}

fn info() -> NodeInfo {
    let topology = host::topology();
    NodeInfo {
        model: Chars("x86_64".into()),
        memory: host::memory(None).unwrap_or_default().total,
        cpus: topology.online as i32,
        mhz: topology.mhz as i32,
        nodes: topology.nodes as i32,
        sockets: topology.sockets as i32,
        cores: topology.cores as i32,
        threads: topology.threads as i32,
    }
}

/// Figures for a caller with room for `room`; 0 asks how many there are.
fn answer(figures: &[(&str, u64)], room: i32) -> NodeStats {
    let count = figures.len() as i32;
    let shown = match room {
        0 => 0,
        room => room.clamp(0, count),
    };
    let stat = |(field, value): &(&str, u64)| NodeStat {
        field: (*field).into(),
        value: *value,
    };
    NodeStats {
        params: List(figures[..shown as usize].iter().map(stat).collect()),
        count: if room == 0 { count } else { shown },
    }
}

fn cpu_stats(args: &NodeCpuStatsArgs) -> Result<NodeStats, RemoteError> {
    check_flags(args.flags, 0)?;
    let cpu = u32::try_from(args.cpu).ok();
    let times = host::cpu_times(cpu).filter(|_| args.cpu >= ALL);
    let times = times
        .ok_or_else(|| RemoteError::new(Code::InvalidArgument, format!("there is no CPU {}", args.cpu)))?;
    let figures = [
        ("kernel", times.kernel),
        ("user", times.user),
        ("idle", times.idle),
        ("iowait", times.iowait),
    ];
    Ok(answer(&figures, args.count))
}

fn memory(cell: i32) -> Result<host::Memory, RemoteError> {
    let memory = host::memory(u32::try_from(cell).ok()).filter(|_| cell >= ALL);
    memory.ok_or_else(|| RemoteError::new(Code::InvalidArgument, format!("there is no NUMA node {cell}")))
}

fn memory_stats(args: &NodeMemoryStatsArgs) -> Result<NodeStats, RemoteError> {
    check_flags(args.flags, 0)?;
    let memory = memory(args.cell)?;
    let figures = [
        ("total", memory.total),
        ("free", memory.free),
        ("buffers", memory.buffers),
        ("cached", memory.cached),
    ];
    // A NUMA node does not tell its buffers.
    Ok(match args.cell {
        ALL => answer(&figures, args.count),
        _ => answer(&figures[..2], args.count),
    })
}

fn cells_free_memory(args: &CellsArgs) -> Result<List<u64, 1024>, RemoteError> {
    let free = |cell| Some(memory(cell).ok()?.free << 10);
    memory(args.start.max(0))?;
    let last = args.start.saturating_add(args.max.clamp(0, 1024));
    Ok(List((args.start.max(0)..last).map_while(free).collect()))
}

/// Where the kernel tells how it merges equal pages.
const SAME_PAGES: &str = "/sys/kernel/mm/ksm";

fn memory_parameters(args: &NodeParametersArgs) -> Result<Parameters<64>, RemoteError> {
    check_flags(args.flags, STRING_OKAY)?;
    let read = |file: &str| -> Result<u64, RemoteError> {
        let path = Path::new(SAME_PAGES).join(file);
        let text = std::fs::read_to_string(&path);
        let number = text.ok().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| {
            let why = format!("the host's kernel does not tell \"{}\"", path.display());
            RemoteError::new(Code::OperationUnsupported, why)
        })
    };
    let mut params = Vec::new();
    for file in ["pages_to_scan", "sleep_millisecs", "merge_across_nodes"] {
        let number = u32::try_from(read(file)?).unwrap_or(u32::MAX);
        params.push(TypedParameter::uint(format!("shm_{file}"), number));
    }
    for file in [
        "pages_shared",
        "pages_sharing",
        "pages_unshared",
        "pages_volatile",
        "full_scans",
    ] {
        params.push(TypedParameter::ulong(format!("shm_{file}"), read(file)?));
    }
    Ok(parameters(params, args.count.max(0) as usize))
}

fn cpu_map(args: &CpuMapArgs) -> Result<CpuMapRet, RemoteError> {
    check_flags(args.flags, 0)?;
    let map = host::cpu_bits(&host::online());
    Ok(CpuMapRet {
        online: map.iter().map(|byte| byte.count_ones()).sum(),
        map: Opaque(if args.need_map != 0 { map } else { Vec::new() }),
        count: host::present() as i32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_ask_for_the_number_first() {
        let figures = [("a", 1), ("b", 2)];
        let asked = answer(&figures, 0);
        assert_eq!((asked.params.0.len(), asked.count), (0, 2));
        let told = answer(&figures, 9);
        assert_eq!((told.params.0[1].value, told.count), (2, 2));
        assert_eq!(answer(&figures, 1).count, 1);
        assert_eq!(answer(&figures, -1).params.0.len(), 0);
    }

    #[test]
    fn there_are_no_others() {
        assert!(memory(-2).is_err() && memory(100_000).is_err() && memory(0).is_ok());
        assert_eq!(
            cells_free_memory(&CellsArgs {
                start: 0,
                max: i32::MAX
            })
            .unwrap()
            .0
            .len() as u32,
            host::topology().nodes
        );
    }
}
