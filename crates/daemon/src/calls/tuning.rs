//! Calls about where a guest's threads run.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    CpuMaps, Domain as WireDomain, EmulatorPinInfoArgs, List, Opaque, PinEmulatorArgs, SchedulerParameters,
    SchedulerType, TypedParameter, VcpuPinInfoArgs,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::CpuQuota;
use ostler_libvirt_xml::tree::Element;

use super::domain::{CONFIG, LIVE, choose};
use super::stats::STRING_OKAY;
use super::{Context, Dispatcher, check_flags};
use crate::domains::{Impact, pins};
use crate::host;
use crate::host::cpus::CpuList;

/// How many parameters the host's scheduler has: a share, and a period and a quota for each kind of threads.
const SHARES_AND_LIMITS: i32 = 9;
/// Longest map that a client may ask for, in bytes.
const MAX_MAP: i32 = 2048;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainPinVcpu>(|context, args| pin_vcpu(context, &args.domain, args.vcpu, &args.map.0, LIVE));
    to.on::<DomainPinVcpuFlags>(|context, args| {
        pin_vcpu(context, &args.domain, args.vcpu, &args.map.0, args.flags)
    });
    to.on::<DomainGetVcpuPinInfo>(vcpu_pins);
    to.on::<DomainPinEmulator>(pin_emulator);
    to.on::<DomainGetEmulatorPinInfo>(emulator_pin);
    to.on::<DomainGetSchedulerType>(|context, domain| {
        context.domain(&domain)?;
        Ok(SchedulerType {
            name: "posix".into(),
            parameters: SHARES_AND_LIMITS,
        })
    });
    to.on::<DomainGetSchedulerParameters>(|context, args| scheduler(context, &args.domain, args.count, 0));
    to.on::<DomainGetSchedulerParametersFlags>(|context, args| {
        check_flags(args.flags, LIVE | CONFIG | STRING_OKAY)?;
        scheduler(context, &args.domain, args.count, args.flags)
    });
}

fn list(map: &[u8]) -> Result<CpuList, RemoteError> {
    let none = || RemoteError::new(Code::InvalidArgument, "Empty CPU list for pinning");
    CpuList::from_bits(map).ok_or_else(none)
}

fn pin_vcpu(
    context: &Context<'_>,
    domain: &WireDomain,
    vcpu: u32,
    map: &[u8],
    flags: u32,
) -> Result<(), RemoteError> {
    check_flags(flags, Impact::FLAGS)?;
    let list = list(map)?;
    let domain = context.domain(domain)?;
    let count = domain.state().current()?.vcpus.max;
    if vcpu >= count {
        let why = format!("vcpu {vcpu} is out of range of {count} CPUs");
        return Err(RemoteError::new(Code::InvalidArgument, why));
    }
    let check = |impact: Impact| match impact.live {
        true => pins::pin_vcpu(
            domain.with_live(|live| live.process.clone())?.as_ref(),
            vcpu,
            &list,
        ),
        false => Ok(()),
    };
    let kept = Some(&list).filter(|list| !list.is_all());
    let change = |root: &mut Element| pins::write_vcpu(root, vcpu, kept);
    context.shared.domains.edit(&domain, flags, check, change)
}

fn pin_emulator(context: &Context<'_>, args: PinEmulatorArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, Impact::FLAGS)?;
    let list = list(&args.map.0)?;
    let domain = context.domain(&args.domain)?;
    let check = |impact: Impact| match impact.live {
        true => pins::pin_emulator(domain.with_live(|live| live.process.clone())?.as_ref(), &list),
        false => Ok(()),
    };
    let kept = Some(&list).filter(|list| !list.is_all());
    let change = |root: &mut Element| pins::write_emulator(root, kept);
    context.shared.domains.edit(&domain, args.flags, check, change)
}

/// The bits of a list, or of all CPUs.
fn bits(list: Option<CpuList>, length: i32) -> Vec<u8> {
    let length = length.clamp(0, MAX_MAP) as usize;
    match list {
        Some(list) => list.bits(length),
        None => {
            let mut bits: Vec<u8> = (0..host::present().div_ceil(8)).map(|_| 0xff).collect();
            if let (Some(last), spare @ 1..) = (bits.last_mut(), host::present() % 8) {
                *last = (1u16 << spare).wrapping_sub(1) as u8;
            }
            bits.resize(length, 0);
            bits
        }
    }
}

fn vcpu_pins(context: &Context<'_>, args: VcpuPinInfoArgs) -> Result<CpuMaps, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG)?;
    let domain = context.domain(&args.domain)?;
    let definition = choose(&domain.state(), args.flags)?;
    let count = definition.vcpus.max.min(args.count.max(0).unsigned_abs());
    let mut maps = Vec::new();
    for vcpu in 0..count {
        maps.extend(bits(pins::of_vcpu(&definition, vcpu)?, args.length));
    }
    Ok(CpuMaps {
        maps: Opaque(maps),
        count: count as i32,
    })
}

fn emulator_pin(context: &Context<'_>, args: EmulatorPinInfoArgs) -> Result<CpuMaps, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG)?;
    let domain = context.domain(&args.domain)?;
    let definition = choose(&domain.state(), args.flags)?;
    Ok(CpuMaps {
        maps: Opaque(bits(pins::of_emulator(&definition)?, args.length)),
        count: 1,
    })
}

/// The share and the limits that a definition asks for; 0 for those that it does not.
fn scheduler(
    context: &Context<'_>,
    domain: &WireDomain,
    room: i32,
    flags: u32,
) -> Result<SchedulerParameters, RemoteError> {
    let definition = choose(&context.domain(domain)?.state(), flags)?;
    let tune = &definition.tune;
    let mut params = vec![TypedParameter::ulong("cpu_shares", tune.shares.unwrap_or(0))];
    // There are no I/O threads.
    let none = CpuQuota::default();
    for (threads, quota) in [
        ("vcpu", tune.vcpu),
        ("emulator", tune.others),
        ("global", tune.whole),
        ("iothread", none),
    ] {
        let (period, quota) = (quota.period.unwrap_or(0), quota.quota.unwrap_or(0));
        params.push(TypedParameter::ulong(format!("{threads}_period"), period));
        params.push(TypedParameter::long(format!("{threads}_quota"), quota));
    }
    params.truncate(room.clamp(0, SHARES_AND_LIMITS) as usize);
    Ok(SchedulerParameters { params: List(params) })
}
