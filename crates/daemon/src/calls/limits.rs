//! Calls about limits of guests: what holds, and what cannot be set. Guests are in no control group of their own.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    BlockTuneArgs, Domain as WireDomain, GetParametersArgs, InterfaceParametersArgs, IoThreads, List,
    Parameters, PerfEvents, TypedParameter, TypedValue,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Bandwidth, Rate};
use ostler_libvirt_xml::tree::Element;

use super::domain::{CONFIG, LIVE, choose};
use super::stats::{STRING_OKAY, find_disk, parameters};
use super::{Context, Dispatcher, check_flags};

/// A limit of memory that is none, in KiB.
const UNLIMITED: u64 = 9_007_199_254_740_991;
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
        let limits = ["hard_limit", "soft_limit", "swap_hard_limit"];
        shown(
            context,
            &args,
            limits.map(|name| TypedParameter::ulong(name, UNLIMITED)).into(),
        )
    });
    to.on::<DomainGetBlkioParameters>(blkio);
    to.on::<DomainGetNumaParameters>(|context, args| {
        // Memory comes from where the host has it: from any node.
        let mut params = vec![TypedParameter::int("numa_mode", 0)];
        params.extend(texts(&args, &["numa_nodeset"]));
        shown(context, &args, params)
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
    to.on::<DomainSetMemoryParameters>(|context, args| Err(refusal(context, &args.domain, "memory")));
    to.on::<DomainSetBlkioParameters>(|context, args| Err(refusal(context, &args.domain, "disk I/O")));
    to.on::<DomainSetNumaParameters>(|context, args| Err(refusal(context, &args.domain, "NUMA nodes")));
    to.on::<DomainSetSchedulerParameters>(|context, args| Err(refusal(context, &args.domain, "CPU time")));
    to.on::<DomainSetSchedulerParametersFlags>(|context, args| {
        Err(refusal(context, &args.domain, "CPU time"))
    });
}

fn refusal(context: &Context<'_>, domain: &WireDomain, what: &str) -> RemoteError {
    let known = context.domain(domain).map(|_| {
        let why = format!("a guest has no limits of {what}: it is in no control group of its own");
        RemoteError::new(Code::OperationUnsupported, why)
    });
    known.unwrap_or_else(|error| error)
}

/// Parameters of the guest that flags mean.
fn shown(
    context: &Context<'_>,
    args: &GetParametersArgs,
    params: Vec<TypedParameter>,
) -> Result<Parameters<16>, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
    choose(&context.domain(&args.domain)?.state(), args.flags)?;
    Ok(parameters(params, args.count.max(0) as usize))
}

/// Empty texts, for who understands texts.
fn texts(args: &GetParametersArgs, names: &[&str]) -> Vec<TypedParameter> {
    match args.flags & STRING_OKAY {
        0 => Vec::new(),
        _ => names.iter().map(|name| TypedParameter::text(*name, "")).collect(),
    }
}

fn blkio(context: &Context<'_>, args: GetParametersArgs) -> Result<Parameters<16>, RemoteError> {
    let mut params = vec![TypedParameter::uint("weight", 0)];
    let of_devices = [
        "device_weight",
        "device_read_iops_sec",
        "device_write_iops_sec",
        "device_read_bytes_sec",
        "device_write_bytes_sec",
    ];
    params.extend(texts(&args, &of_devices));
    shown(context, &args, params)
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
