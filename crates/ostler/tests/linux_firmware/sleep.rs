//! A guest that sleeps (ACPI S3) where there is firmware to wake it.

use std::fs;

use super::{BIOS, SMALL_UEFI, UEFI, assert_healthy, guest, is_there, make_disk};

/// SeaBIOS finds by CMOS memory that it is no cold start, and jumps to where Linux wants to be woken.
#[test]
fn seabios_wakes_linux() {
    if !is_there("seabios_wakes_linux", BIOS) {
        return;
    }
    let script = "\
        echo states: $(cat /sys/power/mem_sleep)\n\
        for round in 1 2; do\n\
        echo +20 >/sys/class/rtc/rtc0/wakealarm\n\
        echo mem >/sys/power/state && echo awake $round on $(nproc)\n\
        echo 3 >/proc/sys/vm/drop_caches\n\
        dd if=/dev/vda bs=512 count=1 2>/dev/null | tail -c 2 | hexdump -e '2/1 \"%02x\" \"\\n\"'\n\
        done\n";
    let folder = tempfile::tempdir().unwrap();
    make_disk(folder.path(), script, &[]);
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
    assert!(console.contains("states: s2idle [deep]\n"), "{console}");
    for round in [1, 2] {
        assert!(
            console.contains(&format!("awake {round} on 2\n")),
            "{console}\n{log}"
        );
    }
    assert_eq!(console.matches("\n55aa\n").count(), 2, "{console}");
    assert_eq!(log.matches("Jump to resume vector").count(), 2, "{log}");
    assert_eq!(log.matches("Booting from Hard Disk...").count(), 1, "{log}");
}

#[test]
fn uefi_has_no_sleep() {
    if !is_there("uefi_has_no_sleep", &[UEFI, &[SMALL_UEFI]].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "echo states: $(cat /sys/power/mem_sleep)\n";
    make_disk(folder.path(), script, &[]);
    let args = ["--firmware", SMALL_UEFI, "--disk", "boot.img", "--no-reboot"];
    let console = guest(folder.path(), &args, None);
    assert!(console.contains("states: [s2idle]\n"), "{console}");
}
