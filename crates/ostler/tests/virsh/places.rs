//! Places on PCI: what a definition says is what the guest sees.

use std::fs;
use std::path::Path;

use crate::console::Console;
use crate::firmware::by_firmware;
use crate::setup::{Host, linux};
use crate::support::boot_disk::make_disk;
use crate::support::guest_folder;

/// Root ports as libvirt gives them to q35: eight functions of slot 2, then slot 3.
fn ports(count: u8) -> String {
    let port = |n: u8| {
        let (slot, function) = (2 + n / 8, n % 8);
        let several = if function == 0 { " multifunction='on'" } else { "" };
        format!(
            "<controller type='pci' index='{0}' model='pcie-root-port'><model name='pcie-root-port'/>\
             <target chassis='{0}' port='{1:#x}'/>\
             <address type='pci' domain='0x0000' bus='0x00' slot='{slot:#04x}' function='{function:#x}'{several}/></controller>",
            n + 1,
            slot << 3 | function
        )
    };
    let ports: Vec<String> = (0..count).map(port).collect();
    format!(
        "<controller type='pci' index='0' model='pcie-root'/>{}",
        ports.concat()
    )
}

fn at(bus: u8, slot: u8, function: u8) -> String {
    format!(
        "<address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#x}'/>"
    )
}

fn disk(host: &Host, target: &str, address: &str) -> String {
    let path = host.path(&format!("{target}.img"));
    fs::write(&path, vec![b'd'; 1 << 20]).unwrap();
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/>{address}</disk>",
        path.display()
    )
}

fn card(mac: u8, model: &str, address: &str) -> String {
    format!(
        "<interface type='user'><mac address='52:54:00:00:00:{mac:02x}'/><model type='{model}'/>{address}</interface>"
    )
}

/// What virt-install writes for `--os-variant debian12` with this disk behind the fourth root port, and beside it a card and two other
/// devices on bus 0.
fn as_virt_install_writes(vda: &str, others: &[String; 2]) -> String {
    [
        ports(14).as_str(),
        &card(1, "virtio", &at(1, 0, 0)),
        &format!(
            "<controller type='usb' index='0' model='qemu-xhci' ports='15'>{}</controller>",
            at(2, 0, 0)
        ),
        &format!(
            "<controller type='virtio-serial' index='0'>{}</controller>",
            at(3, 0, 0)
        ),
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        vda,
        &format!("<memballoon model='virtio'>{}</memballoon>", at(5, 0, 0)),
        &format!(
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend>{}</rng>",
            at(6, 0, 0)
        ),
        &card(2, "e1000e", &at(0, 0x10, 0)),
        &others[0],
        &others[1],
    ]
    .concat()
}

/// Two places in one slot of bus 0.
fn beside() -> [String; 2] {
    [
        at(0, 0x11, 0).replace("/>", " multifunction='on'/>"),
        at(0, 0x11, 3),
    ]
}

/// What such a guest has on PCI: places with their ids, in order. Nothing is at the USB controller's.
const SEEN: [(&str, &str); 24] = [
    ("0000:00:00.0", "0x8086 0x29c0"),
    ("0000:00:02.0", "0x1b36 0x000c"),
    ("0000:00:02.1", "0x1b36 0x000c"),
    ("0000:00:02.2", "0x1b36 0x000c"),
    ("0000:00:02.3", "0x1b36 0x000c"),
    ("0000:00:02.4", "0x1b36 0x000c"),
    ("0000:00:02.5", "0x1b36 0x000c"),
    ("0000:00:02.6", "0x1b36 0x000c"),
    ("0000:00:02.7", "0x1b36 0x000c"),
    ("0000:00:03.0", "0x1b36 0x000c"),
    ("0000:00:03.1", "0x1b36 0x000c"),
    ("0000:00:03.2", "0x1b36 0x000c"),
    ("0000:00:03.3", "0x1b36 0x000c"),
    ("0000:00:03.4", "0x1b36 0x000c"),
    ("0000:00:03.5", "0x1b36 0x000c"),
    ("0000:00:10.0", "0x8086 0x10d3"),
    ("0000:00:11.0", "0x1af4 0x1042"),
    ("0000:00:11.3", "0x1af4 0x1042"),
    ("0000:00:1f.0", "0x8086 0x2918"),
    ("0000:01:00.0", "0x1af4 0x1041"),
    ("0000:03:00.0", "0x1af4 0x1043"),
    ("0000:04:00.0", "0x1af4 0x1042"),
    ("0000:05:00.0", "0x1af4 0x1045"),
    ("0000:06:00.0", "0x1af4 0x1044"),
];

