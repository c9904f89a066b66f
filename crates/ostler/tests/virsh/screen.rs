//! A guest's display and its keyboard: `<video>`, `screenshot`, `send-key`.

use std::fs;
use std::path::Path;

use crate::console::Console;
use crate::firmware::by_firmware;
use crate::setup::{Host, linux, wait_until};

/// A boot sector that says READY at the serial port, and then tells each key that is pressed, as `<a>` there and on the screen.
fn typewriter() -> Vec<u8> {
    #[rustfmt::skip]
    let code: &[u8] = &[
        // xor ax,ax; mov ds,ax; mov si,0x7c40; cld; lodsb; test al,al; jz +6; mov dx,0x3f8; out dx,al; jmp -11
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x40, 0x7c, 0xfc, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5,
        // mov ah,0; int 0x16; cli; mov bl,al; mov dx,0x3f8; mov al,'<'; out dx,al; mov al,bl; out dx,al; mov al,'>'; out dx,al; sti
        0xb4, 0x00, 0xcd, 0x16, 0xfa, 0x88, 0xc3, 0xba, 0xf8, 0x03, 0xb0, 0x3c, 0xee, 0x88, 0xd8, 0xee, 0xb0, 0x3e, 0xee, 0xfb,
        // mov al,bl; mov ah,0xe; xor bx,bx; int 0x10; jmp to the second line
        0x88, 0xd8, 0xb4, 0x0e, 0x31, 0xdb, 0xcd, 0x10, 0xeb, 0xe2,
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[0x40..0x47].copy_from_slice(b"READY\r\n");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A guest by firmware that starts from the typewriter.
fn definition(host: &Host, name: &str, video: &str) -> String {
    let disk = host.path(&format!("{name}.img"));
    fs::write(&disk, typewriter()).unwrap();
    let devices = format!(
        "<disk type='file'><source file='{}'/><target dev='vda' bus='virtio'/></disk>{video}",
        disk.display()
    );
    let xml = linux(name, &devices);
    let (before, rest) = xml.split_once("<os>").unwrap();
    let (_, after) = rest.split_once("</os>").unwrap();
    format!("{before}<os><type>hvm</type></os>{after}")
}

fn has_bios(test: &str) -> bool {
    let needed = [
        "/usr/share/seabios/bios-256k.bin",
        "/usr/share/seabios/vgabios-stdvga.bin",
    ];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|path| !Path::new(path).exists())
        .collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED {test}: there is no {missing:?}; ./test installs SeaBIOS");
    }
    missing.is_empty()
}

/// A picture of the screen: its width, its height, and the file.
fn picture(host: &Host, guest: &str) -> (u32, u32, Vec<u8>) {
    let path = host.path("screen.png");
    let said = host.virsh(&format!("screenshot {guest} {}", path.display()));
    assert!(said.contains("with type of image/png"), "{said}");
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.ends_with(b"IEND\xaeB`\x82"));
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(16), word(20), bytes)
}

#[test]
fn a_screen_is_seen_and_keys_of_every_code_set_are_typed() {
    if !has_bios("a_screen_is_seen_and_keys_of_every_code_set_are_typed") {
        return;
    }
    let mut host = Host::start();
    let video = "<video><model type='vga' vram='16384' heads='1' primary='yes'/></video>";
    let file = host.xml("guest.xml", &definition(&host, "typist", video));
    host.virsh(&format!("define {file} --validate"));
    host.virsh("start typist");
    let live = host.virsh("dumpxml typist");
    assert!(
        live.contains("<alias name='video0'/>") && live.contains("bus='0x00' slot='0x01' function='0x0'/>"),
        "{live}"
    );
    let mut console = Console::open(&host, "typist");
    console.expect("READY");
    let (width, height, before) = picture(&host, "typist");
    assert!(width >= 640 && height >= 350, "{width} x {height}");
    // A letter each, in the order of the alphabet.
    for (letter, set, key) in [
        ('a', "linux", "KEY_A"),
        ('b', "xt", "0x30"),
        ('c', "atset1", "0x2e"),
        ('d', "atset2", "0x23"),
        ('e', "atset3", "0x24"),
        ('f', "os_x", "3"),
        ('g', "xt_kbd", "0x22"),
        ('h', "usb", "0x0b"),
        ('i', "win32", "VK_I"),
        ('j', "qnum", "0x24"),
    ] {
        host.virsh(&format!("send-key typist --codeset {set} {key}"));
        console.expect(&format!("<{letter}>"));
    }
    // Several at once, held as long as is said.
    host.virsh("send-key typist --holdtime 20 KEY_RIGHTSHIFT KEY_K");
    console.expect("<K>");
    // What was typed is on the screen, as text and in the picture.
    let text = host.virsh("qemu-monitor-command typist --hmp x-ostler-screen");
    assert!(text.contains("abcdefghijK"), "{text}");
    let (_, _, after) = picture(&host, "typist");
    assert!(before != after);

    host.kill_and_restart();
    assert_eq!(picture(&host, "typist").2.len(), after.len());
    for (command, says) in [
        ("send-key typist --codeset usb 0xffff", "there is no key 0xffff"),
        ("send-key typist --codeset xt 0x80", "there is no key 0x80"),
        ("send-key typist --holdtime 60001 KEY_A", "60000"),
        ("screenshot typist /dev/null --screen 1", "one screen"),
        ("-r send-key typist KEY_A", "read only access prevents"),
        ("-r screenshot typist /dev/null", "read only access prevents"),
    ] {
        let said = host.refused(command);
        assert!(said.contains(says), "{command}: {said}");
    }
    // Nobody shows it to viewers.
    for command in ["domdisplay typist", "vncdisplay typist"] {
        assert_ne!(host.refused(command), "", "{command}");
    }
    let said = host.refused(&format!(
        "attach-device typist {} --live",
        host.xml("second.xml", "<video><model type='bochs'/></video>")
    ));
    assert!(said.contains("<video> cannot be plugged in"), "{said}");
    host.virsh("destroy typist");
}

