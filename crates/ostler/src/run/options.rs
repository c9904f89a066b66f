//! The options of `ostler run`, and the grammar of their values.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ostler_vmm::spec::{self, DiskBus, DiskFormat, MacAddress, parse_size};

use super::outcome;

/// Options of `ostler run`.
#[derive(Args, Debug)]
#[command(after_help = outcome::help())]
pub struct RunArgs {
    /// Kernel to boot: bzImage, ELF vmlinux (PVH) or Multiboot.
    #[arg(long, value_name = "FILE", required_unless_present = "firmware")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE", conflicts_with = "firmware")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
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
    /// Disk image or block device: FILE[,format=raw][,bus=virtio|sata][,readonly]. Repeat for more disks.
    #[arg(long = "disk", value_name = "FILE[,...]", value_parser = parse_disk)]
    pub disks: Vec<DiskOption>,
    /// CD-ROM drive with this image in it, on the SATA controller. Repeat for more drives.
    #[arg(long = "cdrom", value_name = "FILE")]
    pub cdroms: Vec<PathBuf>,
    /// Network card: tap=NAME[,mac=M], socket=PATH[,mac=M] or none. Repeat for more cards.
    #[arg(long = "net", value_name = "KIND", value_parser = parse_net)]
    pub nets: Vec<NetOption>,
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = parse_cpus)]
    pub cpus: u32,
    /// RAM, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_memory)]
    pub memory: u64,
    /// CPU model; `ostler doctor` lists those of this host. `max,-x2apic` leaves a feature out.
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
    /// Virtio entropy source.
    #[arg(long, value_enum, value_name = "SWITCH", default_value = "on")]
    pub rng: Switch,
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
    /// Port block that kvm-unit-tests expect.
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

/// What `--firmware` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareOption {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// Any image.
    File(PathBuf),
}

/// A disk as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub bus: DiskBus,
    pub readonly: bool,
}

/// A network card as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetOption {
    None,
    Tap { name: String, mac: Option<MacAddress> },
    Socket { path: PathBuf, mac: Option<MacAddress> },
}

/// Where a console leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleOption {
    Stdio,
    File(PathBuf),
    Socket(PathBuf),
    None,
}

/// Where a debugger comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GdbOption {
    Socket(PathBuf),
    /// A port of the loopback interface.
    Tcp(SocketAddr),
}

/// Longest name of a network interface, in bytes (IFNAMSIZ with its zero).
const MAX_INTERFACE: usize = 15;

fn parse_disk(text: &str) -> Result<DiskOption, String> {
    // A path may contain commas: only trailing words that are options are taken off.
    let mut rest = text;
    let (mut format, mut bus, mut readonly) = (None, None, false);
    while let Some((head, word)) = rest.rsplit_once(',') {
        match word.split_once('=') {
            None if word == "readonly" => readonly = true,
            Some(("format", "raw")) => format = Some(DiskFormat::Raw),
            Some(("format", other)) => {
                return Err(format!("there is no disk format \"{other}\"; raw is known"));
            }
            Some(("bus", "virtio")) => bus = Some(DiskBus::Virtio),
            Some(("bus", "sata")) => bus = Some(DiskBus::Sata),
            Some(("bus", other)) => {
                return Err(format!(
                    "there is no disk bus \"{other}\"; virtio and sata are known"
                ));
            }
            Some((key, _)) if !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase()) => {
                return Err(format!(
                    "a disk has no option \"{key}\"; format=raw, bus=virtio, bus=sata and readonly are known"
                ));
            }
            _ => break,
        }
        rest = head;
    }
    if rest.is_empty() {
        return Err(
            "the disk's file is missing; write FILE[,format=raw][,bus=virtio|sata][,readonly]".into(),
        );
    }
    Ok(DiskOption {
        path: rest.into(),
        format: format.unwrap_or(DiskFormat::Raw),
        bus: bus.unwrap_or_default(),
        readonly,
    })
}

fn parse_firmware(text: &str) -> Result<FirmwareOption, String> {
    match text {
        "" => Err("the firmware is missing; write bios, uefi or a file".into()),
        "bios" => Ok(FirmwareOption::Bios),
        "uefi" => Ok(FirmwareOption::Uefi),
        path => Ok(FirmwareOption::File(path.into())),
    }
}

fn parse_net(text: &str) -> Result<NetOption, String> {
    if text == "none" {
        return Ok(NetOption::None);
    }
    let usage =
        || format!("\"{text}\" is no network card; write tap=NAME[,mac=M], socket=PATH[,mac=M] or none");
    let (kind, rest) = text.split_once('=').ok_or_else(usage)?;
    let (place, mac) = match rest.rsplit_once(",mac=") {
        Some((place, mac)) => (place, Some(mac.parse()?)),
        None => (rest, None),
    };
    match kind {
        "tap" => {
            let bad = place.is_empty()
                || place.len() > MAX_INTERFACE
                || place
                    .bytes()
                    .any(|b| b <= b' ' || matches!(b, b'/' | b',' | b':' | b'%' | 0x7f));
            if bad {
                return Err(format!(
                    "\"{place}\" is no interface name of 1 to {MAX_INTERFACE} characters"
                ));
            }
            Ok(NetOption::Tap {
                name: place.into(),
                mac,
            })
        }
        "socket" if !place.is_empty() => Ok(NetOption::Socket {
            path: place.into(),
            mac,
        }),
        _ => Err(usage()),
    }
}

