//! Calls about one guest that change nothing, and its definition.

use std::sync::Arc;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    BlockJobArgs, BlockJobRet, ControlInfo, Domain as WireDomain, DomainFlagsArgs, DomainInfo, JobInfo,
    JobStatsRet, List, Progress, StateAndReason, XmlFlagsArgs,
};
use ostler_libvirt::{Code, RemoteError};

use super::{Context, Dispatcher, agent, check_flags, stats};
use crate::domains::Variables;
use crate::domains::definition::Definition;
use crate::domains::domain::{Domain, DomainState};

/// Flags that choose between the guest that runs and its definition (`virDomainModificationImpact`).
pub(super) const LIVE: u32 = 1;
pub(super) const CONFIG: u32 = 2;
/// Flag of DOMAIN_GET_VCPUS_FLAGS: as many as there may be.
const VCPU_MAXIMUM: u32 = 4;
/// Flag of the same: as many as the guest uses, which an agent would say.
const VCPU_BY_AGENT: u32 = 8;
/// Flags of DOMAIN_GET_XML_DESC: with secrets, the definition that lasts, with today's CPU, fit for migration.
const XML_SECURE: u32 = 1;
const XML_INACTIVE: u32 = 2;
const XML_KNOWN: u32 = XML_SECURE | XML_INACTIVE | 4 | 8;
/// Flag of DOMAIN_DEFINE_XML_FLAGS: compare with the schema. Every element that is not known is refused without it, too.
const VALIDATE: u32 = 1;
/// Flags of DOMAIN_GET_JOB_STATS: of a job that is over, which stays for the next who asks.
const COMPLETED: u32 = 1;
const KEEP_COMPLETED: u32 = 2;
/// Flag of DOMAIN_GET_BLOCK_JOB_INFO: bandwidth in bytes.
const BANDWIDTH_BYTES: u32 = 1;
/// Flags of DOMAIN_UNDEFINE_FLAGS: with managed save image, snapshots, variables (kept or not), checkpoints.
const UNDEFINE_KNOWN: u32 = 0x3f;
const UNDEFINE_NVRAM: u32 = 4;
const UNDEFINE_KEEP_NVRAM: u32 = 8;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainDefineXml>(|context, xml| context.shared.domains.define(&xml));
    to.on::<DomainDefineXmlFlags>(define);
    to.on::<DomainUndefine>(|context, domain| {
        let domain = context.domain(&domain)?;
        context.shared.domains.undefine(&domain, Variables::MustNotBe)
    });
    to.on::<DomainUndefineFlags>(undefine);
    to.on::<DomainGetXmlDesc>(xml);
    to.on_quick::<DomainGetAutostart>(|context, domain| {
        Ok(context.domain(&domain)?.state().autostart.into())
    });
    to.on::<DomainSetAutostart>(|context, args| {
        let domain = context.domain(&args.domain)?;
        context.shared.domains.set_autostart(&domain, args.autostart != 0)
    });
    to.on_quick::<DomainGetState>(state);
    to.on::<DomainGetInfo>(info);
    to.on_quick::<DomainGetOsType>(|context, domain| context.domain(&domain).map(|_| "hvm".into()));
    to.on::<DomainGetMaxMemory>(|context, domain| {
        let domain = context.domain(&domain)?;
        Ok(domain.state().current()?.all_ram() >> 10)
    });
    to.on::<DomainGetMaxVcpus>(|context, domain| {
        let domain = context.domain(&domain)?;
        Ok(domain.state().current()?.vcpus.max as i32)
    });
    to.on::<DomainGetVcpusFlags>(vcpus);
    to.on_quick::<DomainIsActive>(|context, domain| {
        Ok(context.domain(&domain)?.state().live.is_some().into())
    });
    to.on_quick::<DomainIsPersistent>(|context, domain| {
        Ok(context.domain(&domain)?.state().persistent.is_some().into())
    });
    to.on::<DomainIsUpdated>(is_updated);
    to.on::<DomainGetControlInfo>(control_info);
    to.on::<DomainGetJobInfo>(|context, domain| context.domain(&domain).map(|_| no_job()));
    to.on::<DomainGetJobStats>(|context, args| {
        check_flags(args.flags, COMPLETED | KEEP_COMPLETED)?;
        context.domain(&args.domain)?;
        Ok(JobStatsRet {
            kind: 0,
            params: List(Vec::new()),
        })
    });
    to.on::<DomainAbortJob>(|context, domain| {
        context.domain(&domain)?.control()?;
        let why = "no job is active on the domain";
        Err(RemoteError::new(Code::OperationInvalid, why))
    });
    to.on::<DomainGetBlockJobInfo>(no_block_job);
    // There are no saved images, snapshots and complaints yet, so none is what there is.
    to.on::<DomainHasManagedSaveImage>(|context, args| context.domain(&args.domain).map(|_| 0));
    to.on::<DomainSnapshotNum>(|context, args| context.domain(&args.domain).map(|_| 0));
    to.on::<DomainGetMessages>(|context, args| context.domain(&args.domain).map(|_| List(Vec::new())));
}

fn define(context: &Context<'_>, args: XmlFlagsArgs) -> Result<WireDomain, RemoteError> {
    check_flags(args.flags, VALIDATE)?;
    context.shared.domains.define(&args.xml)
}

