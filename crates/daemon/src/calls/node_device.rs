//! Calls about devices of the host, its firmware and its pages.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    AllocPagesArgs, FreePagesArgs, List, ListAllArgs, ListAllDevicesRet, MAX_CELLS, MAX_NODE_DEVICES,
    NodeDevice as WireDevice,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::node_device::NodeDevice;

use super::{Dispatcher, check_flags};
use crate::host::pages;
use crate::nodedevs;

/// Flags of capabilities (`virConnectListAllNodeDeviceFlags`): those that we know, and all that there are.
const KINDS: &[(u32, &str)] = &[
    (1 << 0, "system"),
    (1 << 1, "pci"),
    (1 << 2, "usb_device"),
    (1 << 3, "usb"),
    (1 << 4, "net"),
    (1 << 8, "storage"),
];
const ALL_KINDS: u32 = (1 << 22) - 1;
/// Flags of devices that are there or are not; ours always are.
const INACTIVE: u32 = 1 << 30;
const ACTIVE: u32 = 1 << 31;
/// Flag of NODE_ALLOC_PAGES: set the number, do not add to it.
const SET: u32 = 1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<ConnectListAllNodeDevices>(|_, args| list_all(&args));
    to.on::<NodeNumOfDevices>(|_, args| {
        check_flags(args.flags, 0)?;
        Ok(of_kind(args.capability.as_deref()).len() as i32)
    });
    to.on::<NodeListDevices>(|_, args| {
        check_flags(args.flags, 0)?;
        let names = of_kind(args.capability.as_deref())
            .into_iter()
            .map(|device| device.name);
        Ok(List(names.take(args.max.max(0) as usize).collect()))
    });
    to.on::<NodeDeviceLookupByName>(|_, name| {
        let device = nodedevs::by_name(&name)?;
        Ok(WireDevice { name: device.name })
    });
    to.on::<NodeDeviceGetXmlDesc>(|_, args| {
        check_flags(args.flags, 0)?;
        Ok(nodedevs::by_name(&args.name)?.xml())
    });
    to.on::<NodeDeviceGetParent>(|_, name| Ok(nodedevs::by_name(&name)?.parent));
    to.on::<NodeDeviceNumOfCaps>(|_, name| nodedevs::by_name(&name).map(|_| 1));
    to.on::<NodeDeviceListCaps>(|_, args| {
        let kind = nodedevs::by_name(&args.name)?.capability.kind();
        let kinds = std::iter::once(kind.to_owned());
        Ok(List(kinds.take(args.max.max(0) as usize).collect()))
    });
    // What the kernel shows is there without a definition.
    to.on::<NodeDeviceIsActive>(|_, name| nodedevs::by_name(&name).map(|_| 1));
    to.on::<NodeDeviceIsPersistent>(|_, name| nodedevs::by_name(&name).map(|_| 0));
    to.on::<NodeDeviceGetAutostart>(|_, name| nodedevs::by_name(&name).map(|_| 0));
    to.on::<ConnectGetSysinfo>(|_, flags| {
        check_flags(flags, 0)?;
        nodedevs::sysinfo().ok_or_else(|| {
            let why = "Host SMBIOS information is not available";
            RemoteError::new(Code::OperationUnsupported, why)
        })
    });
    to.on::<NodeSuspendForDuration>(|_, _| {
        let why =
            "the host is not suspended by clients: its guests would stand still; use the host's own means";
        Err(RemoteError::new(Code::OperationUnsupported, why))
    });
    to.on::<NodeDeviceEventRegister>(|context, args| {
        let device = args.device.as_ref().map(|device| device.name.as_str());
        context
            .shared
            .devices
            .subscribe(context.client, args.event, device)
    });
    to.on::<NodeDeviceEventDeregister>(|context, callback| {
        context
            .shared
            .devices
            .subscriptions()
            .unsubscribe(context.client, callback)
    });
    to.on::<NodeGetFreePages>(|_, args| free_pages(&args));
    to.on::<NodeAllocPages>(|_, args| alloc_pages(&args));
}

