//! What a guest is: the validated specification that a guest's process is started with.
//!
//! It names no path. Everything that has to be opened was opened by the process that starts the guest, and comes as a
//! [`Slot`]: an index into the descriptors that are handed over beside the specification.

mod guid;
mod mac;
mod places;
mod pmem;
mod size;

pub use ostler_machine::MachineType;
use serde::{Deserialize, Serialize};

pub use guid::Guid;
pub use mac::MacAddress;
pub use places::{DISPLAY, PciPlace, PciSpec, RootPortSpec, WATCHDOG, rng_name};
pub use pmem::{MAX_PMEM, PmemSpec, check_pmem_size};
pub use size::{format_size, parse_size};

use crate::Error;

/// Longest name of a share, in bytes.
pub const MAX_TAG: usize = ostler_vhost_user::fs::MAX_TAG;
/// Version of the specification's format; a process refuses any other.
pub const SPEC_VERSION: u32 = 1;
/// Most vCPUs of a guest: what both the CPU models and the machine can have.
pub const MAX_CPUS: u32 = if ostler_machine::MAX_CPUS < ostler_accel::model::MAX_CPUS {
    ostler_machine::MAX_CPUS
} else {
    ostler_accel::model::MAX_CPUS
};
/// Least RAM of a guest, in bytes: the ISA memory below 1 MiB and something to run in.
pub const MIN_MEMORY: u64 = 2 << 20;
/// Most bytes by which a guest can grow.
pub const MAX_MORE_MEMORY: u64 = 1 << 40;
/// Most virtio disks, network cards and other devices of a guest together: the root bus has 15 slots, console and entropy source
/// take two.
pub const MAX_DEVICES: usize = 13;
/// Most SATA drives of a guest: the ports of its controller.
pub const MAX_SATA_DRIVES: usize = ostler_ahci::PORTS;
/// Longest kernel command line, in bytes (boot protocols have lower limits of their own).
pub const MAX_COMMAND_LINE: usize = 65_535;
/// Longest name, in bytes.
pub const MAX_NAME: usize = 128;
/// Most named ports of a guest.
pub const MAX_CHANNELS: usize = 14;
/// Longest name of a port, in bytes.
pub const MAX_CHANNEL_NAME: usize = 64;

/// Index of a descriptor in the hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// What the guest is called.
    pub name: String,
    /// Name of the platform's version, which a guest keeps for life.
    #[serde(default = "default_machine")]
    pub machine: String,
    /// What runs its instructions.
    pub accelerator: AcceleratorSpec,
    /// Named CPU model.
    pub cpu_model: String,
    /// Number of vCPUs at the start.
    pub cpus: u32,
    /// Number of vCPUs that there can be, where they come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<u32>,
    /// RAM in bytes at the start.
    pub memory: u64,
    /// Bytes of the host's huge pages that RAM is in, 0 for those of its default size; `None` for ordinary pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<u64>,
    /// RAM in bytes that there can be, where memory comes and goes (virtio-mem).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<u64>,
    /// What it starts with.
    pub boot: BootSpec,
    /// Disks: virtio ones in the order of their slots, SATA drives in that of their ports.
    pub disks: Vec<DiskSpec>,
    /// Network cards, in the order of their slots.
    pub nets: Vec<NetSpec>,
    /// The display, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<DisplaySpec>,
    /// Where the 16550 at COM1 leads.
    pub serial: ConsoleSpec,
    /// Where the virtio console leads; `None` for no such device.
    pub console: ConsoleSpec,
    /// Named ports beside the virtio console, which the guest sees as `/dev/virtio-ports/NAME`.
    #[serde(default)]
    pub channels: Vec<ChannelSpec>,
    /// How many virtio entropy sources there are.
    pub rngs: u32,
    /// The memory balloon, if there is one.
    #[serde(default)]
    pub balloon: Option<BalloonSpec>,
    /// Sockets between guest and host, if it has them.
    #[serde(default)]
    pub vsock: Option<VsockSpec>,
    /// Folders of the host, in the order of their slots.
    #[serde(default)]
    pub shares: Vec<ShareSpec>,
    /// Files that are memory of the guest, in the order of their slots and addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<PmemSpec>,
    /// Where devices are on PCI, and its root ports; `None` for one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<PciSpec>,
    /// What happens when the guest lets its watchdog run out; `None` for no watchdog.
    #[serde(default)]
    pub watchdog: Option<WatchdogAction>,
    /// The VM generation ID; `None` for no such device.
    #[serde(default)]
    pub generation_id: Option<Guid>,
    /// Seconds by which the real-time clock is ahead of the host's (UTC) at the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rtc_offset: i64,
    /// Whether it can sleep (ACPI S3), where what it starts with can be woken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// The isa-debug-exit port at 0xf4 that ends the guest with a status of its choice.
    pub debug_exit: bool,
    /// The port block that test kernels expect.
    pub test_device: bool,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Whether the guest ends when the process that started it goes away.
    pub ends_with_parent: bool,
    /// The listening control socket.
    pub control: Option<Slot>,
    /// Where a debugger may come in.
    #[serde(default)]
    pub gdb: Option<GdbSpec>,
}

