//! Two guests that talk TCP: ours at our switch, and the same two on QEMU with taps at the kernel's bridge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::joint::{Bridge, Switch};
use super::space::ip;
use crate::Common;
use crate::beside::Figures;
use crate::error::Error;
use crate::running::Running;
use crate::side::Side;

const MEMORY: &str = "256M";
const APPEND: &str = "console=ttyS0 panic=-1 quiet";
const TAPS: [&str; 2] = ["bench-g1", "bench-g2"];
/// How long a stream is at least, so that its beginning is a small part.
const LEAST: Duration = Duration::from_secs(4);

/// Gbit/s from guest to guest on both sides.
pub(super) fn measure(common: &Common, span: Duration, figures: &mut Figures) -> Result<(), Error> {
    let seconds = span.max(LEAST).as_secs();
    let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
    let initrds = [
        initrd(common, folder.path(), 1, "/bench receive 5001")?,
        initrd(
            common,
            folder.path(),
            2,
            &format!("read line </dev/console; /bench send 10.96.0.1:5001 {seconds}"),
        )?,
    ];
    {
        let switch = Switch::start(common, "")?;
        let net = format!("switch={}", switch.control().display());
        let guest = |number: usize| ours(common, &initrds[number - 1], &net, number);
        figures.add("guests", "ours", rate(Side::Ours, [guest(1), guest(2)])?);
    }
    for tap in TAPS {
        ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
        ip(&format!("link set dev {tap} up"))?;
    }
    let bridge = Bridge::of(TAPS)?;
    let guest = |number: usize| qemu(common, &initrds[number - 1], number);
    figures.add(
        "guests",
        "QEMU TCG, kernel bridge",
        rate(Side::Peer, [guest(1), guest(2)])?,
    );
    drop(bridge);
    TAPS.iter()
        .try_for_each(|tap| ip(&format!("link delete dev {tap}")))
}

/// What the first guest received from the second.
fn rate(side: Side, [mut receiver, mut sender]: [Command; 2]) -> Result<f64, Error> {
    let mut receiver = Running::start_with_input(side, &mut receiver)?;
    receiver.expect("BENCH ready")?;
    let mut sender = Running::start_with_input(side, &mut sender)?;
    sender.expect("BENCH ready")?;
    sender.say("")?;
    Ok(receiver.rate("received")? * 8.0 / 1e9)
}

/// The initramfs of guest `number`, which then does `script`.
fn initrd(common: &Common, folder: &Path, number: u32, script: &str) -> Result<PathBuf, Error> {
    let read = |path: &Path| fs::read(path).map_err(|e| Error::Read(path.into(), e));
    let script = format!(
        "dmesg -n 1; stty -echo 2>/dev/null\n\
         ip link set eth0 up; ip address add 10.96.0.{number}/24 dev eth0\n\
         echo BENCH ready\n{script}\n"
    );
    let program = read(&common.guest_bench)?;
    let overlay = ostler_guest_image::overlay(&script, &[("bench", &program)]);
    let path = folder.join(format!("initrd{number}"));
    let image = [read(&common.guest.join("initrd.img"))?, overlay].concat();
    fs::write(&path, image).map_err(|e| Error::Write(path.clone(), e))?;
    Ok(path)
}

fn ours(common: &Common, initrd: &Path, net: &str, number: usize) -> Command {
    let mut command = Command::new(&common.ostler);
    command
        .args(["run", "--no-reboot", "--accel", &common.accel, "--cpus", "1"])
        .args(["--memory", MEMORY, "--append", APPEND])
        .args(["--name", &format!("guest{number}"), "--net"])
        .arg(format!("{net},mac=52:54:00:96:00:0{number}"))
        .arg("--kernel")
        .arg(common.guest.join("vmlinuz"))
        .arg("--initrd")
        .arg(initrd);
    command
}

fn qemu(common: &Common, initrd: &Path, number: usize) -> Command {
    let mut command = Command::new(&common.qemu);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "1",
        ])
        .args(["-m", MEMORY, "-append", APPEND])
        .arg("-netdev")
        .arg(format!(
            "tap,id=net,ifname={},script=no,downscript=no",
            TAPS[number - 1]
        ))
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:96:00:0{number}"
        ))
        .arg("-kernel")
        .arg(common.guest.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd);
    command
}
