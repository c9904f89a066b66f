//! Calls about CPUs: whether one can be, and what several have in common. And foreign formats, of which there is none.

use ostler_accel::CpuidLeaf;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::NativeArgs;
use ostler_libvirt::{Code, RemoteError};

use super::connect::kind_of_guests;
use super::{Context, Dispatcher, check_flags};
use crate::host::cpu::{self, Comparison, Features};

/// Flag of a comparison: one that cannot be is an error (`VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE`).
const FAIL_INCOMPATIBLE: u32 = 1;
/// Flag of a comparison: compare with the schema.
const VALIDATE: u32 = 2;
/// Flag of a common CPU: with the features of its model (`VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES`).
const EXPAND: u32 = 1;
/// Flag of a common CPU: only what can be moved to other hosts, which all of it can.
const MIGRATABLE: u32 = 2;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<ConnectCompareCpu>(|_, args| compare(&args.xml, args.flags, &cpu::of_host()));
    to.on::<ConnectBaselineCpu>(|_, args| baseline(&args.cpus.0, args.flags, &cpu::of_host()));
    to.on::<ConnectCompareHypervisorCpu>(|context, args| {
        let kvm = kind_of_guests(context, [&args.arch, &args.machine, &args.kind])?;
        compare(&args.cpu, args.flags, &of_guests(context, kvm)?)
    });
    to.on::<ConnectBaselineHypervisorCpu>(|context, args| {
        let kvm = kind_of_guests(context, [&args.arch, &args.machine, &args.kind])?;
        baseline(&args.cpus.0, args.flags, &of_guests(context, kvm)?)
    });
    to.on::<ConnectDomainXmlToNative>(|_, args| no_format(&args));
    to.on::<ConnectDomainXmlFromNative>(|_, args| no_format(&args));
}

/// What a guest can have on KVM, or on the software CPU.
fn of_guests(context: &Context<'_>, kvm: bool) -> Result<Features, RemoteError> {
    cpu::of_guests(&supported(context, kvm)?)
}

/// What KVM or the software CPU supports of CPUID.
pub(super) fn supported(context: &Context<'_>, kvm: bool) -> Result<Vec<CpuidLeaf>, RemoteError> {
    let failed = |why: String| RemoteError::new(Code::OperationFailed, why);
    let device = kvm
        .then(|| context.shared.domains.kvm())
        .transpose()
        .map_err(failed)?;
    ostler_vmm::supported_cpuid(device).map_err(|error| failed(error.to_string()))
}

/// `virCPUCompareResult`.
fn compare(xml: &str, flags: u32, all: &Features) -> Result<i32, RemoteError> {
    if flags & VALIDATE != 0 {
        let why = "CPUs cannot be compared with the schema; leave --validate out";
        return Err(RemoteError::new(Code::OperationUnsupported, why));
    }
    check_flags(flags, FAIL_INCOMPATIBLE)?;
    match cpu::compare(xml, all)? {
        Comparison::Incompatible(why) if flags & FAIL_INCOMPATIBLE != 0 => {
            Err(RemoteError::new(Code::CpuIncompatible, why))
        }
        Comparison::Incompatible(_) => Ok(0),
        Comparison::Identical => Ok(1),
        Comparison::Superset => Ok(2),
    }
}

fn baseline(documents: &[String], flags: u32, all: &Features) -> Result<String, RemoteError> {
    check_flags(flags, EXPAND | MIGRATABLE)?;
    cpu::baseline(documents.iter().map(String::as_str), all, flags & EXPAND != 0)
}

/// A guest's process is told what it is by a socket, so no line of arguments would start it; and it is no program of others.
fn no_format(args: &NativeArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, 0)?;
    let format: String = args.format.chars().take(80).collect();
    let why =
        format!("unsupported config type {format}: guests are started by no command line; use their XML");
    Err(RemoteError::new(Code::InvalidArgument, why))
}
