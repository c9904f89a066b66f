//! The two sides: how the same guest is started on each.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use rustix::io_uring::{io_uring_params, io_uring_setup};

use crate::{Common, network};

/// Who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Ostler.
    Ours,
    /// QEMU.
    Peer,
}

/// What QEMU runs guests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerAccel {
    /// Its own software CPU.
    Tcg,
    /// KVM; the card's frames by the kernel's worker, if `vhost`.
    Kvm { vhost: bool },
}

/// A guest, the same on both sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) append: &'a str,
    pub(crate) disk: Option<&'a Path>,
    pub(crate) network: bool,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    /// How ours executes, where that is not left to it.
    pub(crate) engine: Option<&'a str>,
    /// Our accelerator, where it is not the one that the user chose.
    pub(crate) accel: Option<&'a str>,
    pub(crate) peer_accel: PeerAccel,
}

impl<'a> Machine<'a> {
    /// One CPU, little memory, nothing else.
    pub(crate) fn bare(kernel: &'a Path) -> Self {
        Self {
            kernel,
            initrd: None,
            append: "",
            disk: None,
            network: false,
            cpus: 1,
            memory_mib: 512,
            engine: None,
            accel: None,
            peer_accel: PeerAccel::Tcg,
        }
    }
}

impl Side {
    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Ours => "ostler",
            Side::Peer => "qemu",
        }
    }

    /// The command that starts `machine`, its serial port on standard output.
    pub(crate) fn command(self, common: &Common, machine: &Machine<'_>) -> Command {
        match self {
            Side::Ours => ours(common, machine),
            Side::Peer => peer(common, machine),
        }
    }
}

fn ours(common: &Common, machine: &Machine<'_>) -> Command {
    let mut command = Command::new(&common.ostler);
    let accel = machine.accel.unwrap_or(&common.accel);
    command.args(["run", "--no-reboot", "--accel", accel]);
    if let Some(engine) = machine.engine {
        command.args(["--cpu-engine", engine]);
    }
    command.args([
        "--cpus",
        &machine.cpus.to_string(),
        "--memory",
        &format!("{}M", machine.memory_mib),
    ]);
    command.arg("--kernel").arg(machine.kernel);
    if let Some(initrd) = machine.initrd {
        command
            .arg("--initrd")
            .arg(initrd)
            .args(["--append", machine.append]);
    }
    if let Some(disk) = machine.disk {
        command.arg("--disk").arg(disk);
    }
    if machine.network {
        command.arg("--net").arg(format!("tap={}", network::TAP));
    }
    command
}

fn peer(common: &Common, machine: &Machine<'_>) -> Command {
    let mut command = Command::new(&common.qemu);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    let accel = match machine.peer_accel {
        PeerAccel::Tcg => "tcg,thread=multi",
        PeerAccel::Kvm { .. } => "kvm",
    };
    command.args(["-machine", "q35", "-accel", accel, "-cpu", "max"]);
    command.args([
        "-smp",
        &machine.cpus.to_string(),
        "-m",
        &format!("{}M", machine.memory_mib),
    ]);
    command.arg("-kernel").arg(machine.kernel);
    if let Some(initrd) = machine.initrd {
        command
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", machine.append]);
    }
    if let Some(disk) = machine.disk {
        let mut drive = OsString::from(format!("if=none,id=disk,format=raw,aio={},file=", qemu_aio()));
        drive.push(disk);
        command
            .arg("-drive")
            .arg(drive)
            .args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    if machine.network {
        let mut tap = format!("tap,id=net,ifname={},script=no,downscript=no", network::TAP);
        if machine.peer_accel == (PeerAccel::Kvm { vhost: true }) {
            tap += ",vhost=on";
        }
        command
            .arg("-netdev")
            .arg(tap)
            .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    }
    command
}

/// How QEMU reads and writes files.
pub(crate) fn qemu_aio() -> &'static str {
    if host_has_io_uring() {
        "io_uring"
    } else {
        "threads"
    }
}

/// True if the host lets programs use io_uring: QEMU does not start with it where it is refused.
fn host_has_io_uring() -> bool {
    let mut parameters = io_uring_params::default();
    // SAFETY: the parameters are a valid request for a plain ring, which is closed again at once.
    unsafe { io_uring_setup(1, &mut parameters) }.is_ok()
}
