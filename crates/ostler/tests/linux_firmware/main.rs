//! Firmware, a boot loader and Linux on a disk, as an installed system has them. The firmware and the boot loader are Debian's own.

#[path = "../support/mod.rs"]
mod support;

mod debian;
mod reboot;
mod secure_boot;
mod sleep;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{OSTLER, assert_healthy, guest_folder};

/// A guest from reset to power-off. The BIOS and half of an UEFI are no 64-bit code, which the software CPU interprets.
const LIMIT: Duration = Duration::from_secs(600);

/// True if everything is there; else says what is not.
fn is_there(test: &str, paths: &[&str]) -> bool {
    let needed = ["/usr/bin/grub-mkimage", "/usr/bin/mcopy"].iter().chain(paths);
    let missing: Vec<_> = needed.filter(|path| !Path::new(path).exists()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED {test}: there is no {missing:?}; ./test installs seabios, ovmf, GRUB and mtools");
    }
    missing.is_empty()
}

/// A disk with GRUB for a BIOS and for UEFI, and with Debian's kernel and an initramfs that runs `script`.
fn make_disk(folder: &Path, script: &str, files: &[(&str, &[u8])]) {
    let overlay = ostler_guest_image::overlay(script, files);
    support::boot_disk::make_disk(folder, &guest_folder(), &overlay);
}

/// Runs `ostler run` with `args` in `folder` until it ends, or until its console has shown `until`. Returns what the console showed.
fn guest(folder: &Path, args: &[&str], until: Option<&str>) -> String {
    let console = folder.join("console");
    let _ = fs::remove_file(&console);
    let mut child = Command::new(OSTLER)
        .arg("run")
        .args(args)
        .args(["--serial", "file=console"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shown = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).replace('\r', "");
    let begun = Instant::now();
    let mut ended = None;
    while ended.is_none() && !until.is_some_and(|until| shown().contains(until)) {
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!(
                "{args:?}: no end within {LIMIT:?}; the console showed:\n{}",
                shown()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
        ended = child.try_wait().unwrap();
    }
    match ended {
        Some(status) => assert!(
            until.is_none() && status.success(),
            "{args:?}: {status}\n{}",
            shown()
        ),
        None => {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    shown()
}

/// The lines between `BEGIN name` and `END name`.
fn section<'a>(console: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("BEGIN {name}\n"), format!("END {name}\n"));
    let start = console
        .find(&begin)
        .unwrap_or_else(|| panic!("no {begin:?} on the console:\n{console}"));
    let rest = &console[start + begin.len()..];
    &rest[..rest
        .find(&end)
        .unwrap_or_else(|| panic!("no {end:?} on the console:\n{console}"))]
}

const BIOS: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/lib/grub/i386-pc/boot.img",
];
const UEFI: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/lib/grub/x86_64-efi/fat.mod",
];
/// The smaller build is 64-bit code from its start.
const SMALL_UEFI: &str = "/usr/share/OVMF/OVMF_CODE.fd";

fn is_nightly(test: &str) -> bool {
    let nightly = std::env::var_os("OSTLER_NIGHTLY").is_some();
    if !nightly {
        eprintln!("{test}: only with OSTLER_NIGHTLY, as ./test --nightly sets it");
    }
    nightly
}

/// What the guest says of where it came from.
const LOOK: &str = "echo BEGIN look\n\
     test -d /sys/firmware/efi && echo UEFI || echo BIOS\n\
     nproc\n\
     cat /sys/class/dmi/id/bios_vendor\n\
     ls /sys/firmware/acpi/tables | grep -v -e data -e dynamic | tr '\\n' ' '; echo\n\
     cat /sys/block/vda/size\n\
     echo END look\n";

#[test]
fn seabios_and_grub_boot_a_disk_to_linux() {
    let name = "seabios_and_grub_boot_a_disk_to_linux";
    if !is_there(name, BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), LOOK, &[]);
    let args = [
        "--firmware",
        "bios",
        "--disk",
        "boot.img",
        "--cpus",
        "2",
        "--no-reboot",
        "--debug-console",
        "file=log",
    ];
    let console = guest(folder.path(), &args, None);
    assert_healthy(&console);
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    for text in [
        "Found 2 cpu(s) max supported 2 cpu(s)",
        "Booting from Hard Disk...",
        "using modern (1.0) virtio mode",
    ] {
        assert!(log.contains(text), "{text}:\n{log}");
    }
    // The BIOS' text and the boot loader's are on the serial port.
    for text in ["SeaBIOS", "Booting from Hard Disk...", "THE BOOT LOADER IS UP"] {
        assert!(console.contains(text), "{text}:\n{console}");
    }
    let look = section(&console, "look");
    assert!(look.starts_with("BIOS\n2\nSeaBIOS\n"), "{look}");
    assert!(
        look.contains("APIC DSDT FACP FACS MCFG WAET") && look.contains("\n98304\n"),
        "{look}"
    );
}

#[test]
fn ovmf_and_grub_boot_a_disk_to_linux() {
    let name = "ovmf_and_grub_boot_a_disk_to_linux";
    if !is_there(name, &[UEFI, &[SMALL_UEFI]].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), LOOK, &[]);
    let args = [
        "--firmware",
        SMALL_UEFI,
        "--disk",
        "boot.img",
        "--cpus",
        "2",
        "--no-reboot",
    ];
    assert_boots_by_uefi(&guest(folder.path(), &args, None));
}