/// Every function with its ids, in the guest.
const FUNCTIONS: &str =
    "for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor) $(cat $d/device); done";

/// `others`: the ids of the two devices that differ.
fn expected(others: &str) -> String {
    let seen = SEEN.map(|(place, ids)| match place.starts_with("0000:00:11.") {
        true => format!("{place} {others}"),
        false => format!("{place} {ids}"),
    });
    seen.join("\n")
}

fn lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n")
}

/// The PCI function behind a disk's serial number, or a card's address.
fn place_of(console: &mut Console, file: &str, value: &str) -> String {
    let path = console.shell(&format!(
        "readlink -f $(dirname $(grep -il '^{value}$' {file}))/device"
    ));
    let mut parts: Vec<&str> = path.trim().split('/').collect();
    parts.retain(|part| part.starts_with("0000:"));
    parts
        .last()
        .unwrap_or_else(|| panic!("{value}: {path}"))
        .to_string()
}

fn is_where_the_definition_says(host: &Host, name: &str, console: &mut Console, others: &str) {
    assert_eq!(lines(&console.shell(FUNCTIONS)), expected(others));
    assert_eq!(place_of(console, "/sys/block/*/serial", "vda"), "0000:04:00.0");
    assert_eq!(
        place_of(console, "/sys/class/net/*/address", "52:54:00:00:00:01"),
        "0000:01:00.0"
    );
    // Linux names cards by these: no slot has a number that would come before enp1s0.
    let slots = console.shell("ls /sys/bus/pci/slots");
    assert!(
        slots.split_whitespace().all(|slot| slot.starts_with('0')),
        "{slots}"
    );
    // What is written is what was.
    let told = host.virsh(&format!("dumpxml {name}"));
    assert_eq!(told.matches("model='pcie-root-port'").count(), 14, "{told}");
}

#[test]
fn devices_are_where_the_definition_says() {
    let host = Host::start();
    let others = ["vdb", "vdc"].into_iter().zip(beside());
    let others: Vec<String> = others
        .map(|(target, place)| disk(&host, target, &place))
        .collect();
    let devices = as_virt_install_writes(&disk(&host, "vda", &at(4, 0, 0)), &others.try_into().unwrap());
    let file = host.xml("guest.xml", &linux("placed", &devices));
    host.virsh(&format!("define {file}"));
    host.virsh("start placed");
    let mut console = Console::open(&host, "placed");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    is_where_the_definition_says(&host, "placed", &mut console, "0x1af4 0x1042");
    for (serial, place) in [("vdb", "0000:00:11.0"), ("vdc", "0000:00:11.3")] {
        assert_eq!(place_of(&mut console, "/sys/block/*/serial", serial), place);
    }

    // What comes gets a root port that is free, the one that is written down, or the one that is asked for.
    let there = |console: &mut Console, place: &str| {
        console.shell_until(&format!("ls /sys/bus/pci/devices | grep -c 0000:{place}"), "1");
    };
    let device = host.xml("free.xml", &disk(&host, "vdd", ""));
    host.virsh(&format!("attach-device placed {device} --live"));
    there(&mut console, "07:00.0");
    console.shell_until("cat /sys/block/*/serial | grep -c vdd", "1");
    assert_eq!(
        place_of(&mut console, "/sys/block/*/serial", "vdd"),
        "0000:07:00.0"
    );
    assert!(host.virsh("dumpxml placed").contains(&at(7, 0, 0)));
    let device = host.xml("asked.xml", &disk(&host, "vde", &at(0x0c, 0, 0)));
    host.virsh(&format!("attach-device placed {device} --live"));
    there(&mut console, "0c:00.0");
    let before = host.virsh("dumpxml placed");
    for (address, says) in [
        (at(4, 0, 0), "Attempted double use of PCI Address 0000:04:00.0"),
        (at(0x0c, 0, 0), "Attempted double use of PCI Address 0000:0c:00.0"),
        (at(0, 0x12, 0), "behind a root port"),
        (at(0x1e, 0, 0), "no root port"),
    ] {
        let device = host.xml("refused.xml", &disk(&host, "vdf", &address));
        let said = host.refused(&format!("attach-device placed {device} --live"));
        assert!(said.contains(says), "{address}: {said}");
    }
    assert_eq!(host.virsh("dumpxml placed"), before);
    host.virsh("detach-disk placed vdd --live");
    console.shell_until("ls /sys/bus/pci/devices | grep -c 0000:07:00.0", "0");
    host.virsh("destroy placed");
}