/// A display: VGA with Bochs' VBE registers, or a plain frame buffer with these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisplaySpec {
    /// What a BIOS runs for it; UEFI and systems have drivers of their own.
    #[serde(default)]
    pub rom: Option<Slot>,
    /// There is nothing of VGA.
    #[serde(default)]
    pub plain: bool,
}

/// A memory balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonSpec {
    /// Whether the guest may take pages back by itself when it runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether the guest may report pages that it does not use at the moment.
    pub free_page_reporting: bool,
}

/// Sockets between guest and host (virtio-vsock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// The guest's CID, one of [`ostler_virtio::vsock::GUEST_CIDS`].
    pub cid: u32,
    /// The listening socket at which the host's clients come in.
    pub listener: Slot,
    /// The plug by which the guest's own connections are made (see [`ostler_virtio::vsock`]); without it there are none.
    pub plug: Option<Slot>,
}

/// A folder of the host that the guest mounts (virtio-fs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSpec {
    /// The name by which the guest mounts it: 1 to [`MAX_TAG`] bytes.
    pub tag: String,
    /// Whether the guest may only read.
    #[serde(default)]
    pub readonly: bool,
    /// The plug through which connections to a virtiofsd come (see [`ostler_vhost_user::fs`]).
    pub plug: Slot,
}

/// What happens when a guest lets its watchdog run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// The machine is reset.
    #[default]
    Reset,
    /// Its power button is pressed.
    Shutdown,
    /// It is switched off.
    Poweroff,
    /// Its CPUs are held.
    Pause,
    /// Nothing; the event is all there is.
    None,
    /// Nothing but a line in the log.
    Debug,
    /// Its CPUs get an NMI.
    InjectNmi,
}

impl WatchdogAction {
    /// Every action.
    pub const ALL: [Self; 7] = [
        Self::Reset,
        Self::Shutdown,
        Self::Poweroff,
        Self::Pause,
        Self::None,
        Self::Debug,
        Self::InjectNmi,
    ];

    /// The name in options and in the control protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
            Self::Poweroff => "poweroff",
            Self::Pause => "pause",
            Self::None => "none",
            Self::Debug => "debug",
            Self::InjectNmi => "inject-nmi",
        }
    }

    /// The action with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// A debugger's way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GdbSpec {
    /// The listening stream socket.
    pub listener: Slot,
    /// Whether the guest starts paused.
    pub wait: bool,
}

/// What runs guest instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AcceleratorSpec {
    /// The host's KVM.
    Kvm {
        /// /dev/kvm.
        device: Slot,
    },
    /// x86-64 in software.
    Soft {
        /// How it executes.
        engine: SoftEngine,
    },
}

/// How the software CPU executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoftEngine {
    /// Every instruction is interpreted.
    Interpreter,
    /// What is executed often is translated.
    Translator,
}

