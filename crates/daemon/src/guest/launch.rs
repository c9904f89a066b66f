//! Starting a guest: everything that it needs is opened here, and handed to a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ostler_disk::open::{DiskOptions, Format};
use ostler_launch::porter::{Errand, Plugs};
use ostler_launch::{Started, firmware, open_image};
use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, RemoteError};
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::link::FromGuest;
use ostler_vmm::spec::{
    AcceleratorSpec, BootSpec, ConsoleSpec, DiskBus, DiskDevice, DiskFormat, DiskSpec, DisplaySpec,
    FirmwareSpec, GdbSpec, GuestSpec, KernelSpec, NetSpec, PmemSpec, SPEC_VERSION, ShareSpec, SoftEngine,
    VariablesSpec, VsockSpec, rng_name,
};

use super::cards::{self, Surroundings};
use super::{Attached, Outside, RunFiles, streams};
use crate::OpenKvm;
use crate::domains::plan::{
    Boot, Disk, DisplayModel, MEMORY_DEVICE, Persistent, Plan, Share, ShareSource, Store,
};
use crate::groups::{Groups, Limits};

/// What a guest is started with.
pub struct Launch<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub plan: &'a Plan,
    /// Where its sockets go.
    pub files: &'a RunFiles,
    /// Where the daemon keeps the variables of its firmware.
    pub variables: &'a Path,
    /// Those who have its networks and volumes.
    pub outside: &'a Outside,
    /// Whether its CPUs are held until somebody lets them go.
    pub paused: bool,
    /// Its CID, if it has a vsock.
    pub cid: Option<u32>,
    /// Seconds by which its real-time clock is ahead of UTC.
    pub rtc_offset: i64,
    /// Control groups, where it gets one.
    pub groups: &'a Groups,
    /// By which its group is called.
    pub uuid: &'a Uuid,
    /// What its group is for.
    pub limits: Limits,
}

/// The devices of a guest by their aliases, and the files that were made for them. Until they are taken out, interfaces and files that
/// were made are deleted with them.
#[derive(Default)]
struct Devices(BTreeMap<String, Attached>, Vec<PathBuf>);

