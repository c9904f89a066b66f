//! Opening everything that a guest needs, before there is a process for it.
//!
//! What must be taken away again when the guest is over, or never came to be, is in [`Leftovers`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ostler_disk::open::{DiskOptions, Format};
use ostler_launch::porter::{Errand, Plugs};
use ostler_launch::{firmware, open_image, open_vga_bios};
use ostler_netio::OpenTap;
use ostler_switchd::cable::Cable;
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::{
    AcceleratorSpec, BootSpec, ConsoleSpec, DiskBus, DiskDevice, DiskFormat, DiskSpec, DisplaySpec,
    FirmwareSpec, GdbSpec, GuestSpec, Guid, KernelSpec, MacAddress, NetBackend, NetModel, NetSpec, OnReset,
    PciSpec, RootPortSpec, SPEC_VERSION, ShareSpec, Slot, SoftEngine, VariablesSpec, VsockSpec,
    default_machine, newest_machine,
};
use rustix::fs::Mode;

use super::cable;
use super::direct;
use super::host_memory;
use super::macvtap::{self, Macvtap};
use super::options::{
    ConsoleOption, DiskOption, DisplayOption, EngineOption, GdbOption, GenerationIdOption, NetOption,
    RunArgs, ShareOption, ShareSource, Switch, VsockOption,
};
use super::pmem;
use crate::failure::Failure;
use crate::usernet;

/// Queue pairs of a network card at most.
const MAX_QUEUE_PAIRS: u32 = 8;

/// Files that belong to this run of the guest; dropping it removes them.
#[derive(Default)]
pub struct Leftovers {
    /// Removed at the end.
    sockets: Vec<PathBuf>,
    /// Removed only if the guest never starts.
    made: Vec<PathBuf>,
    /// Ended with the guest.
    networks: Vec<usernet::Process>,
    /// Deleted at the end.
    macvtaps: Vec<Macvtap>,
}

impl Leftovers {
    /// The guest runs: what was made for it stays.
    pub fn keep_made(&mut self) {
        self.made.clear();
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for path in self.sockets.iter().chain(&self.made) {
            // Someone else may have tidied up.
            let _ = fs::remove_file(path);
        }
    }
}

/// A guest whose parts are open.
pub struct Opened {
    pub spec: GuestSpec,
    pub descriptors: Descriptors,
    /// Our end of the console that is in the terminal.
    pub console: Option<UnixStream>,
    pub leftovers: Leftovers,
    /// The cards' ways to switches.
    pub cables: Vec<Cable>,
}