impl AcceleratorSpec {
    /// The name on the command line and in the control protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kvm { .. } => "kvm",
            Self::Soft { .. } => "soft",
        }
    }
}

/// What a guest starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BootSpec {
    /// A kernel, without firmware.
    Kernel(KernelSpec),
    /// Firmware, which boots from the guest's disks in their order.
    Firmware(FirmwareSpec),
}

impl BootSpec {
    /// True if it can be woken from a sleep. UEFI keeps what it needs for that in system management memory, or not at all.
    pub fn can_wake(&self) -> bool {
        match self {
            Self::Kernel(_) => true,
            Self::Firmware(firmware) => firmware.variables.is_none(),
        }
    }
}

/// Firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareSpec {
    /// The image.
    pub code: Slot,
    /// The store of its variables, if it has one: then both are flash, else the image is ROM.
    pub variables: Option<VariablesSpec>,
    /// It needs system management mode.
    #[serde(default)]
    pub smm: bool,
    /// The disks that it tries to start from, in this order, as indices; empty for all in theirs.
    #[serde(default)]
    pub boot_order: Vec<u32>,
    /// For how many milliseconds a boot menu is offered.
    pub boot_menu: Option<u16>,
    /// Where its debug output goes.
    pub debug: ConsoleSpec,
}

/// The variables of firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariablesSpec {
    /// What they are at the start.
    pub file: Slot,
    /// Whether the guest's changes are written to the file, or end with the guest.
    pub kept: bool,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSpec {
    /// The kernel image.
    pub kernel: Slot,
    /// The initial RAM disk.
    pub initrd: Option<Slot>,
    /// The kernel command line.
    pub command_line: String,
}

/// How the bytes of a disk image are laid out. Never guessed from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk's sectors in order.
    Raw,
}

/// What a disk is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// A PCI device of its own.
    #[default]
    Virtio,
    /// A port of the SATA controller.
    Sata,
}

/// What kind of drive a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskDevice {
    /// A disk.
    #[default]
    Disk,
    /// A CD-ROM drive with its medium.
    Cdrom,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image or block device, opened and locked; only a CD-ROM drive may have none.
    #[serde(default)]
    pub file: Option<Slot>,
    /// Its layout.
    pub format: DiskFormat,
    /// What it is connected to.
    #[serde(default)]
    pub bus: DiskBus,
    /// Disk or CD-ROM drive.
    #[serde(default)]
    pub device: DiskDevice,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Serial number that the guest sees; at most 20 bytes.
    pub serial: String,
}

/// What a network card is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetModel {
    /// A virtio network card.
    #[default]
    Virtio,
    /// Intel's 82574L, for guests without virtio.
    E1000e,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// What it is.
    #[serde(default)]
    pub model: NetModel,
    /// Where its frames go.
    pub backend: NetBackend,
    /// Its address.
    pub mac: MacAddress,
}

/// Where a network card's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetBackend {
    /// A tap of the host.
    Tap {
        /// One descriptor for each queue pair.
        queues: Vec<Slot>,
        /// /dev/vhost-net, one descriptor for each queue pair, or none to move frames in this process.
        vhost: Vec<Slot>,
        /// The interface's MTU, if it is known.
        mtu: Option<u16>,
        /// Frames are whole: the guest computes its checksums and cuts its segments itself, and gets neither left to it.
        #[serde(default)]
        whole: bool,
    },
    /// A connected unix socket.
    Socket {
        /// The connection.
        connection: Slot,
        /// Frames have their virtio-net headers on the wire, for a peer of our own.
        #[serde(default)]
        headers: bool,
    },
    /// A back end of vhost-user.
    VhostUser {
        /// A socket to the guest's porter, through which connections to the back end come.
        plug: Slot,
    },
    /// The host's switch.
    Switch {
        /// A socket to the process that started the guest, through which connections to the switch come.
        plug: Slot,
    },
}

