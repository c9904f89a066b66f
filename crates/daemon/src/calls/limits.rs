//! Calls about limits of guests: what holds, and setting what a guest's control group can limit.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    BlockTuneArgs, GetParametersArgs, InterfaceParametersArgs, IoThreads, List, Parameters, PerfEvents,
    TypedParameter, TypedValue,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Bandwidth, Rate};
use ostler_libvirt_xml::tree::Element;

use super::domain::{CONFIG, LIVE, choose};
use super::stats::{STRING_OKAY, find_disk, parameters};
use super::{Context, Dispatcher, check_flags};
use crate::domains::definition::Definition;

/// A limit of memory that is none, in KiB.
pub(super) const UNLIMITED: u64 = 9_007_199_254_740_991;
/// What limits a disk, beside the group; numbers.
const DISK_LIMITS: [&str; 19] = [
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "total_bytes_sec_max",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_iops_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "size_iops_sec",
    "total_bytes_sec_max_length",
    "read_bytes_sec_max_length",
    "write_bytes_sec_max_length",
    "total_iops_sec_max_length",
    "read_iops_sec_max_length",
    "write_iops_sec_max_length",
];
/// What the host's kernel could count of a guest.
const PERF_EVENTS: [&str; 22] = [
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
];

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainGetMemoryParameters>(|context, args| {
        shown(context, &args, |definition| {
            let tune = definition.memory_tune;
            let limits = [
                ("hard_limit", tune.hard),
                ("soft_limit", tune.soft),
                ("swap_hard_limit", tune.swap_hard),
            ];
            let param = |(name, limit): (&str, Option<u64>)| {
                TypedParameter::ulong(name, limit.map_or(UNLIMITED, |bytes| bytes >> 10))
            };
            limits.map(param).into()
        })
    });
    to.on::<DomainGetBlkioParameters>(blkio);
    to.on::<DomainGetNumaParameters>(|context, args| {
        // Memory comes from where the host has it: from any node.
        let mut params = vec![TypedParameter::int("numa_mode", 0)];
        params.extend(texts(&args, &["numa_nodeset"]));
        shown(context, &args, |_| params)
    });
    to.on::<DomainGetInterfaceParameters>(interface);
    to.on::<DomainGetBlockIoTune>(disk);
    to.on::<DomainGetPerfEvents>(|context, args| {
        check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
        choose(&context.domain(&args.domain)?.state(), args.flags)?;
        let off = |name: &str| TypedParameter {
            field: name.into(),
            value: TypedValue::Bool(false),
        };
        Ok(PerfEvents {
            params: List(PERF_EVENTS.map(off).into()),
        })
    });
    // Disks are served by threads of their own queues, which are not to be chosen.
    to.on::<DomainGetIoThreadInfo>(|context, args| {
        check_flags(args.flags, LIVE | CONFIG)?;
        choose(&context.domain(&args.domain)?.state(), args.flags)?;
        Ok(IoThreads {
            threads: List(Vec::new()),
            count: 0,
        })
    });
    to.on::<DomainSetNumaParameters>(|context, args| {
        context.domain(&args.domain)?;
        let why = "a guest's memory comes from any NUMA node: it cannot be bound to some";
        Err(RemoteError::new(Code::OperationUnsupported, why))
    });
}

/// Parameters of the definition that flags mean.
fn shown(
    context: &Context<'_>,
    args: &GetParametersArgs,
    params: impl FnOnce(&Definition) -> Vec<TypedParameter>,
) -> Result<Parameters<16>, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
    let definition = choose(&context.domain(&args.domain)?.state(), args.flags)?;
    Ok(parameters(params(&definition), args.count.max(0) as usize))
}

/// Empty texts, for who understands texts.
fn texts(args: &GetParametersArgs, names: &[&str]) -> Vec<TypedParameter> {
    match args.flags & STRING_OKAY {
        0 => Vec::new(),
        _ => names.iter().map(|name| TypedParameter::text(*name, "")).collect(),
    }
}

