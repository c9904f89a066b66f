//! The options of `ostler run`, and the grammar of their values: an idea a file.

mod boot;
mod devices;
mod disk;
mod net;
mod pci;
mod places;
mod pmem;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ostler_launch::RtcStart;
use ostler_vmm::spec::{self, WatchdogAction, parse_size};

pub use boot::FirmwareOption;
pub use devices::{BalloonOption, GenerationIdOption, ShareOption, ShareSource, VsockOption};
pub use disk::DiskOption;
pub use net::{CardOption, DirectOption, NetOption, SwitchOption};
pub use pci::RootPortOption;
pub use places::{ConsoleOption, GdbOption};
pub use pmem::PmemOption;

use super::outcome;
use boot::parse_firmware;
use devices::{parse_balloon, parse_generation_id, parse_share, parse_vsock, parse_watchdog};
use disk::parse_disk;
use net::parse_card;
use pci::parse_root_port;
use places::{parse_console, parse_gdb};
use pmem::parse_pmem;

/// Options of `ostler run`.
#[derive(Args, Debug)]
#[command(after_help = outcome::help())]
pub struct RunArgs {
    /// Kernel to boot: bzImage, ELF vmlinux (PVH) or Multiboot. [default: that of the system on the first disk]
    #[arg(long, value_name = "FILE", required_unless_present_any = ["firmware", "disks"])]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with = "firmware")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; for the system on a disk, what comes after its own.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true,
        conflicts_with = "firmware"
    )]
    pub append: String,
    /// Start with firmware instead of a kernel, and boot from the disks: bios (SeaBIOS), uefi (OVMF), or the FILE of an image.
    #[arg(long, value_name = "WHICH", value_parser = parse_firmware, conflicts_with = "kernel")]
    pub firmware: Option<FirmwareOption>,
    /// Keep UEFI variables in FILE, made from the firmware's template if it is not there. [default: forget them]
    #[arg(long, value_name = "FILE", requires = "firmware", conflicts_with = "kernel")]
    pub nvram: Option<PathBuf>,
    /// Have the firmware offer its boot menu for so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "firmware", conflicts_with = "kernel", value_parser = clap::value_parser!(u16).range(1..=65))]
    pub boot_menu: Option<u16>,
    /// The firmware's log (ports 0x402 and 0xe9): stdio, file=FILE, socket=PATH or none.
    #[arg(long, value_name = "WHERE", default_value = "none", requires = "firmware", conflicts_with = "kernel", value_parser = parse_console)]
    pub debug_console: ConsoleOption,
    /// Disk image or block device: FILE[,format=raw][,bus=virtio|sata][,readonly][,addr=PLACE]. Repeat for more disks.
    #[arg(long = "disk", value_name = "FILE[,...]", value_parser = parse_disk)]
    pub disks: Vec<DiskOption>,
    /// CD-ROM drive with this image in it, on the SATA controller. Repeat for more drives.
    #[arg(long = "cdrom", value_name = "FILE")]
    pub cdroms: Vec<PathBuf>,
    /// Network card: user[,forward=tcp:PORT:GUESTPORT][,...], switch=NAME[,vlan=N|,trunk=1:10-20[,native=N]][,port=P][,mac=M],
    /// tap=NAME[,mac=M][,offload=off], direct=INTERFACE[,mode=bridge|private|vepa|passthrough][,mac=M] (a macvtap, which goes with the
    /// guest), vhost-user=PATH[,mode=server][,mac=M], socket=PATH[,mac=M] or none. With ,model=e1000e it is Intel's 82574L, for
    /// guests without virtio; with ,addr=PLACE it is there. Repeat for more cards.
    #[arg(long = "net", value_name = "KIND", value_parser = parse_card)]
    pub nets: Vec<CardOption>,
    /// Root port at this place of bus 00: BUS:SLOT.FUNCTION such as 00:02.0, hexadecimal, and what the bus behind it is called. A disk or
    /// card with addr=01:00.0 is behind the port of bus 01. Guests number buses in the order of the ports' places. Repeat for more
    /// ports. [default: four of them, in the slots 10 to 13]
    #[arg(long = "root-port", value_name = "PLACE[,bus=BUS]", value_parser = parse_root_port)]
    pub root_ports: Vec<RootPortOption>,
    /// Number of CPUs: N[,max=M]. With a larger M, CPUs can be plugged in and unplugged while the guest runs.
    #[arg(long, value_name = "N[,max=M]", default_value = "1", allow_negative_numbers = true, value_parser = parse_cpus)]
    pub cpus: CpuOption,
    /// RAM, such as 512M or 2G: SIZE[,max=SIZE]. With a larger max the guest can grow to that while it runs (virtio-mem), if it is
    /// asked to.
    #[arg(long, value_name = "SIZE[,max=SIZE]", default_value = "512M", value_parser = parse_memory)]
    pub memory: MemoryOption,
    /// Take RAM from huge pages of the host that were set aside: their size, such as 2M or 1G, or default. All of them are taken at
    /// the start.
    #[arg(long, value_name = "SIZE", value_parser = parse_huge_pages)]
    pub huge_pages: Option<u64>,
    /// CPU model; `ostler doctor` lists those of this host. `max,-x2apic` leaves a feature out. KVM alone can add some: `max,+svm`
    /// (or vmx, pku, kvm-asyncpf), and Hyper-V's interface, as `max,hv-relaxed,hv-time`.
    #[arg(long, value_name = "MODEL", default_value = "max")]
    pub cpu: String,
    /// What runs the guest's instructions.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelOption,
    /// How the software CPU executes.
    #[arg(long, value_enum, value_name = "ENGINE", default_value = "translator")]
    pub cpu_engine: EngineOption,
    /// Serial port: stdio, file=FILE, socket=PATH or none. [default: stdio, unless the console has it]
    #[arg(long, value_name = "WHERE", value_parser = parse_console)]
    pub serial: Option<ConsoleOption>,
    /// Virtio console: stdio, file=FILE, socket=PATH or none.
    #[arg(long, value_name = "WHERE", default_value = "none", value_parser = parse_console)]
    pub console: ConsoleOption,
    /// Display: vga, which boot loaders and systems have drivers for, or bochs-display, a frame buffer without VGA. Its picture is
    /// taken by the control socket (screendump); its keyboard is there always (send-key).
    #[arg(long, value_enum, value_name = "WHICH", default_value = "none")]
    pub display: DisplayOption,
    /// Virtio entropy source.
    #[arg(long, value_enum, value_name = "SWITCH", default_value = "on")]
    pub rng: Switch,
    /// Virtio memory balloon: on or off[,deflate-on-oom=on|off][,free-page-reporting=on|off], which are on unless switched off.
    #[arg(long, value_name = "SWITCH[,...]", default_value = "off", value_parser = parse_balloon)]
    pub balloon: BalloonOption,
    /// Sockets between guest and host: cid=N,socket=PATH. Who connects to PATH and says "CONNECT port" is at that port of the
    /// guest; the guest's connections to port P of the host come to PATH_P.
    #[arg(long, value_name = "cid=N,socket=PATH", value_parser = parse_vsock)]
    pub vsock: Option<VsockOption>,
    /// Folder of the host that the guest mounts by its tag (virtio-fs): tag=NAME,dir=FOLDER, or tag=NAME,socket=PATH of a virtiofsd that
    /// runs. With readonly=on before dir or socket it may only be read. Several are possible.
    #[arg(long = "fs", value_name = "tag=NAME,dir=FOLDER", value_parser = parse_share)]
    pub shares: Vec<ShareOption>,
    /// File that is memory of the guest, and keeps what is written there (virtio-pmem): FILE[,size=SIZE][,readonly]. With a size the
    /// file is made, or grows, if need be. Repeat for more of them.
    #[arg(long, value_name = "FILE[,...]", value_parser = parse_pmem)]
    pub pmem: Vec<PmemOption>,
    /// Watchdog (i6300esb), and what happens when the guest lets it run out: action=reset, shutdown, poweroff, pause, debug, none or
    /// inject-nmi.
    #[arg(long, value_name = "action=WHAT", value_parser = parse_watchdog)]
    pub watchdog: Option<WatchdogAction>,
    /// What the real-time clock shows at the start: utc, localtime, +SECONDS or -SECONDS from UTC, or a time such as
    /// 2026-11-28T10:30:00. Windows takes it for local time.
    #[arg(long, value_name = "TIME", default_value = "utc", allow_hyphen_values = true)]
    pub rtc: RtcStart,
    /// VM generation ID: a GUID, or auto for a random one. [default: no such device]
    #[arg(long, value_name = "GUID", value_parser = parse_generation_id)]
    pub vm_generation_id: Option<GenerationIdOption>,
    /// Unix socket for control by the QEMU Machine Protocol.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Where GDB may debug the guest: the path of a unix socket, or tcp:127.0.0.1:PORT.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_gdb)]
    pub gdb: Option<GdbOption>,
    /// Start paused, and wait for the debugger.
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// What the guest is called.
    #[arg(long, value_name = "NAME", default_value = "guest", value_parser = parse_name)]
    pub name: String,
    /// End when the guest reboots, instead of starting it again.
    #[arg(long)]
    pub no_reboot: bool,
    /// Debug exit at port 0xf4: a value V written there ends the guest with status 2 V + 1.
    #[arg(long)]
    pub debug_exit: bool,
    /// Ports that kvm-unit-tests expect: interrupts of its own, and, on KVM, messages and events of Hyper-V's interface.
    #[arg(long)]
    pub test_device: bool,
}

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// There.
    On,
    /// Not there.
    Off,
}

