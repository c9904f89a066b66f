//! The two sides: how the same guest is started on each.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::{Options, network};

/// Who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Ostler.
    Ours,
    /// QEMU with TCG.
    Peer,
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
    pub(crate) fn command(self, options: &Options, machine: &Machine<'_>) -> Command {
        match self {
            Side::Ours => ours(options, machine),
            Side::Peer => peer(options, machine),
        }
    }
}

fn ours(options: &Options, machine: &Machine<'_>) -> Command {
    let mut command = Command::new(&options.ostler);
    command.args(["run", "--no-reboot", "--accel", &options.accel]);
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

fn peer(options: &Options, machine: &Machine<'_>) -> Command {
    let mut command = Command::new(&options.qemu);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max"]);
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
        let mut drive = OsString::from("if=none,id=disk,format=raw,aio=io_uring,file=");
        drive.push(disk);
        command
            .arg("-drive")
            .arg(drive)
            .args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    if machine.network {
        let tap = format!("tap,id=net,ifname={},script=no,downscript=no", network::TAP);
        command
            .arg("-netdev")
            .arg(tap)
            .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    }
    command
}