fn assert_boots_by_uefi(console: &str) {
    assert_healthy(console);
    assert!(console.contains("THE BOOT LOADER IS UP"), "{console}");
    let look = section(console, "look");
    assert!(look.starts_with("UEFI\n2\n"), "{look}");
    assert!(
        look.contains("APIC DSDT FACP FACS MCFG WAET") && look.contains("\n98304\n"),
        "{look}"
    );
}

#[test]
fn the_larger_ovmf_boots_a_disk_to_linux() {
    let name = "the_larger_ovmf_boots_a_disk_to_linux";
    if !is_nightly(name) || !is_there(name, UEFI) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), LOOK, &[]);
    let args = [
        "--firmware",
        "uefi",
        "--disk",
        "boot.img",
        "--cpus",
        "2",
        "--no-reboot",
        "--memory",
        "6G",
    ];
    assert_boots_by_uefi(&guest(folder.path(), &args, None));
}

#[test]
fn both_kinds_of_firmware_boot_the_sata_disk_that_comes_first() {
    let name = "both_kinds_of_firmware_boot_the_sata_disk_that_comes_first";
    if !is_nightly(name) || !is_there(name, &[BIOS, UEFI, &[SMALL_UEFI]].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), "", &[]);
    // Nothing can be started from this one.
    fs::write(folder.path().join("data.img"), vec![0; 1 << 20]).unwrap();
    for firmware in ["bios", SMALL_UEFI] {
        let args = [
            "--firmware",
            firmware,
            "--disk",
            "boot.img,bus=sata",
            "--disk",
            "data.img",
            "--no-reboot",
        ];
        let console = guest(folder.path(), &args, None);
        assert!(
            console.contains("THE BOOT LOADER IS UP"),
            "{firmware}:\n{console}"
        );
        assert_healthy(&console);
    }
}

#[test]
fn ovmf_without_a_bootable_disk_offers_its_shell() {
    let name = "ovmf_without_a_bootable_disk_offers_its_shell";
    if !is_nightly(name) || !is_there(name, &[SMALL_UEFI]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.img"), vec![0; 1 << 20]).unwrap();
    let args = ["--firmware", SMALL_UEFI, "--disk", "empty.img"];
    let console = guest(folder.path(), &args, Some("Shell> "));
    assert!(console.contains("UEFI Interactive Shell"), "{console}");
}

/// The module by which Linux shows UEFI's variables as files.
fn efi_variables_module() -> Vec<u8> {
    let modules = guest_folder().join("root/lib/modules");
    let version = fs::read_dir(modules).unwrap().next().unwrap().unwrap().path();
    fs::read(version.join("kernel/fs/efivarfs/efivarfs.ko")).unwrap()
}

/// The ROM's memory slots and shadow RAM on KVM; where that only emulates, Linux would take too long.
#[test]
fn seabios_reads_its_disk_on_kvm() {
    let name = "seabios_reads_its_disk_on_kvm";
    let usable = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if !usable {
        eprintln!("SKIPPED {name}: /dev/kvm cannot be opened");
        return;
    }
    if !is_there(name, BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.img"), vec![0; 1 << 20]).unwrap();
    let args = ["--firmware", "bios", "--disk", "empty.img", "--accel", "kvm"];
    guest(folder.path(), &args, Some("Boot failed: not a bootable disk"));
}

/// A variable of the test's own, as efivarfs shows it: four bytes of attributes, then the value.
const VARIABLE: &str = "/sys/firmware/efi/efivars/OstlerTest-12345678-1234-1234-1234-123456789abc";

#[test]
fn variables_are_kept_over_a_reboot_and_in_their_file() {
    let name = "variables_are_kept_over_a_reboot_and_in_their_file";
    if !is_nightly(name) || !is_there(name, &[UEFI, &[SMALL_UEFI]].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The first start writes the variable and reboots; the second, and that of the next guest, find it.
    let script = format!(
        "insmod /efivarfs.ko; mount -t efivarfs none /sys/firmware/efi/efivars || echo no efivarfs\n\
         if [ -e {VARIABLE} ]; then echo BEGIN kept; tail -c 5 {VARIABLE}; echo; echo END kept\n\
         else printf '\\007\\000\\000\\000horse' >{VARIABLE}; echo written; reboot -f; fi\n"
    );
    let module = efi_variables_module();
    make_disk(folder.path(), &script, &[("efivarfs.ko", &module)]);
    let args = ["--firmware", SMALL_UEFI, "--disk", "boot.img", "--nvram", "kept"];
    for starts in [2, 1] {
        let console = guest(folder.path(), &args, None);
        assert_eq!(section(&console, "kept"), "horse\n");
        assert_eq!(console.matches("THE BOOT LOADER IS UP").count(), starts);
        let kept = fs::read(folder.path().join("kept")).unwrap();
        assert_eq!(kept.len(), 131_072);
        assert!(kept.windows(5).any(|bytes| bytes == b"horse"));
    }
}
