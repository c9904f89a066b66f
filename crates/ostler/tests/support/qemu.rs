//! Foreign guests: the same kernel and initramfs in QEMU, which interprets them (TCG).

use std::process::{Command, Stdio};

use super::{Running, guest_folder};

pub const QEMU: &str = "qemu-system-x86_64";

/// Whether there is one. Says so if `test` cannot be here.
pub fn is_there(test: &str) -> bool {
    let there = Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !there {
        eprintln!("SKIPPED {test}: needs {QEMU} (Debian: qemu-system-x86)");
    }
    there
}

/// Starts a guest with `cpus` CPUs, memory that can be shared, and `devices`; it runs `script`, then powers off.
pub fn spawn(cpus: u32, devices: &[String], script: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd.img");
    let mut image = std::fs::read(guest_folder().join("initrd.img")).unwrap();
    image.extend(ostler_guest_image::overlay(script, &[]));
    std::fs::write(&initrd, image).unwrap();
    let mut child = Command::new(QEMU)
        .args(["-M", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max"])
        .args([
            "-object",
            "memory-backend-memfd,id=mem,size=512M,share=on",
            "-m",
            "512M",
        ])
        .args([
            "-smp",
            &cpus.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 panic=-1",
        ])
        .arg("-kernel")
        .arg(guest_folder().join("vmlinuz"))
        .arg("-initrd")
        .arg(&initrd)
        .args(devices)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    let output = child.stdout.take().unwrap();
    Running::new(child, input, output, folder)
}