/// Checks and opens what `args` name. `kvm` is /dev/kvm, or `None` for the software CPU.
pub fn open(args: &RunArgs, kvm: Option<OwnedFd>) -> Result<Opened, Failure> {
    host_memory::check(args.memory.now)?;
    let serial = args.serial.clone().unwrap_or(match args.console {
        ConsoleOption::Stdio => ConsoleOption::None,
        _ => ConsoleOption::Stdio,
    });
    let in_terminal =
        [&serial, &args.console, &args.debug_console].map(|where_to| *where_to == ConsoleOption::Stdio);
    if in_terminal.into_iter().filter(|it| *it).count() > 1 {
        return Err(Failure::bad_input(
            "two of --serial, --console and --debug-console cannot both have the terminal; give one of them a file",
        ));
    }
    let mut descriptors = Descriptors::new();
    let firmware = match &args.firmware {
        Some(which) => {
            let store = firmware::Store {
                kept: args.nvram.as_deref(),
                template: None,
            };
            Some(firmware::open(which, store)?)
        }
        None => None,
    };
    let mut kernel = match &args.kernel {
        Some(kernel) => Some(open_kernel(kernel, args, &mut descriptors)?),
        None => None,
    };
    let disks = open_disks(args, &mut descriptors)?;
    let display = open_display(args, &mut descriptors)?;
    if kernel.is_none()
        && firmware.is_none()
        && let (Some(disk), Some(option)) = (disks.first(), args.disks.first())
        && let Some(file) = disk.file
    {
        let file = descriptors.duplicate(file).map_err(Failure::failed)?;
        let append = &args.append;
        kernel = Some(direct::open(
            &option.path,
            file.into(),
            append,
            args.memory.now,
            &mut descriptors,
        )?);
    }
    // The kernel's worker writes to guest RAM behind the software CPU's back.
    let vhost = kvm.is_some();
    let mut cables = Vec::new();
    // What leaves traces comes last, when nothing else can be wrong any more.
    let mut leftovers = Leftovers::default();
    let mut plugs = Plugs::new();
    let ends = Ends {
        leftovers: &mut leftovers,
        cables: &mut cables,
        plugs: &mut plugs,
    };
    let nets = open_nets(args, vhost, &mut descriptors, ends)?;
    let mut terminal = None;
    let mut console = |option: &ConsoleOption, descriptors: &mut Descriptors| {
        open_console(option, descriptors, &mut leftovers, &mut terminal)
    };
    let serial = console(&serial, &mut descriptors)?;
    let virtio_console = console(&args.console, &mut descriptors)?;
    let debug = console(&args.debug_console, &mut descriptors)?;
    let control = match &args.control {
        Some(path) => Some(descriptors.push(listen(path, &mut leftovers)?)),
        None => None,
    };
    let gdb = open_gdb(args, &mut descriptors, &mut leftovers)?;
    let shares = open_shares(&args.shares, &mut descriptors, &mut plugs)?;
    let vsock = match &args.vsock {
        Some(option) => Some(open_vsock(option, &mut descriptors, &mut leftovers, &mut plugs)?),
        None => None,
    };
    let pmem = pmem::open(&args.pmem, &mut descriptors, &mut leftovers.made)?;
    let boot = match (kernel, firmware) {
        (Some(kernel), _) => BootSpec::Kernel(kernel),
        (None, Some(firmware)) => BootSpec::Firmware(FirmwareSpec {
            code: descriptors.push(firmware.code),
            variables: firmware.variables.map(|(file, kept)| VariablesSpec {
                file: descriptors.push(file),
                kept,
            }),
            smm: firmware.smm,
            boot_order: Vec::new(),
            boot_menu: args.boot_menu.map(|seconds| seconds.saturating_mul(1000)),
            debug,
        }),
        // The command line's grammar asks for one of them.
        (None, None) => return Err(Failure::bad_input("a guest needs --kernel, --firmware or --disk")),
    };
    let accelerator = match kvm {
        Some(device) => AcceleratorSpec::Kvm {
            device: descriptors.push(device),
        },
        None => AcceleratorSpec::Soft {
            engine: match args.cpu_engine {
                EngineOption::Interpreter => SoftEngine::Interpreter,
                EngineOption::Translator => SoftEngine::Translator,
            },
        },
    };
    let generation_id = match args.vm_generation_id {
        None => None,
        Some(GenerationIdOption::Guid(guid)) => Some(guid),
        Some(GenerationIdOption::Auto) => Some(random_guid()?),
    };
    let pci = places(args);
    let spec = GuestSpec {
        version: SPEC_VERSION,
        name: args.name.clone(),
        machine: match pci {
            Some(_) => newest_machine(),
            None => default_machine(),
        },
        accelerator,
        cpu_model: args.cpu.clone(),
        cpus: args.cpus.now,
        max_cpus: args.cpus.most,
        memory: args.memory.now,
        max_memory: args.memory.most,
        huge_pages: args.huge_pages,
        boot,
        disks,
        nets,
        display,
        serial,
        console: virtio_console,
        channels: Vec::new(),
        rngs: u32::from(args.rng == Switch::On),
        balloon: args.balloon.0,
        vsock,
        shares,
        pmem,
        pci,
        watchdog: args.watchdog,
        generation_id,
        rtc_offset: args.rtc.offset()?,
        suspend: true,
        debug_exit: args.debug_exit,
        test_device: args.test_device,
        on_reset: if args.no_reboot {
            OnReset::End
        } else {
            OnReset::Restart
        },
        ends_with_parent: true,
        control,
        gdb,
    };
    spec.validate(descriptors.len()).map_err(Failure::bad_input)?;
    if !plugs.is_empty() {
        // It ends by itself once the guest's process has.
        plugs.start()?;
    }
    Ok(Opened {
        spec,
        descriptors,
        console: terminal,
        leftovers,
        cables,
    })
}

