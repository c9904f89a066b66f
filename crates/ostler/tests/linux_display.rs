//! A display and a keyboard in front of Debian's firmware, GRUB and Linux; and a hybrid image, as installation media are: started
//! from as a CD-ROM and as a disk, by a BIOS and by UEFI.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ostler_guest_image::ModuleTree;
use serde_json::json;
use support::process::listens;
use support::qmp::Qmp;
use support::{OSTLER, assert_healthy, guest_folder};

/// Anything that a guest does. The BIOS and half of an UEFI are no 64-bit code, which the software CPU interprets.
const LIMIT: Duration = Duration::from_secs(600);

const BIOS: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/lib/grub/i386-pc/boot.img",
];
/// The smaller build is 64-bit code from its start.
const UEFI: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/lib/grub/x86_64-efi/fat.mod"];

/// What GRUB on the image shows: the default is not what the tests want.
const MENU: &str = "set timeout=-1\n\
     set default=0\n\
     terminal_input console\n\
     terminal_output console\n\
     if [ $grub_platform = efi ]; then insmod all_video; fi\n\
     menuentry 'another system' {\n\
     echo THE WRONG ENTRY\n\
     read nothing\n\
     }\n\
     menuentry 'the system of the test' {\n\
     echo THE CHOSEN ENTRY\n\
     linux /boot/vmlinuz console=tty0 console=ttyS0 panic=-1\n\
     initrd /boot/initrd.img\n\
     boot\n\
     }\n";

/// True if everything is there; else says what is not.
fn is_there(test: &str, paths: &[&str]) -> bool {
    let tools = ["/usr/bin/grub-mkrescue", "/usr/bin/xorriso", "/usr/bin/mcopy"];
    let missing: Vec<_> = tools
        .iter()
        .chain(paths)
        .filter(|path| !Path::new(path).exists())
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "SKIPPED {test}: there is no {missing:?}; ./test installs seabios, ovmf, GRUB, xorriso and mtools"
        );
    }
    missing.is_empty()
}

fn is_nightly(test: &str) -> bool {
    let nightly = std::env::var_os("OSTLER_NIGHTLY").is_some();
    if !nightly {
        eprintln!("{test}: only with OSTLER_NIGHTLY, as ./test --nightly sets it");
    }
    nightly
}