fn undefine(context: &Context<'_>, args: DomainFlagsArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, UNDEFINE_KNOWN)?;
    let domain = context.domain(&args.domain)?;
    let variables = match args.flags & (UNDEFINE_NVRAM | UNDEFINE_KEEP_NVRAM) {
        0 => Variables::MustNotBe,
        UNDEFINE_NVRAM => Variables::Delete,
        UNDEFINE_KEEP_NVRAM => Variables::Keep,
        _ => {
            let why = "variables of firmware are either deleted or kept";
            return Err(RemoteError::new(Code::InvalidArgument, why));
        }
    };
    context.shared.domains.undefine(&domain, variables)
}

fn xml(context: &Context<'_>, args: DomainFlagsArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, XML_KNOWN)?;
    if args.flags & XML_SECURE != 0 && context.client.readonly.load(std::sync::atomic::Ordering::SeqCst) {
        let why = "read only access prevents reading secrets";
        return Err(RemoteError::new(Code::OperationDenied, why));
    }
    let domain = context.domain(&args.domain)?;
    let state = domain.state();
    let secure = args.flags & XML_SECURE != 0;
    match (&state.live, &state.persistent) {
        (_, Some(persistent)) if args.flags & XML_INACTIVE != 0 => persistent.inactive_xml(secure),
        (Some(live), _) if args.flags & XML_INACTIVE != 0 => live.definition.inactive_xml(secure),
        (Some(live), _) => Ok(live.xml(secure)),
        (None, _) => state.current()?.inactive_xml(secure),
    }
}

fn state(context: &Context<'_>, args: DomainFlagsArgs) -> Result<StateAndReason, RemoteError> {
    check_flags(args.flags, 0)?;
    Ok(context.domain(&args.domain)?.state().state_and_reason())
}

fn info(context: &Context<'_>, domain: WireDomain) -> Result<DomainInfo, RemoteError> {
    let domain = context.domain(&domain)?;
    let memory = memory_now(&domain)?;
    let state = domain.state();
    let definition = state.current()?;
    let time = state.live.as_ref().map_or(0, |live| {
        let time = live.process.cpu_time();
        time.user + time.system
    });
    Ok(DomainInfo {
        state: state.state_and_reason().state as u32,
        max_memory: definition.all_ram() >> 10,
        memory,
        vcpus: definition.vcpus.current,
        cpu_time: time,
    })
}

/// KiB that a guest has, or would have at its start.
pub(super) fn memory_now(domain: &Domain) -> Result<u64, RemoteError> {
    let definition = domain.state().current()?.clone();
    let balloon = domain
        .control()
        .ok()
        .and_then(|control| control.execute("query-balloon").ok());
    let actual = balloon.and_then(|answer| answer["actual"].as_u64());
    Ok(actual.unwrap_or(definition.memory.current) >> 10)
}

fn vcpus(context: &Context<'_>, args: DomainFlagsArgs) -> Result<i32, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG | VCPU_MAXIMUM | VCPU_BY_AGENT)?;
    if args.flags & VCPU_BY_AGENT != 0 {
        return Err(agent::refusal(context, &args.domain));
    }
    let domain = context.domain(&args.domain)?;
    let state = domain.state();
    let definition = choose(&state, args.flags)?;
    let count = match args.flags & VCPU_MAXIMUM {
        0 => definition.vcpus.current,
        _ => definition.vcpus.max,
    };
    Ok(count as i32)
}

/// The definition that flags mean: of the run, or the one that lasts.
pub(super) fn choose(state: &DomainState, flags: u32) -> Result<Arc<Definition>, RemoteError> {
    let chosen = match flags & (LIVE | CONFIG) {
        LIVE => state.live.as_ref().map(|live| &live.definition),
        CONFIG => state.persistent.as_ref(),
        0 => Some(state.current()?),
        _ => {
            let why = "flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive";
            return Err(RemoteError::new(Code::InvalidArgument, why));
        }
    };
    chosen.cloned().ok_or_else(|| {
        let why = match flags & LIVE {
            0 => "transient domains do not have any persistent config",
            _ => "domain is not running",
        };
        RemoteError::new(Code::OperationInvalid, why)
    })
}

fn is_updated(context: &Context<'_>, domain: WireDomain) -> Result<i32, RemoteError> {
    let domain = context.domain(&domain)?;
    let state = domain.state();
    // The definition changed since this run began.
    Ok(match (&state.live, &state.persistent) {
        (Some(live), Some(persistent)) => (*live.definition.inactive_xml(true)? != *persistent.xml).into(),
        _ => 0,
    })
}

fn control_info(context: &Context<'_>, args: DomainFlagsArgs) -> Result<ControlInfo, RemoteError> {
    const OK: u32 = 0;
    const ERROR: u32 = 3;
    check_flags(args.flags, 0)?;
    let control = context.domain(&args.domain)?.control()?;
    Ok(ControlInfo {
        state: if control.execute("query-status").is_ok() {
            OK
        } else {
            ERROR
        },
        details: 0,
        time: 0,
    })
}

/// Disks have no jobs yet: this is only about whether there is such a disk.
fn no_block_job(context: &Context<'_>, args: BlockJobArgs) -> Result<BlockJobRet, RemoteError> {
    check_flags(args.flags, BANDWIDTH_BYTES)?;
    let domain = context.domain(&args.domain)?;
    let definition = domain.with_live(|live| live.definition.clone())?;
    stats::find_disk(&definition, &args.path)?;
    Ok(BlockJobRet {
        found: 0,
        kind: 0,
        bandwidth: 0,
        current: 0,
        end: 0,
    })
}

fn no_job() -> JobInfo {
    let none = || Progress {
        total: 0,
        processed: 0,
        remaining: 0,
    };
    JobInfo {
        kind: 0,
        elapsed: 0,
        remaining: 0,
        data: none(),
        memory: none(),
        file: none(),
    }
}
