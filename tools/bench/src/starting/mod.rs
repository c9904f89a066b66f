//! `./bench start`: how long it takes to firmware's first instruction, to a kernel that is found on a disk, and until a disk that is
//! plugged in is there for the guest.
//!
//! | file | holds |
//! |---|---|
//! | `files` | what the guests are started from: images of firmware, a disk to boot from |
//! | `table` | what is shown, and the bars |

mod files;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::beside::{Figures, Table};
use crate::control::Control;
use crate::error::Error;
use crate::first::SIGN;
use crate::running::{Running, milliseconds_to};
use crate::side::{Machine, Side};
use crate::{Common, proc, report};
use files::Files;

/// How often a kernel is started in a round, from a file and from a disk in turns: one start differs from the next by more than the two ways do.
const STARTS: usize = 7;
/// QEMU's port that the disk is plugged into.
const PORT: &str = "root1";
/// The line of a guest that waits for the disk, and that of one that has it.
const READY: &str = "BENCH ready";
const THERE: &str = "BENCH there";
/// How the first line of Linux begins, after its time.
const FIRST_LINE: &str = "[    0.000000] Linux version";

/// Measures the way to firmware, to a kernel on a disk, and of a disk into a guest that runs, beside QEMU's.
#[derive(clap::Args, Debug)]
pub(crate) struct StartOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Measures, prints and writes. True if every bar is met.
pub(crate) fn run(common: &Common, options: &StartOptions) -> Result<bool, Error> {
    let free_cpus = proc::free_cpus(Duration::from_secs(1));
    let files = Files::prepare(common)?;
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        for side in [Side::Ours, Side::Peer] {
            eprintln!("round {round} of {}: {}", options.rounds, side.name());
            one_round(common, &files, side, &mut figures)?;
        }
    }
    let table = Table::new(table::LINES, free_cpus, options.rounds, 0.0, &figures);
    print!("{}", table.text());
    let path = common.json.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("target/bench-start.json"));
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(table.all_met())
}

fn one_round(common: &Common, files: &Files, side: Side, figures: &mut Figures) -> Result<(), Error> {
    let whose = table::whose(side);
    for (name, image) in files.firmware() {
        let mut command = with_firmware(common, side, &image);
        figures.add(name, whose, milliseconds_to(side, &mut command, SIGN)?);
    }
    let (mut beside, mut on_disk) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        beside.push(to_line(side, &mut side.command(common, &files.machine()))?);
        if side == Side::Ours {
            on_disk.push(to_line(
                side,
                &mut with_kernel_on_disk(common, &files.bootable()),
            )?);
        }
    }
    let beside = median(beside);
    figures.add("kernel", whose, beside);
    if side == Side::Ours {
        let on_disk = median(on_disk);
        figures.add("kernel on disk", whose, on_disk);
        figures.add("kernel on disk, more", whose, on_disk - beside);
    }
    figures.add("plug", whose, to_plugged_disk(common, files, side)?);
    Ok(())
}

/// A guest that does what its firmware says.
fn with_firmware(common: &Common, side: Side, image: &Path) -> Command {
    let mut command;
    match side {
        Side::Ours => {
            command = Command::new(&common.ostler);
            command.args(["run", "--no-reboot", "--memory", "512M", "--accel", &common.accel]);
            command.arg("--firmware").arg(image);
        }
        Side::Peer => {
            command = Command::new(&common.qemu);
            command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
            command.args(["-serial", "stdio", "-no-reboot", "-m", "512M"]);
            command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
            command.arg("-bios").arg(image);
        }
    }
    command
}

/// A guest of ours whose kernel has to be found on the disk.
fn with_kernel_on_disk(common: &Common, disk: &Path) -> Command {
    let mut command = Command::new(&common.ostler);
    command.args(["run", "--no-reboot", "--memory", "512M", "--accel", &common.accel]);
    command.arg("--disk").arg(disk);
    command
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Milliseconds from a start to Linux's first line.
fn to_line(side: Side, command: &mut Command) -> Result<f64, Error> {
    let since = Instant::now();
    Running::start(side, command)?.expect(FIRST_LINE)?;
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds from the command that plugs a disk in to the guest's word that it is there.
fn to_plugged_disk(common: &Common, files: &Files, side: Side) -> Result<f64, Error> {
    let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
    let socket = folder.path().join("control");
    let machine = Machine {
        append: "console=ttyS0 panic=-1 quiet",
        disk: None,
        ..files.machine()
    };
    let mut command = side.command(common, &machine);
    match side {
        Side::Ours => command.arg("--control").arg(&socket),
        Side::Peer => command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(["-device", &format!("pcie-root-port,id={PORT},chassis=1,slot=1")]),
    };
    let mut guest = Running::start(side, &mut command)?;
    guest.expect(READY)?;
    let mut control = Control::connect(&socket)?;
    let image = files.plugged();
    let image = File::options()
        .read(true)
        .write(true)
        .open(image)
        .map_err(|e| Error::Read(image.into(), e))?;
    let file = json!({ "driver": "file", "filename": "/dev/fdset/1" });
    let since = Instant::now();
    control.add_fd(1, &image)?;
    control.execute(
        "blockdev-add",
        json!({ "driver": "raw", "node-name": "plugged", "file": file }),
    )?;
    let mut device = json!({ "driver": "virtio-blk-pci", "id": "disk", "drive": "plugged" });
    if side == Side::Peer {
        device["bus"] = PORT.into();
    }
    control.execute("device_add", device)?;
    guest.expect(THERE)?;
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

/// What the guest does: it looks all the time whether the disk is there.
fn script() -> String {
    format!(
        "dmesg -n 1\necho {READY}\nuntil [ -b /dev/vda ]; do usleep 1000; done\necho {THERE}\nwhile :; do sleep 60; done\n"
    )
}