fn random_guid() -> Result<Guid, Failure> {
    let mut bytes = [0; 16];
    let mut source =
        File::open("/dev/urandom").map_err(|e| cannot("read", "file", Path::new("/dev/urandom"), &e))?;
    source
        .read_exact(&mut bytes)
        .map_err(|e| cannot("read", "file", Path::new("/dev/urandom"), &e))?;
    Ok(Guid::from_random(bytes))
}

fn open_kernel(kernel: &Path, args: &RunArgs, descriptors: &mut Descriptors) -> Result<KernelSpec, Failure> {
    let kernel = descriptors.push(open_image("kernel", kernel)?);
    let initrd = match &args.initrd {
        Some(path) => {
            let file = open_image("initial RAM disk", path)?;
            let size = file.metadata().map_or(0, |meta| meta.len());
            if size >= args.memory.now {
                return Err(Failure::bad_input(format!(
                    "the initial RAM disk \"{}\" of {} MiB does not fit into {} MiB of guest memory; raise --memory",
                    path.display(),
                    size.div_ceil(1 << 20),
                    args.memory.now >> 20
                )));
            }
            Some(descriptors.push(file))
        }
        None => None,
    };
    Ok(KernelSpec {
        kernel,
        initrd,
        command_line: args.append.clone(),
    })
}

/// Opens what a BIOS runs for the display.
fn open_display(args: &RunArgs, descriptors: &mut Descriptors) -> Result<Option<DisplaySpec>, Failure> {
    if args.display == DisplayOption::None {
        return Ok(None);
    }
    let plain = args.display == DisplayOption::BochsDisplay;
    let rom = match args.firmware {
        Some(_) if !plain => open_vga_bios()?.map(|file| descriptors.push(file)),
        _ => None,
    };
    Ok(Some(DisplaySpec { rom, plain }))
}

/// Opens the disks, and after them what is in the CD-ROM drives.
/// Where devices are on PCI, if the user says so of any.
fn places(args: &RunArgs) -> Option<PciSpec> {
    let disks = args.disks.iter().map(|disk| disk.place).enumerate();
    let disks = disks.map(|(index, place)| (format!("disk{index}"), place));
    let cards = args.nets.iter().filter(|card| card.net != NetOption::None);
    let cards = cards.map(|card| card.place).enumerate();
    let cards = cards.map(|(index, place)| (format!("net{index}"), place));
    let placed = disks
        .chain(cards)
        .filter_map(|(name, place)| Some((name, place?)));
    let ports = (1..).zip(&args.root_ports).map(|(number, port)| RootPortSpec {
        bus: port.bus.unwrap_or(number),
        place: port.place,
        number: port.place.0.slot << 3 | port.place.0.function,
        fixed: false,
    });
    let spec = PciSpec {
        ports: (!args.root_ports.is_empty()).then(|| ports.collect()),
        devices: placed.collect(),
    };
    (spec != PciSpec::default()).then_some(spec)
}

fn open_disks(args: &RunArgs, descriptors: &mut Descriptors) -> Result<Vec<DiskSpec>, Failure> {
    let mut disks = Vec::new();
    for disk in &args.disks {
        disks.push(open_disk(disks.len(), disk, descriptors)?);
    }
    for path in &args.cdroms {
        let medium = DiskOption {
            path: path.clone(),
            format: DiskFormat::Raw,
            bus: DiskBus::Sata,
            readonly: true,
            place: None,
        };
        disks.push(DiskSpec {
            device: DiskDevice::Cdrom,
            ..open_disk(disks.len(), &medium, descriptors)?
        });
    }
    Ok(disks)
}