fn of_kind(kind: Option<&str>) -> Vec<NodeDevice> {
    let mut devices = nodedevs::all();
    devices.retain(|device| kind.is_none_or(|kind| kind == device.capability.kind()));
    devices
}

fn is_wanted(device: &NodeDevice, flags: u32) -> bool {
    let kind = KINDS.iter().find(|(_, name)| *name == device.capability.kind());
    let is_there = flags & (ACTIVE | INACTIVE) != INACTIVE;
    let kinds = flags & ALL_KINDS;
    is_there && (kinds == 0 || kind.is_some_and(|(flag, _)| kinds & flag != 0))
}

fn list_all(args: &ListAllArgs) -> Result<ListAllDevicesRet, RemoteError> {
    check_flags(args.flags, ALL_KINDS | ACTIVE | INACTIVE)?;
    let mut devices = nodedevs::all();
    devices.retain(|device| is_wanted(device, args.flags));
    devices.truncate(MAX_NODE_DEVICES);
    let count = devices.len() as u32;
    if args.need_results == 0 {
        devices.clear();
    }
    let names = devices.into_iter().map(|device| WireDevice { name: device.name });
    Ok(ListAllDevicesRet {
        devices: List(names.collect()),
        count,
    })
}

/// The NUMA nodes that a call is about; none stands for the whole host.
fn cells(start: i32, count: u32) -> Result<Vec<Option<u32>>, RemoteError> {
    if start == -1 {
        return Ok(vec![None]);
    }
    let known = crate::host::nodes();
    let asked = |node: &u32| {
        let node = i64::from(*node);
        (i64::from(start)..i64::from(start) + i64::from(count)).contains(&node)
    };
    let nodes: Vec<_> = known
        .iter()
        .map(|(node, _)| *node)
        .filter(asked)
        .map(Some)
        .take(MAX_CELLS)
        .collect();
    match nodes.is_empty() || start < 0 {
        true => Err(RemoteError::new(
            Code::InvalidArgument,
            format!("there is no NUMA node {start}"),
        )),
        false => Ok(nodes),
    }
}

fn no_such_pages(size: u32) -> RemoteError {
    RemoteError::new(
        Code::OperationFailed,
        format!("there are no pages of {size} KiB, or none that can be had"),
    )
}

fn free_pages(args: &FreePagesArgs) -> Result<List<u64, MAX_CELLS>, RemoteError> {
    check_flags(args.flags, 0)?;
    let mut counts = Vec::new();
    for cell in cells(args.start, args.cells)? {
        for size in &args.pages.0 {
            counts.push(pages::free(cell, *size).ok_or_else(|| no_such_pages(*size))?);
            if counts.len() > MAX_CELLS {
                let why = format!("more than {MAX_CELLS} numbers; ask for fewer");
                return Err(RemoteError::new(Code::InvalidArgument, why));
            }
        }
    }
    Ok(List(counts))
}

fn alloc_pages(args: &AllocPagesArgs) -> Result<i32, RemoteError> {
    check_flags(args.flags, SET)?;
    if args.sizes.0.len() != args.counts.0.len() {
        let why = "as many sizes of pages as numbers of them are needed";
        return Err(RemoteError::new(Code::InvalidArgument, why));
    }
    let mut done = 0;
    for cell in cells(args.start, args.cells)? {
        for (size, count) in args.sizes.0.iter().zip(&args.counts.0) {
            let now = pages::huge(cell, *size).ok_or_else(|| no_such_pages(*size))?;
            let wanted = match args.flags & SET {
                0 => now.saturating_add(*count),
                _ => *count,
            };
            let failed = |why: String| RemoteError::new(Code::OperationFailed, why);
            pages::set_huge(cell, *size, wanted)
                .map_err(|e| failed(format!("cannot allocate pages: {e}")))?;
            let got = pages::huge(cell, *size).unwrap_or(0);
            if got < wanted {
                let why = format!("the host has room for {got} pages of {size} KiB only, not for {wanted}");
                return Err(failed(why));
            }
        }
        done += 1;
    }
    Ok(done)
}
