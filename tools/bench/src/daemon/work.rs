//! What one client has a daemon do, and how long that takes.

use std::fs;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ostler_libvirt::List;
use ostler_libvirt::procedures::{
    ConnectGetAllDomainStats, ConnectGetLibVersion, ConnectListAllDomains, DomainCreateXml, DomainDefineXml,
    DomainDestroy, DomainGetState, DomainOpenConsole,
};
use ostler_libvirt::types::{
    AllStatsArgs, Domain, DomainFlagsArgs, ListAllArgs, OpenConsoleArgs, XmlFlagsArgs,
};

use super::client::Client;
use crate::error::Error;
use crate::first;

type Unix = Client<UnixStream>;

/// Calls that are on their way at once where they are pipelined. libvirtd stops reading at five, and its clients go on.
const IN_FLIGHT: usize = 32;
/// Calls between two looks at the clock.
const BATCH: u32 = 64;

/// Simple calls a second, one after the other.
pub(super) fn sequential<S: Read + Write>(client: &mut Client<S>, span: Duration) -> Result<f64, Error> {
    let (start, mut calls) = (Instant::now(), 0u32);
    while start.elapsed() < span {
        for _ in 0..BATCH {
            client.call::<ConnectGetLibVersion>(&())?;
        }
        calls += BATCH;
    }
    Ok(f64::from(calls) / start.elapsed().as_secs_f64())
}

/// Simple calls a second, with many on their way.
pub(super) fn pipelined(client: &mut Unix, span: Duration) -> Result<f64, Error> {
    let (start, mut calls) = (Instant::now(), 0usize);
    while start.elapsed() < span {
        let mut packets = Vec::new();
        for _ in 0..IN_FLIGHT {
            packets.extend(client.packet::<ConnectGetLibVersion>(&())?);
        }
        client.send(&packets)?;
        for _ in 0..IN_FLIGHT {
            client.answer()?;
        }
        calls += IN_FLIGHT;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

/// A guest as people have them: a disk, a card, a console.
fn definition(number: u32) -> String {
    format!(
        "<domain type='qemu'>\n<name>guest-{number}</name>\n<memory unit='MiB'>1024</memory>\n<vcpu>2</vcpu>\n\
         <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>\n<features><acpi/><apic/></features>\n\
         <devices>\n<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='/var/lib/libvirt/images/guest-{number}.img'/><target dev='vda' bus='virtio'/></disk>\n\
         <interface type='network'><source network='default'/><model type='virtio'/></interface>\n\
         <console type='pty'/>\n</devices>\n</domain>\n"
    )
}

/// Seconds to define guests, each durable before it is answered for.
pub(super) fn define(client: &mut Unix, numbers: Range<u32>) -> Result<f64, Error> {
    let start = Instant::now();
    for number in numbers {
        client.call::<DomainDefineXml>(&definition(number))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn all(client: &mut Unix, count: u32) -> Result<Vec<Domain>, Error> {
    let list = client.call::<ConnectListAllDomains>(&ListAllArgs {
        need_results: 1,
        flags: 0,
    })?;
    if list.domains.0.len() != count as usize {
        let why = format!("{} guests of {count} are listed", list.domains.0.len());
        return Err(Error::Host("listing guests", std::io::Error::other(why)));
    }
    Ok(list.domains.0)
}

/// ms to list all guests.
pub(super) fn list(client: &mut Unix, count: u32) -> Result<f64, Error> {
    let start = Instant::now();
    all(client, count)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// ms to list all guests and ask for the state of each, as `virsh list --all` does.
pub(super) fn list_with_states(client: &mut Unix, count: u32) -> Result<f64, Error> {
    let start = Instant::now();
    for domain in all(client, count)? {
        client.call::<DomainGetState>(&DomainFlagsArgs { domain, flags: 0 })?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// ms for all figures of all guests.
pub(super) fn all_stats(client: &mut Unix, count: u32) -> Result<f64, Error> {
    let start = Instant::now();
    let records = client.call::<ConnectGetAllDomainStats>(&AllStatsArgs {
        domains: List(Vec::new()),
        stats: 0,
        flags: 0,
    })?;
    if records.0.len() != count as usize {
        let why = format!("{} records for {count} guests", records.0.len());
        return Err(Error::Host("figures of guests", std::io::Error::other(why)));
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// ms from the call that starts a tiny guest until its first instructions have said so on its console.
pub(super) fn first_instruction(mut client: Unix, folder: &Path) -> Result<f64, Error> {
    let kernel = folder.join("first.elf");
    fs::write(&kernel, first::kernel()).map_err(|e| Error::Write(kernel.clone(), e))?;
    let xml = format!(
        "<domain type='qemu'><name>tiny</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel></os>\
         <devices><console type='pty'/></devices></domain>",
        kernel.display()
    );
    let start = Instant::now();
    let domain = client.call::<DomainCreateXml>(&XmlFlagsArgs { xml, flags: 0 })?;
    client.call::<DomainOpenConsole>(&OpenConsoleArgs {
        domain: domain.clone(),
        device: None,
        flags: 0,
    })?;
    while !client.answer()?.payload.contains(&first::SIGN) {}
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    // The stream ends with the guest, and the answer may come before or after its end: nothing else is asked of this client.
    let call = client.packet::<DomainDestroy>(&domain)?;
    client.send(&call)?;
    while client.answer()?.header.kind != ostler_libvirt::Kind::Reply {}
    Ok(milliseconds)
}