fn open_disk(index: usize, disk: &DiskOption, descriptors: &mut Descriptors) -> Result<DiskSpec, Failure> {
    let format = match disk.format {
        DiskFormat::Raw => Format::Raw,
    };
    let options = DiskOptions {
        format,
        readonly: disk.readonly,
        direct: false,
    };
    let file = ostler_disk::open::open(&disk.path, options).map_err(Failure::bad_input)?;
    Ok(DiskSpec {
        file: Some(descriptors.push(file)),
        format: disk.format,
        bus: disk.bus,
        device: DiskDevice::Disk,
        readonly: disk.readonly,
        serial: format!("disk{index}"),
    })
}

/// What cards are minded by, as long as the guest runs.
struct Ends<'a> {
    leftovers: &'a mut Leftovers,
    cables: &'a mut Vec<Cable>,
    plugs: &'a mut Plugs,
}

fn open_nets(
    args: &RunArgs,
    vhost: bool,
    descriptors: &mut Descriptors,
    ends: Ends<'_>,
) -> Result<Vec<NetSpec>, Failure> {
    let mut nets = Vec::new();
    for (index, option) in args.nets.iter().enumerate() {
        let or_derived = |mac: &Option<MacAddress>| {
            mac.unwrap_or_else(|| MacAddress::derived(&format!("{}/{index}", args.name)))
        };
        // Only virtio has several queues, and rings that the kernel's worker understands.
        let (pairs, vhost) = match option.model {
            NetModel::Virtio => (args.cpus.now.min(MAX_QUEUE_PAIRS) as usize, vhost),
            NetModel::E1000e => (1, false),
        };
        let (backend, mac) = match &option.net {
            NetOption::None => continue,
            NetOption::Tap(tap) => {
                let opened = ostler_netio::open_tap(&tap.name, pairs, vhost).map_err(Failure::bad_input)?;
                (push_tap(opened, tap.whole, descriptors), &tap.mac)
            }
            NetOption::Direct(direct) => {
                let (made, opened) = macvtap::make(direct, or_derived(&direct.mac), pairs, vhost)?;
                ends.leftovers.macvtaps.push(made);
                (push_tap(opened, false, descriptors), &direct.mac)
            }
            NetOption::Socket { path, mac } => {
                let socket = ostler_netio::connect_socket(path).map_err(Failure::bad_input)?;
                (
                    NetBackend::Socket {
                        connection: descriptors.push(socket),
                        headers: false,
                    },
                    mac,
                )
            }
            NetOption::User(user) => {
                let mac = or_derived(&user.mac);
                let (process, cable) = usernet::start(&user.config(mac, &args.name))?;
                ends.leftovers.networks.push(process);
                let backend = NetBackend::Socket {
                    connection: descriptors.push(cable),
                    headers: true,
                };
                (backend, &user.mac)
            }
            NetOption::VhostUser(option) => {
                let plug = ends.plugs.add_back_end(&option.path, option.listens)?;
                let plug = descriptors.push(plug);
                (NetBackend::VhostUser { plug }, &option.mac)
            }
            NetOption::Switch(option) => {
                let (cable, plug) = cable::lay(option, &args.name, index)?;
                ends.cables.push(cable);
                let plug = descriptors.push(plug);
                (NetBackend::Switch { plug }, &option.mac)
            }
        };
        let mac = or_derived(mac);
        nets.push(NetSpec {
            model: option.model,
            backend,
            mac,
        });
    }
    Ok(nets)
}

fn push_tap(tap: OpenTap, whole: bool, descriptors: &mut Descriptors) -> NetBackend {
    let mut push_all =
        |files: Vec<File>| -> Vec<Slot> { files.into_iter().map(|f| descriptors.push(f)).collect() };
    NetBackend::Tap {
        queues: push_all(tap.queues),
        vhost: push_all(tap.vhost),
        mtu: tap.mtu,
        whole,
    }
}