impl Devices {
    fn keep(mut self) -> BTreeMap<String, Attached> {
        self.1.clear();
        std::mem::take(&mut self.0)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        for attached in self.0.values() {
            attached.delete_port();
        }
        for path in &self.1 {
            // Nobody has written to it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Starts the guest, which runs when this returns. Its process outlives ours. Returns its devices as its process knows them; they are told to
/// `note` before there is a process that could outlive us unnoted.
pub fn launch(
    launch: &Launch<'_>,
    kvm: &OpenKvm,
    note: impl FnOnce(&BTreeMap<String, Attached>) -> Result<(), RemoteError>,
) -> Result<BTreeMap<String, Attached>, RemoteError> {
    let mut devices = Devices::default();
    let mut descriptors = Descriptors::new();
    let spec = open(launch, kvm, &mut descriptors, &mut devices)?;
    spec.validate(descriptors.len())
        .map_err(|error| RemoteError::new(Code::ConfigUnsupported, error.to_string()))?;
    let log = launch.files.folder.join("log");
    let log = File::options().append(true).create(true).open(&log);
    let log =
        log.map_err(|e| RemoteError::new(Code::Internal, format!("cannot write the guest's log: {e}")))?;
    let group = match launch.limits.ask() {
        true => Some(launch.groups.make(launch.uuid, &launch.limits)?),
        false => None,
    };
    let place = |process: u32| {
        let Some(group) = &group else { return Ok(()) };
        let limited = group.limit(&launch.limits).and_then(|()| group.enter(process));
        limited.map_err(|error| error.detail)
    };
    note(&devices.0)?;
    let started = ostler_launch::start_placed(&spec, descriptors, Some(log), place)
        .map_err(|why| RemoteError::new(Code::OperationFailed, format!("the guest does not start: {why}")))?;
    attend(started, launch.name.into());
    Ok(devices.keep())
}

/// Notes what the process says to its parent, and sees it to its end.
fn attend(started: Started, name: String) {
    let attend = move || {
        let mut started = started;
        while let Ok(Some(message)) = started.receiver.receive::<FromGuest>() {
            match message {
                FromGuest::Note { message } => crate::log::note!("guest {name}: {message}"),
                FromGuest::Ended(outcome) => crate::log::note!("guest {name} ended: {outcome:?}"),
                FromGuest::Started | FromGuest::Refused { .. } => {}
            }
        }
        // Nobody else waits for it.
        let _ = started.child.wait();
    };
    if let Err(error) = std::thread::Builder::new().name("child".into()).spawn(attend) {
        crate::log::note!("a guest's process stays listed after its end: {error}");
    }
}

fn open(
    launch: &Launch<'_>,
    kvm: &OpenKvm,
    descriptors: &mut Descriptors,
    devices: &mut Devices,
) -> Result<GuestSpec, RemoteError> {
    let Launch { plan, files, .. } = launch;
    let accelerator = if plan.kvm {
        let device = kvm().map_err(|why| RemoteError::new(Code::ConfigUnsupported, why))?;
        AcceleratorSpec::Kvm {
            device: descriptors.push(device),
        }
    } else {
        AcceleratorSpec::Soft {
            engine: SoftEngine::Translator,
        }
    };
    let boot = open_boot(&plan.boot, launch.variables, descriptors)?;
    let display = open_display(plan, descriptors)?;
    let disks = open_disks(launch, descriptors, devices)?;
    let opened = streams::open(&plan.streams, files, descriptors)?;
    let control = Some(descriptors.push(streams::listen(&files.control())?));
    let gdb = match launch.paused {
        true => Some(GdbSpec {
            listener: descriptors.push(streams::listen(&files.gdb())?),
            wait: true,
        }),
        false => None,
    };
    if let Some(memory) = &plan.memory_device {
        let attached = Attached::built(MEMORY_DEVICE.into());
        devices.0.insert(memory.alias.clone(), attached);
    }
    let rngs = (0..).map(rng_name).zip(&plan.rngs);
    let rngs = rngs.map(|(id, alias)| (alias.clone(), Attached::built(id)));
    devices.0.extend(rngs);
    let pmem = open_persistent(&plan.persistent, descriptors, devices)?;
    let mut plugs = Plugs::new();
    let shares = open_shares(&plan.shares, descriptors, devices, &mut plugs)?;
    let vsock = match (&plan.vsock, launch.cid) {
        (Some(vsock), Some(cid)) => {
            devices
                .0
                .insert(vsock.alias.clone(), Attached::built("vsock".into()));
            let path = files.vsock();
            let listener = descriptors.push(streams::listen(&path)?);
            let plug = plugs.add(Errand::Vsock { path }).map_err(failed)?;
            Some(VsockSpec {
                cid,
                listener,
                plug: Some(descriptors.push(plug)),
            })
        }
        _ => None,
    };
    // What leaves traces on the host comes last, when nothing else can be wrong any more.
    let nets = open_cards(launch, descriptors, devices)?;
    if !plugs.is_empty() {
        cards::reap(plugs.start().map_err(failed)?, "porter");
    }
    Ok(GuestSpec {
        version: SPEC_VERSION,
        name: launch.name.into(),
        machine: plan.machine.clone(),
        accelerator,
        cpu_model: plan.cpu_model.clone(),
        cpus: plan.vcpus,
        max_cpus: plan.max_vcpus,
        memory: plan.memory,
        huge_pages: plan.huge_pages,
        max_memory: plan
            .memory_device
            .as_ref()
            .map(|device| plan.memory + device.size),
        pmem,
        boot,
        disks,
        nets,
        display,
        serial: opened.serial,
        console: opened.console,
        channels: opened.channels,
        rngs: plan.rngs.len() as u32,
        balloon: plan.balloon,
        vsock,
        shares,
        pci: plan.pci.clone(),
        watchdog: plan.watchdog,
        generation_id: plan.generation_id,
        rtc_offset: launch.rtc_offset,
        suspend: plan.suspend,
        debug_exit: false,
        test_device: false,
        on_reset: plan.on_reset,
        ends_with_parent: false,
        control,
        gdb,
    })
}

fn failed(error: impl std::fmt::Display) -> RemoteError {
    RemoteError::new(Code::OperationFailed, error.to_string())
}

fn open_boot(boot: &Boot, own: &Path, descriptors: &mut Descriptors) -> Result<BootSpec, RemoteError> {
    let mut image = |what: &str, path: &Path| -> Result<_, RemoteError> {
        Ok(descriptors.push(open_image(what, path).map_err(failed)?))
    };
    Ok(match boot {
        Boot::Kernel {
            kernel,
            initrd,
            command_line,
        } => BootSpec::Kernel(KernelSpec {
            kernel: image("kernel", kernel)?,
            initrd: match initrd {
                Some(path) => Some(image("initial RAM disk", path)?),
                None => None,
            },
            command_line: command_line.clone(),
        }),
        Boot::Firmware {
            choice,
            store,
            template,
            order,
            menu,
        } => {
            let store = firmware::Store {
                kept: match store {
                    Store::Nowhere => None,
                    Store::Own => Some(own),
                    Store::File(path) => Some(path),
                },
                template: template.as_deref(),
            };
            let opened = firmware::open(choice, store).map_err(failed)?;
            BootSpec::Firmware(FirmwareSpec {
                code: descriptors.push(opened.code),
                variables: opened.variables.map(|(file, kept)| VariablesSpec {
                    file: descriptors.push(file),
                    kept,
                }),
                smm: opened.smm,
                boot_order: order.clone(),
                boot_menu: *menu,
                debug: ConsoleSpec::None,
            })
        }
    })
}

/// A display, with what a BIOS runs for it. Without firmware there is nobody to run it.
fn open_display(plan: &Plan, descriptors: &mut Descriptors) -> Result<Option<DisplaySpec>, RemoteError> {
    let Some(display) = plan.display else {
        return Ok(None);
    };
    let plain = display == DisplayModel::Plain;
    let rom = match plan.boot {
        Boot::Firmware { .. } if !plain => firmware::open_vga_bios().map_err(failed)?,
        _ => None,
    };
    let rom = rom.map(|file| descriptors.push(file));
    Ok(Some(DisplaySpec { rom, plain }))
}

/// Opens a disk's image and locks it. Returns it with its path, or nothing for a CD-ROM drive that is empty.
pub fn open_image_of(disk: &Disk, outside: &Outside) -> Result<Option<(File, PathBuf)>, RemoteError> {
    let Some(image) = &disk.image else {
        return Ok(None);
    };
    let path = outside.path_of(image)?;
    let options = DiskOptions {
        format: Format::Raw,
        readonly: disk.readonly,
        direct: disk.direct,
    };
    let file = ostler_disk::open::open(&path, options).map_err(failed)?;
    Ok(Some((file, path)))
}

fn open_disks(
    launch: &Launch<'_>,
    descriptors: &mut Descriptors,
    devices: &mut Devices,
) -> Result<Vec<DiskSpec>, RemoteError> {
    let mut opened = Vec::new();
    for disk in &launch.plan.disks {
        devices.0.insert(
            disk.alias.clone(),
            Attached::built(format!("disk{}", opened.len())),
        );
        opened.push(DiskSpec {
            file: open_image_of(disk, launch.outside)?.map(|(file, _)| descriptors.push(file)),
            format: DiskFormat::Raw,
            bus: if disk.sata { DiskBus::Sata } else { DiskBus::Virtio },
            device: match disk.cdrom {
                true => DiskDevice::Cdrom,
                false => DiskDevice::Disk,
            },
            readonly: disk.readonly,
            serial: disk.serial.clone(),
        });
    }
    Ok(opened)
}

/// Files that are memory.
fn open_persistent(
    files: &[Persistent],
    descriptors: &mut Descriptors,
    devices: &mut Devices,
) -> Result<Vec<PmemSpec>, RemoteError> {
    let mut opened = Vec::new();
    for file in files {
        let found = ostler_launch::pmem::open(&file.path, Some(file.size), file.readonly).map_err(failed)?;
        if found.made {
            devices.1.push(file.path.clone());
        }
        let id = format!("pmem{}", opened.len());
        devices.0.insert(file.alias.clone(), Attached::built(id));
        opened.push(PmemSpec {
            file: descriptors.push(found.file),
            size: found.size,
            readonly: file.readonly,
        });
    }
    Ok(opened)
}

/// What the porter does for a share.
pub fn errand_of(share: &Share) -> Result<Errand, RemoteError> {
    let errand = match &share.source {
        ShareSource::Folder(dir) => Errand::share_folder(dir),
        ShareSource::Socket(path) => Errand::share_socket(path),
    };
    errand.map_err(failed)
}

/// Folders of the host. The porter that brings virtiofsd is not ours: it lives as long as the guest does.
fn open_shares(
    shares: &[Share],
    descriptors: &mut Descriptors,
    devices: &mut Devices,
    plugs: &mut Plugs,
) -> Result<Vec<ShareSpec>, RemoteError> {
    let mut opened = Vec::new();
    for share in shares {
        let plug = plugs.add(errand_of(share)?).map_err(failed)?;
        let id = format!("fs{}", opened.len());
        devices.0.insert(share.alias.clone(), Attached::built(id));
        opened.push(ShareSpec {
            tag: share.tag.clone(),
            readonly: share.readonly,
            plug: descriptors.push(plug),
        });
    }
    Ok(opened)
}

fn open_cards(
    launch: &Launch<'_>,
    descriptors: &mut Descriptors,
    devices: &mut Devices,
) -> Result<Vec<NetSpec>, RemoteError> {
    let around = Surroundings {
        guest: launch.name,
        cpus: launch.plan.vcpus,
        // The kernel's worker writes to guest RAM behind the software CPU's back.
        vhost: launch.plan.kvm,
        outside: launch.outside,
    };
    let mut nets = Vec::new();
    for card in &launch.plan.cards {
        let connection = cards::connect(card, &around)?;
        let attached = Attached::built(format!("net{}", nets.len())).with_port(&connection);
        devices.0.insert(card.alias.clone(), attached);
        nets.push(NetSpec {
            model: card.model,
            backend: connection.into_backend(descriptors),
            mac: card.mac,
        });
    }
    Ok(nets)
}