/// Where a console's bytes go to and come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ConsoleSpec {
    /// No one reads or writes it.
    None,
    /// The terminal of the process that started the guest, through a stream socket.
    Terminal {
        /// Our end of the socket.
        stream: Slot,
    },
    /// Output is appended to a file; there is no input.
    File {
        /// The file, opened for appending.
        file: Slot,
    },
    /// Clients of a unix socket; each sees the history first.
    Socket {
        /// The listening socket.
        listener: Slot,
    },
}

/// A named port of the virtio console's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSpec {
    /// The name by which the guest finds it, 1 to [`MAX_CHANNEL_NAME`] bytes.
    pub name: String,
    /// Where it leads.
    pub leads_to: ConsoleSpec,
}

/// What happens when the guest resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It boots again.
    Restart,
    /// Its process ends.
    End,
}

impl GuestSpec {
    /// Checks everything that can be checked without looking at the host or into the descriptors.
    pub fn validate(&self, descriptors: usize) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::Specification(message));
        if self.version != SPEC_VERSION {
            return refuse(format!(
                "the specification has version {}, this program reads {SPEC_VERSION}",
                self.version
            ));
        }
        check_name(&self.name)?;
        self.machine_type()?;
        check_cpus(u64::from(self.cpus))?;
        if let Some(most) = self.max_memory {
            check_max_memory(self.memory, most)?;
        }
        check_max_cpus(self.cpus, self.most_cpus().into())?;
        check_memory(self.memory)?;
        check_huge_pages(self.huge_pages)?;
        if self.huge_pages.is_some() && self.max_memory.is_some() {
            return refuse(
                "memory that comes and goes is not in huge pages; leave out one of the two".into(),
            );
        }
        if let BootSpec::Kernel(kernel) = &self.boot
            && (kernel.command_line.len() > MAX_COMMAND_LINE || kernel.command_line.contains('\0'))
        {
            return refuse(format!(
                "the kernel command line must have at most {MAX_COMMAND_LINE} bytes and no NUL"
            ));
        }
        let sata = self.disks.iter().filter(|disk| disk.bus == DiskBus::Sata).count();
        if self.disks.len() - sata + self.nets.len() + self.further_devices() > MAX_DEVICES {
            return refuse(format!(
                "a guest has at most {MAX_DEVICES} virtio disks, network cards and further devices together"
            ));
        }
        self.places()?;
        self.check_boot_order()?;
        self.check_channels()?;
        self.check_shares()?;
        for pmem in &self.pmem {
            check_pmem_size(pmem.size)?;
        }
        if sata > MAX_SATA_DRIVES {
            return refuse(format!(
                "a guest has at most {MAX_SATA_DRIVES} SATA disks and CD-ROM drives together, not {sata}"
            ));
        }
        if let Some(vsock) = self.vsock {
            check_cid(vsock.cid.into())?;
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.device == DiskDevice::Cdrom)
            && (disk.bus != DiskBus::Sata || !disk.readonly)
        {
            return refuse("a CD-ROM drive is a SATA drive and read-only".into());
        }
        if let Some(index) = self
            .disks
            .iter()
            .position(|disk| disk.file.is_none() && disk.device != DiskDevice::Cdrom)
        {
            return refuse(format!(
                "disk {index} has no image; only a CD-ROM drive may be empty"
            ));
        }
        if let Some(disk) = self
            .disks
            .iter()
            .find(|d| d.serial.len() > 20 || !d.serial.is_ascii())
        {
            return refuse(format!(
                "the disk serial number {:?} is longer than 20 ASCII characters",
                disk.serial
            ));
        }
        match self
            .slots()
            .into_iter()
            .find(|slot| slot.0 as usize >= descriptors)
        {
            Some(slot) => refuse(format!(
                "the specification names descriptor {} of only {descriptors} handed over",
                slot.0
            )),
            None => Ok(()),
        }
    }

    /// A disk can be tried once.
    fn check_boot_order(&self) -> Result<(), Error> {
        let BootSpec::Firmware(firmware) = &self.boot else {
            return Ok(());
        };
        let mut seen = vec![false; self.disks.len()];
        for &index in &firmware.boot_order {
            match seen.get_mut(index as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return Err(Error::Specification(format!(
                        "disk {index} of the boot order is not there, or there twice"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_channels(&self) -> Result<(), Error> {
        if self.channels.len() > MAX_CHANNELS {
            return Err(Error::Specification(format!(
                "a guest has at most {MAX_CHANNELS} named ports, not {}",
                self.channels.len()
            )));
        }
        for (at, ChannelSpec { name, .. }) in self.channels.iter().enumerate() {
            let twice = self.channels[..at].iter().any(|other| other.name == *name);
            let bad = name.is_empty() || name.len() > MAX_CHANNEL_NAME || name.chars().any(char::is_control);
            if bad || twice {
                return Err(Error::Specification(format!(
                    "the port name {name:?} must be there once, with 1 to {MAX_CHANNEL_NAME} bytes and no control characters"
                )));
            }
        }
        Ok(())
    }

    fn check_shares(&self) -> Result<(), Error> {
        for (at, ShareSpec { tag, .. }) in self.shares.iter().enumerate() {
            check_tag(tag)?;
            if self.shares[..at].iter().any(|other| other.tag == *tag) {
                return Err(Error::Specification(format!("two shares have the tag {tag:?}")));
            }
        }
        Ok(())
    }

    /// The version of the platform that it names.
    pub fn machine_type(&self) -> Result<MachineType, Error> {
        MachineType::from_name(&self.machine).ok_or_else(|| {
            let known = MachineType::ALL.map(MachineType::name).join(", ");
            Error::Specification(format!(
                "the machine type {:?} is not known; known types: {known}",
                self.machine
            ))
        })
    }

    /// How many vCPUs there can be.
    pub fn most_cpus(&self) -> u32 {
        self.max_cpus.unwrap_or(self.cpus)
    }

    /// Devices on the root bus beside disks, cards, console and entropy source.
    fn further_devices(&self) -> usize {
        self.rngs.saturating_sub(1) as usize
            + usize::from(self.balloon.is_some())
            + usize::from(self.watchdog.is_some())
            + usize::from(self.vsock.is_some())
            + self.shares.len()
            + usize::from(self.max_memory.is_some())
            + self.pmem.len()
    }

    /// Every descriptor that the specification names.
    fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.control.into_iter().collect();
        slots.extend(self.gdb.iter().map(|gdb| gdb.listener));
        slots.extend(self.display.and_then(|display| display.rom));
        if let Some(vsock) = &self.vsock {
            slots.push(vsock.listener);
            slots.extend(vsock.plug);
        }
        slots.extend(self.shares.iter().map(|share| share.plug));
        slots.extend(self.pmem.iter().map(|pmem| pmem.file));
        match &self.boot {
            BootSpec::Kernel(kernel) => {
                slots.push(kernel.kernel);
                slots.extend(kernel.initrd);
            }
            BootSpec::Firmware(firmware) => {
                slots.push(firmware.code);
                slots.extend(firmware.variables.iter().map(|variables| variables.file));
            }
        }
        if let AcceleratorSpec::Kvm { device } = self.accelerator {
            slots.push(device);
        }
        slots.extend(self.disks.iter().filter_map(|disk| disk.file));
        for net in &self.nets {
            match &net.backend {
                NetBackend::Tap { queues, vhost, .. } => slots.extend(queues.iter().chain(vhost)),
                NetBackend::Socket { connection: slot, .. }
                | NetBackend::VhostUser { plug: slot }
                | NetBackend::Switch { plug: slot } => slots.push(*slot),
            }
        }
        let debug = match &self.boot {
            BootSpec::Firmware(firmware) => &firmware.debug,
            BootSpec::Kernel(_) => &ConsoleSpec::None,
        };
        let channels = self.channels.iter().map(|channel| &channel.leads_to);
        for console in [&self.serial, &self.console, debug].into_iter().chain(channels) {
            match console {
                ConsoleSpec::None => {}
                ConsoleSpec::Terminal { stream: slot }
                | ConsoleSpec::File { file: slot }
                | ConsoleSpec::Socket { listener: slot } => slots.push(*slot),
            }
        }
        slots
    }
}

/// The newest machine type.
pub fn newest_machine() -> String {
    MachineType::NEWEST.name().into()
}

/// The machine type of a guest whose specification names none.
pub fn default_machine() -> String {
    MachineType::default().name().into()
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A name is 1 to [`MAX_NAME`] bytes without control characters and slashes.
pub fn check_name(name: &str) -> Result<(), Error> {
    let bad = name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c == '/');
    if bad {
        return Err(Error::Specification(format!(
            "the name {name:?} must have 1 to {MAX_NAME} bytes, without slashes and control characters"
        )));
    }
    Ok(())
}

/// A guest has 1 to [`MAX_CPUS`] CPUs.
pub fn check_cpus(cpus: u64) -> Result<(), Error> {
    if cpus == 0 || cpus > u64::from(MAX_CPUS) {
        return Err(Error::Specification(format!(
            "a guest has 1 to {MAX_CPUS} CPUs, not {cpus}; change --cpus"
        )));
    }
    Ok(())
}

/// A share's tag has 1 to [`MAX_TAG`] bytes without control characters.
pub fn check_tag(tag: &str) -> Result<(), Error> {
    if tag.is_empty() || tag.len() > MAX_TAG || tag.chars().any(char::is_control) {
        return Err(Error::Specification(format!(
            "the tag {tag:?} of a share must have 1 to {MAX_TAG} bytes and no control characters"
        )));
    }
    Ok(())
}

/// There can be as many CPUs as there are, or more, up to [`MAX_CPUS`].
pub fn check_max_cpus(cpus: u32, most: u64) -> Result<(), Error> {
    if most < u64::from(cpus) || most > u64::from(MAX_CPUS) {
        return Err(Error::Specification(format!(
            "a guest that starts with {cpus} CPUs can have {cpus} to {MAX_CPUS} of them, not {most}; change --cpus"
        )));
    }
    Ok(())
}

/// A guest's CID is one of [`ostler_virtio::vsock::GUEST_CIDS`].
pub fn check_cid(cid: u64) -> Result<u32, Error> {
    let cids = ostler_virtio::vsock::GUEST_CIDS;
    let good = u32::try_from(cid).ok().filter(|cid| cids.contains(cid));
    good.ok_or_else(|| {
        Error::Specification(format!(
            "a guest's CID is one of {} to {}, not {cid}; the host has 2",
            cids.start(),
            cids.end()
        ))
    })
}

/// Huge pages have a power of two bytes, or the host's default size.
pub fn check_huge_pages(size: Option<u64>) -> Result<(), Error> {
    match size {
        Some(size) if size != 0 && !(size.is_power_of_two() && size > 4096) => Err(Error::Specification(
            format!("there are no huge pages of {size} bytes; x86 hosts have 2M and 1G"),
        )),
        _ => Ok(()),
    }
}

/// RAM is at least [`MIN_MEMORY`] and a multiple of 4 KiB.
pub fn check_memory(bytes: u64) -> Result<(), Error> {
    if bytes < MIN_MEMORY || !bytes.is_multiple_of(4096) {
        return Err(Error::Specification(format!(
            "guest memory of {bytes} bytes must be a multiple of 4096 and at least {}; change --memory",
            format_size(MIN_MEMORY)
        )));
    }
    Ok(())
}

/// What can come later is at least one block of virtio-mem, and at most [`MAX_MORE_MEMORY`].
pub fn check_max_memory(memory: u64, most: u64) -> Result<(), Error> {
    let block = ostler_virtio::mem::LEAST_BLOCK;
    let good = most
        .checked_sub(memory)
        .is_some_and(|more| more > 0 && more <= MAX_MORE_MEMORY && more.is_multiple_of(block));
    if good {
        return Ok(());
    }
    Err(Error::Specification(format!(
        "a guest of {} cannot grow to {}: what it grows by is a multiple of {}, up to {}; change --memory",
        format_size(memory),
        format_size(most),
        format_size(block),
        format_size(MAX_MORE_MEMORY)
    )))
}

#[cfg(test)]
pub(crate) mod tests;
