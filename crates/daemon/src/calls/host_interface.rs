//! Calls about network interfaces of the host, which clients may look at. What changes them is `ostler net`.

use ostler_libvirt::error::Source;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    HostInterface as WireInterface, InterfaceXmlArgs, List, ListAllArgs, ListAllInterfacesRet,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::host_interface::HostInterface;

use super::{Dispatcher, check_flags};
use crate::host::interfaces;

/// Flags of listing (`virConnectListAllInterfacesFlags`).
const INACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
/// Flag of a document: as it is defined. The kernel's interfaces are as they are.
const XML_INACTIVE: u32 = 1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<ConnectNumOfInterfaces>(|_, ()| Ok(of_state(true).len() as i32));
    to.on::<ConnectNumOfDefinedInterfaces>(|_, ()| Ok(of_state(false).len() as i32));
    to.on::<ConnectListInterfaces>(|_, max| Ok(names(true, max)));
    to.on::<ConnectListDefinedInterfaces>(|_, max| Ok(names(false, max)));
    to.on::<ConnectListAllInterfaces>(|_, args| list_all(&args));
    to.on::<InterfaceLookupByName>(|_, name| Ok(wire(&by_name(&name)?)));
    to.on::<InterfaceLookupByMacString>(|_, mac| by_mac(&mac));
    to.on::<InterfaceIsActive>(|_, interface| Ok(by_name(&interface.name)?.up.into()));
    to.on::<InterfaceGetXmlDesc>(|_, args: InterfaceXmlArgs| {
        check_flags(args.flags, XML_INACTIVE)?;
        Ok(by_name(&args.interface.name)?.xml())
    });
}

fn of_state(up: bool) -> Vec<HostInterface> {
    let mut all = interfaces::all();
    all.retain(|interface| interface.up == up);
    all
}

fn names<const MAX: usize>(up: bool, max: i32) -> List<String, MAX> {
    let names = of_state(up).into_iter().map(|interface| interface.name);
    List(names.take(max.max(0) as usize).collect())
}

fn wire(interface: &HostInterface) -> WireInterface {
    WireInterface {
        name: interface.name.clone(),
        mac: interface.mac.map(|mac| mac.to_string()).unwrap_or_default(),
    }
}

fn missing(why: String) -> RemoteError {
    RemoteError::new(Code::NoInterface, why).of(Source::Interface)
}

fn by_name(name: &str) -> Result<HostInterface, RemoteError> {
    let found = interfaces::all()
        .into_iter()
        .find(|interface| interface.name == name);
    found.ok_or_else(|| missing(format!("couldn't find interface named '{name}'")))
}

fn by_mac(mac: &str) -> Result<WireInterface, RemoteError> {
    let all = interfaces::all();
    let found = all
        .iter()
        .map(wire)
        .find(|interface| interface.mac.eq_ignore_ascii_case(mac));
    found.ok_or_else(|| missing(format!("couldn't find interface with MAC address '{mac}'")))
}

fn list_all(args: &ListAllArgs) -> Result<ListAllInterfacesRet, RemoteError> {
    check_flags(args.flags, INACTIVE | ACTIVE)?;
    let mut all = interfaces::all();
    if args.flags != 0 {
        all.retain(|interface| args.flags & if interface.up { ACTIVE } else { INACTIVE } != 0);
    }
    Ok(ListAllInterfacesRet {
        count: all.len() as u32,
        interfaces: match args.need_results {
            0 => List(Vec::new()),
            _ => List(all.iter().map(wire).collect()),
        },
    })
}