fn blkio(context: &Context<'_>, args: GetParametersArgs) -> Result<Parameters<16>, RemoteError> {
    let of_devices = [
        "device_weight",
        "device_read_iops_sec",
        "device_write_iops_sec",
        "device_read_bytes_sec",
        "device_write_bytes_sec",
    ];
    let texts = texts(&args, &of_devices);
    shown(context, &args, |definition| {
        let mut params = vec![TypedParameter::uint("weight", definition.io_weight.unwrap_or(0))];
        params.extend(texts);
        params
    })
}

/// The limits of a card.
fn interface(context: &Context<'_>, args: InterfaceParametersArgs) -> Result<Parameters<16>, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
    let domain = context.domain(&args.domain)?;
    let state = domain.state();
    let definition = choose(&state, args.flags)?;
    let ports = state.live.as_ref().map(|live| live.ports()).unwrap_or_default();
    let mut cards = definition.devices.interfaces.iter();
    let card = cards.find(|card| {
        let alias = card.common.alias.as_deref();
        let port = alias.and_then(|alias| ports.get(alias)).or(card.target.as_ref());
        card.mac.to_string().eq_ignore_ascii_case(&args.device)
            || alias == Some(args.device.as_str())
            || port == Some(&args.device)
    });
    let card = card.ok_or_else(|| {
        let why = format!("no interface '{}' of the guest", args.device);
        RemoteError::new(Code::InvalidArgument, why)
    })?;
    Ok(parameters(
        bandwidth_parameters(card.bandwidth),
        args.count.max(0) as usize,
    ))
}

/// Limits of a card, or of a port; 0 for those that there are not.
pub(super) fn bandwidth_parameters(bandwidth: Bandwidth) -> Vec<TypedParameter> {
    let ways = [("inbound", bandwidth.inbound), ("outbound", bandwidth.outbound)];
    ways.into_iter()
        .flat_map(|(name, rate)| rate_parameters(name, rate))
        .collect()
}

fn rate_parameters(name: &str, rate: Option<Rate>) -> [TypedParameter; 3] {
    let number = |of: &dyn Fn(Rate) -> Option<u64>| {
        let value = rate.and_then(of).unwrap_or(0);
        u32::try_from(value).unwrap_or(u32::MAX)
    };
    [
        TypedParameter::uint(format!("{name}.average"), number(&|rate| Some(rate.average))),
        TypedParameter::uint(format!("{name}.peak"), number(&|rate| rate.peak)),
        TypedParameter::uint(format!("{name}.burst"), number(&|rate| rate.burst)),
    ]
}

/// The limits of a disk, which is not started with any.
fn disk(context: &Context<'_>, args: BlockTuneArgs) -> Result<Parameters<32>, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
    let domain = context.domain(&args.domain)?;
    let definition = choose(&domain.state(), args.flags)?;
    let target = match &args.disk {
        Some(disk) => Some(find_disk(&definition, disk)?.target.clone()),
        None => None,
    };
    let tree = definition.tree();
    let limit = |name: &str| {
        let tune = tune_of(&tree, target.as_deref()?)?;
        tune.child_text(name)
    };
    let number = |name: &str| limit(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut params: Vec<_> = DISK_LIMITS
        .iter()
        .map(|name| TypedParameter::ulong(*name, number(name)))
        .collect();
    if args.flags & STRING_OKAY != 0 {
        params.push(TypedParameter::text(
            "group_name",
            limit("group_name").unwrap_or_default(),
        ));
    }
    Ok(parameters(params, args.count.max(0) as usize))
}

/// `<iotune>` of the disk with this target.
fn tune_of<'a>(root: &'a Element, target: &str) -> Option<&'a Element> {
    let mut disks = root
        .child("devices")?
        .elements()
        .filter(|device| device.name == "disk");
    let disk = disks.find(|disk| disk.child_get("target", "dev") == Some(target))?;
    disk.child("iotune")
}