/// UEFI's shell is on the serial port and on the screen.
#[test]
fn a_frame_buffer_without_vga_is_drawn_on() {
    let name = "a_frame_buffer_without_vga_is_drawn_on";
    let [code, store] = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"];
    if !Path::new(code).exists() {
        return eprintln!("SKIPPED {name}: there is no \"{code}\"; ./test installs it");
    }
    let host = Host::start();
    let os = format!(
        "<os><type>hvm</type><loader readonly='yes' type='pflash'>{code}</loader><nvram template='{store}'/></os>"
    );
    let video = "<video><model type='bochs'/></video>";
    let file = host.xml("guest.xml", &by_firmware("plain", &os, video));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "plain");
    console.expect("Shell> ");
    let devices = host.virsh("qemu-monitor-command plain --hmp info pci");
    assert!(
        devices.contains("Display controller: PCI device 1234:1111") && !devices.contains("VGA"),
        "{devices}"
    );
    let text = host.virsh("qemu-monitor-command plain --hmp x-ostler-screen");
    assert!(text.contains("graphics"), "{text}");
    let (width, height, before) = picture(&host, "plain");
    assert!(width >= 640 && height >= 480, "{width} x {height}");
    for key in ["KEY_V", "KEY_E", "KEY_R", "KEY_ENTER"] {
        host.virsh(&format!("send-key plain {key}"));
    }
    wait_until("the screen shows it", || picture(&host, "plain").2 != before);
    host.virsh("destroy plain");
}

#[test]
fn a_card_that_is_not_there_is_kept_and_gives_no_display() {
    let host = Host::start();
    // As virt-install writes it for a desktop.
    let video =
        "<graphics type='spice' port='-1' tlsPort='-1' autoport='yes'/><video><model type='qxl'/></video>";
    let file = host.xml("guest.xml", &linux("blind", video));
    host.virsh(&format!("define {file} --validate"));
    host.virsh("start blind");
    let xml = host.virsh("dumpxml blind");
    assert!(
        xml.contains("<model type='qxl'/>") && !xml.contains("video0"),
        "{xml}"
    );
    let said = host.refused("screenshot blind /dev/null");
    assert!(said.contains("the guest has no display"), "{said}");
    let mut console = Console::open(&host, "blind");
    console.expect("# ");
    let cards = "grep -l 0x1234 /sys/bus/pci/devices/*/vendor | wc -l";
    assert_eq!(console.shell(cards), "0");
    host.virsh("destroy blind");
    // Without a model it is the one that there is.
    let shown = linux("seen", "<video/>");
    let file = host.xml("guest.xml", &shown);
    host.virsh(&format!("create {file}"));
    assert!(host.virsh("dumpxml seen").contains("<model type='vga'/>"));
    let mut console = Console::open(&host, "seen");
    console.expect("# ");
    assert_eq!(console.shell(cards), "1");
    picture(&host, "seen");
    host.virsh("destroy seen");
    let file = host.xml(
        "guest.xml",
        &linux("two", "<video/><video><model type='bochs'/></video>"),
    );
    assert!(host.refused(&format!("create {file}")).contains("one display"));
    let file = host.xml(
        "guest.xml",
        &linux("odd", "<video><model type='voodoo'/></video>"),
    );
    assert!(host.refused(&format!("define {file}")).contains("voodoo"));
    let told = host.virsh("domcapabilities --virttype qemu");
    assert!(
        told.contains("<video supported='yes'>") && told.contains("<value>bochs</value>"),
        "{told}"
    );
    assert!(told.contains("<graphics supported='no'/>"), "{told}");
}
