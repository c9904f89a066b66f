//! Secure boot: OVMF that keeps its variables by system management mode, and what Debian has signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::boot_disk::{PARTITION, run};
use super::support::{OSTLER, assert_healthy};
use super::{UEFI, efi_variables_module, guest, is_nightly, is_there, make_disk, section};

const SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
const KEYS: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

/// The smaller build, which no description names.
const SMALL: &str = "/usr/share/OVMF/OVMF_CODE.ms.fd";
const SMALL_KEYS: &str = "/usr/share/OVMF/OVMF_VARS.ms.fd";

/// What the signed boot loader does: that of the tests has other commands built in, and shows itself on the serial port alone.
const GRUB_COMMANDS: &str = "search --no-floppy --file /vmlinuz --set root\n\
     echo THE SIGNED BOOT LOADER IS UP\n\
     linux /vmlinuz console=ttyS0 panic=-1 quiet\n\
     initrd /initrd.img\n\
     boot\n";

/// What the guest says of secure boot: a variable that only firmware may set, the kernel's opinion, a change of the keys that nobody
/// signed, and a variable that everyone may set.
const LOOK: &str = "cd /sys/firmware/efi/efivars\n\
     insmod /efivarfs.ko; mount -t efivarfs none /sys/firmware/efi/efivars || echo no efivarfs\n\
     cd /sys/firmware/efi/efivars\n\
     echo BEGIN secure\n\
     for name in SecureBoot SetupMode; do\n\
     echo $name $(tail -c 1 $name-8be4df61-93ca-11d2-aa0d-00e098032b8c | od -An -tu1); done\n\
     dmesg | grep -q 'Secure boot enabled' && echo the kernel knows\n\
     dmesg | grep -q 'Kernel is locked down from EFI Secure Boot' && echo it is locked down\n\
     chattr -i db-* 2>/dev/null\n\
     printf '\\047\\000\\000\\000forged' 2>/dev/null >db-d719b2cb-3d3a-4596-a3bc-dad00e67656f && echo forged || echo refused\n\
     printf '\\007\\000\\000\\000horse' >OstlerTest-12345678-1234-1234-1234-123456789abc\n\
     tail -c 5 OstlerTest-12345678-1234-1234-1234-123456789abc; echo\n\
     nproc\n\
     echo END secure\n";

fn signed(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/signed-boot/root/usr/lib");
    root.join(name)
}

fn has_signed_loaders(test: &str) -> bool {
    let there = signed("shim/shimx64.efi.signed").exists();
    if !there {
        eprintln!(
            "SKIPPED {test}: needs Debian's signed boot loaders in target/signed-boot, which ./test fetches"
        );
    }
    there
}

/// Replaces the boot loader of the disk by shim and the GRUB that it starts.
fn sign_disk(folder: &Path) {
    fs::write(folder.join("signed.cfg"), GRUB_COMMANDS).unwrap();
    let at = format!("boot.img@@{}", u64::from(PARTITION) * 512);
    run("mmd", &["-i", &at, "::/EFI/debian"], folder);
    for (file, to) in [
        (signed("shim/shimx64.efi.signed"), "::/EFI/BOOT/BOOTX64.EFI"),
        (
            signed("grub/x86_64-efi-signed/grubx64.efi.signed"),
            "::/EFI/BOOT/grubx64.efi",
        ),
        (folder.join("signed.cfg"), "::/EFI/debian/grub.cfg"),
    ] {
        run("mcopy", &["-o", "-i", &at, file.to_str().unwrap(), to], folder);
    }
}

/// A disk with what Debian signed starts by `firmware`, and Linux finds secure boot on.
fn starts_what_is_signed(firmware: &str) {
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), LOOK, &[("efivarfs.ko", &efi_variables_module())]);
    sign_disk(folder.path());
    let args = [
        "--firmware",
        firmware,
        "--disk",
        "boot.img",
        "--cpus",
        "2",
        "--accel",
        "soft",
        "--no-reboot",
        "--nvram",
        "kept",
    ];
    let console = guest(folder.path(), &args, None);
    assert_healthy(&console);
    assert!(console.contains("THE SIGNED BOOT LOADER IS UP"), "{console}");
    assert_eq!(
        section(&console, "secure"),
        "SecureBoot 1\nSetupMode 0\nthe kernel knows\nit is locked down\nrefused\nhorse\n2\n",
        "{console}"
    );
    let kept = fs::read(folder.path().join("kept")).unwrap();
    assert!(kept.windows(5).any(|bytes| bytes == b"horse"));
}

#[test]
fn what_debian_signed_starts_with_secure_boot() {
    let name = "what_debian_signed_starts_with_secure_boot";
    if is_there(name, &[UEFI, &[SMALL, SMALL_KEYS]].concat()) && has_signed_loaders(name) {
        starts_what_is_signed(&format!("{SMALL},smm=on"));
    }
}

#[test]
fn the_larger_build_with_secure_boot_starts_what_is_signed() {
    let name = "the_larger_build_with_secure_boot_starts_what_is_signed";
    if is_nightly(name) && is_there(name, &[UEFI, &[SECURE, KEYS]].concat()) && has_signed_loaders(name) {
        starts_what_is_signed("uefi,secure-boot=on");
    }
}

#[test]
fn firmware_with_secure_boot_refuses_a_boot_loader_that_nobody_signed() {
    let name = "firmware_with_secure_boot_refuses_a_boot_loader_that_nobody_signed";
    if !is_there(name, &[UEFI, &[SMALL, SMALL_KEYS]].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), "", &[]);
    let firmware = format!("{SMALL},smm=on");
    let args = ["--firmware", &firmware, "--disk", "boot.img", "--accel", "soft"];
    let console = guest(folder.path(), &args, Some("Access Denied"));
    assert!(!console.contains("THE BOOT LOADER IS UP"), "{console}");
}

#[test]
fn kvm_without_system_management_mode_refuses_firmware_that_needs_it() {
    let name = "kvm_without_system_management_mode_refuses_firmware_that_needs_it";
    match ostler_kvm::Kvm::open() {
        Err(error) => return eprintln!("SKIPPED {name}: {error}"),
        Ok(kvm) if kvm.has_system_management() => {
            return eprintln!("SKIPPED {name}: this host's KVM has system management mode");
        }
        Ok(_) => {}
    }
    if !is_there(name, &[SECURE, KEYS]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.img"), vec![0; 1 << 20]).unwrap();
    let output = Command::new(OSTLER)
        .args([
            "run",
            "--accel",
            "kvm",
            "--firmware",
            "uefi,secure-boot=on",
            "--disk",
            "empty.img",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("needs system management mode, which the host's KVM does not have"),
        "{said}"
    );
}