fn open_console(
    option: &ConsoleOption,
    descriptors: &mut Descriptors,
    leftovers: &mut Leftovers,
    terminal: &mut Option<UnixStream>,
) -> Result<ConsoleSpec, Failure> {
    Ok(match option {
        ConsoleOption::None => ConsoleSpec::None,
        ConsoleOption::Stdio => {
            let (ours, theirs) =
                UnixStream::pair().map_err(|e| Failure::failed(format!("no socket pair: {e}")))?;
            *terminal = Some(ours);
            ConsoleSpec::Terminal {
                stream: descriptors.push(theirs),
            }
        }
        ConsoleOption::File(path) => ConsoleSpec::File {
            file: descriptors.push(open_log(path, leftovers)?),
        },
        ConsoleOption::Socket(path) => ConsoleSpec::Socket {
            listener: descriptors.push(listen(path, leftovers)?),
        },
    })
}

fn open_vsock(
    option: &VsockOption,
    descriptors: &mut Descriptors,
    leftovers: &mut Leftovers,
    plugs: &mut Plugs,
) -> Result<VsockSpec, Failure> {
    let path = option.path.clone();
    let listener = descriptors.push(listen(&path, leftovers)?);
    let plug = descriptors.push(plugs.add(Errand::Vsock { path })?);
    Ok(VsockSpec {
        cid: option.cid,
        listener,
        plug: Some(plug),
    })
}

fn open_shares(
    options: &[ShareOption],
    descriptors: &mut Descriptors,
    plugs: &mut Plugs,
) -> Result<Vec<ShareSpec>, Failure> {
    let mut shares = Vec::new();
    for ShareOption {
        tag,
        readonly,
        source,
    } in options
    {
        let errand = match source {
            ShareSource::Folder(dir) => Errand::share_folder(dir)?,
            ShareSource::Socket(path) => Errand::share_socket(path)?,
        };
        shares.push(ShareSpec {
            tag: tag.clone(),
            readonly: *readonly,
            plug: descriptors.push(plugs.add(errand)?),
        });
    }
    Ok(shares)
}

/// Listens for a debugger.
fn open_gdb(
    args: &RunArgs,
    descriptors: &mut Descriptors,
    leftovers: &mut Leftovers,
) -> Result<Option<GdbSpec>, Failure> {
    let listener: OwnedFd = match &args.gdb {
        None => return Ok(None),
        Some(GdbOption::Socket(path)) => listen(path, leftovers)?.into(),
        Some(GdbOption::Tcp(address)) => TcpListener::bind(address)
            .map_err(|error| {
                Failure::bad_input(format!(
                    "cannot listen for a debugger at {address}: {error}; choose another port"
                ))
            })?
            .into(),
    };
    Ok(Some(GdbSpec {
        listener: descriptors.push(listener),
        wait: args.gdb_wait,
    }))
}

/// Opens a file that a console's output is appended to.
fn open_log(path: &Path, leftovers: &mut Leftovers) -> Result<File, Failure> {
    let refused = |error: io::Error| cannot("write the console to", "file", path, &error);
    let append = || {
        let mut options = OpenOptions::new();
        // A named pipe without a reader is refused instead of waited for.
        options
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK);
        options
    };
    match append().create_new(true).open(path) {
        Ok(file) => {
            leftovers.made.push(path.into());
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => append().open(path).map_err(refused),
        Err(error) => Err(refused(error)),
    }
}

/// Listens at `path`, for this user only. A socket that a dead process left there is replaced.
fn listen(path: &Path, leftovers: &mut Leftovers) -> Result<UnixListener, Failure> {
    let refused = |error: io::Error| cannot("listen at", "socket", path, &error);
    if let Ok(meta) = fs::symlink_metadata(path)
        && meta.file_type().is_socket()
    {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(refused)?;
            }
            Ok(_) => {
                return Err(Failure::bad_input(format!(
                    "the socket \"{}\" is in use by another process; choose another path",
                    path.display()
                )));
            }
            Err(error) => return Err(refused(error)),
        }
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(refused)?;
    leftovers.sockets.push(path.into());
    Ok(listener)
}

fn cannot(action: &str, what: &str, path: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder".into(),
        io::ErrorKind::PermissionDenied => "you have no permission".into(),
        _ => error.to_string(),
    };
    Failure::bad_input(format!("cannot {action} {what} \"{}\": {why}", path.display()))
}