#[test]
fn what_has_no_address_is_where_the_daemon_writes_it() {
    let mut host = Host::start();
    let devices = [disk(&host, "vda", ""), disk(&host, "vdb", "")].concat();
    let file = host.xml("guest.xml", &linux("given", &devices));
    host.virsh(&format!("define {file}"));
    let told = host.virsh("dumpxml given");
    for bus in 1..=3 {
        assert!(told.contains(&at(bus, 0, 0)), "two disks and the balloon: {told}");
    }
    host.virsh("start given");
    let mut console = Console::open(&host, "given");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(
        place_of(&mut console, "/sys/block/*/serial", "vda"),
        "0000:01:00.0"
    );
    assert_eq!(
        place_of(&mut console, "/sys/block/*/serial", "vdb"),
        "0000:02:00.0"
    );
    // More root ports than are written down are there, and are written down with what comes.
    let more = ["vdc", "vdd", "vde", "vdf"];
    for (bus, target) in (4..).zip(more) {
        if bus == 6 {
            host.kill_and_restart();
        }
        let device = host.xml("disk.xml", &disk(&host, target, ""));
        host.virsh(&format!("attach-device given {device} --live"));
        let told = host.virsh("dumpxml given");
        assert!(told.contains(&at(bus, 0, 0)), "{told}");
        let port = format!("slot='0x02' function='{:#x}'", bus - 1);
        assert!(told.contains(&port), "{port}: {told}");
    }
    let mut console = Console::open(&host, "given");
    console.expect("# ");
    for (bus, target) in (4..).zip(more) {
        console.shell_until(&format!("cat /sys/block/*/serial | grep -c {target}"), "1");
        let place = format!("0000:{bus:02x}:00.0");
        assert_eq!(place_of(&mut console, "/sys/block/*/serial", target), place);
    }
    let device = host.xml("disk.xml", &disk(&host, "vdg", ""));
    let said = host.refused(&format!("attach-device given {device} --live"));
    assert!(said.contains("no root port"), "{said}");
    // In the definition there is room for it.
    host.virsh(&format!("attach-device given {device} --config"));
    host.virsh("destroy given");
}

