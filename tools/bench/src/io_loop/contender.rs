//! Who runs the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::Common;
use crate::error::Error;
use crate::side::{Side, qemu_aio};

/// Bytes of the disk.
const DISK_LEN: usize = 64 << 20;
const BLOCK: usize = 4096;
const MEMORY: &str = "512M";
const APPEND: &str = "console=ttyS0 panic=-1 quiet";
/// Below the folder of the guest: Debian's ordinary kernel, which has drivers for what PCs have.
const PC: &str = "pc";
/// Silences what else the guest would send; the program waits for devices itself.
const SCRIPT: &str = "dmesg -n 1; stty -echo 2>/dev/null\n\
     echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/all/disable_ipv6\n\
     for card in /sys/class/net/eth*; do ip link set ${card##*/} up; done\n\
     /bench loop </dev/console\n\
     echo 'BENCH end'\n";

/// Somebody who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Ours, on the software CPU.
    Soft,
    /// Ours, on KVM.
    Kvm,
    /// QEMU with TCG.
    Tcg,
}

impl Contender {
    /// Those that this machine is good for, and why KVM is not among them.
    pub(super) fn all(common: &Common, ours_only: bool) -> Result<(Vec<Self>, Option<String>), Error> {
        let (fast, reason) = look_at_kvm(common)?;
        let mut all = vec![Contender::Soft];
        let kvm = fast || common.accel == "kvm";
        if kvm {
            all.push(Contender::Kvm);
        }
        if !ours_only {
            all.push(Contender::Tcg);
        }
        Ok((all, (!kvm).then_some(reason)))
    }

    /// For programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Contender::Soft => "soft",
            Contender::Kvm => "kvm",
            Contender::Tcg => "qemu-tcg",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Contender::Soft => "software CPU",
            Contender::Kvm => "KVM",
            Contender::Tcg => "QEMU TCG",
        }
    }

    pub(super) fn side(self) -> Side {
        match self {
            Contender::Soft | Contender::Kvm => Side::Ours,
            Contender::Tcg => Side::Peer,
        }
    }

    /// The command that starts the guest, its serial port on standard input and output.
    pub(super) fn command(self, common: &Common, files: &Files, places: &Places) -> Command {
        match self {
            Contender::Soft => ours(common, "soft", files, places),
            Contender::Kvm => ours(common, "kvm", files, places),
            Contender::Tcg => qemu(common, files, places),
        }
    }
}

/// Whether KVM runs at hardware speed, and what the doctor says of it.
fn look_at_kvm(common: &Common) -> Result<(bool, String), Error> {
    let output = Command::new(&common.ostler).args(["doctor", "--json"]).output();
    let output = output.map_err(|e| Error::Start(common.ostler.display().to_string(), e))?;
    let nonsense = |_| Error::Nonsense {
        side: "ostler doctor",
        line: String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    let found: Value = serde_json::from_slice(&output.stdout).map_err(nonsense)?;
    let said = |pointer| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    Ok((
        said("/auto/accelerator") == "kvm",
        said("/auto/reason").to_owned(),
    ))
}

/// What the guests are started from.
pub(crate) struct Files {
    folder: TempDir,
    kernel: PathBuf,
}

impl Files {
    pub(super) fn prepare(common: &Common) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
        let kernel = common.guest.join(PC).join("vmlinuz");
        read(&kernel)?;
        let files = Self { folder, kernel };
        let program = read(&common.guest_bench)?;
        let overlay = ostler_guest_image::overlay(SCRIPT, &[("bench", &program)]);
        let base = read(&common.guest.join(PC).join("initrd.img"))?;
        let disk = disk();
        for (name, contents) in [
            ("initrd.img", &[base, overlay].concat()),
            ("virtio.img", &disk),
            ("sata.img", &disk),
        ] {
            let path = files.path(name);
            fs::write(&path, contents).map_err(|e| Error::Write(path, e))?;
        }
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Read(path.into(), e))
}

/// A disk of blocks each of which begins with its number, so that a guest sees that it got the one it asked for.
fn disk() -> Vec<u8> {
    let mut disk = vec![0x5a; DISK_LEN];
    for (number, block) in (0u64..).zip(disk.chunks_exact_mut(BLOCK)) {
        block[..8].copy_from_slice(&number.to_le_bytes());
    }
    disk
}

/// Sockets of one guest.
pub(crate) struct Places {
    folder: TempDir,
}

impl Places {
    pub(super) fn new() -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
        Ok(Self { folder })
    }

    /// The cable of the virtio card.
    pub(super) fn virtio(&self) -> PathBuf {
        self.folder.path().join("virtio")
    }

    /// The cable of the e1000e.
    pub(super) fn intel(&self) -> PathBuf {
        self.folder.path().join("e1000e")
    }

    /// The control socket, on ours.
    pub(super) fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }
}

fn ours(common: &Common, accelerator: &str, files: &Files, places: &Places) -> Command {
    let mut command = Command::new(&common.ostler);
    command
        .args(["run", "--no-reboot", "--accel", accelerator, "--cpus", "1"])
        .args(["--memory", MEMORY, "--append", APPEND])
        .arg("--kernel")
        .arg(&files.kernel)
        .arg("--initrd")
        .arg(files.path("initrd.img"))
        .arg("--disk")
        .arg(files.path("virtio.img"))
        .arg("--disk")
        .arg(format!("{},bus=sata", files.path("sata.img").display()))
        .arg("--net")
        .arg(format!("socket={}", places.virtio().display()))
        .arg("--net")
        .arg(format!("socket={},model=e1000e", places.intel().display()))
        .arg("--control")
        .arg(places.control());
    command
}

fn qemu(common: &Common, files: &Files, places: &Places) -> Command {
    let mut command = Command::new(&common.qemu);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .args([
            "-no-reboot",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .args(["-smp", "1", "-m", MEMORY, "-append", APPEND])
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(files.path("initrd.img"));
    let disks = [
        ("virtio", "virtio-blk-pci,drive=virtio"),
        ("sata", "ide-hd,drive=sata,bus=ide.0"),
    ];
    for (name, device) in disks {
        let image = files.path(&format!("{name}.img"));
        let drive = format!(
            "if=none,id={name},format=raw,aio={},file={}",
            qemu_aio(),
            image.display()
        );
        command.args(["-drive", &drive, "-device", device]);
    }
    for (path, model) in [(places.virtio(), "virtio-net-pci"), (places.intel(), "e1000e")] {
        let path = path.display();
        let end = format!("stream,id={model},server=off,addr.type=unix,addr.path={path}");
        let device = format!("{model},netdev={model},romfile=");
        command.args(["-netdev", &end, "-device", &device]);
    }
    command
}