fn parse_console(text: &str) -> Result<ConsoleOption, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(ConsoleOption::Stdio),
        None if text == "none" => Ok(ConsoleOption::None),
        Some(("file", path)) if !path.is_empty() => Ok(ConsoleOption::File(path.into())),
        Some(("socket", path)) if !path.is_empty() => Ok(ConsoleOption::Socket(path.into())),
        _ => Err(format!(
            "\"{text}\" is nowhere; write stdio, file=FILE, socket=PATH or none"
        )),
    }
}

fn parse_gdb(text: &str) -> Result<GdbOption, String> {
    let Some(place) = text.strip_prefix("tcp:") else {
        return match text {
            "" => Err("the debugger's socket is missing; write a path or tcp:127.0.0.1:PORT".into()),
            path => Ok(GdbOption::Socket(path.into())),
        };
    };
    let address = place
        .parse::<SocketAddr>()
        .map_err(|_| format!("\"{place}\" is no address with a port; write tcp:127.0.0.1:PORT"))?;
    // Whoever reaches a debugger's socket owns the guest.
    if !address.ip().is_loopback() {
        return Err(format!(
            "\"{place}\" could be reached from other machines; write tcp:127.0.0.1:PORT, and use ssh -L from there"
        ));
    }
    Ok(GdbOption::Tcp(address))
}

fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = text
        .parse::<u64>()
        .map_err(|_| format!("\"{text}\" is no number of CPUs"))?;
    spec::check_cpus(cpus).map_err(|e| e.to_string())?;
    u32::try_from(cpus).map_err(|e| e.to_string())
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    spec::check_memory(bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn parse_name(text: &str) -> Result<String, String> {
    spec::check_name(text).map_err(|e| e.to_string())?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["run", "--kernel", "k"].iter().chain(words);
        Line::try_parse_from(words).map(|line| line.run)
    }

    #[test]
    fn the_whole_grammar_is_understood() {
        let args = parse(&[
            "--initrd",
            "i",
            "--append",
            "-v quiet",
            "--disk",
            "a.img,format=raw,readonly",
            "--disk",
            "b,c.img",
            "--disk",
            "d.img,bus=sata",
            "--cdrom",
            "e,bus=sata.iso",
            "--net",
            "tap=tap0,mac=52:54:00:12:34:56",
            "--net",
            "socket=/run/s,x",
            "--net",
            "none",
            "--cpus",
            "4",
            "--memory",
            "1G",
            "--cpu",
            "x86-64-v2",
            "--accel",
            "soft",
            "--serial",
            "file=log",
            "--console",
            "socket=con",
            "--control",
            "ctl",
            "--gdb",
            "tcp:127.0.0.1:1234",
            "--gdb-wait",
            "--name",
            "n",
            "--no-reboot",
            "--rng",
            "off",
        ])
        .unwrap();
        assert_eq!(args.append, "-v quiet");
        let disk = |path: &str, bus, readonly| DiskOption {
            path: path.into(),
            format: DiskFormat::Raw,
            bus,
            readonly,
        };
        let disks = [
            disk("a.img", DiskBus::Virtio, true),
            disk("b,c.img", DiskBus::Virtio, false),
            disk("d.img", DiskBus::Sata, false),
        ];
        assert_eq!(args.disks, disks);
        assert_eq!(args.cdroms, [PathBuf::from("e,bus=sata.iso")]);
        let mac = Some("52:54:00:12:34:56".parse().unwrap());
        assert_eq!(
            args.nets[0],
            NetOption::Tap {
                name: "tap0".into(),
                mac
            }
        );
        assert_eq!(
            args.nets[1],
            NetOption::Socket {
                path: "/run/s,x".into(),
                mac: None
            }
        );
        assert_eq!((args.cpus, args.memory), (4, 1 << 30));
        assert_eq!(args.serial, Some(ConsoleOption::File("log".into())));
        assert_eq!(args.console, ConsoleOption::Socket("con".into()));
        assert_eq!(args.gdb, Some(GdbOption::Tcp(([127, 0, 0, 1], 1234).into())));
        assert!(args.gdb_wait);
        let path = parse(&["--gdb", "run/gdb"]).unwrap();
        assert_eq!(path.gdb, Some(GdbOption::Socket("run/gdb".into())));
        assert!(parse(&["--gdb-wait"]).is_err(), "nobody could come");
    }

    #[test]
    fn bad_values_are_refused() {
        for words in [
            ["--cpus", "0"],
            ["--cpus", "1000"],
            ["--cpus", "two"],
            ["--memory", "0"],
            ["--memory", "lots"],
            ["--disk", ",readonly"],
            ["--disk", "a,format=qcow3"],
            ["--disk", "a,speed=9"],
            ["--disk", "a,bus=scsi"],
            ["--net", "bridge=br0"],
            ["--net", "tap="],
            ["--net", "tap=sixteen-letters!"],
            ["--net", "tap=../x"],
            ["--net", "tap=t,mac=ff:ff:ff:ff:ff:ff"],
            ["--serial", "tcp=1"],
            ["--serial", "file="],
            ["--accel", "turbo"],
            ["--gdb", ""],
            ["--gdb", "tcp:1234"],
            ["--gdb", "tcp:0.0.0.0:1234"],
            ["--gdb", "tcp:localhost:1234"],
            ["--name", "a/b"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_understood_or_refused(text in "[a-z=,./0-9:\\\\ ]{0,30}") {
            let _ = (parse_net(&text), parse_console(&text), parse_cpus(&text), parse_memory(&text));
            if let Ok(disk) = parse_disk(&text) {
                prop_assert!(text.starts_with(disk.path.to_str().unwrap()));
            }
        }
    }
}
