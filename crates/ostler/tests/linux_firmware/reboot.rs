//! A BIOS that starts over because what it started wants that, as it does a minute after it found nothing to start.

use std::fs;

use crate::{guest, is_there};

const BIOS: &[&str] = &["/usr/share/seabios/bios-256k.bin"];
/// How often the boot sector starts until it switches the guest off.
const STARTS: u8 = 4;
/// What it writes to the serial port each time.
const MARK: &str = "@@@";

/// A boot sector that counts its starts in a byte of CMOS memory and jumps back to the reset vector, at last switches the power off.
fn boot_sector() -> Vec<u8> {
    const COUNTER: u8 = 0x60;
    let mut code = Vec::new();
    // mov dx, 0x3f8; mov al, '@'; mov cx, 3; again: out dx, al; loop again
    code.extend([0xba, 0xf8, 0x03, 0xb0, b'@', 0xb9, 3, 0, 0xee, 0xe2, 0xfd]);
    // mov al, COUNTER; out 0x70, al; in al, 0x71; inc al; mov ah, al
    code.extend([0xb0, COUNTER, 0xe6, 0x70, 0xe4, 0x71, 0xfe, 0xc0, 0x88, 0xc4]);
    // mov al, COUNTER; out 0x70, al; mov al, ah; out 0x71, al
    code.extend([0xb0, COUNTER, 0xe6, 0x70, 0x88, 0xe0, 0xe6, 0x71]);
    // cmp al, STARTS; jae past the jump; jmp 0xf000:0xfff0
    code.extend([0x3c, STARTS, 0x73, 5, 0xea, 0xf0, 0xff, 0x00, 0xf0]);
    // mov dx, 0x604; mov ax, 0x2000; out dx, ax; hang: hlt; jmp hang
    code.extend([0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd]);
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code
}

/// The BIOS tries ACPI's reset register, the keyboard controller, port 0xcf9 and a triple fault, one right after the other.
#[test]
fn seabios_starts_over_as_often_as_it_is_asked_to() {
    if !is_there("seabios_starts_over_as_often_as_it_is_asked_to", BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut disk = boot_sector();
    disk.resize(1 << 20, 0);
    fs::write(folder.path().join("disk.img"), disk).unwrap();
    let args = [
        "--firmware",
        "bios",
        "--disk",
        "disk.img",
        "--debug-console",
        "file=log",
    ];
    let console = guest(folder.path(), &args, None);
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(
        console.matches(MARK).count(),
        usize::from(STARTS),
        "{console}\n{log}"
    );
    let reboots = log.matches("Attempting a hard reboot").count();
    assert_eq!(reboots, usize::from(STARTS) - 1, "{log}");
    // Its code and data are fresh each time.
    assert_eq!(
        log.matches("Booting from Hard Disk...").count(),
        usize::from(STARTS),
        "{log}"
    );
}
