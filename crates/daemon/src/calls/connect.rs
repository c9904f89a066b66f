//! Calls about the connection, and what this hypervisor is.

use std::sync::atomic::Ordering;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{CpuModelsArgs, CpuModelsRet, DomainCapabilitiesArgs, List, OpenArgs};
use ostler_libvirt::{Code, RemoteError};
use ostler_vmm::spec::{MAX_CPUS, MachineType};

use super::{Context, Dispatcher, check_flags};
use crate::host;

/// Flag of CONNECT_OPEN: read-only.
const OPEN_READONLY: u32 = 1;
/// Flag of CONNECT_OPEN: the client has looked for aliases of the URI already, which is its own matter.
const OPEN_NO_ALIASES: u32 = 2;
/// The version of libvirt whose protocol this is; clients look at it before they use what is newer.
const LIB_VERSION: u64 = 9_000_000;
/// The version of QEMU whose guests these look like; clients look at it too.
const HYPERVISOR_VERSION: u64 = 7_002_000;
/// Authentication by nothing but who may open the socket.
const AUTH_NONE: i32 = 0;

/// Features that clients ask for (`virDrvFeature`).
mod feature {
    pub const KEEPALIVE: i32 = 10;
    pub const EVENT_CALLBACKS: i32 = 14;
    pub const CLOSE_CALLBACK: i32 = 15;
    pub const TYPED_STRINGS: i32 = 9;
    /// NETWORK_UPDATE has its arguments in the order of their names.
    pub const NETWORK_UPDATE_ORDER: i32 = 16;
}

pub(super) fn add(to: &mut Dispatcher) {
    to.on_quick::<AuthList>(|_, ()| Ok(List(vec![AUTH_NONE])));
    to.on_quick::<ConnectOpen>(open);
    // The client hangs up once it has the answer.
    to.on_quick::<ConnectClose>(|_, ()| Ok(()));
    to.on_quick::<ConnectSupportsFeature>(|context, feature| Ok(supports(context, feature).into()));
    to.on_quick::<ConnectGetType>(|_, ()| Ok("QEMU".into()));
    to.on_quick::<ConnectGetVersion>(|_, ()| Ok(HYPERVISOR_VERSION));
    to.on_quick::<ConnectGetLibVersion>(|_, ()| Ok(LIB_VERSION));
    to.on_quick::<ConnectGetHostname>(|_, ()| Ok(host::name()));
    to.on_quick::<ConnectGetUri>(|context, ()| Ok(context.shared.scope.uri().into()));
    // What leaves the host goes by TLS.
    to.on_quick::<ConnectIsSecure>(|_, ()| Ok(1));
    to.on_quick::<ConnectGetMaxVcpus>(|_, _| Ok(MAX_CPUS as i32));
    to.on::<ConnectGetCapabilities>(|context, ()| {
        let shared = context.shared;
        Ok(host::capabilities::of_host(
            &shared.host_uuid,
            shared.domains.offers_kvm(),
        ))
    });
    to.on::<ConnectGetDomainCapabilities>(|context, args| domain_capabilities(context, &args));
    to.on::<ConnectGetCpuModelNames>(|_, args| cpu_models(&args));
    // The daemon never closes a connection that it could still tell about it.
    to.on::<ConnectRegisterCloseCallback>(|_, ()| Ok(()));
    to.on::<ConnectUnregisterCloseCallback>(|_, ()| Ok(()));
}

fn open(context: &Context<'_>, args: OpenArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, OPEN_READONLY | OPEN_NO_ALIASES)?;
    let ours = context.shared.scope.uri();
    match args.name.as_deref() {
        None | Some("") => {}
        Some(name) if name == ours => {}
        Some(other) => {
            let why = format!("no hypervisor for '{other}'; this daemon serves {ours}");
            return Err(RemoteError::new(Code::InvalidArgument, why));
        }
    }
    if args.flags & OPEN_READONLY != 0 {
        context.client.readonly.store(true, Ordering::SeqCst);
    }
    Ok(())
}

fn supports(context: &Context<'_>, feature: i32) -> bool {
    match feature {
        feature::KEEPALIVE => {
            context.client.wants_pings.store(true, Ordering::Relaxed);
            true
        }
        feature::EVENT_CALLBACKS
        | feature::CLOSE_CALLBACK
        | feature::TYPED_STRINGS
        | feature::NETWORK_UPDATE_ORDER => true,
        _ => false,
    }
}

/// Whether guests of this architecture, machine and type are on KVM; an error if there are none.
pub(super) fn kind_of_guests(
    context: &Context<'_>,
    [arch, machine, kind]: [&Option<String>; 3],
) -> Result<bool, RemoteError> {
    let unknown = |what: &str, value: &str| {
        let why = format!("no guest can have the {what} '{value}'");
        Err(RemoteError::new(Code::InvalidArgument, why))
    };
    if let Some(arch) = arch.as_deref().filter(|arch| *arch != "x86_64") {
        return unknown("architecture", arch);
    }
    let is_other = |machine: &&str| {
        let ours = MachineType::from_name(machine).is_some();
        !ours && *machine != "q35" && !machine.starts_with("pc-q35-")
    };
    if let Some(machine) = machine.as_deref().filter(is_other) {
        return unknown("machine", machine);
    }
    let offers_kvm = context.shared.domains.offers_kvm();
    match kind.as_deref() {
        None => Ok(offers_kvm),
        Some("qemu") => Ok(false),
        Some("kvm") if offers_kvm => Ok(true),
        Some(kind) => unknown("type", kind),
    }
}

fn domain_capabilities(context: &Context<'_>, args: &DomainCapabilitiesArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, 0)?;
    let kvm = kind_of_guests(context, [&args.arch, &args.machine, &args.kind])?;
    let failed = |why: String| RemoteError::new(Code::OperationFailed, why);
    let device = kvm
        .then(|| context.shared.domains.kvm())
        .transpose()
        .map_err(failed)?;
    let smm = ostler_vmm::has_system_management(device).map_err(|error| failed(error.to_string()))?;
    // KVM that cannot be asked is KVM of which nothing more is known.
    let supported = kvm.then(|| super::cpu::supported(context, true).unwrap_or_default());
    Ok(host::capabilities::of_guests(supported.as_deref(), smm))
}

fn cpu_models(args: &CpuModelsArgs) -> Result<CpuModelsRet, RemoteError> {
    check_flags(args.flags, 0)?;
    if args.arch != "x86_64" {
        let why = format!("no guest can have the architecture '{}'", args.arch);
        return Err(RemoteError::new(Code::InvalidArgument, why));
    }
    let names = ostler_accel::model::names();
    Ok(CpuModelsRet {
        count: names.len() as i32,
        names: List(match args.need_results {
            0 => Vec::new(),
            _ => names.into_iter().map(String::from).collect(),
        }),
    })
}