/// A hybrid image: ISO 9660 with El Torito for both kinds of firmware, and partition tables for who takes it for a disk. On it
/// are GRUB with its menu, and Debian's kernel with an initramfs that runs `script`.
fn make_image(folder: &Path, script: &str) -> PathBuf {
    let boot = folder.join("tree/boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::write(boot.join("grub/grub.cfg"), MENU).unwrap();
    fs::copy(guest_folder().join("vmlinuz"), boot.join("vmlinuz")).unwrap();
    let mut initrd = fs::read(guest_folder().join("initrd.img")).unwrap();
    initrd.extend(ostler_guest_image::overlay(script, &[]));
    fs::write(boot.join("initrd.img"), initrd).unwrap();
    support::boot_disk::make_hybrid_image(folder)
}

/// A guest with a display.
struct Guest {
    child: Child,
    qmp: Qmp,
    folder: PathBuf,
}

impl Guest {
    fn start(folder: &Path, args: &[&str]) -> Self {
        Self::start_with("vga", folder, args)
    }

    /// The same with another display.
    fn start_with(display: &str, folder: &Path, args: &[&str]) -> Self {
        let socket = folder.join("control");
        // Of a guest before this one.
        let _ = fs::remove_file(folder.join("console"));
        let mut child = Command::new(OSTLER)
            .args([
                "run",
                "--display",
                display,
                "--serial",
                "file=console",
                "--control",
            ])
            .arg(&socket)
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !listens(&socket) {
            assert!(begun.elapsed() < LIMIT && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            qmp: Qmp::connect(&socket),
            folder: folder.into(),
        }
    }

    /// The text on the screen, or what kind of screen it is.
    fn screen(&mut self) -> String {
        let screen = self.qmp.execute("x-ostler-screen", json!({}));
        match screen["lines"].as_array() {
            Some(lines) => {
                let lines: Vec<_> = lines.iter().filter_map(|line| line.as_str()).collect();
                lines.join("\n")
            }
            None => screen.to_string(),
        }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("console")).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until `look` finds `text`.
    fn expect(&mut self, text: &str, look: fn(&mut Self) -> String) {
        let begun = Instant::now();
        loop {
            let shown = look(self);
            if shown.contains(text) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                begun.elapsed() < LIMIT && ended.is_none(),
                "waiting for {text:?} ({ended:?}); shown was:\n{shown}\nthe serial port:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn press(&mut self, key: &str) {
        let keys = json!({ "keys": [{ "type": "qcode", "data": key }] });
        self.qmp.execute("send-key", keys);
    }

    /// A picture of the screen, as PPM.
    fn picture(&mut self) -> Picture {
        let path = self.folder.join("screen.ppm");
        let file = File::create(&path).unwrap();
        let set = self.qmp.execute_with("add-fd", json!({}), file)["fdset-id"].clone();
        let filename = format!("/dev/fdset/{set}");
        self.qmp.execute("screendump", json!({ "filename": filename }));
        self.qmp.execute("remove-fd", json!({ "fdset-id": set }));
        Picture::read(&fs::read(path).unwrap())
    }

    /// Waits until so many dots of the picture are not as its first one.
    fn expect_drawn(&mut self, dots: usize) -> Picture {
        let begun = Instant::now();
        loop {
            let picture = self.picture();
            if picture.drawn() >= dots {
                return picture;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "{} of {dots} dots are drawn on a screen of {} by {}",
                picture.drawn(),
                picture.width,
                picture.height
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for the end by itself.
    fn finish(mut self) -> String {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}; {}", self.console());
                return self.console();
            }
            assert!(begun.elapsed() < LIMIT, "no end: {}", self.console());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Picture {
    width: usize,
    height: usize,
    dots: Vec<u8>,
}

impl Picture {
    fn read(ppm: &[u8]) -> Self {
        let mut parts = ppm.splitn(4, |byte| *byte == b'\n');
        assert_eq!(parts.next(), Some(&b"P6"[..]));
        let size = String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
        assert_eq!(parts.next(), Some(&b"255"[..]));
        let (width, height) = size.split_once(' ').unwrap();
        let (width, height) = (width.parse().unwrap(), height.parse().unwrap());
        let dots = parts.next().unwrap().to_vec();
        assert_eq!(dots.len(), width * height * 3);
        Self { width, height, dots }
    }

    /// Dots that are not as the first one.
    fn drawn(&self) -> usize {
        self.dots.chunks(3).filter(|dot| *dot != &self.dots[..3]).count()
    }
}

/// What the guest says when it is up, on its display and at its serial port.
const SCRIPT: &str = "exec 3</dev/tty1\n\
     echo BEGIN look\n\
     test -d /sys/firmware/efi && echo UEFI || echo BIOS\n\
     cat /proc/cmdline /proc/fb\n\
     echo END look\n\
     echo THE GUEST IS UP >/dev/tty0\n\
     read -r line <&3\n\
     echo \"TYPED: $line\"\n";

/// From the menu to the system: a key down and Return. `menu` says where the menu is seen.
fn choose(guest: &mut Guest, menu: fn(&mut Guest) -> String) {
    guest.expect("the system of the test", menu);
    guest.press("down");
    guest.press("ret");
}

/// The system is up: types a line at it, and waits for its end.
fn type_and_finish(mut guest: Guest, firmware: &str) -> String {
    guest.expect("END look", |guest| guest.console());
    for key in ["h", "o", "r", "s", "e", "ret"] {
        guest.press(key);
    }
    let console = guest.finish();
    assert_healthy(&console);
    assert!(
        console.contains(&format!("BEGIN look\n{firmware}\n")),
        "{console}"
    );
    assert!(console.contains("TYPED: horse"), "{console}");
    console
}

#[test]
fn a_menu_is_shown_as_text_and_keys_choose_from_it() {
    let name = "a_menu_is_shown_as_text_and_keys_choose_from_it";
    if !is_there(name, &BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path(), SCRIPT);
    let args = ["--firmware", "bios", "--cdrom", "image.iso", "--no-reboot"];
    let mut guest = Guest::start(folder.path(), &args);
    choose(&mut guest, Guest::screen);
    guest.expect("THE CHOSEN ENTRY", Guest::screen);
    let text = guest.qmp.line("x-ostler-screen");
    assert!(text.contains("THE CHOSEN ENTRY\r\n"), "{text}");
    let picture = guest.picture();
    assert_eq!((picture.width, picture.height), (720, 400));
    assert!(picture.drawn() > 500, "{} dots are drawn", picture.drawn());
}

#[test]
fn uefi_starts_from_the_image_as_a_cd_and_linux_draws_its_console() {
    let name = "uefi_starts_from_the_image_as_a_cd_and_linux_draws_its_console";
    if !is_there(name, &UEFI) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path(), SCRIPT);
    start_by_uefi(folder.path(), &["--cdrom", "image.iso"]);
}

/// The menu is drawn by the firmware's driver, which finds the display by its registers in memory; Linux goes on with the mode.
#[test]
fn uefi_and_linux_draw_on_a_frame_buffer_without_vga() {
    let name = "uefi_and_linux_draw_on_a_frame_buffer_without_vga";
    if !is_there(name, &UEFI) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path(), SCRIPT);
    let console = start_by_uefi_on("bochs-display", folder.path(), &["--cdrom", "image.iso"]);
    assert!(console.contains("0 EFI VGA\nEND look"), "{console}");
}

/// Where Debian's ordinary kernel has bochs-drm and what it needs, in its package.
const DRM: &str = "dpkg-deb --fsys-tarfile \"$0\" | \
     tar x --wildcards '*/kernel/drivers/gpu/drm/*' '*/kernel/drivers/video/*' '*/kernel/drivers/i2c/*'";

/// Linux' own driver for such a display sets a mode by the registers in memory, and Linux has its console there.
#[test]
fn linux_sets_a_mode_on_a_frame_buffer_without_vga() {
    let name = "linux_sets_a_mode_on_a_frame_buffer_without_vga";
    let pc = guest_folder().join("pc");
    let package = fs::read_dir(pc.join("packages"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let Some(package) = package.filter(|_| is_nightly(name)) else {
        return eprintln!(
            "SKIPPED {name}: only by ./test --nightly, with Debian's kernel package in target/guest/pc"
        );
    };
    let folder = tempfile::tempdir().unwrap();
    support::boot_disk::run("sh", &["-c", DRM, package.to_str().unwrap()], folder.path());
    let modules = ModuleTree::open(folder.path())
        .unwrap()
        .in_load_order(&["bochs"])
        .unwrap();
    let files: Vec<(String, Vec<u8>)> = (modules.iter().enumerate())
        .map(|(n, path)| (format!("drm/{n:03}.ko"), fs::read(path).unwrap()))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    let mut initrd = fs::read(pc.join("initrd.img")).unwrap();
    let script = "for module in /drm/*; do insmod $module; done\n\
         until grep bochs /proc/fb; do usleep 50000; done\n\
         for n in 1 2 3 4 5 6 7 8 9; do echo the guest writes on its screen >/dev/tty0; done\n\
         echo WRITTEN\n\
         sleep 10000\n";
    initrd.extend(ostler_guest_image::overlay(script, &files));
    fs::write(folder.path().join("initrd.img"), initrd).unwrap();
    let kernel = pc.join("vmlinuz").display().to_string();
    let args = [
        "--kernel",
        &kernel,
        "--initrd",
        "initrd.img",
        "--append",
        "console=ttyS0 panic=-1",
    ];
    let mut guest = Guest::start_with("bochs-display", folder.path(), &args);
    guest.expect("WRITTEN", |guest| guest.console());
    let picture = guest.expect_drawn(1000);
    assert!(picture.width >= 640 && picture.height >= 480);
    assert_healthy(&guest.console());
}

#[test]
fn uefi_starts_from_the_same_image_as_a_disk() {
    let name = "uefi_starts_from_the_same_image_as_a_disk";
    if !is_nightly(name) || !is_there(name, &UEFI) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path(), SCRIPT);
    for disk in ["image.iso", "image.iso,bus=sata"] {
        start_by_uefi(folder.path(), &["--disk", disk]);
    }
}

fn start_by_uefi(folder: &Path, drive: &[&str]) {
    start_by_uefi_on("vga", folder, drive);
}

/// Returns what was on the serial port.
fn start_by_uefi_on(display: &str, folder: &Path, drive: &[&str]) -> String {
    let args = [&["--firmware", UEFI[0], "--no-reboot"], drive].concat();
    let mut guest = Guest::start_with(display, folder, &args);
    // UEFI's console is on the serial port as well, where it can be read.
    guest.expect("the system of the test", |guest| guest.console());
    guest.expect_drawn(1000);
    choose(&mut guest, |guest| guest.console());
    guest.expect("END look", |guest| guest.console());
    // The kernel's messages, in dots.
    let picture = guest.expect_drawn(5000);
    assert!(picture.width >= 640 && picture.height >= 480);
    type_and_finish(guest, "UEFI")
}

#[test]
fn a_bios_starts_from_the_image_as_a_cd_and_as_a_disk() {
    let name = "a_bios_starts_from_the_image_as_a_cd_and_as_a_disk";
    if !is_nightly(name) || !is_there(name, &BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path(), SCRIPT);
    for [option, image] in [
        ["--cdrom", "image.iso"],
        ["--disk", "image.iso"],
        ["--disk", "image.iso,bus=sata"],
    ] {
        let args = ["--firmware", "bios", option, image, "--no-reboot"];
        let mut guest = Guest::start(folder.path(), &args);
        choose(&mut guest, Guest::screen);
        // Linux' own console is on the screen too: its text mode is that of the BIOS.
        guest.expect("THE GUEST IS UP", Guest::screen);
        type_and_finish(guest, "BIOS");
    }
}

/// The old window and the VGA BIOS on KVM; where that only emulates, Linux would take too long.
#[test]
fn seabios_shows_its_text_on_kvm() {
    let name = "seabios_shows_its_text_on_kvm";
    let usable = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        eprintln!("SKIPPED {name}: /dev/kvm cannot be opened");
        return;
    }
    if !is_there(name, &BIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.img"), vec![0; 1 << 20]).unwrap();
    let args = ["--firmware", "bios", "--disk", "empty.img", "--accel", "kvm"];
    let mut guest = Guest::start(folder.path(), &args);
    guest.expect("Boot failed: not a bootable disk", Guest::screen);
}