/// A guest of the first machine type keeps what it has seen all its life.
#[test]
fn guests_of_the_first_machine_type_stay_as_they_were() {
    let host = Host::start();
    let old =
        linux("old", &disk(&host, "vda", "")).replace("<type arch", "<type machine='ostler-q35-1' arch");
    let file = host.xml("guest.xml", &old);
    host.virsh(&format!("define {file}"));
    assert!(host.virsh("dumpxml old").contains(&at(1, 0, 0)));
    host.virsh("start old");
    let mut console = Console::open(&host, "old");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(
        place_of(&mut console, "/sys/block/*/serial", "vda"),
        "0000:00:01.0"
    );
    let device = host.xml("disk.xml", &disk(&host, "vdb", ""));
    host.virsh(&format!("attach-device old {device} --live"));
    console.shell_until("cat /sys/block/*/serial | grep -c vdb", "1");
    host.virsh("destroy old");
}

#[test]
fn places_that_cannot_be_are_refused_in_a_sentence() {
    let host = Host::start();
    for (address, when, says) in [
        (at(0, 0, 0), "define", "the platform's own"),
        (at(0, 0x1f, 0), "define", "the platform's own"),
        (at(1, 1, 0), "define", "slot must be <= 0"),
        (at(0, 2, 0), "define", "double use"),
        (at(0, 3, 1), "create", "function 0"),
        (at(1, 0, 1), "create", "behind a root port"),
    ] {
        let devices = [ports(1), disk(&host, "vda", &address)].concat();
        let file = host.xml("bad.xml", &linux("bad", &devices));
        let said = host.refused(&format!("{when} {file}"));
        assert!(said.contains(says), "{address}: {said}");
    }
    for model in ["pcie-to-pci-bridge", "pcie-switch-upstream-port"] {
        let bridge = format!("<controller type='pci' index='9' model='{model}'/>");
        let file = host.xml("bad.xml", &linux("bad", &[ports(1), bridge].concat()));
        let said = host.refused(&format!("define {file}"));
        assert!(said.contains(model), "{said}");
    }
}

/// Firmware numbers the buses, and finds the disk to start from behind its root port.
fn by_this_firmware(os: &str) {
    let host = Host::start();
    let folder = host.path("making");
    fs::create_dir(&folder).unwrap();
    let path = make_disk(&folder, &guest_folder(), &[]);
    let vda = format!(
        "<disk><source file='{}'/><target dev='vda'/><boot order='1'/>{}</disk>",
        path.display(),
        at(4, 0, 0)
    );
    let [first, second] = beside();
    let others = [card(3, "e1000e", &first), card(4, "e1000e", &second)];
    let guest = by_firmware("booted", os, &as_virt_install_writes(&vda, &others));
    let guest = guest.replace("<memory unit='MiB'>256", "<memory unit='MiB'>512");
    let file = host.xml("guest.xml", &guest);
    host.virsh(&format!("define {file}"));
    host.virsh("start booted");
    let mut console = Console::open(&host, "booted");
    console.expect("THE BOOT LOADER IS UP");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    is_where_the_definition_says(&host, "booted", &mut console, "0x8086 0x10d3");
    host.virsh("destroy booted");
}

fn has_firmware(test: &str, needed: &[&str]) -> bool {
    let missing = needed.iter().find(|path| !Path::new(path).exists());
    if let Some(missing) = missing {
        eprintln!("SKIPPED {test}: there is no {missing}; ./test installs seabios, ovmf, GRUB and mtools");
    }
    missing.is_none()
}

#[test]
fn seabios_numbers_buses_as_the_definition_does() {
    let needed = [
        "/usr/share/seabios/bios-256k.bin",
        "/usr/lib/grub/i386-pc/boot.img",
        "/usr/bin/mcopy",
    ];
    if has_firmware("seabios_numbers_buses_as_the_definition_does", &needed) {
        by_this_firmware("<os><type>hvm</type></os>");
    }
}

#[test]
fn ovmf_numbers_buses_as_the_definition_does() {
    let needed = [
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/lib/grub/x86_64-efi/fat.mod",
        "/usr/bin/mcopy",
    ];
    if has_firmware("ovmf_numbers_buses_as_the_definition_does", &needed) {
        by_this_firmware("<os firmware='efi'><type>hvm</type></os>");
    }
}
