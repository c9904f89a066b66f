//! Calls that change how much memory and how many CPUs a guest has.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{Domain as WireDomain, MemoryPeriodArgs, SetVcpuArgs};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::Vcpus;
use ostler_libvirt_xml::tree::Element;
use serde_json::{Value, json};

use super::{Context, Dispatcher, agent, check_flags};
use crate::domains::domain::Domain;
use crate::domains::{Impact, Wanted};
use crate::host::cpus::CpuList;

/// Flag of both: the most that there may be.
const MAXIMUM: u32 = 4;
/// Flags of DOMAIN_SET_VCPUS_FLAGS: the guest's agent is to do it; CPUs that come can go again, as all but the first can.
const BY_AGENT: u32 = 8;
const HOTPLUGGABLE: u32 = 16;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainSetMemory>(|context, args| memory(context, &args.domain, args.memory, Impact::LIVE));
    to.on::<DomainSetMaxMemory>(|context, args| memory(context, &args.domain, args.memory, MAXIMUM));
    to.on::<DomainSetMemoryFlags>(|context, args| memory(context, &args.domain, args.memory, args.flags));
    to.on::<DomainSetMemoryStatsPeriod>(period);
    to.on::<DomainSetVcpus>(|context, args| vcpus(context, &args.domain, args.count, Impact::LIVE));
    to.on::<DomainSetVcpusFlags>(|context, args| vcpus(context, &args.domain, args.count, args.flags));
    to.on::<DomainSetVcpu>(vcpu);
}

fn invalid(why: impl Into<String>) -> RemoteError {
    RemoteError::new(Code::InvalidArgument, why)
}

/// Asks the guest that runs something by its balloon.
fn ask(domain: &Domain, command: &str, arguments: Value) -> Result<(), RemoteError> {
    let answer = domain.control()?.execute_with(command, arguments);
    answer
        .map(drop)
        .map_err(|error| RemoteError::new(Code::OperationFailed, error.to_string()))
}

fn set_kib(root: &mut Element, name: &str, kib: u64) {
    let element = root.child_or_new(name);
    element.set("unit", "KiB");
    element.set_text(kib.to_string());
}

fn memory(context: &Context<'_>, domain: &WireDomain, kib: u64, flags: u32) -> Result<(), RemoteError> {
    check_flags(flags, Impact::FLAGS | MAXIMUM)?;
    let domain = context.domain(domain)?;
    let bytes = kib
        .checked_mul(1024)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| invalid(format!("a guest cannot have {kib} KiB of memory")))?;
    let is_maximum = flags & MAXIMUM != 0;
    let (persistent, live) = {
        let state = domain.state();
        (
            state.persistent.clone(),
            state.live.as_ref().map(|live| live.definition.clone()),
        )
    };
    let check = |impact: Impact| {
        if impact.live && is_maximum {
            let why = "cannot resize the maximum memory on an active domain";
            return Err(RemoteError::new(Code::OperationInvalid, why));
        }
        let most = [live.filter(|_| impact.live), persistent.filter(|_| impact.config)];
        if !is_maximum
            && most
                .iter()
                .flatten()
                .any(|definition| bytes > definition.memory.bytes)
        {
            return Err(invalid("cannot set memory higher than max memory"));
        }
        if impact.live {
            ask(&domain, "balloon", json!({ "value": bytes }))?;
        }
        Ok(())
    };
    let change = |root: &mut Element| match is_maximum {
        // What a guest has follows, where it would be more.
        true => set_kib(root, "memory", kib),
        false => set_kib(root, "currentMemory", kib),
    };
    context.shared.domains.edit(&domain, flags, check, change)
}

fn period(context: &Context<'_>, args: MemoryPeriodArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, Impact::FLAGS)?;
    let domain = context.domain(&args.domain)?;
    let seconds = u32::try_from(args.period).map_err(|_| invalid("a period has 0 or more seconds"))?;
    let check = |impact: Impact| match impact.live {
        true => ask(&domain, "qom-set", crate::domains::balloon_period(seconds)),
        false => Ok(()),
    };
    let change = |root: &mut Element| {
        let devices = root.child_or_new("devices");
        for balloon in devices
            .elements_mut()
            .filter(|device| device.name == "memballoon")
        {
            match seconds {
                0 => balloon.remove_elements(|element| element.name == "stats"),
                _ => balloon.child_or_new("stats").set("period", seconds.to_string()),
            }
        }
    };
    context.shared.domains.edit(&domain, args.flags, check, change)
}

fn vcpus(context: &Context<'_>, wire: &WireDomain, count: u32, flags: u32) -> Result<(), RemoteError> {
    check_flags(flags, Impact::FLAGS | MAXIMUM | BY_AGENT | HOTPLUGGABLE)?;
    let domain = context.domain(wire)?;
    if flags & BY_AGENT != 0 {
        return Err(agent::refusal(context, wire));
    }
    match flags & MAXIMUM {
        0 => {
            let wanted = Wanted::Count(count);
            context
                .shared
                .domains
                .set_cpus(&domain, flags & Impact::FLAGS, &wanted)
        }
        _ => most_vcpus(context, &domain, count, flags),
    }
}

/// How many CPUs a guest may have from its next start on. Those that it has stay, where they are not too many.
fn most_vcpus(context: &Context<'_>, domain: &Domain, count: u32, flags: u32) -> Result<(), RemoteError> {
    let persistent = domain.state().persistent.clone();
    let check = |impact: Impact| match impact.live {
        true => {
            let why = "maximum vcpu count of a live domain can't be modified";
            Err(RemoteError::new(Code::OperationInvalid, why))
        }
        false if count == 0 => Err(invalid("a guest has one CPU at least")),
        false => Ok(()),
    };
    let mut there = persistent.map_or_else(Vec::new, |definition| definition.vcpus.there());
    there.retain(|cpu| *cpu < count);
    let change = |root: &mut Element| {
        root.child_or_new("vcpu").set_text(count.to_string());
        Vcpus::write_there(root, &there);
    };
    context
        .shared
        .domains
        .edit(domain, flags & Impact::FLAGS, check, change)
}

/// Has single CPUs come or go.
fn vcpu(context: &Context<'_>, args: SetVcpuArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, Impact::FLAGS)?;
    let domain = context.domain(&args.domain)?;
    let text: String = args.cpus.chars().take(80).collect();
    let list: Result<CpuList, ()> = args.cpus.parse();
    let list = list.map_err(|()| invalid(format!("'{text}' is no list of CPUs")))?;
    let wanted = Wanted::Switch {
        cpus: list.numbers().to_vec(),
        on: args.state != 0,
    };
    context.shared.domains.set_cpus(&domain, args.flags, &wanted)
}
