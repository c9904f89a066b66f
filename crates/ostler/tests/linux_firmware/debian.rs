//! Debian 12 with systemd on a disk with GRUB, as an installation leaves it: by firmware to its prompt, and from the same disk without.

use std::path::{Path, PathBuf};

use crate::support::Guest;
use crate::support::system_disk::{
    BIOS_ROOT, Seen, UEFI_ROOT, boot_to_the_prompt, debian, make_bootable_debian, make_debian_for_uefi,
};
use crate::{BIOS, LIMIT, UEFI, is_nightly, is_there};

/// Boots `disk` with these options.
fn boot(disk: &Path, start: u64, options: &[&str]) -> Seen {
    let guest = Guest::new(2).memory("1G").starts_from_disk();
    let guest = guest.args(["--accel", "soft", "--disk", disk.to_str().unwrap()]);
    boot_to_the_prompt(guest.args(options), disk, start, LIMIT)
}

/// A disk that `make` makes starts by the firmware of this name, and by itself. Its root is this device.
fn starts_both_ways(test: &str, make: fn(&Path, &Path) -> PathBuf, start: u64, firmware: &str, device: &str) {
    let Some(made) = debian(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = make(&made, folder.path());
    for options in [&["--firmware", firmware][..], &[]] {
        let seen = boot(&disk, start, options);
        let by_firmware = !options.is_empty();
        assert_eq!(
            seen.console.contains("Loading Linux ..."),
            by_firmware,
            "{}",
            seen.console
        );
        let expected = match (by_firmware, firmware) {
            (true, "uefi") => "UEFI\n",
            (true, _) => "BIOS\nSeaBIOS\n",
            (false, _) => "BIOS\n",
        };
        assert!(seen.firmware.starts_with(expected), "{}", seen.firmware);
        assert_eq!(seen.firmware.contains("SeaBIOS"), expected.contains("SeaBIOS"));
        assert!(
            seen.line.starts_with("BOOT_IMAGE=/vmlinuz root=UUID="),
            "{}",
            seen.line
        );
        assert!(seen.root.starts_with(&format!("{device} rw,")), "{}", seen.root);
    }
}

#[test]
fn debian_starts_by_uefi_and_from_the_same_disk_without() {
    let test = "debian_starts_by_uefi_and_from_the_same_disk_without";
    if is_nightly(test) && is_there(test, &[UEFI, &["/sbin/debugfs"]].concat()) {
        starts_both_ways(test, make_debian_for_uefi, UEFI_ROOT, "uefi", "/dev/vda2");
    }
}

#[test]
fn debian_starts_by_a_bios_and_from_the_same_disk_without() {
    let test = "debian_starts_by_a_bios_and_from_the_same_disk_without";
    if is_nightly(test) && is_there(test, &[BIOS, &["/sbin/debugfs"]].concat()) {
        starts_both_ways(test, make_bootable_debian, BIOS_ROOT, "bios", "/dev/vda1");
    }
}
