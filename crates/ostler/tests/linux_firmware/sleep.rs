//! Guests with firmware cannot sleep (ACPI S3): nothing would wake them.

use super::{SMALL_UEFI, UEFI, guest, is_there, make_disk};

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
