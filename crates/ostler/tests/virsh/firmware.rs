//! Guests that start by firmware: what they boot from, and what their firmware keeps.

use std::fs;
use std::path::Path;

use crate::console::Console;
use crate::setup::{Host, linux};

/// A boot sector that writes `word` to the serial port, and rests.
pub fn boot_sector(word: &str) -> Vec<u8> {
    // xor ax,ax; mov ds,ax; mov si,0x7c20; cld; lodsb; test al,al; jz +6; mov dx,0x3f8; out dx,al; jmp -11; hlt; jmp -3
    let code: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x20, 0x7c, 0xfc, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee,
        0xeb, 0xf5, 0xf4, 0xeb, 0xfd,
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[0x20..0x20 + word.len()].copy_from_slice(word.as_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A guest with this `<os>`.
pub fn by_firmware(name: &str, os: &str, devices: &str) -> String {
    let xml = linux(name, devices);
    let (before, rest) = xml.split_once("<os>").unwrap();
    let (_, after) = rest.split_once("</os>").unwrap();
    format!("{before}{os}{after}")
}

#[test]
fn a_guest_boots_from_the_disk_that_its_definition_names() {
    if !Path::new("/usr/share/seabios/bios-256k.bin").exists() {
        eprintln!(
            "SKIPPED a_guest_boots_from_the_disk_that_its_definition_names: there is no SeaBIOS; ./test installs it"
        );
        return;
    }
    let host = Host::start();
    let disk = |name: &str, target: &str, more: &str| {
        let path = host.path(&format!("{name}.img"));
        fs::write(&path, boot_sector(&format!("BOOTED-{name}\r\n"))).unwrap();
        format!(
            "<disk><source file='{}'/><target dev='{target}'/>{more}</disk>",
            path.display()
        )
    };
    let os = |boot: &str| format!("<os><type>hvm</type>{boot}</os>");
    for (name, os, devices, booted) in [
        (
            "first",
            os(""),
            disk("one", "vda", "") + &disk("two", "vdb", ""),
            "BOOTED-one",
        ),
        (
            "second",
            os(""),
            disk("three", "vda", "<boot order='2'/>") + &disk("four", "sda", "<boot order='1'/>"),
            "BOOTED-four",
        ),
    ] {
        let file = host.xml("guest.xml", &by_firmware(name, &os, &devices));
        host.virsh(&format!("create {file}"));
        Console::open(&host, name).expect(booted);
        host.virsh(&format!("destroy {name}"));
    }
}

#[test]
fn variables_of_a_guests_firmware_are_kept_for_it_and_go_with_it() {
    if !Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        eprintln!(
            "SKIPPED variables_of_a_guests_firmware_are_kept_for_it_and_go_with_it: there is no OVMF; ./test installs it"
        );
        return;
    }
    let host = Host::start();
    let os = "<os firmware='efi'><type>hvm</type></os>";
    let file = host.xml("guest.xml", &by_firmware("uefi", os, ""));
    host.virsh(&format!("define {file}"));
    host.virsh("start uefi");
    let kept = host
        .path("definitions/nvram")
        .join(format!("{}.fd", host.virsh("domuuid uefi").trim()));
    let template = fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().len(), template.len() as u64);
    host.virsh("destroy uefi");
    let said = host.refused("undefine uefi");
    assert!(said.contains("nvram"), "{said}");
    host.virsh("undefine uefi --nvram");
    assert!(!kept.exists());

    // One that its owner has chosen is the owner's.
    let own = host.path("own.fd");
    let os = format!(
        "<os><type>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
         <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{}</nvram></os>",
        own.display()
    );
    let file = host.xml("own.xml", &by_firmware("own", &os, ""));
    host.virsh(&format!("define {file}"));
    host.virsh("start own");
    assert_eq!(fs::metadata(&own).unwrap().len(), template.len() as u64);
    host.virsh("destroy own");
    host.virsh("undefine own");
    assert!(own.exists());
}
