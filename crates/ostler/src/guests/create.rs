//! `ostler create`: a definition of a guest in a few words. What it leaves out the daemon fills in, as for libvirt's clients.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use ostler_libvirt::procedures::*;
use ostler_libvirt_xml::tree::{Element, write};
use ostler_vmm::spec::{MAX_SATA_DRIVES, check_cpus, check_memory, parse_size};
use serde_json::json;

use super::client::Client;
use super::place::Place;
use super::{plain, print, print_json, uuid_text};
use crate::failure::Failure;

/// Disks that have a letter.
const MAX_DISKS: usize = 26;

/// Options of `ostler create`.
#[derive(Args)]
pub struct CreateArgs {
    #[command(flatten)]
    place: Place,
    /// Raw disk image or block device. Repeat for more disks; a guest without --kernel boots from the first.
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// CD-ROM drive with this image in it; a guest without --kernel boots from it first.
    #[arg(long = "cdrom", value_name = "FILE")]
    cdroms: Vec<PathBuf>,
    /// Kernel to start with.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    append: Option<String>,
    /// Firmware of a guest without --kernel.
    #[arg(long, default_value = "bios", conflicts_with = "kernel")]
    firmware: Firmware,
    /// Network card: a network's name, user, bridge=NAME or none. Repeat for more cards.
    #[arg(long = "net", value_name = "WHERE", default_value = "default")]
    nets: Vec<String>,
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// RAM, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    memory: u64,
    /// What executes it; auto is KVM where it runs at hardware speed.
    #[arg(long, default_value = "auto")]
    accel: Accelerator,
    /// Start it, too.
    #[arg(long)]
    start: bool,
    /// What it is called.
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accelerator {
    Auto,
    Kvm,
    /// The software CPU.
    Soft,
}

/// `ostler create`.
pub fn create(args: CreateArgs) -> Result<ExitCode, Failure> {
    check(&args)?;
    let mut client = Client::to_change(&args.place)?;
    // Another one of this name is not changed.
    if client.try_call::<DomainLookupByName>(&args.name)?.is_ok() {
        let why = format!(
            "there is a guest \"{}\" already; remove it by: ostler rm",
            args.name
        );
        return Err(Failure::failed(why));
    }
    let kvm = match args.accel {
        Accelerator::Kvm => true,
        Accelerator::Soft => false,
        Accelerator::Auto => client
            .call::<ConnectGetCapabilities>(&())?
            .contains("<domain type='kvm'"),
    };
    let xml = write(&definition(&args, kvm)?);
    let domain = client.call::<DomainDefineXml>(&xml)?;
    if args.start {
        client.call::<DomainCreate>(&domain)?;
    }
    match args.place.json {
        true => print_json(&json!({
            "name": domain.name,
            "uuid": uuid_text(&domain.uuid),
            "started": args.start,
        })),
        false => {
            let done = if args.start {
                "created and started"
            } else {
                "created"
            };
            print(&format!("{} {done}\n", plain(&domain.name)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CreateArgs) -> Result<(), Failure> {
    check_memory(args.memory).map_err(Failure::bad_input)?;
    check_cpus(args.cpus.into()).map_err(Failure::bad_input)?;
    if args.kernel.is_none() && args.disks.is_empty() && args.cdroms.is_empty() {
        return Err(Failure::bad_input(
            "a guest starts from a --kernel, a --disk or a --cdrom; name one",
        ));
    }
    if args.disks.len() > MAX_DISKS || args.cdroms.len() > MAX_SATA_DRIVES {
        let why = format!("a guest has at most {MAX_DISKS} disks and {MAX_SATA_DRIVES} CD-ROM drives");
        return Err(Failure::bad_input(why));
    }
    Ok(())
}

/// The daemon does not know where we are.
fn absolute(path: &Path) -> Result<String, Failure> {
    let found = fs::canonicalize(path)
        .map_err(|error| Failure::bad_input(format!("cannot find \"{}\": {error}", path.display())))?;
    let text = found.into_os_string().into_string();
    text.map_err(|path| Failure::bad_input(format!("the path {path:?} is no text, as it would have to be")))
}

fn definition(args: &CreateArgs, kvm: bool) -> Result<Element, Failure> {
    let text = |name: &str, text: &str| Element::new(name).with_text(text);
    let mut devices = Element::new("devices");
    let letters = || b'a'..=b'z';
    for (path, letter) in args.disks.iter().zip(letters()) {
        devices = devices.with_child(disk(path, &format!("vd{}", char::from(letter)), false)?);
    }
    for (path, letter) in args.cdroms.iter().zip(letters()) {
        devices = devices.with_child(disk(path, &format!("sd{}", char::from(letter)), true)?);
    }
    for net in args.nets.iter().filter(|net| *net != "none") {
        devices = devices.with_child(card(net));
    }
    for console in ["serial", "console"] {
        devices = devices.with_child(Element::new(console).with("type", "pty"));
    }
    let random = text("backend", "/dev/urandom").with("model", "random");
    devices = devices.with_child(Element::new("rng").with("model", "virtio").with_child(random));
    Ok(Element::new("domain")
        .with("type", if kvm { "kvm" } else { "qemu" })
        .with_child(text("name", &args.name))
        .with_child(text("memory", &args.memory.to_string()).with("unit", "bytes"))
        .with_child(text("vcpu", &args.cpus.to_string()))
        .with_child(boot(args)?)
        .with_child(devices))
}

fn boot(args: &CreateArgs) -> Result<Element, Failure> {
    let text = |name: &str, text: &str| Element::new(name).with_text(text);
    let mut os = Element::new("os").with_child(text("type", "hvm").with("arch", "x86_64"));
    if args.firmware == Firmware::Uefi {
        os.set("firmware", "efi");
    }
    let Some(kernel) = &args.kernel else {
        let drives = [(!args.cdroms.is_empty(), "cdrom"), (!args.disks.is_empty(), "hd")];
        for (_, drive) in drives.into_iter().filter(|(there, _)| *there) {
            os = os.with_child(Element::new("boot").with("dev", drive));
        }
        return Ok(os);
    };
    os = os.with_child(text("kernel", &absolute(kernel)?));
    if let Some(initrd) = &args.initrd {
        os = os.with_child(text("initrd", &absolute(initrd)?));
    }
    if let Some(append) = &args.append {
        os = os.with_child(text("cmdline", append));
    }
    Ok(os)
}

fn disk(path: &Path, target: &str, cdrom: bool) -> Result<Element, Failure> {
    let path = absolute(path)?;
    let block = fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device());
    let (kind, attribute) = if block { ("block", "dev") } else { ("file", "file") };
    let (device, bus) = if cdrom {
        ("cdrom", "sata")
    } else {
        ("disk", "virtio")
    };
    let disk = Element::new("disk")
        .with("type", kind)
        .with("device", device)
        .with_child(Element::new("driver").with("name", "qemu").with("type", "raw"))
        .with_child(Element::new("source").with(attribute, path))
        .with_child(Element::new("target").with("dev", target).with("bus", bus));
    Ok(match cdrom {
        true => disk.with_child(Element::new("readonly")),
        false => disk,
    })
}

fn card(net: &str) -> Element {
    let interface = |kind: &str| Element::new("interface").with("type", kind);
    let card = match (net, net.strip_prefix("bridge=")) {
        ("user", _) => interface("user"),
        (_, Some(bridge)) => interface("bridge").with_child(Element::new("source").with("bridge", bridge)),
        (network, None) => interface("network").with_child(Element::new("source").with("network", network)),
    };
    card.with_child(Element::new("model").with("type", "virtio"))
}