/// What `--display` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DisplayOption {
    /// No display.
    None,
    /// VGA with Bochs' VBE registers.
    Vga,
    /// A frame buffer with these registers and nothing of VGA, which UEFI and Linux have drivers for.
    BochsDisplay,
}

/// What `--accel` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccelOption {
    /// KVM where it runs at hardware speed, else the software CPU.
    Auto,
    /// The host's /dev/kvm, whatever its speed.
    Kvm,
    /// x86-64 in software.
    Soft,
}

/// What `--cpu-engine` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineOption {
    /// Every instruction is interpreted: to find out whether the translator is at fault.
    Interpreter,
    /// 64-bit code that is executed often is translated to host code.
    Translator,
}

/// What `--cpus` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOption {
    /// CPUs at the start.
    pub now: u32,
    /// CPUs that there can be, where they come and go.
    pub most: Option<u32>,
}

fn parse_cpus(text: &str) -> Result<CpuOption, String> {
    let (now, most) = match text.split_once(",max=") {
        Some((now, most)) => (now, Some(most)),
        None => (text, None),
    };
    let number = |text: &str| {
        let number = text.parse::<u64>();
        number.map_err(|_| format!("\"{text}\" is no number of CPUs"))
    };
    let narrow = |cpus: u64| u32::try_from(cpus).map_err(|e| e.to_string());
    let now = number(now)?;
    spec::check_cpus(now).map_err(|e| e.to_string())?;
    let now = narrow(now)?;
    let most = most.map(number).transpose()?;
    if let Some(most) = most {
        spec::check_max_cpus(now, most).map_err(|e| e.to_string())?;
    }
    let most = most.map(narrow).transpose()?.filter(|most| *most > now);
    Ok(CpuOption { now, most })
}

/// What `--memory` takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOption {
    /// At the start.
    pub now: u64,
    /// What there can be, where memory comes and goes.
    pub most: Option<u64>,
}

fn parse_memory(text: &str) -> Result<MemoryOption, String> {
    let (now, most) = match text.split_once(",max=") {
        Some((now, most)) => (now, Some(most)),
        None => (text, None),
    };
    let now = parse_size(now)?;
    spec::check_memory(now).map_err(|e| e.to_string())?;
    let most = most.map(parse_size).transpose()?;
    if let Some(most) = most {
        spec::check_max_memory(now, most).map_err(|e| e.to_string())?;
    }
    Ok(MemoryOption { now, most })
}

fn parse_huge_pages(text: &str) -> Result<u64, String> {
    let size = match text {
        "default" => 0,
        _ => parse_size(text)?,
    };
    spec::check_huge_pages(Some(size)).map_err(|e| e.to_string())?;
    Ok(size)
}

fn parse_name(text: &str) -> Result<String, String> {
    spec::check_name(text).map_err(|e| e.to_string())?;
    Ok(text.into())
}
